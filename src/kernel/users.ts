/**
 * Who keeps a mount busy, as far as /proc tells quickly: processes by working folder, root, open files and mapped
 * files, loop devices by backing file, and other mounts. A best effort for an error message: bounded in time and
 * number, blind to other users' processes where the kernel is, and never touching the mount itself.
 */
import { readdir, readFile, readlink } from 'node:fs/promises';
import { type MountEntry, parseMountinfo } from './mountinfo.ts';

const MAX_NAMED = 5;
const MAX_PROCESSES = 4096;
const MAX_DESCRIPTORS = 1024;
const MAX_MS = 300;

/**
 * Such as `bash (pid 12, working folder), /dev/loop3`; empty when the search found nothing in time. `target` is a mount
 * point.
 *
 * A link below /proc/PID can hang while that process is in the middle of an exec, which may itself wait for a block of
 * ours. So the caller waits for the search no longer than its time. At most one search runs: each that hangs holds a
 * thread of the pool that all file operations share.
 */
export async function describeUsers(
  target: string,
  now: () => number = () => performance.now(),
): Promise<string> {
  if (searching) return '';
  searching = true;
  const search = findUsers(target, now).finally(() => {
    searching = false;
  });
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<string>((resolve) => {
    timer = setTimeout(() => resolve(''), MAX_MS + 100);
  });
  return await Promise.race([search, late]).finally(() => clearTimeout(timer));
}

let searching = false;

async function findUsers(target: string, now: () => number): Promise<string> {
  const end = now() + MAX_MS;
  const mounts = await ownMounts();
  const found = [...mountsUpon(target, mounts), ...(await loopsUpon(target))];
  const devices = devicesOf(target, mounts);
  const pids = (await list('/proc')).filter((name) => /^\d+$/.test(name));
  for (const pid of pids.slice(0, MAX_PROCESSES)) {
    if (found.length >= MAX_NAMED || now() > end) break;
    const how = await useOf(pid, target, devices);
    if (how !== undefined) found.push(`${(await text(`/proc/${pid}/comm`)).trimEnd()} (pid ${pid}, ${how})`);
  }
  return found.slice(0, MAX_NAMED).join(', ');
}

/** Reads links and never follows them: the server of the mount may have ended. */
async function useOf(pid: string, target: string, devices: string[]): Promise<string | undefined> {
  if (within(await link(`/proc/${pid}/cwd`), target)) return 'working folder';
  if (within(await link(`/proc/${pid}/root`), target)) return 'root folder';
  for (const fd of (await list(`/proc/${pid}/fd`)).slice(0, MAX_DESCRIPTORS))
    if (within(await link(`/proc/${pid}/fd/${fd}`), target)) return 'open file';
  // The fourth field is the device, hexadecimal major:minor. It also shows processes inside containers.
  for (const line of (await text(`/proc/${pid}/maps`)).split('\n'))
    if (devices.includes(line.split(/ +/, 4)[3] ?? '')) return 'mapped file';
  return undefined;
}

function devicesOf(target: string, mounts: MountEntry[]): string[] {
  return mounts
    .filter((entry) => entry.mountPoint === target)
    .map((entry) => `${hex(entry.major)}:${hex(entry.minor)}`);
}

function hex(n: number): string {
  return n.toString(16).padStart(2, '0');
}

function mountsUpon(target: string, mounts: MountEntry[]): string[] {
  return mounts
    .filter(
      (entry) =>
        (entry.mountPoint !== target && within(entry.mountPoint, target)) ||
        (entry.type === 'overlay' &&
          lowerFolders(entry.superOptions).some((folder) => within(folder, target))),
    )
    .map((entry) => `the mount ${entry.mountPoint}`);
}

function lowerFolders(superOptions: string): string[] {
  return superOptions
    .split(',')
    .filter((option) => option.startsWith('lowerdir'))
    .flatMap((option) => option.slice(option.indexOf('=') + 1).split(':'));
}

async function loopsUpon(target: string): Promise<string[]> {
  const found: string[] = [];
  for (const name of await list('/sys/block')) {
    if (!name.startsWith('loop')) continue;
    const file = (await text(`/sys/block/${name}/loop/backing_file`)).trimEnd();
    if (within(file, target)) found.push(`/dev/${name}`);
  }
  return found;
}

async function ownMounts(): Promise<MountEntry[]> {
  return parseMountinfo(await text('/proc/self/mountinfo'));
}

// A file that cannot be read (the process ended, the loop is free, we may not see it) counts as empty.
async function list(path: string): Promise<string[]> {
  return readdir(path).catch(() => []);
}

async function text(path: string): Promise<string> {
  return readFile(path, 'latin1').catch(() => '');
}

async function link(path: string): Promise<string | undefined> {
  return readlink(path).catch(() => undefined);
}

function within(path: string | undefined, folder: string): boolean {
  return path !== undefined && (path === folder || path.startsWith(folder === '/' ? '/' : `${folder}/`));
}
