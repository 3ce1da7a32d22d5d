/** Folders with a Debian or Ubuntu in them, for trials of what a release installs. Made by mmdebstrap, once a machine. */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { acquireSettings, keyringOf, sourcesOf, titleOf } from './apt.ts';
import type { BuildOptions } from './debian.ts';
import { unpackedDebs } from './debs.ts';

const run = promisify(execFile);

/**
 * Folder with the smallest Debian (or Ubuntu: `noble`) of a release, and packages besides; it must not be changed. Undefined
 * where it cannot be made: `onProgress` hears why.
 */
export async function debianRoot(
  release: string,
  packages: readonly string[],
  options: BuildOptions = {},
): Promise<string | undefined> {
  const cache = options.cache ?? process.env.COFA_CACHE ?? '/var/cache/cofa/images';
  const key = createHash('sha256').update(packages.join()).digest('hex').slice(0, 12);
  const folder = join(cache, `root-${release}-${key}`);
  if (existsSync(folder)) return folder;
  await mkdir(cache, { recursive: true });
  const scratch = await mkdtemp(join(cache, 'root-new-'));
  try {
    const root = await makeRoot(release, packages, scratch, options);
    await rename(root, folder).catch((error: unknown) => {
      if (!existsSync(folder)) throw error;
    });
    return folder;
  } catch (error) {
    options.onProgress?.(
      `no ${titleOf(release)} here: ${error instanceof Error ? error.message.slice(0, 500) : String(error)}`,
    );
    return undefined;
  } finally {
    await run('rm', ['-rf', '--one-file-system', '--', scratch]);
  }
}

export interface RootOptions extends BuildOptions {
  /** Shell commands on this machine when the packages are installed; `$1` is the root, with /proc, /sys and /dev. */
  hooks?: readonly string[];
}

/** Makes such a root in a folder of the caller's, who removes that; the root's path. Error: mmdebstrap's. */
export async function makeRoot(
  release: string,
  packages: readonly string[],
  scratch: string,
  options: RootOptions = {},
): Promise<string> {
  const keyring = await keysOf(release, options);
  const { list, sources } = sourcesOf(release, { keyring });
  const files: string[] = [];
  for (const [name, text] of [
    ['root.list', list],
    ['root.sources', sources],
  ] as const) {
    if (text.trim() === '') continue;
    await writeFile(join(scratch, name), text);
    files.push(join(scratch, name));
  }
  options.onProgress?.(`an empty ${titleOf(release)}, with ${packages.join(' ')}`);
  const settings = acquireSettings().map((line) => `--aptopt=${line.replace(/;$/, '')}`);
  const root = join(scratch, 'root');
  // It comes by itself on a Debian alone.
  const wanted = `--include=${['apt', ...packages].join(',')}`;
  const args = [
    '--quiet',
    '--variant=minbase',
    '--format=directory',
    wanted,
    ...settings,
    ...(options.hooks ?? []).map((hook) => `--customize-hook=${hook}`),
    release,
    root,
    ...files,
  ];
  await run('mmdebstrap', args, {
    timeout: 900_000,
    maxBuffer: 64 << 20,
    env: { ...process.env, LC_ALL: 'C.UTF-8', TMPDIR: scratch },
  });
  await nameKeys(root, keyring, keyringOf(release));
  return root;
}

/** Ubuntu's keys; Debian 12 itself does not have the package. */
const UBUNTU_KEYS = { release: 'trixie', packages: ['ubuntu-keyring'] };

/** Path of the keys of a release's distribution: the machine's, else those of Ubuntu out of Debian's package. */
async function keysOf(release: string, options: BuildOptions): Promise<string> {
  const keyring = keyringOf(release);
  if (existsSync(keyring) || keyring === keyringOf(UBUNTU_KEYS.release)) return keyring;
  const { root } = await unpackedDebs(UBUNTU_KEYS, options);
  return join(root, keyring);
}

/** apt in the root has the keys at the place of its own distribution. */
async function nameKeys(root: string, from: string, to: string): Promise<void> {
  const parts = join(root, 'etc/apt/sources.list.d');
  for (const name of await readdir(parts)) {
    const file = join(parts, name);
    await writeFile(file, (await readFile(file, 'utf8')).replaceAll(from, to));
  }
}
