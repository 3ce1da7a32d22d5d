/** Holds work back to a rate. */
import type { Clock } from '../../process/ports.ts';

export class Pace {
  readonly #bytesPerSecond: number;
  readonly #clock: Clock;
  readonly #stop: AbortSignal;
  readonly #started: number;
  #spent = 0;

  /** `bytesPerSecond`: 0 is no limit. */
  constructor(bytesPerSecond: number, stop: AbortSignal, clock: Clock) {
    this.#bytesPerSecond = bytesPerSecond;
    this.#clock = clock;
    this.#started = clock.now();
    this.#stop = stop;
  }

  /** Resolves when so many more bytes are within the rate, or when the work is stopped. */
  async spent(bytes: number): Promise<void> {
    this.#spent += bytes;
    if (this.#bytesPerSecond === 0) return;
    const due = this.#started + (this.#spent / this.#bytesPerSecond) * 1000;
    const wait = due - this.#clock.now();
    if (wait <= 0 || this.#stop.aborted) return;
    const over = Promise.withResolvers<void>();
    const timer = this.#clock.after(wait, over.resolve);
    const stopped = () => over.resolve();
    this.#stop.addEventListener('abort', stopped, { once: true });
    await over.promise;
    this.#stop.removeEventListener('abort', stopped);
    timer.cancel();
  }
}
