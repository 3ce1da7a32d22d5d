/**
 * Which spans a reader may want next, judged by those that it wanted before. Files of one directory lie side by side in a
 * tar, and programs read directories: where several spans of a neighbourhood were demanded, the others are likely to
 * follow. The denser it is, the further around a new demand is fetched ahead, forward twice as far as backward.
 *
 * Where a start was foretold, a span that is demanded all the same is most often one of its kind: nothing is fetched around it
 * before two others of its neighbourhood were.
 *
 * Once all of the layer is being fetched anyway, only a reader that reads on from where it was is worth more than its turn: what lies
 * near a place at random is not, and would be in the way of the reader that waits for the next one. Such a reader gets a window that doubles
 * each time it comes to its second half, or up to `gap` spans behind its end.
 *
 * What is suggested is fetched by the prefetcher when nothing better is to be done, the latest suggestion first.
 *
 * Only where the link has room: while demand waits longer for the first byte than for all the others, the link idles
 * between, and fetching ahead delays no reader. Where it is the bytes that take time, it would delay those that
 * a reader waits for, so it rests.
 */
import { type SpanRun, spanRun } from './ranges.ts';

export interface ReadaheadLimits {
  /** Spans to each side that count as the neighbourhood. */
  neighbourhood: number;
  /** Farthest span ahead of a demand that is suggested. */
  reach: number;
  /** Suggestions that wait; older ones are forgotten. */
  most: number;
  /** Readers that are followed while all of the layer is fetched, and spans that one may leave out. */
  runs: number;
  gap: number;
}

/** A reader that reads on: where it was last, and the window ahead of it. */
interface Run {
  at: number;
  end: number;
  length: number;
}

/** Weight of the newest observation. */
const NEWEST = 0.25;

export const READAHEAD_LIMITS: ReadaheadLimits = { neighbourhood: 8, reach: 16, most: 64, runs: 8, gap: 2 };

export class Readahead {
  readonly #limits: ReadaheadLimits;
  readonly #spanCount: number;
  readonly #demanded = new Set<number>();
  /** The one that was heard of last comes last. */
  #runs: Run[] = [];
  /** Latest last. */
  #suggested: number[] = [];
  #on = false;
  /** What a start is likely to read is known, and fetched without suggestions. */
  isForetold = false;
  /** Of the latest demands, older ones counting less: time to the first byte, and from there to the last one, µs. */
  #firstByteUs = 0;
  #transferUs = 0;

  constructor(spanCount: number, limits: Partial<ReadaheadLimits> = {}) {
    this.#spanCount = spanCount;
    this.#limits = { ...READAHEAD_LIMITS, ...limits };
  }

  turn(on: boolean): void {
    this.#on = on;
    this.isForetold &&= on;
    this.#suggested = [];
    this.#runs = [];
    this.#demanded.clear();
  }

  /** Whether something is suggested that has not been taken, and the link has room for it. */
  get isWaiting(): boolean {
    return this.#suggested.length > 0 && this.hasRoom;
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
    if (isAllFetched) this.#follow(span);
    else if (isNew) this.#lookAround(span);
  }

  #follow(span: number): void {
    const { reach, runs, gap } = this.#limits;
    const known = this.#runs.find(({ at, end }) => span >= at && span <= end + gap);
    const run = known ?? { at: span, end: span + 1, length: 0 };
    this.#runs = [...this.#runs.filter((other) => other !== run), run].slice(-runs);
    if (span === run.at) return;
    run.at = span;
    if (span < run.end - run.length / 2) return;
    run.length = Math.min(Math.max(run.length * 2, 2), reach);
    const from = Math.max(run.end, span + 1);
    run.end = from + run.length;
    const spans: number[] = [];
    for (let next = Math.min(run.end, this.#spanCount) - 1; next >= from; next--) spans.push(next);
    this.#suggest(spans);
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
