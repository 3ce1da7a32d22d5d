/** Asks a FUSE mount for signs of life, as a reader would: whether it is served, and whether its connection was aborted. */
import { Overdue } from '../../../actors/overdue.ts';
import { isErrno } from '../../kernel/errno.ts';

export interface FuseWatchOptions {
  /** Asks the mount; waits for its server. */
  ask: () => Promise<unknown>;
  /** What is mounted now. It may be made anew while one that was asked has still to answer. */
  session: () => object | undefined;
  /** Whether a front end is to answer. */
  isServed: () => boolean;
  /** A mount that is served has this long for an answer, ms; six times as long where its server has no processor. */
  hangMs: number;
  /** In which share of the time since the look before, 0 to 1, its server had no processor. */
  starved: () => number;
  onSilent: () => void;
  /** The connection of what is mounted now was aborted. */
  onCut: () => void;
}

/** Until the interval is cleared. */
export function watchFuse(options: FuseWatchOptions): NodeJS.Timeout {
  const { ask, session, isServed, hangMs, starved, onSilent, onCut } = options;
  let asked: Promise<unknown> | undefined;
  const silence = new Overdue(PROBES + 1);
  return setInterval(() => {
    const share = starved();
    if (!isServed()) silence.answered();
    else if (asked !== undefined) silence.missed(share);
    if (silence.isOver) {
      silence.answered();
      onSilent();
    }
    if (asked !== undefined) return;
    silence.answered();
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
