/**
 * Who uses a mount, as far as /proc tells quickly: processes by working folder, root, open files and mapped files, loop
 * devices by backing file, and other mounts, also those of other mount namespaces. A best effort for an error message:
 * bounded in time and number, blind to other users' processes where the kernel is, and never touching the mount itself.
 */
import { readdir, readFile, readlink } from 'node:fs/promises';
import { type MountEntry, parseMountinfo } from './mountinfo.ts';

const MAX_NAMED = 5;
const MAX_PROCESSES = 4096;
const MAX_DESCRIPTORS = 1024;
const MAX_MS = 300;

/**
 * Such as `bash (pid 12, working folder), /dev/loop3`, as far as the search came in time. `target` is a mount
 * point. `left`: mounts that its file system had here a moment ago and has no longer; what keeps it then may be in another mount
 * namespace.
 *
 * A link below /proc/PID can hang while that process is in the middle of an exec, which may itself wait for a block of
 * ours. So the caller waits for the search no longer than its time. At most one search runs: each that hangs holds a
 * thread of the pool that all file operations share.
 */
export async function describeUsers(
  target: string,
  left: readonly MountEntry[] = [],
  now: () => number = () => performance.now(),
): Promise<string> {
  const mounts = await mountsOf('self');
  const there = left.length > 0 ? left : mounts.filter(({ mountPoint }) => mountPoint === target);
  const places = [target, ...there.map(({ mountPoint }) => mountPoint)];
  const found = mountsUpon(places, mounts).map(({ mountPoint }) => `the mount ${mountPoint}`);
  if (!searching) {
    searching = true;
    const search = findUsers(found, { target, places, there, hasLeft: left.length > 0, now }).finally(() => {
      searching = false;
    });
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, MAX_MS + 100);
    });
    await Promise.race([search, late]).finally(() => clearTimeout(timer));
  }
  return found.slice(0, MAX_NAMED).join(', ');
}

let searching = false;

interface Search {
  target: string;
  /** Mount points of its file system, and those mounts. */
  places: readonly string[];
  there: readonly MountEntry[];
  /** They are not there any more. */
  hasLeft: boolean;
  now: () => number;
}

async function findUsers(found: string[], { target, places, there, hasLeft, now }: Search): Promise<void> {
  const end = now() + MAX_MS;
  found.push(...(await loopsUpon(target)));
  const pids = (await list('/proc')).filter((name) => /^\d+$/.test(name)).slice(0, MAX_PROCESSES);
  const known = new Set<string>();
  // Once for each way, the quickest first: those that a node starts last have the largest numbers.
  const lookAt = async (useBy: (pid: string) => Promise<string | undefined>) => {
    for (const pid of pids) {
      if (found.length >= MAX_NAMED || now() > end) return;
      const how = known.has(pid) ? undefined : await useBy(pid);
      if (how === undefined) continue;
      known.add(pid);
      found.push(`${(await text(`/proc/${pid}/comm`)).trimEnd()} (pid ${pid}, ${how})`);
    }
  };
  // While it is mounted here, the kernel may have put copies of it elsewhere that go with it. That takes one link a process.
  if (hasLeft) {
    const namespaces = new Namespaces(places, there, await link('/proc/self/ns/mnt'));
    await lookAt((pid) => namespaces.useOf(pid));
  }
  await lookAt((pid) => folderOf(pid, target));
  const devices = there.map(({ major, minor }) => `${hex(major)}:${hex(minor)}`);
  await lookAt((pid) => fileOf(pid, target, devices));
}

/** Reads links and never follows them: the server of the mount may have ended. */
async function folderOf(pid: string, target: string): Promise<string | undefined> {
  if (within(await link(`/proc/${pid}/cwd`), target)) return 'working folder';
  return within(await link(`/proc/${pid}/root`), target) ? 'root folder' : undefined;
}

/** The same. */
async function fileOf(pid: string, target: string, devices: readonly string[]): Promise<string | undefined> {
  for (const fd of (await list(`/proc/${pid}/fd`)).slice(0, MAX_DESCRIPTORS))
    if (within(await link(`/proc/${pid}/fd/${fd}`), target)) return 'open file';
  // The fourth field is the device, hexadecimal major:minor. It also shows processes inside containers.
  for (const line of (await text(`/proc/${pid}/maps`)).split('\n'))
    if (devices.includes(line.split(/ +/, 4)[3] ?? '')) return 'mapped file';
  return undefined;
}

/** Mounts of other mount namespaces: each is looked at by the first of its processes, a container by the one that it was started for. */
class Namespaces {
  readonly #places: readonly string[];
  readonly #left: readonly MountEntry[];
  readonly #seen: Set<string | undefined>;

  constructor(places: readonly string[], left: readonly MountEntry[], own: string | undefined) {
    this.#places = places;
    this.#left = left;
    this.#seen = new Set([own]);
  }

  async useOf(pid: string): Promise<string | undefined> {
    const namespace = await link(`/proc/${pid}/ns/mnt`);
    if (namespace === undefined || this.#seen.has(namespace)) return undefined;
    this.#seen.add(namespace);
    const mounts = await mountsOf(pid);
    const entry =
      mounts.find((one) =>
        this.#left.some(({ major, minor }) => one.major === major && one.minor === minor),
      ) ?? mountsUpon(this.#places, mounts).find(({ type }) => type === 'overlay');
    return entry && `the mount ${entry.mountPoint} of its mount namespace`;
  }
}

function hex(n: number): string {
  return n.toString(16).padStart(2, '0');
}

/**
 * Mounts below these mount points, and overlays that have a folder of theirs as a layer. The kernel does not call a mount busy for the
 * sake of an overlay, which has a mount of its own of each layer. `resolve`: where an overlay's folder leads to.
 */
export function mountsUpon(
  places: readonly string[],
  mounts: readonly MountEntry[],
  resolve: (folder: string) => string = (folder) => folder,
): MountEntry[] {
  const isUpon = (path: string) => places.some((place) => within(path, place));
  return mounts.filter(
    ({ mountPoint, type, superOptions }) =>
      (!places.includes(mountPoint) && isUpon(mountPoint)) ||
      (type === 'overlay' && lowerFolders(superOptions).some((folder) => isUpon(resolve(folder)))),
  );
}

/**
 * Overlays that have a folder of these mount points as a layer: those of this mount namespace, and of every other one those that are the
 * root folder of a process, which is a container's. Another namespace may have copies of all mounts that there were when it began, as of
 * a pod that shows the node's whole tree: these are no reason to keep a mount. As for `mountsUpon`; `proc`: where /proc is. Errors: those of
 * reading it.
 */
export async function overlaysUpon(
  places: readonly string[],
  resolve?: (folder: string) => string,
  proc = '/proc',
): Promise<string[]> {
  const upon = (mounts: readonly MountEntry[]) =>
    mountsUpon(
      places,
      mounts.filter(({ type }) => type === 'overlay'),
      resolve,
    );
  const own = upon(parseMountinfo(await readFile(`${proc}/self/mountinfo`, 'latin1')));
  const found = own.map(({ mountPoint }) => `the mount ${mountPoint}`);
  const seen = new Set([await readlink(`${proc}/self/ns/mnt`)]);
  for (const pid of (await readdir(proc)).filter((name) => /^\d+$/.test(name))) {
    if (found.length >= MAX_NAMED) break;
    const namespace = await link(`${proc}/${pid}/ns/mnt`);
    if (namespace === undefined || seen.has(namespace)) continue;
    const mounts = parseMountinfo(await text(`${proc}/${pid}/mountinfo`));
    // A process that has just ended shows none: another one of its namespace does.
    if (mounts.length > 0) seen.add(namespace);
    if (upon(mounts.filter(({ mountPoint }) => mountPoint === '/')).length > 0)
      found.push(`${(await text(`${proc}/${pid}/comm`)).trimEnd()} (pid ${pid}, root folder)`);
  }
  return found.slice(0, MAX_NAMED);
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

async function mountsOf(pid: string): Promise<MountEntry[]> {
  return parseMountinfo(await text(`/proc/${pid}/mountinfo`));
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
