/**
 * Which spans a reader may want next, judged by those that it wanted before. Files of one directory lie side by side in a
 * tar, and programs read directories: where several spans of a neighbourhood were demanded, the others are likely to
 * follow. The denser it is, the further around a new demand is fetched ahead, forward twice as far as backward.
 *
 * Where a start was foretold, a span that is demanded all the same is most often one of its kind: nothing is fetched around it
 * before two others of its neighbourhood were.
 *
 * A reader that reads on is known after some spans, and then what lies ahead of it is no guess (in-order.ts). Once all of the layer
 * is being fetched anyway, only such a reader is worth more than its turn: what lies near a place at random is not, and would be in
 * the way of the reader that waits for the next one.
 *
 * What is suggested is fetched by the prefetcher when nothing better is to be done, the latest suggestion first.
 *
 * Only where the link has room: while demand waits longer for the first byte than for all the others, the link idles
 * between, and fetching ahead delays no reader. Where it is the bytes that take time, it would delay those that
 * a reader waits for, so it rests.
 */
import { InOrder, type Trust } from './in-order.ts';
import { type SpanRun, spanRun } from './ranges.ts';

export interface ReadaheadLimits {
  /** Spans to each side that count as the neighbourhood. */
  neighbourhood: number;
  /** Farthest span ahead of a demand that is suggested. */
  reach: number;
  /** Suggestions that wait; older ones are forgotten. */
  most: number;
  /** Who counts as a reader in order: in a start, and once all of the layer is fetched anyway. */
  inStart: Trust;
  inRest: Trust;
}

/** Weight of the newest observation. */
const NEWEST = 0.25;

export const READAHEAD_LIMITS: ReadaheadLimits = {
  neighbourhood: 8,
  reach: 16,
  most: 64,
  inStart: { patience: 8, share: 0.5 },
  inRest: { patience: 1, share: Number.POSITIVE_INFINITY },
};

export class Readahead {
  readonly #limits: ReadaheadLimits;
  readonly #spanCount: number;
  readonly #demanded = new Set<number>();
  readonly inOrder: InOrder;
  /** Latest last. */
  #suggested: number[] = [];
  #on = false;
  /** Only readers in order have something fetched ahead. */
  #isNarrow = false;
  /** What a start is likely to read is known, and fetched without suggestions. */
  isForetold = false;
  /** Of the latest demands, older ones counting less: time to the first byte, and from there to the last one, µs. */
  #firstByteUs = 0;
  #transferUs = 0;

  /** `sizeOf`: blocks of a span. */
  constructor(spanCount: number, sizeOf: (span: number) => number, limits: Partial<ReadaheadLimits> = {}) {
    this.inOrder = new InOrder(spanCount, sizeOf);
    this.#spanCount = spanCount;
    this.#limits = { ...READAHEAD_LIMITS, ...limits };
  }

  /** `window`: only ahead of readers in order, so many blocks at most. */
  turn(on: boolean, window?: number): void {
    this.#on = on;
    this.#isNarrow = window !== undefined;
    this.inOrder.most = window;
    this.isForetold &&= on;
    this.#suggested = [];
    this.inOrder.forget();
    this.#demanded.clear();
  }

  /** Whether something is suggested that has not been taken, and the link has room for it. */
  get isWaiting(): boolean {
    return this.inOrder.isWaiting || (this.#suggested.length > 0 && this.hasRoom);
  }

  /** A fetch has ended that a reader waited for. Times in µs, from the request on. */
  observe(firstByteUs: number, lastByteUs: number): void {
    const isFirst = this.#firstByteUs === 0;
    const mean = (old: number, now: number) => (isFirst ? now : old + (now - old) * NEWEST);
    this.#firstByteUs = mean(this.#firstByteUs, firstByteUs);
    this.#transferUs = mean(this.#transferUs, Math.max(lastByteUs - firstByteUs, 0));
  }

  /** Whether the link has room. Not known before the first fetch has ended. */
  get hasRoom(): boolean {
    return this.#transferUs < this.#firstByteUs;
  }

  /** A reader waits for the span. `isAllFetched`: the layer's others come anyway, in their order. */
  demanded(span: number, isAllFetched = false): void {
    if (!this.#on) return;
    const isNew = !this.#demanded.has(span);
    this.#demanded.add(span);
    const { inStart, inRest } = this.#limits;
    const isInOrder = this.inOrder.demanded(span, isAllFetched ? inRest : inStart);
    if (isNew && !isInOrder && !isAllFetched && !this.#isNarrow) this.#lookAround(span);
  }

  #lookAround(span: number): void {
    const { neighbourhood, reach } = this.#limits;
    let near = 0;
    for (let other = span - neighbourhood; other <= span + neighbourhood; other++)
      if (other !== span && this.#demanded.has(other)) near += 1;
    const ahead = this.isForetold && near < 2 ? 0 : Math.min(2 ** near, reach);
    // The nearest are wanted most, so they come last.
    const spans: number[] = [];
    for (let distance = ahead; distance >= 1; distance--) {
      if (distance * 2 <= ahead && span - distance >= 0) spans.push(span - distance);
      if (span + distance < this.#spanCount) spans.push(span + distance);
    }
    this.#suggest(spans);
    this.inOrder.reaches(span, span + ahead + 1);
  }

  /** The one that is wanted first comes last. */
  #suggest(spans: readonly number[]): void {
    this.#suggested = [...this.#suggested, ...spans].slice(-this.#limits.most);
  }

  /** Takes the best suggestion for which `free` holds, with free neighbours behind it, `most` spans in all. */
  next(most: number, free: (span: number) => boolean): SpanRun | undefined {
    if (!this.hasRoom) return undefined;
    for (let span = this.#suggested.pop(); span !== undefined; span = this.#suggested.pop()) {
      if (!free(span)) continue;
      let spanCount = 1;
      while (spanCount < most && this.#suggested.includes(span + spanCount) && free(span + spanCount))
        spanCount += 1;
      return spanRun(span, spanCount);
    }
    return undefined;
  }
}
