/** The directory that a mount stands at. */
import { posix } from 'node:path';
import type { MountFacts } from '../../../actors/node-state.ts';
import { CofaError } from '../../../schemas/errors.ts';
import { listDirectory, type Lookup, makeDirectory, removeDirectory } from '../../kernel/mount.ts';

/** How its path is followed. */
export const lookupOf = ({ nosymlinks }: Pick<MountFacts, 'nosymlinks'>): Lookup => ({
  links: nosymlinks === true ? 'none' : 'ours',
});

/** What a mount says of its directory. */
export type Place = Pick<MountFacts, 'dir' | 'nosymlinks'>;

/** The path without doubled or trailing slashes, `.` and `..`. Error `invalid-argument` for `/`. */
export function cleanPath(path: string): string {
  const clean = posix.resolve('/', path);
  if (clean === '/')
    throw new CofaError('invalid-argument', 'cofa does not mount over /', {
      hint: 'mount at an empty or a new directory',
    });
  return clean;
}

/** Makes the directory where it is missing. Errors: as of `isMissing`. */
export async function prepareDirectory(place: Place): Promise<void> {
  if (await isMissing(place)) await makeDirectory(place.dir, lookupOf(place));
}

/**
 * Whether there is no such directory. Error `conflict` where something else is there, something is in it, or the path
 * leads through a link that is not followed.
 */
export async function isMissing(place: Place): Promise<boolean> {
  const { dir } = place;
  const names = await listDirectory(dir, lookupOf(place));
  if (names === undefined) return true;
  if (names.length > 0) {
    throw new CofaError('conflict', `${dir} is not empty`, { hint: 'mount at an empty or a new directory' });
  }
  return false;
}

/** Removes a directory that was made for a mount; what stands in the way of that stays. */
export async function removeMade(place: Place): Promise<void> {
  await removeDirectory(place.dir, lookupOf(place)).catch(() => {});
}

/** Makes it again, or for the first time. Errors: those of `makeDirectory`. */
export const makeFor = (place: Place): Promise<void> => makeDirectory(place.dir, lookupOf(place));
