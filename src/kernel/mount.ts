/** mount(2), umount2(2) and this process's mounts. */
import { constants, readFileSync, realpathSync } from 'node:fs';
import { type FileHandle, open, readFile } from 'node:fs/promises';
import { basename, dirname, resolve } from 'node:path';
import { CofaError } from '../../schemas/errors.ts';
import { openDirectory } from './directory.ts';
import { explain, isErrno } from './errno.ts';
import { call, callOffLoop, declare, offLoop } from './libc.ts';
import { type MountEntry, parseMountinfo, topmostAt } from './mountinfo.ts';
import { describeUsers } from './users.ts';
import { mountErrors } from './mount-errors.ts';

export { listDirectory, type Lookup, makeDirectory, removeDirectory } from './directory.ts';
export type { MountEntry } from './mountinfo.ts';
export { describeUsers, mountsUpon, overlaysUpon } from './users.ts';

/** Flags of mount(2), linux/mount.h. */
export const MS = {
  RDONLY: 1,
  NOSUID: 2,
  NODEV: 4,
  NOEXEC: 8,
  REMOUNT: 32,
  NOATIME: 1024,
  BIND: 4096,
  REC: 16384,
  PRIVATE: 1 << 18,
} as const;

export interface MountRequest {
  source: string;
  target: string;
  /** File system type; empty for a bind mount. */
  type: string;
  /** `MS` flags, or-ed. */
  flags?: number;
  /** Options of the file system, as after `-o`; at most 4095 bytes. */
  data?: string;
}

/** Off the event loop, so that this process may answer what the file system reads while it mounts. */
export async function mount(request: MountRequest): Promise<void> {
  const args = mountArguments(request);
  try {
    await callOffLoop('mount', libcMount, ...args);
  } catch (error) {
    throw explainMount(error, request);
  }
}

/** For file systems that need no answer from this process; with one that does it blocks for good. */
export function mountSync(request: MountRequest): void {
  const args = mountArguments(request);
  try {
    call('mount', libcMount, ...args);
  } catch (error) {
    throw explainMount(error, request);
  }
}

export interface UnmountOptions {
  /** Detach at once; the file system ends with its last user. */
  lazy?: boolean;
  /**
   * Fail the requests that wait for the server of a FUSE mount; this happens even when the mount then turns out busy.
   */
  force?: boolean;
  /** Where it is busy: do not look for its users. */
  unnamed?: boolean;
}

/** Errors: `busy`, with the mount's users where they are quickly known; `not-found` when nothing is mounted there. */
export async function unmount(target: string, options: UnmountOptions = {}): Promise<void> {
  try {
    await callOffLoop('umount2', libcUmount2, target, unmountFlags(options));
  } catch (error) {
    const users = isErrno(error, 'EBUSY') ? await describeUsers(mountPointOf(target)) : '';
    throw explainUnmount(error, target, users);
  }
}

export function unmountSync(target: string, options: UnmountOptions = {}): void {
  try {
    call('umount2', libcUmount2, target, unmountFlags(options));
  } catch (error) {
    throw explainUnmount(error, target);
  }
}

/**
 * Unmounts this very mount, also where others may write above its mount point: a path would lead elsewhere by a link that was put
 * there since the lookup. Errors: `busy`, `not-found` where it is not there, topmost at its mount point.
 */
export async function unmountEntry(entry: MountEntry, options: UnmountOptions = {}): Promise<void> {
  const { mountPoint } = entry;
  const parent = await openDirectory(dirname(mountPoint), { links: 'none' });
  try {
    // A mount point cannot be renamed or removed, so the name stays this mount's as long as the mount is there.
    const path = `${parent.self}/${basename(mountPoint)}`;
    if ((await idAt(path)) !== entry.id)
      throw new CofaError('not-found', `${mountPoint} is not mounted any more`);
    await callOffLoop('umount2', libcUmount2, path, unmountFlags(options));
  } catch (error) {
    const isNamed = isErrno(error, 'EBUSY') && options.unnamed !== true;
    throw explainUnmount(error, mountPoint, isNamed ? await describeUsers(mountPoint) : '');
  } finally {
    parent.close();
  }
}

/** Id of the mount that a path leads to, without the last link; undefined: to none. */
async function idAt(path: string): Promise<number | undefined> {
  let handle: FileHandle;
  try {
    handle = await offLoop(() => open(path, O_PATH | constants.O_NOFOLLOW));
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) return undefined;
    throw error;
  }
  try {
    const info = await readFile(`/proc/self/fdinfo/${handle.fd}`, 'latin1');
    return Number(/^mnt_id:\s*(\d+)$/m.exec(info)?.[1]);
  } finally {
    await offLoop(() => handle.close());
  }
}

/**
 * Detaches this very mount. A path alone would name whatever has been mounted in its place or on top of it since the
 * lookup. Returns whether it was there, topmost at its mount point.
 */
export async function detachMount(entry: MountEntry): Promise<boolean> {
  const { mountPoint } = entry;
  let handle: FileHandle;
  try {
    handle = await offLoop(() => open(mountPoint, O_PATH | constants.O_NOFOLLOW));
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) return false;
    throw explainUnmount(error, mountPoint);
  }
  try {
    // As long as the descriptor is open its mount keeps its id.
    const info = await readFile(`/proc/self/fdinfo/${handle.fd}`, 'latin1');
    const id = Number(/^mnt_id:\s*(\d+)$/m.exec(info)?.[1]);
    const found = listMounts().find((one) => one.id === id);
    if (id !== entry.id || found?.mountPoint !== mountPoint || found.source !== entry.source) return false;
    await callOffLoop('umount2', libcUmount2, `/proc/self/fd/${handle.fd}`, MNT_DETACH);
    return true;
  } catch (error) {
    // Another process unmounted it meanwhile.
    if (isErrno(error, 'EINVAL')) return false;
    throw explainUnmount(error, mountPoint);
  } finally {
    await offLoop(() => handle.close()); // where this was the last user, the file system ends here
  }
}

/** This process's mounts, in mount order. */
export function listMounts(): MountEntry[] {
  return parseMountinfo(readFileSync('/proc/self/mountinfo'));
}

/**
 * The topmost mount whose mount point is `target`. Looks at the parent folder alone, since a stat of the mount point
 * itself would wait for a FUSE server that may have ended.
 */
export function findMount(target: string): MountEntry | undefined {
  return topmostAt(readFileSync('/proc/self/mountinfo'), mountPointOf(target));
}

export function isMounted(target: string): boolean {
  return findMount(target) !== undefined;
}

function mountPointOf(target: string): string {
  const path = resolve(target);
  if (path === '/') return path;
  try {
    return resolve(realpathSync(dirname(path)), basename(path));
  } catch {
    return path; // no such folder, so nothing is mounted there either
  }
}

const libcMount = declare('mount', ['str', 'str', 'str', 'ulong', 'str']);
const libcUmount2 = declare('umount2', ['str', 'int']);
/** fcntl.h; Node does not name it. */
const O_PATH = 0o10000000;
const MNT_FORCE = 1;
const MNT_DETACH = 2;
const UMOUNT_NOFOLLOW = 8;
/** mount(2) copies one page of options and silently drops the rest. */
const MAX_DATA = 4095;

function mountArguments({ source, target, type, flags = 0, data }: MountRequest): unknown[] {
  if (data !== undefined && Buffer.byteLength(data) > MAX_DATA)
    throw new CofaError(
      'unsupported',
      `mount of ${source} at ${target}: the options exceed ${MAX_DATA} bytes`,
    );
  return [source, target, type === '' ? null : type, flags, data ?? null];
}

function unmountFlags(options: UnmountOptions): number {
  return (
    UMOUNT_NOFOLLOW | (options.lazy === true ? MNT_DETACH : 0) | (options.force === true ? MNT_FORCE : 0)
  );
}

function explainMount(error: unknown, { source, target, type }: MountRequest): CofaError {
  return explain(
    error,
    `mount of ${source} (${type === '' ? 'bind' : type}) at ${target}`,
    mountErrors(type),
  );
}

function explainUnmount(error: unknown, target: string, users = ''): CofaError {
  if (isErrno(error, 'EBUSY')) {
    return new CofaError('busy', `${target} is in use${users === '' ? '' : ` by ${users}`}`, {
      cause: error,
      hint: 'end what uses it, then try again',
    });
  }
  return explain(error, `unmount of ${target}`, {
    EINVAL: { code: 'not-found', hint: 'nothing is mounted there' },
  });
}
