/**
 * Readers that read on: from where they were, span by span, as who loads a model does. Each gets a window ahead of him that is
 * fetched in a few long ranges at once, since one short range after the other leaves link and processors idle in between and
 * costs the registry more than its bytes. The window doubles each time he comes to its second half, up to `most` blocks, and
 * to what the link brings in about a second: who turns away in the middle leaves no more than that behind.
 *
 * Who has not read on for some spans has no window, and it is no larger than a share of what he has read (`Trust`): a start reads
 * files of some MB in order, and then others; what lies behind such a file's end is of no use to it.
 */
import { type SpanRun, spanRun } from './ranges.ts';

export interface InOrderLimits {
  /** Blocks of a window: the first one, and the largest. */
  first: number;
  most: number;
  /** A window is fetched in so many ranges. */
  ranges: number;
  /** Blocks of a range at least: a longer span is a range of its own. */
  range: number;
  /** Readers that are followed, and spans that one may leave out or go back. */
  runs: number;
  gap: number;
}

export const IN_ORDER_LIMITS: InOrderLimits = {
  first: 32,
  most: 1_024,
  ranges: 4,
  range: 32,
  runs: 8,
  gap: 2,
};

/** How soon a reader counts as one in order: spans for which he has read on, and blocks of his window for each that he has read. */
export interface Trust {
  patience: number;
  share: number;
}

interface Run {
  /** Where its reader was first. */
  readonly from: number;
  /** Where its reader was last, and how often he has read on. */
  at: number;
  steps: number;
  /** Blocks of the window, and the span behind it; 0: there is none yet. */
  length: number;
  end: number;
  /** Spans of the window before it were handed out. */
  next: number;
  /** What was fetched around him reaches to this span, so that he may be heard of next behind it. */
  seen: number;
}

export class InOrder {
  readonly #limits: InOrderLimits;
  readonly #spanCount: number;
  readonly #sizeOf: (span: number) => number;
  /** The one that was heard of last comes last. */
  #runs: Run[] = [];
  /** What the link brings in a second, blocks. */
  #perSecond: number;
  /** Blocks of a window, where it is to be smaller than the limits say; less than a first window: there is none. */
  most: number | undefined;

  constructor(spanCount: number, sizeOf: (span: number) => number, limits: Partial<InOrderLimits> = {}) {
    this.#limits = { ...IN_ORDER_LIMITS, ...limits };
    this.#spanCount = spanCount;
    this.#sizeOf = sizeOf;
    this.#perSecond = this.#limits.most;
  }

  forget(): void {
    this.#runs = [];
  }

  /** Whether a part of a window has not been handed out. */
  get isWaiting(): boolean {
    return this.#runs.some(({ next, end }) => next < end);
  }

  /** Blocks of a range ahead of the reader who was heard of last; 0: he has no window. */
  get rangeBlocks(): number {
    const { length = 0 } = this.#runs.at(-1) ?? {};
    return length === 0 ? 0 : this.#rangeOf(length);
  }

  /** A range of so many blocks has come in this time, ms; `ranges` of them come at once. */
  observe(blocks: number, ms: number): void {
    this.#perSecond = (blocks * this.#limits.ranges * 1_000) / Math.max(ms, 1);
  }

  /** A reader waits for the span. Returns whether he reads in order, and what lies around it need not be guessed. */
  demanded(span: number, trust: Trust): boolean {
    const { runs, gap } = this.#limits;
    const known = this.#runs.find(
      ({ at, end, seen }) => span >= at - gap && span <= Math.max(at + 1, end, seen) + gap,
    );
    const run = known ?? { from: span, at: span, steps: 0, length: 0, end: 0, next: 0, seen: 0 };
    this.#runs = [...this.#runs.filter((other) => other !== run), run].slice(-runs);
    if (span <= run.at) return run.length > 0;
    run.at = span;
    run.steps += 1;
    run.next = Math.max(run.next, span + 1);
    if (run.steps >= trust.patience) this.#widen(run, trust.share);
    return run.length > 0;
  }

  /** What lies around the reader of the span is fetched up to `end`. */
  reaches(span: number, end: number): void {
    const run = this.#runs.at(-1);
    if (run?.at === span) run.seen = Math.max(run.seen, end);
  }

  /** The next range of a window, of the reader who was heard of last: spans for which `free` holds. */
  next(free: (span: number) => boolean): SpanRun | undefined {
    for (const run of this.#runs.toReversed()) {
      while (run.next < run.end && !free(run.next)) run.next += 1;
      if (run.next >= run.end) continue;
      const most = this.#rangeOf(run.length);
      const first = run.next++;
      let blocks = this.#sizeOf(first);
      while (run.next < run.end && free(run.next) && blocks + this.#sizeOf(run.next) <= most)
        blocks += this.#sizeOf(run.next++);
      return spanRun(first, run.next - first);
    }
    return undefined;
  }

  #rangeOf(window: number): number {
    return Math.max(window / this.#limits.ranges, this.#limits.range);
  }

  #widen(run: Run, share: number): void {
    const { first } = this.#limits;
    const most = Math.min(this.#limits.most, this.most ?? Number.POSITIVE_INFINITY);
    if (most < first) return;
    if (run.length > 0 && this.#blocksIn(run.at, run.end) > run.length / 2) return;
    const earned = share * this.#blocksIn(run.from, run.at + 1);
    const limit = Math.min(Math.max(Math.min(earned, this.#perSecond), first), most);
    run.length = Math.min(Math.max(run.length * 2, first), limit);
    const from = Math.max(run.end, run.at + 1);
    let blocks = this.#blocksIn(run.at + 1, from);
    let end = from;
    for (; end < this.#spanCount && blocks < run.length; end++) blocks += this.#sizeOf(end);
    run.end = end;
  }

  /** Blocks of the spans [from, end), as far as they count: no more than a window has. */
  #blocksIn(from: number, end: number): number {
    let blocks = 0;
    for (let span = from; span < end && blocks <= this.#limits.most; span++) blocks += this.#sizeOf(span);
    return blocks;
  }
}
