/**
 * Keeps the log files of an engine within a bound. Each of its processes appends to a file of its own for as long as it lives, which
 * may be months (O_APPEND, so that a file that was cut goes on at its new end). A file that is too long is copied beside it as
 * `NAME.log.1`, in place of the copy before, and begins anew. Lines that come between the copy and the cut are lost.
 */
import { copyFile, lstat, readdir, rename, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock, Timer } from './ports.ts';

/** A file may have this many bytes, about: what is written between two looks comes on top. */
const MOST_BYTES = 16 << 20;
const LOOK_MS = 600_000;

/** Looks at once, and then every ten minutes; the process does not stay for it. */
export function boundLogs(folder: string, clock: Clock): Timer {
  let isLooking = false;
  const look = async () => {
    if (isLooking) return;
    isLooking = true;
    // On a full disk there is no room for the copy, and none for further lines either.
    await cutLogs(folder, MOST_BYTES).catch(() => {});
    isLooking = false;
  };
  void look();
  return clock.every(LOOK_MS, () => void look()).unref();
}

/** Cuts the files `*.log` of the folder that have more than `most` bytes. A folder that is not there has none. Errors: the disk's. */
export async function cutLogs(folder: string, most: number): Promise<void> {
  const names = await readdir(folder).catch(() => []);
  for (const name of names.filter((one) => one.endsWith('.log'))) {
    const file = join(folder, name);
    const found = await lstat(file).catch(() => undefined);
    if (found?.isFile() !== true || found.size <= most) continue;
    const draft = `${file}.1.draft`;
    await copyFile(file, draft);
    await rename(draft, `${file}.1`);
    await truncate(file);
  }
}
