/**
 * Programs of another Debian release, for tests with newer clients than this release has. apt fetches the packages from
 * the machine's own mirrors, and they are unpacked into a folder of the cache; nothing is installed. It serves for
 * programs that this release's libraries satisfy, as those written in Go mostly are.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readdir, rename, writeFile } from 'node:fs/promises';
import { basename, delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { acquireSettings, ownRelease, RELEASE, sourcesOf } from './apt.ts';
import { judgeAtHand } from './judges.ts';

export interface UnpackOptions {
  /** Where they are kept; $COFA_CACHE, else /var/cache/cofa/images. */
  cache?: string;
  /** Called with one line for each step. */
  onProgress?: (line: string) => void;
}

/** dockerd with the containerd image store, its containerd and its command line tools. */
export const NEWER_DOCKER = {
  release: 'trixie',
  // Without runc: it wants a newer libc, and plays no part in the tests.
  packages: ['docker.io', 'docker-cli', 'docker-buildx', 'docker-compose', 'containerd'],
};

const OLD_CONTAINERD: Debs = { release: 'bookworm', packages: ['containerd'] };

/** containerd 2, of the Debian release after that one. */
export const NEWEST_CONTAINERD = { release: 'forky', packages: ['containerd'] };

interface Debs {
  release: string;
  packages: readonly string[];
  /** Of another processor, by Debian's name. */
  architecture?: string;
}

/** The runc of that release, with its C library. */
const NEWEST_RUNC: Debs = { release: 'forky', packages: ['runc', 'libc6', 'libseccomp2'] };
const NEWER_EROFS: Debs = { release: 'trixie', packages: ['erofs-utils', 'libc6'] };
const PATCHELF: Debs = { release: RELEASE, packages: ['patchelf'] };

export interface Unpacked {
  /** The packages' files as below `/`. */
  root: string;
  /** For a program's environment: their folders of programs, then the machine's. */
  path: string;
}

/** Versions of containerd that `containerdPath` knows: 1.6 to 2.1 are Debian's, newer ones are built (judges.ts). */
export const CONTAINERD_VERSIONS = ['1.6', '1.7', '2.1', '2.2', '2.3', '2.4'] as const;
export type ContainerdVersion = (typeof CONTAINERD_VERSIONS)[number];

/** Whether this machine has it, or can fetch it; `onProgress` hears why not. */
export function hasContainerd(version: ContainerdVersion, options: UnpackOptions = {}): boolean {
  return isBuilt(version) ? judgeAtHand(`containerd-${version}`, options) !== undefined : true;
}

const isBuilt = (version: ContainerdVersion) => version === '2.2' || version === '2.3' || version === '2.4';

/**
 * The programs of a containerd, as a PATH: `1.6` is Debian 12's: undefined on such a machine. That of 2 has a runc of its own:
 * Debian 12's cannot mount files into user namespaces, which pods need. Throws where it is not there, and for other names.
 */
export async function containerdPath(
  version: string,
  options: UnpackOptions = {},
): Promise<string | undefined> {
  if (version === '1.6')
    return ownRelease() === 'bookworm' ? undefined : (await unpackedDebs(OLD_CONTAINERD, options)).path;
  if (version === '1.7') return (await unpackedDebs(NEWER_DOCKER, options)).path;
  const runc = await newestRunc(options);
  if (version === '2.1') return [runc, (await unpackedDebs(NEWEST_CONTAINERD, options)).path].join(delimiter);
  const known = CONTAINERD_VERSIONS.find((one) => one === version);
  if (known === undefined || !isBuilt(known))
    throw new Error(`containerd is ${CONTAINERD_VERSIONS.join(', ')} here, not ${version}`);
  const folder = judgeAtHand(`containerd-${known}`, options);
  if (folder === undefined) throw new Error(`containerd ${version} has not been built: ./ops/judges`);
  return [runc, folder, process.env.PATH].join(delimiter);
}

const run = promisify(execFile);

/**
 * Folder with the runc of the Debian release of containerd 2: it mounts files into user namespaces, which that of
 * Debian 12 does not.
 */
export async function newestRunc(options: UnpackOptions = {}): Promise<string> {
  return await withOwnLibrary(NEWEST_RUNC, 'usr/sbin/runc', options);
}

/** Folder with a mkfs.erofs that reads tar, as containerd's EROFS differ wants; that of Debian 12 does not. */
export async function newerErofs(options: UnpackOptions = {}): Promise<string> {
  return await withOwnLibrary(NEWER_EROFS, 'usr/bin/mkfs.erofs', options);
}

/** Folder with a program of packages that hold its C library, too; it is made to use that one. */
async function withOwnLibrary(debs: Debs, program: string, options: UnpackOptions): Promise<string> {
  const [{ root }, { path }] = [await unpackedDebs(debs, options), await unpackedDebs(PATCHELF, options)];
  const folder = join(root, 'own');
  const name = basename(program);
  if (existsSync(join(folder, name))) return folder;
  const [library] = (await readdir(join(root, 'usr/lib')))
    .map((one) => join(root, 'usr/lib', one))
    .filter((one) => existsSync(join(one, 'libc.so.6')));
  const loader = library && (await readdir(library)).find((one) => one.startsWith('ld-linux'));
  if (library === undefined || loader === undefined) throw new Error(`no C library below ${root}`);
  await mkdir(folder, { recursive: true });
  const draft = join(folder, `${name}-${process.pid}`);
  await copyFile(join(root, program), draft);
  const args = ['--set-interpreter', join(library, loader), '--set-rpath', library, draft];
  await run('patchelf', args, { env: { ...process.env, PATH: path } });
  await rename(draft, join(folder, name));
  return folder;
}

/** Fetches and unpacks the packages, or opens those that the cache has. */
export async function unpackedDebs(
  { release, packages, architecture }: Debs,
  options: UnpackOptions = {},
): Promise<Unpacked> {
  const cache = options.cache ?? process.env.COFA_CACHE ?? '/var/cache/cofa/images';
  const name = createHash('sha256')
    .update(JSON.stringify([release, packages, ...(architecture === undefined ? [] : [architecture])]))
    .digest('hex')
    .slice(0, 12);
  const root = join(cache, `debs-${release}-${name}`);
  if (!existsSync(root)) {
    options.onProgress?.(`packages of Debian ${release}: ${packages.join(' ')}`);
    await mkdir(cache, { recursive: true });
    // A name of its own: two builds at once do no harm, and the second one's folder is deleted.
    const scratch = await mkdtemp(join(cache, 'debs-new-'));
    try {
      await unpack(scratch, { release, packages, ...(architecture === undefined ? {} : { architecture }) });
      await rename(join(scratch, 'root'), root).catch((error: unknown) => {
        if (!existsSync(root)) throw error;
      });
    } finally {
      await run('rm', ['-rf', '--one-file-system', '--', scratch]);
    }
  }
  const folders = ['usr/sbin', 'usr/bin'].map((folder) => join(root, folder));
  return { root, path: [...folders, process.env.PATH].join(delimiter) };
}

async function unpack(scratch: string, { release, packages, architecture }: Debs): Promise<void> {
  const [parts, debs, root] = ['parts', 'debs', 'root'].map((part) => join(scratch, part)) as [
    string,
    string,
    string,
  ];
  for (const folder of [parts, debs, root, join(scratch, 'lists/partial')])
    await mkdir(folder, { recursive: true });
  const { list, sources } = sourcesOf(release);
  await writeFile(join(parts, 'cofa.list'), list);
  await writeFile(join(parts, 'cofa.sources'), sources);
  const config = join(scratch, 'apt.conf');
  await writeFile(
    config,
    [
      ...acquireSettings(),
      `Dir::State::lists "${scratch}/lists/";`,
      'Dir::State::status "/dev/null";',
      'Dir::Etc::sourcelist "/dev/null";',
      `Dir::Etc::sourceparts "${parts}/";`,
      'Dir::Cache::pkgcache "";',
      'Dir::Cache::srcpkgcache "";',
      ...(architecture === undefined
        ? []
        : [`APT::Architecture "${architecture}";`, `APT::Architectures { "${architecture}"; };`]),
      'APT::Sandbox::User "root";',
      'Acquire::Languages "none";',
      'Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";',
      '',
    ].join('\n'),
  );
  const apt = { cwd: debs, timeout: 600_000, env: { ...process.env, LC_ALL: 'C.UTF-8', APT_CONFIG: config } };
  await run('apt-get', ['-qq', 'update'], apt);
  await run('apt-get', ['-qq', 'download', ...packages], apt);
  for (const deb of await readdir(debs)) await run('dpkg-deb', ['-x', join(debs, deb), root]);
}
