/**
 * What becomes of the mounts of an earlier engine. Each was promised, so it comes back with what it had, and those who use
 * it notice nothing where that can be. Effects: src/supervisor/mounts/restore.ts.
 *
 *     requested   the engine ended before it was mounted: its user has heard of no success    → give-up
 *     mounted, detached, and the image is known                                              → bring-back
 *     its image is not known: the log has lost it                                             → leave
 */
import type { MountFacts } from './node-state.ts';

export type Fate = 'give-up' | 'bring-back' | 'leave';

export function fateOf({ state }: Pick<MountFacts, 'state'>, isImageKnown: boolean): Fate {
  if (state === 'requested') return 'give-up';
  return isImageKnown ? 'bring-back' : 'leave';
}

/** What stands at a mount's directory. `source`: the device. */
export interface Standing {
  type: string;
  source: string;
}

/**
 * How a mount comes back: `kept` when it still stands on the loop that this engine has taken over, and goes on as it is;
 * `replaced` when it stands on one that the engine detaches: its users keep it, new users get the new one; `anew` where there is none.
 */
export type Return = 'kept' | 'replaced' | 'anew';

export function returnOf(there: Standing | undefined, metadata: string): Return {
  if (there?.type !== 'erofs') return 'anew';
  return there.source === metadata ? 'kept' : 'replaced';
}

/**
 * Whether what stands at the directory of a request that is given up is unmounted with it. The log may have the failure of that
 * request still to come, and another mount there that was acknowledged: that one stays.
 */
export function isTakenAway(
  there: Standing | undefined,
  dir: string,
  mounts: Iterable<Pick<MountFacts, 'dir' | 'state'>>,
): boolean {
  if (there?.type !== 'erofs') return false;
  for (const other of mounts) if (other.dir === dir && other.state !== 'requested') return false;
  return true;
}

const AGAIN_MS = 5_000;
const LONGEST_MS = 60_000;

/** A mount that did not come back after so many tries is tried again after this, ms. */
export const pauseAfterTries = (tries: number): number => Math.min(AGAIN_MS * 2 ** (tries - 1), LONGEST_MS);

/**
 * Whether the supervisor tries the mount again: `later` while it is being unmounted, since that may fail as well; `over` when the
 * mount is back, or a client has unmounted it.
 */
export function nextTry(state: string, isWanted: boolean): 'now' | 'later' | 'over' {
  if (!isWanted) return 'over';
  if (state === 'unmounting') return 'later';
  return state === 'failed' ? 'now' : 'over';
}
