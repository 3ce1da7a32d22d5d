/**
 * Time and chance, as arguments of a program: `main.ts` makes the real ones and hands them to its parts. A part that takes
 * them can be constructed in a test with time that the test turns.
 */
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';

export interface Ports {
  clock: Clock;
  random: Random;
}

export interface Clock {
  /** Monotonic, ms: deadlines do not move with the wall clock. */
  readonly now: () => number;
  /** The wall clock, ms since the epoch. */
  readonly wallMs: () => number;
  /** Resolves after so many ms. */
  readonly sleep: (ms: number) => Promise<void>;
  /** Runs once, after so many ms. */
  readonly after: (ms: number, run: () => void) => Timer;
  /** Runs again and again, every so many ms. */
  readonly every: (ms: number, run: () => void) => Timer;
}

/** Something that will run. */
export interface Timer {
  cancel(): void;
  /** The process does not stay for it. */
  unref(): Timer;
}

export interface Random {
  /** So many random bytes, as lower-case hexadecimal digits. */
  hex(bytes: number): string;
}

/** The machine's own. */
export const realPorts = (): Ports => ({ clock: realClock, random: realRandom });

const realClock: Clock = {
  now: () => performance.now(),
  wallMs: () => Date.now(),
  sleep: async (ms) => await sleep(ms),
  after: (ms, run) => {
    const timer = setTimeout(run, ms);
    return timerOf(timer, () => clearTimeout(timer));
  },
  every: (ms, run) => {
    const timer = setInterval(run, ms);
    return timerOf(timer, () => clearInterval(timer));
  },
};

const realRandom: Random = { hex: (bytes) => randomBytes(bytes).toString('hex') };

function timerOf(timer: NodeJS.Timeout, cancel: () => void): Timer {
  const made: Timer = {
    cancel,
    unref: () => {
      timer.unref();
      return made;
    },
  };
  return made;
}
