/**
 * How fast prefetch may be: a number of bytes per second for each image, which its layers share. A layer
 * that several images want goes on as long as one of them may.
 *
 * Bytes are charged when a job begins, all at once; the next one begins when they are paid. So the rate holds over any
 * stretch of time, but for one job and a burst, and a job is never cut. Time that passes unused is lost but for the
 * burst, which makes up for timers that are late.
 */

import type { SpanRun } from './ranges.ts';

/** What a layer asks before it prefetches something. */
export interface PrefetchPace {
  /** When the next job may begin, ms; in the past: now. */
  readonly readyAt: number;
  /** These spans are about to be fetched. */
  take(spans: SpanRun, now: number): void;
}

/** Unused time that counts, ms. */
export const BURST_MS = 100;

/** Bytes per second, of one image. */
export class Budget {
  #rate: number;
  /** Bytes that were taken and are not paid yet, at `#at`; below zero: those of the burst. */
  #owed = 0;
  #at = Number.NEGATIVE_INFINITY;

  /** `rate`: bytes per second, above zero. */
  constructor(rate: number) {
    this.#rate = rate;
  }

  /** What is owed is paid at the new rate from `now` on. */
  change(rate: number, now: number): void {
    this.#pay(now);
    this.#rate = rate;
  }

  get readyAt(): number {
    return this.#owed <= 0 ? Number.NEGATIVE_INFINITY : this.#at + (this.#owed * 1_000) / this.#rate;
  }

  take(bytes: number, now: number): void {
    this.#pay(now);
    this.#owed += bytes;
  }

  #pay(now: number): void {
    if (now <= this.#at) return;
    const most = (this.#rate * BURST_MS) / 1_000;
    const paid = ((now - this.#at) * this.#rate) / 1_000;
    this.#owed = Math.max(this.#owed - paid, -most);
    this.#at = now;
  }
}

/** `[image, bytes per second]` */
export type RateLimit = readonly [image: string, rate: number];

/** The budgets of all images, by the layers that they want. */
export class Budgets {
  readonly #budgets = new Map<string, Budget>();
  /** By layer: the images that want it within a limit. */
  readonly #limits = new Map<string, readonly string[]>();

  /** `limits`: those of all images that want the layer; none: nothing limits it. */
  set(layer: string, limits: readonly RateLimit[], now: number): void {
    for (const [image, rate] of limits) {
      const known = this.#budgets.get(image);
      if (known === undefined) this.#budgets.set(image, new Budget(rate));
      else known.change(rate, now);
    }
    if (limits.length === 0) this.#limits.delete(layer);
    else
      this.#limits.set(
        layer,
        limits.map(([image]) => image),
      );
    const used = new Set([...this.#limits.values()].flat());
    for (const image of this.#budgets.keys()) if (!used.has(image)) this.#budgets.delete(image);
  }

  /** `bytesOf`: compressed bytes of some spans of the layer. Undefined: nothing limits it. */
  paceOf(layer: string, bytesOf: (spans: SpanRun) => number): PrefetchPace | undefined {
    const limits = this.#limits.get(layer);
    if (limits === undefined) return undefined;
    const budgets = limits.flatMap((image) => this.#budgets.get(image) ?? []);
    const best = () => budgets.reduce((one, other) => (other.readyAt < one.readyAt ? other : one));
    return {
      get readyAt() {
        return best().readyAt;
      },
      take: (spans, now) => best().take(bytesOf(spans), now),
    };
  }
}
