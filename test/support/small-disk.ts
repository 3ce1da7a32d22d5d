/** A disk that is smaller than the machine's, so that a test can fill it: ext4 on a loop device. */
import { statfsSync } from 'node:fs';
import { mkdir, open, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { runCommand } from './services.ts';
import type { Cleanup } from './temp.ts';

/** Folder of its file system, until the end of `cleanup`. */
export async function makeSmallDisk(cleanup: Cleanup, bytes: number): Promise<string> {
  const work = await cleanup.tempDir('disk');
  const [file, folder] = [join(work, 'ext4'), join(work, 'disk')];
  await mkdir(folder);
  await (await open(file, 'w')).close();
  await truncate(file, bytes);
  await runCommand('mkfs.ext4', ['-q', '-m', '0', '-F', file]);
  await runCommand('mount', ['-o', 'loop', file, folder]);
  cleanup.defer(() => runCommand('umount', ['--', folder]));
  return folder;
}

/** Bytes that are free there. */
export function freeOn(folder: string): number {
  const { bavail, bsize } = statfsSync(folder);
  return bavail * bsize;
}

/** Other programs leave so many bytes free: their file grows or shrinks. */
export async function fillTo(folder: string, left: number): Promise<void> {
  const file = join(folder, 'others');
  const before = await stat(file).catch(() => ({ size: 0 }));
  const size = Math.max(0, Math.round(before.size + freeOn(folder) - left));
  if (size > before.size) await runCommand('fallocate', ['-l', String(size), file]);
  else if (before.size > 0) await truncate(file, size);
}
