/** Removes the folder of a container, with what the container wrote. */
import { readFileSync } from 'node:fs';
import { lstat, readdir, rmdir, unlink } from 'node:fs/promises';
import { CofaError } from '../../schemas/errors.ts';
import { parseMountinfo } from '../kernel/mountinfo.ts';
import { exec } from './exec.ts';

/** Removes the folder. Error: `busy`, and nothing is removed, while something is mounted in it. */
export async function removeFolder(path: string): Promise<void> {
  const mounted = mountsBelow(path);
  if (mounted.length > 0) {
    throw new CofaError('busy', `${path} is not removed: ${mounted.join(', ')} still mounted`);
  }
  if (await removeSmall(path)) return;
  // rm(1) takes any depth, and stays on this file system should a mount appear meanwhile.
  const result = await exec('rm', ['-rf', '--one-file-system', '--', path], 600_000);
  if (result.code !== 0) throw new CofaError('internal', `${path} is not removed: ${result.stderr.trim()}`);
}

/** Mount points at or below a path, as this process sees them. */
export function mountsBelow(path: string): string[] {
  return parseMountinfo(readFileSync('/proc/self/mountinfo'))
    .map((entry) => entry.mountPoint)
    .filter((point) => point === path || point.startsWith(`${path}/`));
}

/**
 * Removes the folder of a container that has written little entry by entry, in less time than a process takes to begin.
 * False where there is more, or something else than files and folders of one file system: the caller then removes the
 * rest.
 */
async function removeSmall(path: string): Promise<boolean> {
  let left = MOST_ENTRIES;
  try {
    const { dev } = await lstat(path);
    await remove(Buffer.from(path), dev);
    return true;
  } catch {
    return false;
  }

  async function remove(folder: Buffer, dev: number): Promise<void> {
    // Names may be of any bytes.
    const entries = await readdir(folder, { withFileTypes: true, encoding: 'buffer' });
    left -= entries.length;
    if (left < 0) throw new RangeError('too many');
    for (const entry of entries) {
      const inside = Buffer.concat([folder, SLASH, entry.name]);
      if (!entry.isDirectory()) await unlink(inside);
      else if ((await lstat(inside)).dev === dev) await remove(inside, dev);
      else throw new RangeError('another file system');
    }
    await rmdir(folder);
  }
}

/** cofa, runc and overlayfs put some 20 entries there. */
const MOST_ENTRIES = 64;
const SLASH = Buffer.from('/');
