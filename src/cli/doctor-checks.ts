/**
 * The checks of `cofa doctor`. Each tells what was found, what it means when it is not as it should be, and how to get
 * it. What can be tried is tried for real: a version number or a file in /proc does not prove that a mount works.
 */
import { constants } from 'node:fs';
import { access, mkdtemp, open, readFile, statfs } from 'node:fs/promises';
import { release } from 'node:os';
import { dirname, join } from 'node:path';
import { exec, findProgram } from '../container/exec.ts';
import { Layout } from '../store/layout.ts';
import { formatBytes } from '../terminal/table.ts';

export interface Check {
  name: string;
  /** `warn`: cofa works, with a limit. */
  state: 'ok' | 'warn' | 'fail';
  found: string;
  /** What follows from it; for `warn` and `fail`. */
  means?: string;
  /** How to get it; for `warn` and `fail`. */
  fix?: string;
}

/** All checks in order; each ends in bounded time and none throws. */
export async function runChecks(root: string, signal?: AbortSignal): Promise<Check[]> {
  const isRoot = process.getuid?.() === 0;
  const checks: Array<Check | (() => Promise<Check | Check[]>)> = [
    checkNode(process.versions.node),
    checkKernel(release()),
    checkUser(isRoot),
    async () => checkFuse(await opens('/dev/fuse'), await filesystems()),
    async () => checkFusectl(await exists('/sys/fs/fuse/connections')),
    async () => checkLoop(await exists('/dev/loop-control')),
    () => tried('zlib', tryZlib, { means: 'layers cannot be decoded', fix: 'apt install zlib1g' }),
    async () => checkNats(await versionOf('nats-server')),
    async () => checkRunc(await versionOf('runc')),
    async () => checkCgroups(await readFile('/proc/self/mountinfo', 'utf8')),
    checkLibfuse,
    () => checkSpace(root),
    () => checkRootFolder(root),
    async () => (await import('./doctor-config.ts')).checkConfig(),
    async () => (await import('./doctor-keys.ts')).checkDefaultKeys(),
    async () => (await import('./doctor-hosts.ts')).checkHosts(),
    async () => (await import('./doctor-fleet.ts')).checkFleet(root),
    async () => (await import('./doctor-installs.ts')).checkInstalls(root),
    async () => (await import('./doctor-crio.ts')).checkCrio(root),
    async () => (await import('./doctor-incidents.ts')).checkIncidents(root, Date.now()),
    // Those that mount. The last two build upon the ones before them.
    ...(isRoot ? [() => tryMounts(root)] : []),
  ];
  const done: Check[] = [];
  for (const check of checks) {
    signal?.throwIfAborted();
    done.push(...[typeof check === 'function' ? await check() : check].flat());
  }
  return done;
}

export function checkNode(version: string): Check {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const found = `Node ${version}`;
  if (major > 22 || (major === 22 && minor >= 19)) return { name: 'node', state: 'ok', found };
  return {
    name: 'node',
    state: 'fail',
    found,
    means: 'cofa needs Node 24; it brings its own',
    fix: 'start it by ops/cofa, after npm install in the checkout',
  };
}

export function checkKernel(text: string): Check {
  const [, major, minor] = /^(\d+)\.(\d+)/.exec(text) ?? [];
  const version = Number(major) * 1000 + Number(minor);
  const found = `Linux ${text}`;
  if (version >= 6009) return { name: 'kernel', state: 'ok', found };
  if (version >= 6004) {
    return {
      name: 'kernel',
      state: 'warn',
      found,
      means: 'before 6.9 reads that wait while the front end restarts fail with EIO',
      fix: 'a newer kernel, such as linux-image-amd64 of Debian backports or linux-generic-hwe-24.04 of Ubuntu',
    };
  }
  return {
    name: 'kernel',
    state: 'fail',
    found,
    means: 'EROFS with 512-byte blocks needs Linux 6.4',
    fix: 'add the suite bookworm-backports to the apt sources, then: apt update && apt install -t bookworm-backports linux-image-amd64, and reboot',
  };
}

export function checkUser(isRoot: boolean): Check {
  if (isRoot) return { name: 'user', state: 'ok', found: 'root' };
  return {
    name: 'user',
    state: 'fail',
    found: 'not root',
    means: 'mounts, loop devices and containers need root; the checks that mount were left out',
    fix: 'sudo cofa doctor',
  };
}

export function checkFuse(device: string | undefined, known: ReadonlySet<string>): Check {
  if (device === undefined && known.has('fuse'))
    return { name: 'fuse', state: 'ok', found: '/dev/fuse opens' };
  return {
    name: 'fuse',
    state: 'fail',
    found: device === undefined ? 'the kernel has no FUSE' : `/dev/fuse: ${device}`,
    means: 'the kernel has no way to ask cofa for blocks',
    fix: 'modprobe fuse; in a container: run it with --device /dev/fuse --privileged',
  };
}

export function checkFusectl(there: boolean): Check {
  if (there) return { name: 'fusectl', state: 'ok', found: '/sys/fs/fuse/connections' };
  return {
    name: 'fusectl',
    state: 'warn',
    found: 'not mounted',
    means: 'stuck reads cannot be aborted, and fewer reads are served side by side',
    fix: 'mount -t fusectl fusectl /sys/fs/fuse/connections',
  };
}

export function checkLoop(there: boolean): Check {
  if (there) return { name: 'loop', state: 'ok', found: '/dev/loop-control' };
  return {
    name: 'loop',
    state: 'fail',
    found: 'no /dev/loop-control',
    means: 'layers cannot become block devices',
    fix: 'modprobe loop; in a container: run it with --privileged -v /dev:/dev',
  };
}

export function checkNats(version: string | undefined): Check {
  if (version !== undefined) return { name: 'nats-server', state: 'ok', found: version };
  return {
    name: 'nats-server',
    state: 'warn',
    found: 'not installed',
    means: 'cofa up works only with --nats URL',
    fix: 'apt install nats-server',
  };
}

export function checkRunc(version: string | undefined): Check {
  if (version !== undefined) return { name: 'runc', state: 'ok', found: version };
  return {
    name: 'runc',
    state: 'warn',
    found: 'not installed',
    means: 'cofa run does not work; cofa mount does',
    fix: 'apt install runc',
  };
}

/** runc puts each container into a cgroup of its own and cannot do without. */
export function checkCgroups(mountinfo: string): Check {
  const types = [...mountinfo.matchAll(/^.* - (cgroup2?) /gm)].map((match) => match[1]);
  if (types.length > 0) {
    const found = types.includes('cgroup') ? `version 1 (${types.length} mounts)` : 'version 2';
    return { name: 'cgroups', state: 'ok', found };
  }
  return {
    name: 'cgroups',
    state: 'warn',
    found: 'not mounted',
    means: 'cofa run does not work; cofa mount does',
    fix: 'mount -t cgroup2 cgroup2 /sys/fs/cgroup',
  };
}

/** Bytes: below the first `cofa run` will soon fail, below the second it is worth a word. */
const LITTLE_SPACE = 1e9;
const SCARCE_SPACE = 10e9;

export function checkFree(bytes: number, folder: string): Check {
  const found = `${formatBytes(bytes)} free at ${folder}`;
  if (bytes >= SCARCE_SPACE) return { name: 'disk', state: 'ok', found };
  return {
    name: 'disk',
    state: bytes >= LITTLE_SPACE ? 'warn' : 'fail',
    found,
    means: 'images end up on this disk, uncompressed; on a full one reads fail with EIO',
    fix: 'free some space, or use another disk: cofa up --root DIR',
  };
}

async function checkLibfuse(): Promise<Check> {
  try {
    const { default: koffi } = await import('koffi');
    koffi.load('libfuse.so.2');
    return { name: 'libfuse2', state: 'ok', found: 'libfuse.so.2' };
  } catch {
    return {
      name: 'libfuse2',
      state: 'warn',
      found: 'not installed',
      means: 'needed by --transport fuse-native alone; the default transport does without',
      fix: 'apt install fuse',
    };
  }
}

async function checkSpace(root: string): Promise<Check> {
  const folder = await existingParent(root);
  const { bavail, bsize } = await statfs(folder);
  return checkFree(bavail * bsize, folder);
}

async function checkRootFolder(root: string): Promise<Check> {
  const folder = await existingParent(root);
  const what = folder === root ? root : `${root} (to be made in ${folder})`;
  try {
    await access(folder, constants.W_OK);
    if (folder === root) {
      const layout = new Layout(root);
      const check = checkRights(root, await layout.writers(), await layout.opened());
      if (check !== undefined) return check;
    }
    return { name: 'root folder', state: 'ok', found: what };
  } catch (error) {
    return {
      name: 'root folder',
      state: 'fail',
      found: `${what}: ${messageOf(error)}`,
      means: 'the engine has no place for its state',
      fix: 'choose another one: cofa up --root DIR',
    };
  }
}

/** Undefined: none but root can reach what is in it. `opened`: folders in it that others can enter. */
export function checkRights(
  root: string,
  writers: string | undefined,
  opened: readonly string[],
): Check | undefined {
  if (writers !== undefined) {
    return {
      name: 'root folder',
      state: 'fail',
      found: `${root} may be written by ${writers}`,
      means: 'who can write there can change what containers read: the engine does not start',
      fix: `chown root ${root} && chmod go-w ${root}`,
    };
  }
  if (opened.length === 0) return undefined;
  return {
    name: 'root folder',
    state: 'warn',
    found: `others can enter ${opened.join(', ')}`,
    means: 'local users can read files of images, and start their setuid programs',
    fix: `chmod 700 ${opened.join(' ')}, or start the engine, which does so`,
  };
}

async function tryZlib(): Promise<string> {
  await import('../image/libz.ts');
  return 'found';
}

/** Mounts and a container, below a folder on the very disk that the engine will use. */
async function tryMounts(root: string): Promise<Check[]> {
  const { tryContainer, tryErofs, tryOtherOwners, tryOverlay } = await import('./doctor-trials.ts');
  let folder: string;
  try {
    folder = await mkdtemp(join(await existingParent(root), '.cofa-doctor-'));
  } catch (error) {
    return [{ name: 'mounts', state: 'fail', found: messageOf(error), means: 'nothing could be tried' }];
  }
  try {
    const erofs = await tried('erofs', () => tryErofs(folder), {
      means: 'no image can be mounted',
      // Ubuntu's kernels for some clouds have EROFS in a package that their machines come without.
      fix: 'modprobe erofs loop; where Ubuntu does not find it: apt install linux-modules-extra-$(uname -r)',
    });
    const overlay = await tried('overlayfs', () => tryOverlay(folder), {
      means: 'cofa run does not work; cofa mount does',
      fix: 'modprobe overlay; the cofa root must lie on a local disk (ext4, xfs), not on overlayfs or NFS',
    });
    const owners: Check[] =
      erofs.state === 'ok'
        ? [
            asWarning(
              await tried('other owners', () => tryOtherOwners(folder), {
                means: 'containers in user namespaces run on copies of their images, which are fetched whole',
                fix: 'have the cofa root on ext4, xfs or btrfs; sysctl user.max_user_namespaces',
              }),
            ),
          ]
        : [];
    const runc = findProgram('runc');
    if (overlay.state !== 'ok' || runc === undefined) return [erofs, ...owners, overlay];
    const container = await tried('container', () => tryContainer(folder, runc), {
      means: 'cofa run does not work; cofa mount does',
      fix: 'see what runc says above; in a container: run it with --privileged',
    });
    // A container is not needed to mount.
    return [erofs, ...owners, asWarning(overlay), asWarning(container)];
  } finally {
    await exec('rm', ['-rf', '--one-file-system', '--', folder]);
  }
}

async function tried(
  name: string,
  trial: () => Promise<string>,
  o: { means: string; fix: string },
): Promise<Check> {
  try {
    return { name, state: 'ok', found: await trial() };
  } catch (error) {
    return { name, state: 'fail', found: messageOf(error), ...o };
  }
}

function asWarning(check: Check): Check {
  return check.state === 'fail' ? { ...check, state: 'warn' } : check;
}

async function versionOf(program: string): Promise<string | undefined> {
  const path = findProgram(program);
  if (path === undefined) return undefined;
  const { stdout, stderr } = await exec(path, ['--version'], 10_000);
  const line = `${stdout}${stderr}`.split('\n')[0]?.trim() ?? '';
  return line === '' ? path : `${line} (${path})`;
}

/** Why it does not open; undefined: it does. */
async function opens(path: string): Promise<string | undefined> {
  try {
    const file = await open(path, 'r+');
    await file.close();
    return undefined;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? messageOf(error);
  }
}

async function filesystems(): Promise<Set<string>> {
  const text = await readFile('/proc/filesystems', 'utf8');
  return new Set(text.split('\n').map((line) => line.split('\t').at(-1) ?? ''));
}

function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

/** The folder itself, or the nearest above it that is there. */
export async function existingParent(path: string): Promise<string> {
  for (let folder = path; ; folder = dirname(folder)) {
    if (folder === '/' || (await exists(folder))) return folder;
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
