/** What a layer actor takes and what it answers: its limits, events and effects. */
import type { ErrorCode } from '../schemas/errors.ts';
import type { JobClass } from '../schemas/fetch.ts';
import type { PrefetchPace } from './pace.ts';
import type { BlockRun, SpanRun } from './ranges.ts';

export interface LayerLimits {
  /** A read that waits longer is answered with EIO, ms. */
  readDeadlineMs: number;
  /** Reads that may wait at once; further ones are answered with EIO. */
  maxWaiters: number;
  /** Blocks of one read; a longer one is answered with EIO. */
  maxReadBlocks: number;
  /** Consecutive absent spans of one read that go into one job. */
  demandBatchSpans: number;
  /** Spans of one prefetch job, and prefetch jobs that may run at once. */
  prefetchBatchSpans: number;
  /** Spans of one prefetch job within so many ms after a read has begun to wait. */
  prefetchBatchSpansAround: number;
  prefetchAroundMs: number;
  prefetchInFlight: number;
  /** The same while there are spans that a start is likely to read soon. */
  aimedInFlight: number;
  /** The same ahead of readers that read in order. */
  inOrderInFlight: number;
  /** Of one job of such spans: blocks, runs of spans, and blocks of a span between two of them that is fetched along. */
  aimedBlocks: number;
  aimedRuns: number;
  gapBlocks: number;
  /** Blocks of such spans that a demand job takes along. */
  alongBlocks: number;
  /** Pause of prefetch after a failure; doubled at each further one up to the longest, ms. */
  prefetchPauseMs: number;
  prefetchPauseMaxMs: number;
  /** How often a span is tried while the failures may pass and a read waits for it. */
  attempts: number;
  /** Pause before the second try; doubled before each further one up to the longest, ms. */
  retryMs: number;
  retryMaxMs: number;
  /** For this long a failure that does not pass answers new reads of its span, without another try, ms. */
  failureMemoryMs: number;
  /** How long after a sign that nothing comes for the layer new reads do not wait, ms: actors/stall.ts. */
  stallMs: number;
  /** A job of which nothing is heard for this long is given up, ms. The dispatcher's own limits come first. */
  jobSilenceMs: number;
  /** A startup pack of which nothing has come for this long is no longer waited for, ms. */
  promiseSilenceMs: number;
  /** Ranges of one `append`: bounds the size of a log record. */
  appendRanges: number;
}

export const LAYER_LIMITS: LayerLimits = {
  readDeadlineMs: 30_000,
  maxWaiters: 16_384,
  maxReadBlocks: 1_024,
  demandBatchSpans: 4,
  prefetchBatchSpans: 4,
  prefetchBatchSpansAround: 1,
  prefetchAroundMs: 1_000,
  prefetchInFlight: 2,
  aimedInFlight: 4,
  inOrderInFlight: 4,
  aimedBlocks: 64,
  aimedRuns: 16,
  alongBlocks: 32,
  gapBlocks: 6,
  prefetchPauseMs: 1_000,
  prefetchPauseMaxMs: 30_000,
  attempts: 10,
  retryMs: 100,
  retryMaxMs: 5_000,
  failureMemoryMs: 1_000,
  stallMs: 5_000,
  jobSilenceMs: 120_000,
  promiseSilenceMs: 1_000,
  appendRanges: 4_096,
};

/** `now`: milliseconds of a clock that should be monotonic; a step back is ignored. */
export type LayerEvent =
  /**
   * Blocks that are present without a fetch. `logged` (default true): the log knows them already; false for what was
   * built on this node. `complete`, `handedOver`: the log says so; believed only when every block is present.
   */
  | {
      type: 'restore';
      ranges: readonly BlockRun[];
      complete?: boolean;
      handedOver?: boolean;
      logged?: boolean;
    }
  /** An id that waits already is ignored. */
  | { type: 'read'; id: number; blocks: BlockRun; now: number }
  | { type: 'prefetch'; on: boolean; now: number }
  /** How fast prefetch may be; undefined: as fast as it can. */
  | { type: 'pace'; pace: PrefetchPace | undefined; now: number }
  /**
   * Fetch ahead of the readers: what lies near the spans that they wait for. Off: what was aimed at is forgotten, too.
   * `window`: only ahead of readers in order, so many blocks at most, for the cache has no room for more.
   */
  | { type: 'readahead'; on: boolean; window?: number; now: number }
  /**
   * A start is likely to read these soon, in this order: they are fetched before any other prefetch. `all`: they are what is left
   * of the layer, and what lies ahead of a reader in order is fetched before them.
   */
  | { type: 'aim'; ranges: readonly BlockRun[]; all?: true; now: number }
  /**
   * A startup pack is about to bring these blocks: a read that misses one waits for the pack. Answered by `promised` with the job
   * number under which its blocks come (`blocks.fetched`); not answered where the pack is of no use.
   */
  | { type: 'promise'; pack: number; ranges: readonly BlockRun[]; now: number }
  /** The pack brings blocks of other layers at the moment: its turn here is still to come. */
  | { type: 'promise.heard'; job: number; now: number }
  /** Nothing more comes of it. */
  | { type: 'promise.ended'; job: number; now: number }
  /** Verified and written to the device file. `bytes`: compressed bytes that came since the job's last message. */
  | { type: 'blocks.fetched'; job: number; blocks: BlockRun; bytes: number; now: number }
  /** Every block of the job is verified and written. `times`: of its fetch, as src/fetch/fetch-job.ts measures them. */
  | { type: 'job.done'; job: number; now: number; times?: { firstByteUs: number; fetchUs: number } }
  | { type: 'job.failed'; job: number; code: ErrorCode; message: string; retryable: boolean; now: number }
  /** Hand out what became present since the last flush. Also answered after `close`. */
  | { type: 'flush'; now: number }
  /** The log did not take these. */
  | { type: 'append.failed'; ranges: readonly BlockRun[] }
  /**
   * The whole device was compared with the diffID. Where the comparison itself failed, repeat it instead. `damaged`: it is
   * not the layer since the disk lost these blocks; they go as with `evict`, and the layer is lazy again.
   */
  | { type: 'verified'; ok: boolean; damaged?: readonly BlockRun[]; now: number }
  /** The kernel reads the device file itself, or is about to: nothing may be evicted any more. */
  | { type: 'handed-over' }
  /** Reads come through here again. */
  | { type: 'taken-back' }
  /**
   * Blocks that are to leave the device file. Those that may go are absent from here on and named by `punch`. Refused:
   * what is not present, spans that have an owner or a reader, layers that are being verified or are handed over.
   */
  | { type: 'evict'; ranges: readonly BlockRun[]; now: number }
  /**
   * The punch has been made, or given up: its spans may be fetched again. `undone`: nothing was punched, the blocks are
   * present as before; whether the log has heard of the eviction is not known, so they are logged again.
   */
  | { type: 'evicted'; job: number; undone?: boolean; now: number }
  | { type: 'tick'; now: number }
  /** Reads that wait get EIO, jobs are cancelled. Only reads and `flush` are answered afterwards. */
  | { type: 'close' };

/** Why a read got EIO. */
export interface ReadFailure {
  code: ErrorCode;
  message: string;
}

export type LayerEffect =
  /** errno 0: every block of the read is present. */
  | { type: 'answer'; id: number; errno: number; reason?: ReadFailure }
  /** The read misses blocks of these spans, and is answered or refused by an `answer`: what a trace wants to know. */
  | { type: 'missed'; id: number; spans: readonly number[] }
  /** `runs`: ascending, no two adjacent; `blocks`: of each. `soon`: of prefetch, what readers are likely to want next; absent: the rest of the layer, which has time. `ahead`: of it, what lies ahead of a reader in order. */
  | {
      type: 'fetch';
      job: number;
      runs: readonly SpanRun[];
      blocks: readonly BlockRun[];
      class: JobClass;
      soon?: true;
      ahead?: true;
    }
  /** A read waits for a job that was submitted as prefetch. */
  | { type: 'promote'; job: number }
  | { type: 'cancel'; job: number }
  | { type: 'promised'; pack: number; job: number }
  /** Sync the device file, then append. Ascending, no two adjacent. */
  | { type: 'append'; ranges: readonly BlockRun[] }
  /** Every block is present: compare the whole device with the diffID. */
  | { type: 'verify' }
  | { type: 'complete' }
  /** The blocks pass their checks, but together they are not the layer: the span table lies. Every block is absent. */
  | { type: 'corrupt' }
  /**
   * Append that these blocks are gone, wait for readers that saw them present, punch them out of the file, then send
   * `evicted`. In this order: a crash in between leaves bytes that no fact counts on.
   */
  | { type: 'punch'; job: number; ranges: readonly BlockRun[] }
  /** Send a tick at this time at the latest. Replaces a later one. */
  | { type: 'wake'; at: number };

/** What the front end counts; since the actor was made. */
export interface LayerCounters {
  /** Reads that found every block present, that waited, and that were answered with an error. */
  hits: number;
  misses: number;
  errors: number;
  demandJobs: number;
  prefetchJobs: number;
  /** Tries after a failure. */
  retries: number;
  /** Blocks that came for a job that had ended. */
  lateBlocks: number;
  /** Compressed bytes as reported by `blocks.fetched`. */
  bytes: number;
}
