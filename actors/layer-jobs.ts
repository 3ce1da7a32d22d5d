/** Jobs of a layer: which spans get one, what comes of it, and when a span is tried again. */
import type { FetchTimes, JobClass } from '../schemas/fetch.ts';
import { BlockEvent } from './block.ts';
import type { FetchOwner, LayerInside } from './layer-inside.ts';
import type { LayerEvent, ReadFailure } from './layer-protocol.ts';
import type { Batch, SpanChoice } from './prefetch.ts';
import {
  type BlockRun,
  blockRun,
  blocksOf,
  cut,
  joined,
  sizeOf,
  type SpanRun,
  spanRun,
  spansOf,
} from './ranges.ts';

export class LayerJobs {
  readonly #inside: LayerInside;

  constructor(inside: LayerInside) {
    this.#inside = inside;
  }

  // ── Which spans get a job ──

  /**
   * Reads wait for `spans`, ascending: those without an owner get a job, neighbours a common one. `along`: what the start is
   * likely to read next in the layer is fetched in the same job, since a request costs more than that.
   */
  demand(spans: readonly number[], along = false): void {
    const { owners, retries, limits, prefetcher } = this.#inside;
    let first = 0;
    let count = 0;
    const start = (alone = false) => {
      if (count > 0) this.#demandRun(spanRun(first, count), along && !alone);
      count = 0;
    };
    for (const span of spans) {
      const owner = owners.get(span);
      if (owner?.kind === 'fetch') {
        this.#promote(owner);
        prefetcher.comesWith(span, owner.runs);
      }
      if (owner !== undefined || retries.isPaused(span)) continue;
      const alone = retries.isSuspect(span);
      if (alone || span !== first + count || count >= limits.demandBatchSpans) start();
      if (count === 0) first = span;
      count += 1;
      if (alone) start(true);
    }
    start();
  }

  /** Starts the prefetch jobs for which it is time. */
  prefetch(): void {
    const { prefetcher, clock } = this.#inside;
    for (;;) {
      const batch = prefetcher.next(clock, this.#inside.prefetchRunning, this.#choice);
      if (batch === undefined) return;
      this.#fetch(batch.runs, 'prefetch', batch);
    }
  }

  /** A start is likely to read these blocks soon. `isAll`: they are what is left of the layer. */
  aim(runs: readonly BlockRun[], isAll: boolean): void {
    const { blocks, prefetcher } = this.#inside;
    const spans = new Set<number>();
    for (const block of blocksOf(this.#inside.inside(runs)))
      if (!blocks.isPresent(block)) spans.add(blocks.spanOf(block));
    prefetcher.aim([...spans], isAll);
  }

  #demandRun(run: SpanRun, along: boolean): void {
    const { prefetcher, clock } = this.#inside;
    const [first, count] = run;
    const behind = along ? prefetcher.along(first + count, clock, this.#choice) : [];
    this.#fetch(joined([run, ...behind]), 'demand');
  }

  #promote(job: FetchOwner): void {
    if (job.class !== 'prefetch') return;
    job.class = 'demand';
    this.#inside.prefetchRunning -= 1;
    this.#inside.emit({ type: 'promote', job: job.number });
  }

  readonly #choice: SpanChoice = {
    free: (span) => {
      const { owners, blocks, retries } = this.#inside;
      const owner = owners.get(span);
      if (owner?.kind === 'evict') owner.passed.push(span);
      if (owner !== undefined || blocks.isComplete(span) || retries.isPaused(span)) return false;
      if (!this.#isPromised(span)) return true;
      this.#inside.passed = Math.min(this.#inside.passed, span);
      return false;
    },
    alone: (span) => this.#inside.retries.isSuspect(span),
  };

  /** Whether a pack will bring a block of the span that is not there yet. */
  #isPromised(span: number): boolean {
    const { promises, blocks } = this.#inside;
    if (!promises.isAny) return false;
    for (let block = blocks.start(span); block < blocks.end(span); block++)
      if (promises.has(block)) return true;
    return false;
  }

  #fetch(
    runs: readonly SpanRun[],
    kind: JobClass,
    { soon, ahead }: Pick<Batch, 'soon' | 'ahead'> = {},
  ): void {
    const { jobs, jobSilence, owners, blocks, counters, limits, clock } = this.#inside;
    const job: FetchOwner = { kind: 'fetch', number: this.#inside.nextJob++, class: kind, runs };
    jobs.set(job.number, job);
    jobSilence.set(job.number, clock + limits.jobSilenceMs);
    for (const span of spansOf(runs)) {
      owners.set(span, job);
      this.#inside.stepSpan(span, BlockEvent.FETCH);
    }
    if (kind === 'prefetch') this.#inside.prefetchRunning += 1;
    counters[kind === 'prefetch' ? 'prefetchJobs' : 'demandJobs'] += 1;
    this.#inside.emit({
      type: 'fetch',
      job: job.number,
      runs,
      blocks: runs.map((run) => blocks.blocksOf(run)),
      class: kind,
      ...(soon === undefined ? {} : { soon }),
      ...(ahead === undefined ? {} : { ahead }),
    });
  }

  // ── What comes of it ──

  fetched({ job: number, blocks: told, bytes }: LayerEvent & { type: 'blocks.fetched' }): void {
    const { jobs, promises, counters, jobSilence, limits, clock, state } = this.#inside;
    const job = jobs.get(number);
    // A pack outlives evictions: what it still owes was absent all the time, so its bytes cannot have been punched. It writes
    // more than it owes, and of that its word is worth nothing.
    const owed = promises.isKnown(number);
    const isLate = !owed && number >= this.#inside.fence && number < this.#inside.nextJob;
    if (state === 'corrupt' || (job === undefined && !isLate && !owed)) return;
    if (bytes > 0) counters.bytes += bytes;
    if (job !== undefined) jobSilence.set(number, clock + limits.jobSilenceMs);
    promises.heard(number, clock);
    const run = cut(told, this.#inside.blocks.blockCount);
    if (run === undefined) return;
    const runs = owed ? promises.owedIn(number, run) : job !== undefined ? this.#ownedIn(job, run) : [run];
    let became = 0;
    for (const part of runs) became += this.#inside.fill(part, BlockEvent.FETCHED, true);
    if (job === undefined && !owed) counters.lateBlocks += became;
  }

  done({ job: number, times }: LayerEvent & { type: 'job.done' }): void {
    const { jobs, prefetcher, blocks } = this.#inside;
    const job = jobs.get(number);
    if (job === undefined) return;
    if (times !== undefined) this.#observe(job, times);
    for (const run of job.runs) this.#inside.fill(blocks.blocksOf(run), BlockEvent.FETCHED, true);
    this.release(job);
    prefetcher.succeeded();
  }

  #observe(job: FetchOwner, { firstByteUs, fetchUs }: Pick<FetchTimes, 'firstByteUs' | 'fetchUs'>): void {
    const { prefetcher, blocks } = this.#inside;
    const { readahead } = prefetcher;
    if (job.class === 'demand') readahead.observe(firstByteUs, fetchUs);
    readahead.inOrder.observe(sizeOf(job.runs.map((run) => blocks.blocksOf(run))), fetchUs / 1_000);
  }

  failed(number: number, retryable: boolean, reason: ReadFailure): void {
    const { jobs, stall, clock, prefetcher, blocks, counters } = this.#inside;
    const job = jobs.get(number);
    if (job === undefined) return;
    this.release(job);
    stall.failed(clock);
    if (job.class === 'prefetch') prefetcher.failed(clock);
    const again: number[] = [];
    for (const span of spansOf(job.runs)) {
      if (blocks.isComplete(span)) continue;
      this.#inside.stepSpan(span, BlockEvent.FAILED);
      if (retryable) this.#retryLater(span, reason);
      else if (this.#isTriedAlone(job, span, reason)) again.push(span);
    }
    counters.retries += again.length;
    this.demand(again);
  }

  /** The job is over: its spans have no owner. */
  release(job: FetchOwner): void {
    const { jobs, jobSilence, owners } = this.#inside;
    jobs.delete(job.number);
    jobSilence.delete(job.number);
    if (job.class === 'prefetch') this.#inside.prefetchRunning -= 1;
    for (const span of spansOf(job.runs)) owners.delete(span);
  }

  /** Which of the blocks belong to the job. */
  *#ownedIn({ runs }: FetchOwner, [first, count]: BlockRun): IterableIterator<BlockRun> {
    for (const run of runs) {
      const [start, size] = this.#inside.blocks.blocksOf(run);
      const from = Math.max(first, start);
      const end = Math.min(first + count, start + size);
      if (end > from) yield blockRun(from, end - from);
    }
  }

  // ── Tries after a failure ──

  /** Tries the spans again whose pause is over, and gives jobs up of which nothing was heard. */
  expire(): void {
    this.#retryPaused();
    const { jobSilence, clock } = this.#inside;
    for (let job = jobSilence.take(clock); job !== undefined; job = jobSilence.take(clock)) {
      this.#inside.emit({ type: 'cancel', job });
      this.failed(job, true, SILENT);
    }
  }

  #retryPaused(): void {
    const { retries, clock, counters } = this.#inside;
    const again: number[] = [];
    for (let ended = retries.takeEnded(clock); ended !== undefined; ended = retries.takeEnded(clock)) {
      const { span, retryable } = ended;
      if (retryable && this.#inside.isWanted(span)) again.push(span);
      else if (retryable) this.#leave(span);
    }
    counters.retries += again.length;
    this.demand(again.sort((a, b) => a - b));
  }

  /**
   * Bytes of the job are bad. One span: its readers hear of it. Of several it is not known which: each is fetched by itself
   * before. Returns whether the span is to be fetched again now.
   */
  #isTriedAlone(job: FetchOwner, span: number, reason: ReadFailure): boolean {
    const { retries, clock } = this.#inside;
    if (sizeOf(job.runs) === 1) {
      retries.remember(span, reason, clock);
      this.#inside.giveUp(span, reason);
      return false;
    }
    retries.suspect(span);
    if (this.#inside.isWanted(span)) return true;
    this.#leave(span);
    return false;
  }

  /** The span could not be had now. Where a read waits, it is tried again after a pause, `attempts` times in all. */
  #retryLater(span: number, reason: ReadFailure): void {
    const { retries, clock } = this.#inside;
    if (this.#inside.isWanted(span) && retries.again(span, reason, clock)) return;
    this.#inside.giveUp(span, reason);
    this.#leave(span);
  }

  /** The span is absent, and no read waits for it. */
  #leave(span: number): void {
    this.#inside.retries.drop(span);
    this.#inside.prefetcher.revisit(span);
  }
}

const SILENT: ReadFailure = { code: 'timeout', message: 'nothing was heard of the job' };
