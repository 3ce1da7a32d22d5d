/** Folders of containers that have written little: removed without a process. */
import { lstat, readdir, rmdir, unlink } from 'node:fs/promises';

/** cofa, containerd, runc and overlayfs put some 20 entries there. */
const MOST_ENTRIES = 64;
const SLASH = Buffer.from('/');

/**
 * Removes a folder entry by entry where it holds little, in less time than rm(1) takes to begin. False where there is
 * more, something else than files and folders of one file system, or something that cannot be removed: the caller then
 * removes the rest.
 */
export async function removeSmallFolder(path: string): Promise<boolean> {
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
