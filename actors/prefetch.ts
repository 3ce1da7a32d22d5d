/**
 * What a layer fetches while no reader waits: its absent spans in order, a few jobs at a time, with a pause that grows while
 * they fail. Each span is offered once; one that a failed job left behind is offered again, except where its bytes are
 * bad: that is the same the next time. Evicted spans are not offered again, or eviction and prefetch would chase each
 * other.
 */
import type { PrefetchPace } from './pace.ts';
import { joined, type SpanRun, spanRun } from './ranges.ts';
import { Readahead } from './readahead.ts';

export interface PrefetchLimits {
  /** Spans of one job, and of one within so many ms after a reader has begun to wait: the link may not be taken for long. */
  batchSpans: number;
  batchSpansAround: number;
  aroundMs: number;
  /** Jobs at once, and as long as there are spans that a reader is likely to want soon. */
  inFlight: number;
  aimedInFlight: number;
  /** Jobs at once ahead of readers that read in order. */
  inOrderInFlight: number;
  /** Of one job of such spans: blocks, runs of spans, and blocks of a span between two of them that is fetched along. */
  aimedBlocks: number;
  aimedRuns: number;
  gapBlocks: number;
  /** Blocks of such spans that a demand job takes along. */
  alongBlocks: number;
  /** First and longest pause after a failure, ms. */
  pauseMs: number;
  pauseMaxMs: number;
}

/** Spans of a job that fetches ahead: small, for a reader may turn up who waits for the first of them. */
const READAHEAD_BATCH = 2;

export interface Batch {
  /** Ascending, no two adjacent. */
  runs: readonly SpanRun[];
  /** Readers are likely to want it next; absent: it is their turn in order. */
  soon?: true;
  /** It lies ahead of a reader in order. */
  ahead?: true;
}

/** `free`: absent, without a job or a pause. `alone`: must not share a job with others. */
export interface SpanChoice {
  free: (span: number) => boolean;
  alone: (span: number) => boolean;
}

export class Prefetcher {
  readonly #limits: PrefetchLimits;
  readonly #spanCount: number;
  readonly #sizeOf: (span: number) => number;
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
  /** They are all that is left. */
  #isAllAimed = false;
  readonly readahead: Readahead;

  constructor(spanCount: number, sizeOf: (span: number) => number, limits: PrefetchLimits) {
    this.readahead = new Readahead(spanCount, sizeOf);
    this.#spanCount = spanCount;
    this.#sizeOf = sizeOf;
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
      (this.readahead.inOrder.isWaiting && running < this.#limits.inOrderInFlight) ||
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

  /**
   * Spans that a reader is likely to want soon, in this order, behind those that were named before. `isAll`: they are what is left
   * of the layer: it comes anyway, and what lies ahead of a reader in order comes first.
   */
  aim(spans: readonly number[], isAll = false): void {
    this.readahead.isForetold ||= spans.length > 0;
    this.#isAllAimed ||= isAll;
    const known = new Set(this.#aimed);
    this.#aimed = [...spans.filter((span) => !known.has(span)).toReversed(), ...this.#aimed];
  }

  /** A reader waits for the span. */
  demanded(span: number, now: number): void {
    this.#waitedAt = now;
    this.readahead.demanded(span, this.#on || this.#isAllAimed);
  }

  /**
   * The span that a reader waits for comes with these: he may be heard of next behind them. Not in a start, of which jobs for
   * what it is likely to read say nothing of how it reads.
   */
  comesWith(span: number, runs: readonly SpanRun[]): void {
    if (!this.#on && !this.#isAllAimed) return;
    for (const [first, count] of runs)
      if (span >= first && span < first + count) this.readahead.inOrder.reaches(span, first + count);
  }

  /** No reader is likely to want anything any more. */
  forgetAim(): void {
    this.#aimed = [];
    this.#isAllAimed = false;
  }

  succeeded(): void {
    this.#failures = 0;
  }

  failed(now: number): void {
    const pause = Math.min(this.#limits.pauseMs * 2 ** this.#failures, this.#limits.pauseMaxMs);
    this.#notBefore = now + pause;
    this.#failures += 1;
  }

  /** The span is absent again, and no job fetches it. */
  revisit(span: number): void {
    this.#cursor = Math.min(this.#cursor, span);
  }

  /** The next spans to fetch, if it is time. `running`: prefetch jobs under way. */
  next(now: number, running: number, choice: SpanChoice): Batch | undefined {
    if (now < this.#readyAt) return undefined;
    const { aimedInFlight, inOrderInFlight, inFlight } = this.#limits;
    const aimed = () => (running < aimedInFlight ? this.#nextAimed(choice) : undefined);
    const inOrder = () => (running < inOrderInFlight ? this.#nextInOrder(choice) : undefined);
    const batch =
      (this.#isAllAimed ? (inOrder() ?? aimed()) : (aimed() ?? inOrder())) ??
      (running < inFlight ? this.#nextUnaimed(now, choice) : undefined);
    this.#pay(batch?.runs ?? [], now);
    return batch;
  }

  /** Spans that a reader is likely to want, from `from` on, the nearest ones: a demand job takes them along. */
  along(from: number, now: number, { free, alone }: SpanChoice): SpanRun[] {
    if (now < this.#readyAt) return [];
    const runs: SpanRun[] = [];
    let left = this.#limits.alongBlocks;
    for (const span of this.#aimed.filter((other) => other >= from).sort((a, b) => a - b)) {
      left -= this.#sizeOf(span);
      if (left < 0 || runs.length === this.#limits.aimedRuns) break;
      if (free(span) && !alone(span)) runs.push(spanRun(span, 1));
    }
    const taken = new Set(runs.map(([span]) => span));
    if (taken.size > 0) this.#aimed = this.#aimed.filter((span) => !taken.has(span));
    this.#pay(runs, now);
    return runs;
  }

  #pay(runs: readonly SpanRun[], now: number): void {
    for (const run of runs) this.pace?.take(run, now);
  }

  #nextInOrder({ free, alone }: SpanChoice): Batch | undefined {
    const run = this.readahead.inOrder.next((span) => free(span) && !alone(span));
    return run === undefined ? undefined : { runs: [run], soon: true, ahead: true };
  }

  #nextUnaimed(now: number, { free, alone }: SpanChoice): Batch | undefined {
    const isAround = now - this.#waitedAt < this.#limits.aroundMs;
    const batchSpans = isAround ? this.#limits.batchSpansAround : this.#limits.batchSpans;
    const near = this.readahead.next(READAHEAD_BATCH, (span) => free(span) && !alone(span));
    if (near !== undefined) return { runs: [near], soon: true };
    if (!this.#on) return undefined;
    while (this.#cursor < this.#spanCount && !free(this.#cursor)) this.#cursor += 1;
    if (this.#cursor >= this.#spanCount) return undefined;
    const firstSpan = this.#cursor++;
    if (!alone(firstSpan)) {
      const end = Math.min(firstSpan + batchSpans, this.#spanCount);
      while (this.#cursor < end && free(this.#cursor) && !alone(this.#cursor)) this.#cursor += 1;
    }
    return { runs: [spanRun(firstSpan, this.#cursor - firstSpan)] };
  }

  /**
   * The next ones in order, each with those right behind it in the layer that are wanted as well, now or later. What lies apart
   * shares a job: a request costs the registry as much as some MB do (`BlobReader.ranges`).
   */
  #nextAimed({ free, alone }: SpanChoice): Batch | undefined {
    const runs: SpanRun[] = [];
    const { aimedBlocks } = this.#limits;
    // What is aimed at lies where a window goes on: as long a range for the same reason.
    let left = this.#isAllAimed ? Math.max(aimedBlocks, this.readahead.inOrder.rangeBlocks) : aimedBlocks;
    while (runs.length < this.#limits.aimedRuns) {
      const first = this.#aimed.pop();
      if (first === undefined) break;
      if (!free(first)) continue;
      if (alone(first) && runs.length === 0) return { runs: [spanRun(first, 1)], soon: true };
      const run = this.#runFrom(first, left, (span) => span < this.#spanCount && free(span) && !alone(span));
      if (runs.length > 0 && (alone(first) || run.blocks > left)) {
        this.#aimed.push(first);
        break;
      }
      if (run.end > first + 1) this.#aimed = this.#aimed.filter((span) => span < first || span >= run.end);
      runs.push(spanRun(first, run.end - first));
      left -= run.blocks;
    }
    return runs.length === 0 ? undefined : { runs: joined(runs), soon: true };
  }

  /** The spans that go into one run with this one: to `end`, exclusive; more than `most` blocks only where it has more by itself. */
  #runFrom(first: number, most: number, may: (span: number) => boolean): { end: number; blocks: number } {
    const wanted = new Set(this.#aimed);
    let blocks = this.#sizeOf(first);
    let end = first + 1;
    for (;;) {
      const isGap = !wanted.has(end) && may(end) && this.#sizeOf(end) <= this.#limits.gapBlocks;
      const next = isGap ? end + 1 : end;
      if (!wanted.has(next) || !may(next)) return { end, blocks };
      const more = this.#sizeOf(next) + (isGap ? this.#sizeOf(end) : 0);
      if (blocks + more > most) return { end, blocks };
      blocks += more;
      end = next + 1;
    }
  }
}
