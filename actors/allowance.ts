/**
 * How much may be said of what happens again and again: so much in a row, then one more for each pause. Each kind of thing has
 * an allowance of its own: one that happens all the time keeps no other out. Time comes in with each call.
 */
export interface AllowanceLimits {
  /** So much may be said in a row. */
  burst: number;
  /** One more comes after so long, ms, up to `burst`. */
  refillMs: number;
}

/** How much may be said at once, and since when the next one is on its way, ms: plain data, for folds that are saved. */
export interface Allowed {
  left: number;
  at: number;
}

/** What is left at `now`, with all refills since `at`. Time beyond the last whole `refillMs` counts for the next refill. */
export function refilled({ left, at }: Allowed, { burst, refillMs }: AllowanceLimits, now: number): Allowed {
  const more = Math.max(0, Math.floor((now - at) / refillMs));
  if (left + more >= burst) return { left: burst, at: now };
  return { left: left + more, at: at + more * refillMs };
}

export class Allowance {
  readonly #limits: AllowanceLimits;
  #allowed: Allowed;

  constructor(limits: AllowanceLimits) {
    this.#limits = limits;
    this.#allowed = { left: limits.burst, at: Number.NEGATIVE_INFINITY };
  }

  /** How long until something may be said, ms; 0: now. */
  waitMs(now: number): number {
    const { left, at } = this.#refill(now);
    return left > 0 ? 0 : at + this.#limits.refillMs - now;
  }

  /** Takes one. False: there is none. */
  take(now: number): boolean {
    const { left, at } = this.#refill(now);
    if (left === 0) return false;
    this.#allowed = { left: left - 1, at };
    return true;
  }

  #refill(now: number): Allowed {
    this.#allowed = refilled(this.#allowed, this.#limits, now);
    return this.#allowed;
  }
}
