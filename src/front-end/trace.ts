/**
 * What the cold reads of one layer waited for, until the next flush takes it into the log (`layer.trace`). A read that
 * finds its blocks present never comes here. Which jobs a read waited for is seen at its two ends: the jobs that had
 * its missing spans when it came, and the last ones when it was answered.
 */
import { type BlockRun, pairsOf, sizeOf, type SpanRun } from '../../actors/ranges.ts';
import type { NewEvent, TracedJob, TracedRead } from '../../schemas/events.ts';
import type { FetchTimes, JobClass } from '../../schemas/fetch.ts';

export type TraceEvent = Extract<NewEvent, { type: 'layer.trace' }>;

/** Entries of one batch; what comes beyond is counted only. */
export const TRACE_ENTRIES = 500;

/** What the pool knows of a job that is over. Times in ms of the monotonic clock. */
export interface JobTiming {
  class: JobClass;
  /** The one that had it last; empty when none had it. */
  fetcher: string;
  queuedAt: number;
  sentAt: number | undefined;
  endedAt: number;
  times: FetchTimes | undefined;
}

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
  #reads: TracedRead[] = [];
  #jobs: TracedJob[] = [];
  #dropped = 0;

  /** `now`: monotonic, ms. `epochMs`: the wall clock. `limit`: reads that are followed at once. */
  constructor(spanCount: number, clock: { now: () => number; epochMs: () => number }, limit = 1_000) {
    this.#now = clock.now;
    this.#epochMs = clock.epochMs;
    this.#limit = limit;
    this.#jobOf = new Uint32Array(spanCount);
  }

  get isEmpty(): boolean {
    return this.#reads.length + this.#jobs.length + this.#dropped === 0;
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
    job: { job: number; runs: readonly SpanRun[]; bytes: number },
    timing: JobTiming,
    error: string | undefined,
  ): void {
    if (!this.#hasRoom()) return;
    const { firstByteUs = 0, fetchUs = 0, decodeUs = 0, writeUs = 0 } = timing.times ?? {};
    const us = (from: number, to: number) => Math.max(0, Math.round((to - from) * 1000));
    this.#jobs.push({
      job: job.job,
      class: timing.class,
      span: job.runs[0]?.[0] ?? 0,
      spans: sizeOf(job.runs),
      ...(job.runs.length > 1 && {
        runs: pairsOf(job.runs),
      }),
      worker: timing.fetcher,
      queuedAt: Math.round(this.#epochMs() - (this.#now() - timing.queuedAt)),
      sentUs: timing.sentAt === undefined ? 0 : us(timing.queuedAt, timing.sentAt),
      firstByteUs,
      fetchUs,
      decodeUs,
      writeUs,
      totalUs: us(timing.queuedAt, timing.endedAt),
      bytes: job.bytes,
      ...(error === undefined ? {} : { error: error.slice(0, 200) }),
    });
  }

  /** Everything so far, for the log; undefined when there is nothing. */
  take(): TraceEvent | undefined {
    if (this.isEmpty) return undefined;
    const event: TraceEvent = {
      type: 'layer.trace',
      reads: this.#reads,
      jobs: this.#jobs,
      dropped: this.#dropped,
    };
    this.#reads = [];
    this.#jobs = [];
    this.#dropped = 0;
    return event;
  }

  /** The log did not take the event: its entries wait for the next try, before those that came since. */
  putBack({ reads, jobs, dropped }: TraceEvent): void {
    const room = Math.max(0, TRACE_ENTRIES - this.#reads.length - this.#jobs.length);
    const keptJobs = jobs.slice(0, room);
    const keptReads = reads.slice(0, room - keptJobs.length);
    this.#dropped += dropped + reads.length - keptReads.length + jobs.length - keptJobs.length;
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
