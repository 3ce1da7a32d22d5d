/**
 * How far the kernel reads ahead. For a file of a mounted flat image the setting of the *metadata* loop device
 * rules, since a file's read-ahead comes from its file system's backing device; those of the data loops rule nothing
 * but reads of the block devices themselves.
 *
 * It is always set, since the kernel's own choice varies: 128 KiB for long, 2560 KiB for a loop on Linux 6.18. A file
 * has it from when it is opened (file_ra_state_init in mm/readahead.c). The driver chooses anew when the loop is freed.
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
