/** Simulated time: what is due next happens next, and what is due at the same time in the order in which it was asked for. */
import { TimerQueue } from '../../../actors/timers.ts';

/** Steps between two pauses: some milliseconds. */
const PAUSE_STEPS = 2_000;

interface Due {
  run: () => void;
}

export class SimulatedClock {
  readonly #due = new TimerQueue<Due>();
  /** ms */
  now = 0;

  /** Runs at this time, ms, or now where that is over. Returns how to take it back. */
  at(time: number, run: () => void): () => void {
    const due: Due = { run };
    this.#due.set(due, Math.max(time, this.now));
    return () => void this.#due.delete(due);
  }

  after(ms: number, run: () => void): () => void {
    return this.at(this.now + ms, run);
  }

  every(ms: number, run: () => void): void {
    const again = () => {
      run();
      this.after(ms, again);
    };
    this.after(ms, again);
  }

  /** Goes on until `isOver`, or to `limitMs`; pauses each time so much has happened. Returns whether it is over. */
  *run(isOver: () => boolean, limitMs: number): Generator<void, boolean> {
    for (let steps = 1; !isOver(); steps++) {
      const { next } = this.#due;
      if (next > limitMs) return false;
      this.now = Math.max(this.now, next);
      this.#due.take(this.now)?.run();
      if (steps % PAUSE_STEPS === 0) yield;
    }
    return true;
  }
}
