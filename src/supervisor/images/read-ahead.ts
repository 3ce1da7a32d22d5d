/**
 * How far the kernel reads ahead in the files of an image. In a file that is mapped it reads as much around each page that is
 * missing (do_sync_mmap_readahead in mm/filemap.c): what no process wants of that costs next to nothing where it lies on the
 * node, and else is fetched, decoded and learned by startup packs as well. So it is less while an image is not whole.
 *
 * An image of huge files, such as a model, is read from end to end: there each read that is short costs a way through FUSE, and
 * what lies around a page is wanted next.
 */
import { open } from 'node:fs/promises';
import type { EventOf } from '../../../schemas/events.ts';
import { SB, SUPERBLOCK } from '../../image/erofs-format.ts';

/** KiB. */
const FAR = 1024;
const NEAR = 128;
/** A mean file of an image of huge files, bytes. Files of other images have some 20 KiB in the mean. */
const HUGE_MEAN = 4 << 20;
/** An image with fewer bytes has no huge files, whatever it has: its metadata are not looked at. */
const LEAST = 256 << 20;

/** KiB, for an image whose checked metadata lie in this file. `isWhole`: no process of cofa is asked for its blocks any more. */
export async function readAheadOf(
  flat: string,
  { devices }: Pick<EventOf<'image.prepared'>, 'devices'>,
  isWhole: boolean,
): Promise<number> {
  const bytes = devices.reduce((sum, { size }) => sum + size, 0);
  if (isWhole || (bytes >= LEAST && bytes / (await inodesIn(flat)) >= HUGE_MEAN)) return FAR;
  return NEAR;
}

/** Files and folders, as the superblock says (Linux, fs/erofs/erofs_fs.h: `inos`); cofa writes the lower half alone. */
async function inodesIn(flat: string): Promise<number> {
  const file = await open(flat, 'r');
  try {
    const { buffer } = await file.read(Buffer.alloc(4), 0, 4, SUPERBLOCK + SB.inodes);
    return Math.max(1, buffer.readUInt32LE(0));
  } finally {
    await file.close();
  }
}
