/**
 * A release for trials that install its files: built once for the sources as they are, and kept in $COFA_CACHE, since several
 * trials take the same. What other sources gave is removed after a day.
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
import { olderCofa } from '../../ops/images/older.ts';
import { buildRelease } from '../../ops/release.ts';
import { buildDeb, DEPENDS } from '../../ops/packages/deb.ts';
import { installModules } from '../../ops/packages/modules.ts';
import { type Debian, makeDebian, writeImage } from '../../ops/packages/oci.ts';
import { CHECKOUT } from '../../ops/packages/tree.ts';

const arch = process.arch === 'arm64' ? 'arm64' : 'x64';
const DAY_MS = 86_400_000;
/** Of all that is kept, seconds since 1970. That of a commit would be another one where no source is. */
const EPOCH = 1_767_225_600;

type OnProgress = (line: string) => void;

/** The release of this checkout, of every kind, in a folder that must not be changed; its Debian package and its OCI image. */
export async function keptRelease(
  onProgress: OnProgress,
): Promise<{ folder: string; deb: string; oci: string }> {
  const debian = await keptDebian(onProgress);
  const folder = await kept(`all-${sourcesKey()}`, (draft) => buildAll(draft, debian, onProgress));
  return { folder, deb: fileIn(folder, '.deb'), oci: fileIn(folder, '.tar') };
}

/** Builds the same into another folder. */
export async function buildAgain(out: string, onProgress: OnProgress): Promise<void> {
  await buildAll(out, await keptDebian(onProgress), onProgress);
}

async function buildAll(out: string, debian: Debian, onProgress: OnProgress): Promise<void> {
  await buildRelease({ out, arch, kinds: ['deb', 'npm', 'oci'], epoch: EPOCH, debian, onProgress });
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
  const folder = await kept(`deb-0.1.0-${keyOf(how)}`, async (out) => {
    onProgress('the Debian package of 0.1.0');
    const [program, scratch] = [join(out, 'program'), join(out, 'scratch')];
    mkdirSync(program);
    for (const name of ['src', 'actors', 'schemas', 'ops', 'LICENSE'])
      cpSync(join(older, name), join(program, name), { recursive: true });
    installModules(program, arch);
    cpSync(join(older, 'package.json'), join(program, 'package.json'));
    const shared = { licences: '', sbom: '', version: '0.1.0', epoch: EPOCH, out };
    await buildDeb({ ...shared, arch, program, scratch });
    for (const one of [program, scratch]) rmSync(one, { recursive: true });
  });
  return fileIn(folder, '.deb');
}

/** Path of the OCI image of that package. */
export async function keptOlderOci(deb: string, onProgress: OnProgress): Promise<string> {
  const debian = await keptDebian(onProgress);
  const how = [deb, join(CHECKOUT, 'ops/packages/oci.ts')].map((file) => readFileSync(file));
  const folder = await kept(`oci-0.1.0-${hashOf([...how, debian.layer.digest])}`, async (out) => {
    onProgress('the OCI image of 0.1.0');
    const scratch = join(out, 'scratch');
    mkdirSync(scratch);
    await writeImage(debian.layer, { deb, version: '0.1.0', arch, epoch: EPOCH, scratch, out });
    rmSync(scratch, { recursive: true });
  });
  return fileIn(folder, '.tar');
}

/** What is below the program in these images. Takes what `makeDebian` takes. */
async function keptDebian(onProgress: OnProgress): Promise<Debian> {
  const [name, facts] = ['layer.tar.gz', 'debian.json'];
  const key = keyOf([join(CHECKOUT, 'ops/packages/oci.ts')], DEPENDS.join());
  const folder = await kept(`debian-layer-${key}`, async (scratch) => {
    onProgress('the Debian below the OCI image');
    const debian = await makeDebian({ arch, epoch: EPOCH, scratch });
    renameSync(debian.layer.file, join(scratch, name));
    for (const other of readdirSync(scratch)) if (other !== name) rmSync(join(scratch, other));
    writeFileSync(join(scratch, facts), JSON.stringify(debian));
  });
  const { layer, packages } = JSON.parse(readFileSync(join(folder, facts), 'utf8')) as Debian;
  return { layer: { ...layer, file: join(folder, name) }, packages };
}

function fileIn(folder: string, ending: string): string {
  const name = readdirSync(folder).find((one) => one.endsWith(ending));
  if (name === undefined) throw new Error(`${folder} has no ${ending}: remove it`);
  return join(folder, name);
}

/** A kept folder; `make` fills it where it is not there yet. */
async function kept(name: string, make: (folder: string) => Promise<void>): Promise<string> {
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
  return folder;
}

/** Of all that a release is made of, by what, and where: of equal keys a release is equal to the byte. */
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
    'CHANGELOG.md',
    'LICENSE',
  ];
  const said = (program: string, ...words: string[]) => execFileSync(program, words, { encoding: 'utf8' });
  const packages = ['dpkg', 'gzip', 'libzstd1', 'tar'];
  const tools = [process.version, said('npm', '--version'), said('dpkg-query', '--show', '--', ...packages)];
  const names = execFileSync('git', args, { cwd: CHECKOUT, encoding: 'utf8' }).split('\0');
  return keyOf(
    names.map((name) => join(CHECKOUT, name)).filter((file) => existsSync(file) && statSync(file).isFile()),
    [CHECKOUT, ...tools].join('\n'),
  );
}

const keyOf = (files: readonly string[], more = ''): string =>
  hashOf([more, ...files.flatMap((file) => [relative(CHECKOUT, file), readFileSync(file)])]);

function hashOf(parts: ReadonlyArray<string | Uint8Array>): string {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part).update('\0');
  return hash.digest('hex').slice(0, 12);
}
