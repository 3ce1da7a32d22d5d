/**
 * Nothing comes for a layer any more: its registry is dead, or silent, or no fetcher runs. The first reads find that out
 * by their deadline. Those behind them would each wait as long again: the kernel holds back reads until others are
 * answered, and a page that many readers want is read for one after the other. So for as long as nothing comes, a new
 * read is answered at once, and one span at a time is fetched all the same, to see whether it is over.
 *
 * Where no read comes for a while there is nothing to go by: then the next read has its whole time again.
 */
export class Stall {
  readonly #forMs: number;
  readonly #deadlineMs: number;
  /** When a block came last, ms. */
  #arrivedAt = Number.NEGATIVE_INFINITY;
  #until = Number.NEGATIVE_INFINITY;

  /** `deadlineMs`: how long a read waits. `forMs`: how long a sign that nothing comes is believed. */
  constructor(deadlineMs: number, forMs: number) {
    this.#deadlineMs = deadlineMs;
    this.#forMs = forMs;
  }

  arrived(now: number): void {
    this.#arrivedAt = now;
    this.#until = Number.NEGATIVE_INFINITY;
  }

  /** A read has waited in vain. It proves nothing where others were served meanwhile. */
  expired(now: number): void {
    if (this.#arrivedAt <= now - this.#deadlineMs) this.#until = now + this.#forMs;
  }

  /** A fetch has failed. */
  failed(now: number): void {
    if (this.#until !== Number.NEGATIVE_INFINITY) this.#until = now + this.#forMs;
  }

  /** Whether a new read need not wait. `fetching`: something is being fetched, and has brought nothing so far. */
  holds(now: number, fetching: boolean): boolean {
    if (this.#until === Number.NEGATIVE_INFINITY) return false;
    if (fetching || now < this.#until) return true;
    this.#until = Number.NEGATIVE_INFINITY;
    return false;
  }
}
