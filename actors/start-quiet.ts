/**
 * When does the rest of an image's layers come? When the start is over: at its first pause without a cold read, at the
 * latest after a while. Before that each byte of the rest would delay one that a reader waits for. A pack that is on its
 * way keeps the whole link for as long as it comes. Time comes in with each call.
 */
export interface StartQuietLimits {
  /** A pause without a cold read that ends the start, ms. */
  quietMs: number;
  /** The longest start, ms from the layer's opening. */
  limitMs: number;
}

export const START_QUIET: StartQuietLimits = { quietMs: 500, limitMs: 20_000 };

/** What the front end sees at the moment. */
export interface StartSigns {
  /** When a block was last read for the first time, cold or not, ms. */
  lastFirstRead: number;
  /** A startup pack is on its way. */
  isBringing: boolean;
}

export class StartQuiet {
  readonly #limits: StartQuietLimits;
  /** Layers that wait for the end of a start, and when each was opened, ms. */
  readonly #waiting = new Map<string, number>();
  /** Layers whose rest is wanted and that were opened not longer ago than a start takes, and when, ms. */
  readonly #opened = new Map<string, number>();
  #lastCold = Number.NEGATIVE_INFINITY;

  constructor(limits: StartQuietLimits = START_QUIET) {
    this.#limits = limits;
  }

  /** A reader waits for a block. */
  coldRead(now: number): void {
    this.#lastCold = now;
  }

  /** The rest of this layer is wanted from now on. */
  want(layer: string, now: number): void {
    // Another start begins: layers of the one before are no part of it.
    if (this.#waiting.size === 0) this.#opened.clear();
    this.#waiting.set(layer, now);
    this.#opened.set(layer, now);
  }

  /** The rest is not wanted any more, or the layer closes. */
  forget(layer: string): void {
    this.#waiting.delete(layer);
    this.#opened.delete(layer);
  }

  /**
   * The layers whose start may still go on: a pause lets the rest come, but a program that computes for a while reads on
   * afterwards, and what its readers have waited for until then counts. Not when another start has begun since, and not beyond
   * the longest start.
   */
  starting(now: number): string[] {
    for (const [layer, openedAt] of this.#opened)
      if (now - openedAt >= this.#limits.limitMs && !this.#waiting.has(layer)) this.#opened.delete(layer);
    return [...this.#opened.keys()];
  }

  /** The layers whose start is over: their rest is to come. Each is named once. */
  look(now: number, { lastFirstRead, isBringing }: StartSigns): string[] {
    if (isBringing) return [];
    const { quietMs, limitMs } = this.#limits;
    const lastRead = Math.max(this.#lastCold, lastFirstRead);
    const over: string[] = [];
    for (const [layer, openedAt] of this.#waiting) {
      const isQuiet = now - Math.max(lastRead, openedAt) >= quietMs;
      if (!isQuiet && now - openedAt < limitMs) continue;
      this.#waiting.delete(layer);
      over.push(layer);
    }
    return over;
  }
}
