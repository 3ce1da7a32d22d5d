/**
 * Which spans a reader may want next, judged by those that it wanted before. Files of one directory lie side by side in a
 * tar, and programs read directories: where several spans of a neighbourhood were demanded, the others are likely to
 * follow. The denser it is, the further around a new demand is fetched ahead, forward twice as far as backward.
 *
 * What is suggested is fetched by the prefetcher when nothing better is to be done, the latest suggestion first.
 *
 * Only where the link has room: while demand waits longer for the first byte than for all the others, the link idles
 * between, and fetching ahead costs nobody anything. Where it is the bytes that take time, it would delay those that
 * somebody waits for, so it rests.
 */
export interface ReadaheadLimits {
  /** Spans to each side that count as the neighbourhood. */
  neighbourhood: number;
  /** Farthest span ahead of a demand that is suggested. */
  reach: number;
  /** Suggestions that wait; older ones are forgotten. */
  most: number;
}

/** Weight of the newest observation. */
const NEWEST = 0.25;

export const READAHEAD_LIMITS: ReadaheadLimits = { neighbourhood: 8, reach: 16, most: 64 };

export class Readahead {
  readonly #limits: ReadaheadLimits;
  readonly #spanCount: number;
  readonly #demanded = new Set<number>();
  /** Latest last. */
  #suggested: number[] = [];
  #on = false;
  /** Of the latest demands, older ones counting less: time to the first byte, and from there to the last one, µs. */
  #firstByteUs = 0;
  #transferUs = 0;

  constructor(spanCount: number, limits: Partial<ReadaheadLimits> = {}) {
    this.#spanCount = spanCount;
    this.#limits = { ...READAHEAD_LIMITS, ...limits };
  }

  turn(on: boolean): void {
    this.#on = on;
    this.#suggested = [];
    this.#demanded.clear();
  }

  /** Whether something is suggested that has not been taken, and the link has room for it. */
  get isWaiting(): boolean {
    return this.#suggested.length > 0 && this.hasRoom;
  }

  /** A fetch has ended that somebody waited for. Times in µs, from the request on. */
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

  /** Somebody waits for the span. */
  demanded(span: number): void {
    if (!this.#on || this.#demanded.has(span)) return;
    this.#demanded.add(span);
    const { neighbourhood, reach, most } = this.#limits;
    let near = 0;
    for (let other = span - neighbourhood; other <= span + neighbourhood; other++)
      if (other !== span && this.#demanded.has(other)) near += 1;
    const ahead = Math.min(2 ** near, reach);
    // The nearest are wanted most, so they come last.
    const spans: number[] = [];
    for (let distance = ahead; distance >= 1; distance--) {
      if (distance * 2 <= ahead && span - distance >= 0) spans.push(span - distance);
      if (span + distance < this.#spanCount) spans.push(span + distance);
    }
    this.#suggested = [...this.#suggested, ...spans].slice(-most);
  }

  /** Takes the best suggestion for which `free` holds, with free neighbours behind it, `most` spans in all. */
  next(most: number, free: (span: number) => boolean): { firstSpan: number; spanCount: number } | undefined {
    if (!this.hasRoom) return undefined;
    for (let span = this.#suggested.pop(); span !== undefined; span = this.#suggested.pop()) {
      if (!free(span)) continue;
      let spanCount = 1;
      while (spanCount < most && this.#suggested.includes(span + spanCount) && free(span + spanCount))
        spanCount += 1;
      return { firstSpan: span, spanCount };
    }
    return undefined;
  }
}
