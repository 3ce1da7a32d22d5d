/**
 * Temporary folders and the order of cleaning up. A folder that may hold a mount is never removed recursively: the
 * files in a mounted file system are not ours to delete.
 */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { chmod, mkdtemp, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';

/** Makes `TMPDIR/cofa-NAME-XXXXXX`; `name` is a short word, because socket paths below it end at 107 bytes. */
export function tempDir(name: string): Promise<string> {
  return mkdtemp(join(tmpdir(), `cofa-${name}-`));
}

/** Removes a folder with its contents. Throws, and removes nothing, while something is mounted in it. */
export async function removeTree(directory: string): Promise<void> {
  const mounted = mountsBelow(directory);
  if (mounted.length > 0) throw new Error(`${directory} still holds mounts: ${mounted.join(', ')}`);
  // rm(1) takes names of any bytes, and stays on this file system should a mount appear meanwhile.
  await promisify(execFile)('rm', ['-rf', '--one-file-system', '--', directory]);
}

/** As /run is: root of a user namespace can reach what lies below a temporary folder, where it knows the name. */
export async function letThrough(directory: string): Promise<void> {
  for (let folder = directory; folder !== '/'; folder = dirname(folder)) {
    const { mode } = await stat(folder);
    if ((mode & 0o001) === 0) await chmod(folder, 0o711);
  }
}

/** Mount points at or below a folder, in the order of mounting. */
export function mountsBelow(directory: string): string[] {
  return listMounts()
    .map(({ point }) => point)
    .filter((point) => point === directory || point.startsWith(`${directory}/`));
}

export interface MountPoint {
  /** The kernel's id of this mount. */
  id: number;
  /** `major:minor` of its file system; the minor of a FUSE mount is its connection's number. */
  device: string;
  point: string;
  /** File system, such as `erofs` or `fuse`. */
  type: string;
}

/** Every mount of this mount namespace, in the order of mounting. Source of the columns: proc(5), mountinfo. */
export function listMounts(): MountPoint[] {
  const mounts: MountPoint[] = [];
  for (const line of readFileSync('/proc/self/mountinfo', 'latin1').split('\n')) {
    const columns = line.split(' ');
    const [id, , device, , point] = columns;
    if (id === undefined || device === undefined || point === undefined) continue;
    mounts.push({
      id: Number(id),
      device,
      // The kernel writes blank, tab, newline and backslash as octal escapes (fs/proc_namespace.c, mangle).
      point: point.replace(/\\([0-7]{3})/g, (_, digits: string) =>
        String.fromCharCode(Number.parseInt(digits, 8)),
      ),
      type: columns[columns.indexOf('-') + 1] ?? '',
    });
  }
  return mounts;
}

/**
 * A stack of things to undo, last first. Tries every one, also after one has failed, and throws the failures together
 * at the end.
 */
export class Cleanup {
  readonly #steps: Array<() => unknown> = [];

  defer(step: () => unknown): void {
    this.#steps.push(step);
  }

  /** A temporary folder that `run` removes. */
  async tempDir(name: string): Promise<string> {
    const directory = await tempDir(name);
    this.defer(() => removeTree(directory));
    return directory;
  }

  async run(): Promise<void> {
    const errors: unknown[] = [];
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) {
      try {
        await step();
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length === 1) throw errors[0];
    if (errors.length > 1) throw new AggregateError(errors, errors.map(String).join('\n'));
  }
}
