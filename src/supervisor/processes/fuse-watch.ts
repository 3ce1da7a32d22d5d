/** Asks a FUSE mount for signs of life, as a reader would: whether it is served, and whether its connection was aborted. */
import { isErrno } from '../../kernel/errno.ts';

export interface FuseWatchOptions {
  /** Asks the mount; waits for its server. */
  ask: () => Promise<unknown>;
  /** What is mounted now. It may be made anew while one that was asked has still to answer. */
  session: () => object | undefined;
  /** Whether a front end is to answer. */
  isServed: () => boolean;
  /** A mount that is served has this long for an answer, ms. */
  hangMs: number;
  onSilent: () => void;
  /** The connection of what is mounted now was aborted. */
  onCut: () => void;
}

/** Until the interval is cleared. */
export function watchFuse(options: FuseWatchOptions): NodeJS.Timeout {
  const { ask, session, isServed, hangMs, onSilent, onCut } = options;
  let asked: Promise<unknown> | undefined;
  let missed = 0;
  return setInterval(() => {
    if (!isServed()) missed = 0;
    else if (asked !== undefined && ++missed > PROBES) {
      missed = 0;
      onSilent();
    }
    if (asked !== undefined) return;
    missed = 0;
    const present = session();
    asked = ask()
      .catch((error: unknown) => {
        // Of one that was given up the answer is no news.
        if (isErrno(error, 'ENOTCONN', 'ECONNABORTED') && session() === present) onCut();
      })
      .finally(() => {
        asked = undefined;
      });
  }, hangMs / PROBES);
}

/** Signs of life within `hangMs`. */
const PROBES = 5;
