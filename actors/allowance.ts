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

/** How many there are, and since when the next one comes, ms: plain data, for folds that are saved. */
export interface Allowed {
  left: number;
  at: number;
}

/** With those that have come by now. A pause that is no multiple of `refillMs` is not lost. */
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

  /** How long until there is one, ms; 0: there is. */
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
