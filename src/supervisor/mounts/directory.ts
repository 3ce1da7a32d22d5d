/** The directory that a mount stands at. */
import { mkdir, readdir } from 'node:fs/promises';
import { posix } from 'node:path';
import { CofaError } from '../../../schemas/errors.ts';

/** The path without doubled or trailing slashes, `.` and `..`. Error `invalid-argument` for `/`. */
export function cleanPath(path: string): string {
  const clean = posix.resolve('/', path);
  if (clean === '/') throw new CofaError('invalid-argument', 'cofa does not mount over /');
  return clean;
}

/** Makes the directory where it is missing. Error `conflict` where something else is there, or something is in it. */
export async function prepareDirectory(dir: string): Promise<void> {
  if (await isMissing(dir)) await mkdir(dir, { recursive: true });
}

/** Whether there is no such directory. Error `conflict` where something else is there, or something is in it. */
export async function isMissing(dir: string): Promise<boolean> {
  let names: string[];
  try {
    names = await readdir(dir);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOTDIR') throw new CofaError('conflict', `${dir} is not a directory`, { cause });
    if (code !== 'ENOENT') throw cause;
    return true;
  }
  if (names.length > 0) {
    throw new CofaError('conflict', `${dir} is not empty`, { hint: 'mount at an empty or a new directory' });
  }
  return false;
}
