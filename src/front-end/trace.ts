/**
 * What the cold reads of one layer waited for, until the next flush takes it into the log (`layer.trace`). A read that
 * finds its blocks present never comes here. Which jobs a read waited for is seen at its two ends: the jobs that had
 * its missing spans when it came, and the last ones when it was answered.
 */
import {
  type BlockRun,
  cutAll,
  joined,
  pairsOf,
  sizeOf,
  type SpanRun,
  spanRun,
} from '../../actors/ranges.ts';
import type { NewEvent, Origin, TracedJob, TracedRead } from '../../schemas/events.ts';
import type { BlockPair, FetchTimes, JobClass } from '../../schemas/fetch.ts';

export type TraceEvent = Extract<NewEvent, { type: 'layer.trace' }>;

/** Entries of one batch; what comes beyond is counted only. */
export const TRACE_ENTRIES = 500;

/** What the pool knows of a job that is over. Times in ms of the monotonic clock. */
export interface JobTiming {
  class: JobClass | 'pack';
  /** The one that had it last; empty when none had it. */
  fetcher: string;
  queuedAt: number;
  sentAt: number | undefined;
  endedAt: number;
  times: FetchTimes | undefined;
}

/** Runs of a fetch or a pack that are named. */
const MOST_RUNS = 200;

/** A startup pack on its way. Times in ms of the monotonic clock. */
interface ComingPack {
  blocks: readonly BlockRun[];
  runs: readonly SpanRun[];
  askedAt: number;
  beganAt: number;
  /** Compressed, of this layer. */
  bytes: number;
}

type Came = [first: number, count: number, origin: Origin];

interface WaitingRead {
  at: number;
  startedAt: number;
  block: number;
  blocks: number;
  spans: readonly number[];
  jobs: Set<number>;
}

export class Trace {
  readonly #now: () => number;
  readonly #epochMs: () => number;
  readonly #limit: number;
  /** The last job of each span; 0: none yet. */
  readonly #jobOf: Uint32Array;
  readonly #waiting = new Map<number, WaitingRead>();
  readonly #packs = new Map<number, ComingPack>();
  #reads: TracedRead[] = [];
  #jobs: TracedJob[] = [];
  #came: Came[] = [];
  #dropped = 0;

  /** `now`: monotonic, ms. `epochMs`: the wall clock. `limit`: reads that are followed at once. */
  constructor(spanCount: number, clock: { now: () => number; epochMs: () => number }, limit = 1_000) {
    this.#now = clock.now;
    this.#epochMs = clock.epochMs;
    this.#limit = limit;
    this.#jobOf = new Uint32Array(spanCount);
  }

  get isEmpty(): boolean {
    return this.#reads.length + this.#jobs.length + this.#came.length + this.#dropped === 0;
  }

  fetching(job: number, runs: readonly SpanRun[]): void {
    for (const [first, count] of runs) this.#jobOf.fill(job, first, first + count);
  }

  /** A read has come. */
  readStarted(id: number, [block, blocks]: BlockRun): void {
    // Thousands may wait at once: an even sample of the first is as good a picture as all of them.
    if (this.#waiting.size >= this.#limit) {
      this.#dropped += 1;
      return;
    }
    const read: WaitingRead = {
      at: this.#epochMs(),
      startedAt: this.#now(),
      block,
      blocks,
      spans: [],
      jobs: new Set<number>(),
    };
    this.#waiting.set(id, read);
  }

  /** It misses blocks of these spans. */
  readMissed(id: number, spans: readonly number[]): void {
    const read = this.#waiting.get(id);
    if (read !== undefined) read.spans = spans;
  }

  /** The jobs that the read waits for are known. */
  readQueued(id: number): void {
    const read = this.#waiting.get(id);
    if (read !== undefined) this.#noteJobs(read);
  }

  readEnded(id: number, errno: number): void {
    const read = this.#waiting.get(id);
    if (read === undefined) return;
    this.#waiting.delete(id);
    if (!this.#hasRoom()) return;
    this.#noteJobs(read);
    const { at, block, blocks, jobs } = read;
    const us = Math.round((this.#now() - read.startedAt) * 1000);
    this.#reads.push({ at, us, block, blocks, errno, jobs: [...jobs] });
  }

  jobEnded(
    job: { job: number; runs: readonly SpanRun[]; blocks?: readonly BlockPair[]; bytes: number },
    timing: JobTiming,
    error: string | undefined,
  ): void {
    if (!this.#hasRoom()) return;
    const { firstByteUs = 0, lookupUs, fetchUs = 0, decodeUs = 0, writeUs = 0 } = timing.times ?? {};
    const us = (from: number, to: number) => Math.max(0, Math.round((to - from) * 1000));
    this.#jobs.push({
      job: job.job,
      class: timing.class,
      span: job.runs[0]?.[0] ?? 0,
      spans: sizeOf(job.runs),
      ...(job.runs.length > 1 && {
        runs: pairsOf(job.runs.slice(0, MOST_RUNS)),
      }),
      ...(job.blocks !== undefined && { blocks: pairsOf(job.blocks.slice(0, MOST_RUNS)) }),
      worker: timing.fetcher,
      queuedAt: Math.round(this.#epochMs() - (this.#now() - timing.queuedAt)),
      sentUs: timing.sentAt === undefined ? 0 : us(timing.queuedAt, timing.sentAt),
      ...(lookupUs !== undefined && { lookupUs }),
      firstByteUs,
      fetchUs,
      decodeUs,
      writeUs,
      totalUs: us(timing.queuedAt, timing.endedAt),
      bytes: job.bytes,
      ...(error === undefined ? {} : { error: error.slice(0, 200) }),
    });
  }

  /** Blocks have come. They are told with reads and jobs, and take no room of theirs. */
  arrived([first, count]: BlockRun, origin: Origin): void {
    const last = this.#came.at(-1);
    if (last !== undefined && last[2] === origin && last[0] + last[1] === first) last[1] += count;
    else if (this.#came.length < TRACE_ENTRIES) this.#came.push([first, count, origin]);
    else this.#dropped += 1;
  }

  /** A startup pack that was asked for at `askedAt` (monotonic, ms) has begun to come, and promises these spans. */
  packBegan(job: number, blocks: readonly BlockRun[], runs: readonly SpanRun[], askedAt: number): void {
    this.fetching(job, runs);
    this.#packs.set(job, { blocks, runs, askedAt, beganAt: this.#now(), bytes: 0 });
  }

  /** It has brought so many compressed bytes for this layer. */
  packBrought(job: number, bytes: number): void {
    const pack = this.#packs.get(job);
    if (pack !== undefined) pack.bytes += bytes;
  }

  /** It brings nothing more. */
  packEnded(job: number): void {
    const pack = this.#packs.get(job);
    this.#packs.delete(job);
    if (pack === undefined) return;
    const { beganAt, askedAt } = pack;
    const us = (from: number, to: number) => Math.round((to - from) * 1000);
    const now = this.#now();
    const times = { firstByteUs: us(askedAt, beganAt), fetchUs: us(askedAt, now), decodeUs: 0, writeUs: 0 };
    const timing = { queuedAt: askedAt, sentAt: askedAt, endedAt: now, times };
    this.jobEnded({ job, ...pack }, { class: 'pack', fetcher: '', ...timing }, undefined);
  }

  /** Everything so far, for the log; undefined when there is nothing. */
  take(): TraceEvent | undefined {
    if (this.isEmpty) return undefined;
    const event: TraceEvent = {
      type: 'layer.trace',
      reads: this.#reads,
      jobs: this.#jobs,
      ...(this.#came.length > 0 && { came: this.#came }),
      dropped: this.#dropped,
    };
    this.#reads = [];
    this.#jobs = [];
    this.#came = [];
    this.#dropped = 0;
    return event;
  }

  /** The log did not take the event: its entries wait for the next try, before those that came since. */
  putBack({ reads, jobs, came = [], dropped }: TraceEvent): void {
    const room = Math.max(0, TRACE_ENTRIES - this.#reads.length - this.#jobs.length);
    const keptJobs = jobs.slice(0, room);
    const keptReads = reads.slice(0, room - keptJobs.length);
    this.#dropped += dropped + reads.length - keptReads.length + jobs.length - keptJobs.length;
    const keptCame = came.slice(0, Math.max(0, TRACE_ENTRIES - this.#came.length));
    this.#dropped += came.length - keptCame.length;
    this.#came = [...keptCame, ...this.#came];
    this.#reads = [...keptReads, ...this.#reads];
    this.#jobs = [...keptJobs, ...this.#jobs];
  }

  #noteJobs(read: WaitingRead): void {
    for (const span of read.spans) {
      const job = this.#jobOf[span];
      if (job !== undefined && job !== 0) read.jobs.add(job);
    }
  }

  #hasRoom(): boolean {
    if (this.#reads.length + this.#jobs.length < TRACE_ENTRIES) return true;
    this.#dropped += 1;
    return false;
  }
}

/** The spans that have these blocks, ascending. */
export function spanRunsOf(
  blocks: readonly BlockRun[],
  table: { readonly blockCount: number; spanOfBlock(block: number): number },
): SpanRun[] {
  const spans = cutAll(blocks, table.blockCount).map(([first, count]) => {
    const from = table.spanOfBlock(first);
    return spanRun(from, table.spanOfBlock(first + count - 1) - from + 1);
  });
  // Blocks of one span may lie in several runs.
  const apart: SpanRun[] = [];
  let end = 0;
  for (const [first, count] of spans.sort(([a], [b]) => a - b)) {
    const from = Math.max(first, end);
    if (first + count > from) apart.push(spanRun(from, first + count - from));
    end = Math.max(end, first + count);
  }
  return joined(apart);
}
