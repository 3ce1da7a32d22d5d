/**
 * What a layer fetches while nobody waits: its absent spans in order, a few jobs at a time, with a pause that grows while
 * they fail. Each span is offered once; one that a failed job left behind is offered again, except where its bytes are
 * bad: that is the same the next time. Evicted spans are not offered again, or eviction and prefetch would chase each
 * other.
 */
import type { PrefetchPace } from './pace.ts';
import { Readahead } from './readahead.ts';

export interface PrefetchLimits {
  /** Spans of one job, and of one within so many ms after a reader has begun to wait: the link may not be taken for long. */
  batchSpans: number;
  batchSpansAround: number;
  aroundMs: number;
  /** Jobs at once, and as long as there are spans that a reader is likely to want soon. */
  inFlight: number;
  aimedInFlight: number;
  /** Blocks of one job of such spans, and of a span between two of them that is fetched along. */
  aimedBlocks: number;
  gapBlocks: number;
  /** First and longest pause after a failure, ms. */
  pauseMs: number;
  pauseMaxMs: number;
}

/** Spans of a job that fetches ahead: small, for a reader may turn up who waits for the first of them. */
const READAHEAD_BATCH = 2;

export interface Batch {
  firstSpan: number;
  spanCount: number;
  /** Readers are likely to want it next; absent: it is their turn in order. */
  soon?: true;
}

export class Prefetcher {
  readonly #limits: PrefetchLimits;
  readonly #spanCount: number;
  readonly #blocksOf: (span: number) => number;
  #on = false;
  /** Spans before it have been offered. */
  #cursor = 0;
  #failures = 0;
  #notBefore = 0;
  #waitedAt = Number.NEGATIVE_INFINITY;
  /** How fast it may go; undefined: as fast as it can. */
  pace: PrefetchPace | undefined;
  /** Spans that come first, the next one last. */
  #aimed: number[] = [];
  readonly readahead: Readahead;

  constructor(spanCount: number, blocksOf: (span: number) => number, limits: PrefetchLimits) {
    this.readahead = new Readahead(spanCount);
    this.#spanCount = spanCount;
    this.#blocksOf = blocksOf;
    this.#limits = limits;
  }

  get on(): boolean {
    return this.#on;
  }

  /** When a pause ends that keeps spans from being offered; Infinity when there is nothing to wait for. */
  nextWake(now: number, running: number): number {
    const isLeft = (this.#on && this.#cursor < this.#spanCount) || this.readahead.isWaiting;
    const waits =
      (isLeft && running < this.#limits.inFlight) ||
      (this.#aimed.length > 0 && running < this.#limits.aimedInFlight);
    const at = this.#readyAt;
    return waits && at > now ? at : Number.POSITIVE_INFINITY;
  }

  /** When the pause ends, and what was fetched last is paid. */
  get #readyAt(): number {
    return Math.max(this.#notBefore, this.pace?.readyAt ?? 0);
  }

  /** Switched on, it begins with the first span again. */
  turn(on: boolean): void {
    this.#on = on;
    this.#cursor = 0;
    this.#failures = 0;
    this.#notBefore = 0;
  }

  /** Spans that a reader is likely to want soon, in this order, behind those that were named before. */
  aim(spans: readonly number[]): void {
    const known = new Set(this.#aimed);
    this.#aimed = [...spans.filter((span) => !known.has(span)).toReversed(), ...this.#aimed];
  }

  /** Somebody waits for the span. */
  demanded(span: number, now: number): void {
    this.#waitedAt = now;
    this.readahead.demanded(span, this.#on);
  }

  /** Nobody is likely to want anything any more. */
  forgetAim(): void {
    this.#aimed = [];
  }

  succeeded(): void {
    this.#failures = 0;
  }

  failed(now: number): void {
    const pause = Math.min(this.#limits.pauseMs * 2 ** this.#failures, this.#limits.pauseMaxMs);
    this.#notBefore = now + pause;
    this.#failures += 1;
  }

  /** The span is absent again, and nobody fetches it. */
  revisit(span: number): void {
    this.#cursor = Math.min(this.#cursor, span);
  }

  /**
   * The next spans to fetch, if it is time. `running`: prefetch jobs under way. `free`: absent, without a job or a
   * pause. `alone`: must not share a job with others.
   */
  next(
    now: number,
    running: number,
    free: (span: number) => boolean,
    alone: (span: number) => boolean,
  ): Batch | undefined {
    if (now < this.#readyAt) return undefined;
    const aimed = running < this.#limits.aimedInFlight ? this.#nextAimed(free, alone) : undefined;
    const batch =
      aimed ?? (running < this.#limits.inFlight ? this.#nextUnaimed(now, free, alone) : undefined);
    if (batch !== undefined) this.pace?.take(batch.firstSpan, batch.spanCount, now);
    return batch;
  }

  #nextUnaimed(
    now: number,
    free: (span: number) => boolean,
    alone: (span: number) => boolean,
  ): Batch | undefined {
    const isAround = now - this.#waitedAt < this.#limits.aroundMs;
    const batchSpans = isAround ? this.#limits.batchSpansAround : this.#limits.batchSpans;
    const near = this.readahead.next(READAHEAD_BATCH, (span) => free(span) && !alone(span));
    if (near !== undefined) return { ...near, soon: true };
    if (!this.#on) return undefined;
    while (this.#cursor < this.#spanCount && !free(this.#cursor)) this.#cursor += 1;
    if (this.#cursor >= this.#spanCount) return undefined;
    const firstSpan = this.#cursor++;
    if (!alone(firstSpan)) {
      const end = Math.min(firstSpan + batchSpans, this.#spanCount);
      while (this.#cursor < end && free(this.#cursor) && !alone(this.#cursor)) this.#cursor += 1;
    }
    return { firstSpan, spanCount: this.#cursor - firstSpan };
  }

  /**
   * The next one in order, and with it those right behind it in the layer that are wanted as well, now or later: at a link of
   * 1 Gbit/s a job costs more than a few blocks do, so a small gap between them is fetched along.
   */
  #nextAimed(free: (span: number) => boolean, alone: (span: number) => boolean): Batch | undefined {
    for (let span = this.#aimed.pop(); span !== undefined; span = this.#aimed.pop()) {
      if (!free(span)) continue;
      const end = alone(span)
        ? span + 1
        : this.#endOfRun(span, (next) => next < this.#spanCount && free(next) && !alone(next));
      if (end > span + 1) this.#aimed = this.#aimed.filter((other) => other < span || other >= end);
      return { firstSpan: span, spanCount: end - span, soon: true };
    }
    return undefined;
  }

  /** The span behind the last that goes into one job with this one. */
  #endOfRun(first: number, may: (span: number) => boolean): number {
    const wanted = new Set(this.#aimed);
    let left = this.#limits.aimedBlocks - this.#blocksOf(first);
    let end = first + 1;
    for (;;) {
      const isGap = !wanted.has(end) && may(end) && this.#blocksOf(end) <= this.#limits.gapBlocks;
      const next = isGap ? end + 1 : end;
      if (!wanted.has(next) || !may(next)) return end;
      left -= this.#blocksOf(next) + (isGap ? this.#blocksOf(end) : 0);
      if (left < 0) return end;
      end = next + 1;
    }
  }
}
