/**
 * How far the kernel reads ahead. A file takes its readahead from the backing device of its file system. In a mounted
 * flat image that is the *metadata* loop device; the settings of the data loops rule only reads of the block devices
 * themselves.
 *
 * cofa always sets it, since the kernel's own choice varies: 128 KiB for long, 2560 KiB for a loop on Linux 6.18. A
 * file keeps the value of the moment when it was opened (file_ra_state_init in mm/readahead.c). The driver chooses anew
 * when the loop is detached.
 */
import { writeFile } from 'node:fs/promises';
import { explain } from './errno.ts';

/** Sets the read-ahead of a loop device, KiB. */
export async function setReadAhead(loop: { number: number }, kib: number): Promise<void> {
  const path = `/sys/block/loop${loop.number}/queue/read_ahead_kb`;
  try {
    await writeFile(path, String(kib));
  } catch (error) {
    throw explain(error, `setting of ${path}`);
  }
}
