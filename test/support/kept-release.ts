/**
 * Files of a release for trials that install them: built once for the sources as they are, and kept in $COFA_CACHE, since
 * several trials take the same. What other sources gave is removed after a day.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join, relative } from 'node:path';
import { withLock } from '../../ops/images/debian.ts';
import type { LayerFile } from '../../ops/images/layout.ts';
import { olderCofa } from '../../ops/images/older.ts';
import { buildRelease } from '../../ops/release.ts';
import { buildDeb, DEPENDS } from '../../ops/packages/deb.ts';
import { installModules } from '../../ops/packages/modules.ts';
import { baseLayer, writeImage } from '../../ops/packages/oci.ts';
import { CHECKOUT, sourceEpoch } from '../../ops/packages/tree.ts';

const arch = process.arch === 'arm64' ? 'arm64' : 'x64';
const DAY_MS = 86_400_000;

type OnProgress = (line: string) => void;

/** Path of the Debian package of this checkout. */
export async function keptDeb(onProgress: OnProgress): Promise<string> {
  return await kept(`deb-${sourcesKey()}`, async (folder) => {
    await buildRelease({ out: folder, arch, kinds: ['deb'], onProgress });
  });
}

/** That of the code of 0.1.0, which had no package: its files at the same places. Undefined as `olderCofa`. */
export async function keptOlderDeb(onProgress: OnProgress): Promise<string | undefined> {
  const older = olderCofa('0.1.0', { onProgress });
  if (older === undefined) return undefined;
  const how = [
    ...['deb.ts', 'modules.ts', 'debian/postinst', 'debian/prerm', 'debian/postrm'].map((name) =>
      join(CHECKOUT, 'ops/packages', name),
    ),
    ...['package-lock.json', 'ops/systemd/cofa.service'].map((name) => join(CHECKOUT, name)),
  ];
  return await kept(`deb-0.1.0-${keyOf(how)}`, async (folder) => {
    onProgress('the Debian package of 0.1.0');
    const [program, scratch] = [join(folder, 'program'), join(folder, 'scratch')];
    mkdirSync(program);
    for (const name of ['src', 'actors', 'schemas', 'ops', 'LICENSE'])
      cpSync(join(older, name), join(program, name), { recursive: true });
    installModules(program, arch);
    cpSync(join(older, 'package.json'), join(program, 'package.json'));
    const shared = { licences: '', sbom: '', version: '0.1.0', epoch: sourceEpoch(), out: folder };
    await buildDeb({ ...shared, arch, program, scratch });
    for (const one of [program, scratch]) rmSync(one, { recursive: true });
  });
}

/** Path of the OCI image that has a Debian package in it, named by `version`. Takes what `baseLayer` takes. */
export async function keptOci(deb: string, version: string, onProgress: OnProgress): Promise<string> {
  const epoch = sourceEpoch();
  const debian = await kept(
    `debian-layer-${keyOf([join(CHECKOUT, 'ops/packages/oci.ts')], DEPENDS.join())}`,
    async (folder) => {
      onProgress('the Debian below the OCI image');
      const { layer } = await baseLayer({ arch, epoch, scratch: folder });
      const name = 'layer.tar.gz';
      renameSync(layer.file, join(folder, name));
      for (const other of readdirSync(folder)) if (other !== name) rmSync(join(folder, other));
      writeFileSync(join(folder, 'layer.json'), JSON.stringify(layer));
    },
    'layer.json',
  );
  const layer = JSON.parse(readFileSync(debian, 'utf8')) as LayerFile;
  const base = { ...layer, file: join(debian, '../layer.tar.gz') };
  const how = [deb, join(CHECKOUT, 'ops/packages/oci.ts')].map((file) => readFileSync(file));
  return await kept(
    `oci-${version}-${hashOf([...how, base.digest])}`,
    async (folder) => {
      onProgress(`the OCI image of ${version}`);
      const scratch = join(folder, 'scratch');
      mkdirSync(scratch);
      await writeImage(base, { deb, version, arch, epoch, scratch, out: folder });
      rmSync(scratch, { recursive: true });
    },
    '.tar',
  );
}

/** The file in a kept folder that ends so; `make` fills the folder where it is not there yet. */
async function kept(name: string, make: (folder: string) => Promise<void>, ending = '.deb'): Promise<string> {
  const cache = process.env.COFA_CACHE ?? '/var/cache/cofa/images';
  mkdirSync(cache, { recursive: true });
  const folder = join(cache, `release-${name}`);
  // Others would build the same beside it.
  await withLock(join(cache, `release.lock`), async () => {
    const now = Date.now();
    for (const other of readdirSync(cache)) {
      const path = join(cache, other);
      if (!other.startsWith('release-') || path === folder) continue;
      if (now - statSync(path).mtimeMs > DAY_MS) rmSync(path, { recursive: true, force: true });
    }
    if (!existsSync(folder)) {
      const draft = mkdtempSync(join(cache, 'release-new-'));
      try {
        await make(draft);
        renameSync(draft, folder);
      } finally {
        rmSync(draft, { recursive: true, force: true });
      }
    }
    utimesSync(folder, now / 1000, now / 1000);
  });
  const file = readdirSync(folder).find((one) => one.endsWith(ending));
  if (file === undefined) throw new Error(`${folder} has no ${ending}: remove it`);
  return join(folder, file);
}

/** Of all that a package is made of. */
function sourcesKey(): string {
  const args = [
    'ls-files',
    '-z',
    '--',
    'src',
    'actors',
    'schemas',
    'ops',
    '*.json',
    'docs/config.toml',
    'LICENSE',
  ];
  const names = execFileSync('git', args, { cwd: CHECKOUT, encoding: 'utf8' }).split('\0');
  return keyOf(
    names.map((name) => join(CHECKOUT, name)).filter((file) => existsSync(file) && statSync(file).isFile()),
  );
}

const keyOf = (files: readonly string[], more = ''): string =>
  hashOf([more, ...files.flatMap((file) => [relative(CHECKOUT, file), readFileSync(file)])]);

function hashOf(parts: ReadonlyArray<string | Uint8Array>): string {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part).update('\0');
  return hash.digest('hex').slice(0, 12);
}
