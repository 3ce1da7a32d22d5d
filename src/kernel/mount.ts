/** mount(2), umount2(2) and the list of mounts. */
import { CofaError } from '../../schemas/errors.ts';

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

/** One line of /proc/self/mountinfo (Documentation/filesystems/proc.rst, 3.5), names unescaped. */
export interface MountEntry {
  id: number;
  parent: number;
  major: number;
  minor: number;
  root: string;
  mountPoint: string;
  options: string;
  /** Optional fields, such as `shared:1`. */
  tags: string[];
  type: string;
  source: string;
  superOptions: string;
}

/** For mounts that need no answer from this process; else it blocks for good. */
export function mountSync(request: MountRequest): void {
  throw new CofaError('internal', `not there yet: ${request.target}`);
}
/** Off the event loop, so that this process may answer what the file system reads while it mounts. */
export async function mount(request: MountRequest): Promise<void> {
  mountSync(request);
}
export interface UnmountOptions {
  /** Detach at once; the file system ends when its last user has gone. */
  lazy?: boolean;
}
/** Errors: `busy`, naming who uses it where that is quickly known; `not-found` when nothing is mounted there. */
export async function unmount(target: string, options: UnmountOptions = {}): Promise<void> {
  unmountSync(target, options);
}
export function unmountSync(target: string, options: UnmountOptions = {}): void {
  throw new CofaError('internal', `not there yet: ${target} ${options.lazy}`);
}
/** This process's mounts, in mount order. */
export function listMounts(): MountEntry[] {
  return [];
}
/** The topmost mount whose mount point is `target`, without touching what is mounted there. */
export function findMount(target: string): MountEntry | undefined {
  return listMounts().find((entry) => entry.mountPoint === target);
}
export function isMounted(target: string): boolean {
  return findMount(target) !== undefined;
}
