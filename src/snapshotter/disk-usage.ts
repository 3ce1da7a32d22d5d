/** What a folder takes on its disk, counted as containerd does: blocks of 512 bytes, each inode once. */
import { lstat, readdir } from 'node:fs/promises';

export interface DiskUsage {
  /** bytes */
  size: number;
  inodes: number;
}

/** Calls of the file system that are under way at a time. */
const PARALLEL = 32;
const SLASH = Buffer.from('/');

/** Names may be any bytes. What vanishes meanwhile is not counted; other errors are thrown. */
export async function diskUsage(folder: string): Promise<DiskUsage> {
  const usage: DiskUsage = { size: 0, inodes: 0 };
  const linked = new Set<string>();
  const queue: Buffer[] = [Buffer.from(folder)];
  const visit = async (path: Buffer) => {
    const stats = await lstat(path).catch(ignoreAbsent);
    if (stats === undefined) return;
    if (stats.nlink > 1 && !stats.isDirectory()) {
      const inode = `${stats.dev}:${stats.ino}`;
      if (linked.has(inode)) return;
      linked.add(inode);
    }
    usage.inodes += 1;
    usage.size += stats.blocks * 512;
    if (!stats.isDirectory()) return;
    const names = (await readdir(path, { encoding: 'buffer' }).catch(ignoreAbsent)) ?? [];
    for (const name of names) queue.push(Buffer.concat([path, SLASH, name]));
  };
  while (queue.length > 0) await Promise.all(queue.splice(-PARALLEL).map(visit));
  return usage;
}

function ignoreAbsent(error: unknown): undefined {
  if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
}
