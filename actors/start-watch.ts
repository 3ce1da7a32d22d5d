/**
 * When is the start of an image over? It begins when the image is attached and goes on while blocks are read for the first
 * time. It is over at the first long pause, or at a limit; then what it has read is its recording. Time comes in with
 * each call.
 */
export interface StartLimits {
  /** A pause without a first read that ends the start, ms. Servers think for a while between their steps. */
  quietMs: number;
  /** Longest start, ms. */
  limitMs: number;
  /** How long the first read of all may take, ms: a user may mount now and run later. */
  patienceMs: number;
  /** The same when all of the image has come: the kernel is to read it by itself, and such a start has nothing to gain. */
  wholePatienceMs: number;
}

export const START_LIMITS: StartLimits = {
  quietMs: 3_000,
  limitMs: 60_000,
  patienceMs: 600_000,
  wholePatienceMs: 10_000,
};

export class StartWatch {
  readonly #limits: StartLimits;
  readonly #openedAt: number;
  #firstAt: number | undefined;
  #lastAt: number;
  #ticks: number;

  /** `ticks`: the clock of first reads when the image was attached. */
  constructor(now: number, ticks: number, limits: Partial<StartLimits> = {}) {
    this.#limits = { ...START_LIMITS, ...limits };
    this.#openedAt = now;
    this.#lastAt = now;
    this.#ticks = ticks;
  }

  /** Duration from the first read to the last one, ms. */
  get lasted(): number {
    return this.#firstAt === undefined ? 0 : this.#lastAt - this.#firstAt;
  }

  /**
   * `ticks`: the clock now. `isWhole`: all of the image is there. `over`: what was read is the start; `given-up`: nothing
   * was read at all.
   */
  look(now: number, ticks: number, isWhole: boolean): 'going-on' | 'over' | 'given-up' {
    if (ticks !== this.#ticks) {
      this.#ticks = ticks;
      this.#firstAt ??= now;
      this.#lastAt = now;
    }
    if (this.#firstAt === undefined) {
      const patienceMs = isWhole ? this.#limits.wholePatienceMs : this.#limits.patienceMs;
      return now - this.#openedAt >= patienceMs ? 'given-up' : 'going-on';
    }
    const isOver = now - this.#lastAt >= this.#limits.quietMs || now - this.#firstAt >= this.#limits.limitMs;
    return isOver ? 'over' : 'going-on';
  }
}
