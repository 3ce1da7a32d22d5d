/** One long computation at a time: others wait for their turn, and a few at most. */
import { CofaError } from '../../schemas/errors.ts';

export class Turns {
  readonly #most: number;
  readonly #waiting: Array<() => void> = [];
  #isTaken = false;

  /** `most`: so many may wait. */
  constructor(most: number) {
    this.#most = most;
  }

  /**
   * Runs `steps` when it is their turn, pausing for others where they pause. Errors: `busy` where too many wait,
   * `unavailable` after `limitMs` of running, what the signal aborts with, and their own.
   */
  async take<T>(steps: () => Generator<void, T>, limitMs: number, signal: AbortSignal): Promise<T> {
    await this.#turn(signal);
    const until = performance.now() + limitMs;
    try {
      const running = steps();
      for (;;) {
        const { done, value } = running.next();
        if (done === true) return value;
        await new Promise<void>((resolve) => setImmediate(resolve));
        signal.throwIfAborted();
        if (performance.now() > until)
          throw new CofaError('unavailable', `it took more than ${limitMs / 1_000} s and was given up`, {
            hint: 'cofa replay what-if has no limit',
          });
      }
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#isTaken = false;
      else next();
    }
  }

  async #turn(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (!this.#isTaken) {
      this.#isTaken = true;
      return;
    }
    if (this.#waiting.length >= this.#most)
      throw new CofaError('busy', 'others compute and wait', { hint: 'try again' });
    await new Promise<void>((resolve, reject) => {
      const leave = () => {
        this.#waiting.splice(this.#waiting.indexOf(go), 1);
        reject(signal.reason as Error);
      };
      const go = () => {
        signal.removeEventListener('abort', leave);
        resolve();
      };
      this.#waiting.push(go);
      signal.addEventListener('abort', leave, { once: true });
    });
  }
}
