/**
 * How much may be said of what happens again and again: so much in a row, then one more for each pause. Each kind of thing has
 * an allowance of its own: one that happens all the time keeps no other out. Time comes in with each call.
 */
export interface AllowanceLimits {
  /** In a row. */
  burst: number;
  /** One more comes after so long, ms, up to `burst`. */
  refillMs: number;
}

export class Allowance {
  readonly #limits: AllowanceLimits;
  #left: number;
  /** When the last one came, or, with all there, when one was taken, ms. */
  #since = Number.NEGATIVE_INFINITY;

  constructor(limits: AllowanceLimits) {
    this.#limits = limits;
    this.#left = limits.burst;
  }

  /** How long until there is one, ms; 0: there is. */
  waitMs(now: number): number {
    this.#refill(now);
    return this.#left > 0 ? 0 : this.#since + this.#limits.refillMs - now;
  }

  /** Takes one. False: there is none. */
  take(now: number): boolean {
    this.#refill(now);
    if (this.#left === 0) return false;
    if (this.#left === this.#limits.burst) this.#since = now;
    this.#left -= 1;
    return true;
  }

  #refill(now: number): void {
    const { burst, refillMs } = this.#limits;
    if (this.#left === burst) return;
    const come = Math.max(0, Math.floor((now - this.#since) / refillMs));
    this.#left = Math.min(burst, this.#left + come);
    this.#since += come * refillMs;
  }
}
