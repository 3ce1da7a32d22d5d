/**
 * The layer actor: owns the block states of one layer device, which all images that have the layer share. It decides what
 * is fetched when and for whom, who waits for what, and when the layer is whole. `handle` takes one event and returns
 * the effects to run, in order; time comes in with the events, and nothing here reads, writes or waits.
 *
 *     lazy ─every block present→ verifying ─proven→ complete ⇄ handed-over        closed: from any state
 *       ↑                   │        └─not the layer→ corrupt
 *       └─────── evicted ───┴─ (from complete, or blocks that the disk lost)
 *
 * **One owner a span.** A span that is absent belongs to nobody. A job that fetches it owns it from `fetch` until
 * `job.done` or `job.failed`; an eviction owns its spans from `punch` until `evicted`. Two owners never meet: a read of a
 * span that has one waits for it. So no byte is asked for twice at once, and no block is filled while its bytes are
 * taken away.
 *
 * **A read ends once**: with 0 when the last block it misses arrived, else with EIO: at its deadline, when the span of a
 * missing block failed for good, or at once where waiting is pointless (queue full, layer corrupt or closed, nothing comes
 * for the layer: stall.ts).
 * A failure concerns the reads that miss a block of the span that failed, and no others. Since a job of several spans
 * does not say which of them is bad, its spans are fetched again one by one before a reader hears of bad bytes.
 *
 * **A startup pack** brings blocks of many spans at once (`promise`). It owns none of them; a read that misses only
 * promised blocks waits for the pack, until the pack ends or falls silent.
 *
 * **Messages may be lost, doubled or late.** `blocks.fetched` is true whenever it comes: the bytes were verified and lie
 * in the file, even if the job has been given up since. Two things can make it a lie, and both are caught by the
 * job's number: an eviction in between (`#fence`), and an actor before this one (it starts its numbers higher). A pack
 * writes blocks whatever happens to them; it is believed only of what it owes.
 * `job.done` says that every block of the job is in the file, so it makes up for a lost `blocks.fetched`. A job of which
 * nothing is heard at all ends by `jobSilenceMs`.
 *
 * **The log follows the data.** Blocks that became present are collected until `flush` hands them out as `append`; the
 * caller syncs the device file and then appends. What it could not append comes back as `append.failed`.
 */
import type { JobClass } from '../schemas/fetch.ts';
import { allPresent, BlockEvent } from './block.ts';
import { BlockMap, type LayerGeometry } from './block-map.ts';
import { BlockSet } from './block-set.ts';
import { auditLayer } from './layer-audit.ts';
import { type LayerState, type LayerStep, nextLayerState } from './layer-life.ts';
import {
  LAYER_LIMITS,
  type LayerCounters,
  type LayerEffect,
  type LayerEvent,
  type LayerLimits,
  type ReadFailure,
} from './layer-protocol.ts';
import { Prefetcher, type SpanChoice } from './prefetch.ts';
import { Promises } from './promises.ts';
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
  within,
} from './ranges.ts';
import { ReadQueue } from './read-queue.ts';
import { Retries } from './retries.ts';
import { Stall } from './stall.ts';
import { TimerQueue } from './timers.ts';

export type { LayerGeometry } from './block-map.ts';
export { layerMachine, type LayerState } from './layer-life.ts';
export * from './layer-protocol.ts';

/** What owns a span: a job that fetches it, or an eviction that takes blocks of it away. */
export type Owner =
  | {
      readonly kind: 'fetch';
      readonly number: number;
      class: JobClass;
      /** Ascending, no two adjacent. */
      readonly runs: readonly SpanRun[];
    }
  /** `passed`: spans that prefetch would have taken meanwhile. */
  | {
      readonly kind: 'evict';
      readonly number: number;
      readonly spans: readonly number[];
      readonly ranges: readonly BlockRun[];
      readonly passed: number[];
    };
export type Job = Owner & { kind: 'fetch' };
type Eviction = Owner & { kind: 'evict' };

const EIO = 5;

export class LayerActor {
  readonly #states: Uint8Array;
  readonly #blocks: BlockMap;
  readonly #limits: LayerLimits;
  readonly #reads = new ReadQueue();
  readonly #owners = new Map<number, Owner>();
  readonly #jobs = new Map<number, Job>();
  readonly #jobSilence = new TimerQueue<number>();
  readonly #evictions = new Map<number, Eviction>();
  readonly #retries: Retries;
  readonly #stall: Stall;
  readonly #promises: Promises;
  readonly #prefetcher: Prefetcher;
  #prefetchRunning = 0;
  /** Present, and not handed out for the log. */
  readonly #unlogged: BlockSet;
  readonly #counters: LayerCounters = {
    hits: 0,
    misses: 0,
    errors: 0,
    demandJobs: 0,
    prefetchJobs: 0,
    retries: 0,
    lateBlocks: 0,
    bytes: 0,
  };
  #state: LayerState = 'lazy';
  /** The first span that prefetch has left to a startup pack. */
  #passed = Number.POSITIVE_INFINITY;
  #nextJob: number;
  /** Jobs and packs below it that have ended may speak of bytes that are gone. */
  #fence: number;
  #clock = Number.NEGATIVE_INFINITY;
  /** Time of the last `wake` that has not come. */
  #announced = Number.POSITIVE_INFINITY;

  /**
   * `states`: one zeroed byte a block, written here alone, read by whoever serves reads. `firstJob`: where completions
   * for an actor before this one can still come in, a number above all of its jobs. `random`: in [0, 1), spreads
   * retries. Throws an Error where states, spans and blocks do not fit each other.
   */
  constructor(
    geometry: LayerGeometry,
    states: Uint8Array,
    limits: Partial<LayerLimits> = {},
    options: { firstJob?: number; random?: () => number } = {},
  ) {
    this.#states = states;
    this.#blocks = new BlockMap(geometry, states);
    this.#limits = { ...LAYER_LIMITS, ...limits };
    this.#retries = new Retries(this.#limits, options.random ?? (() => 0));
    this.#promises = new Promises(geometry.blockCount, this.#limits.promiseSilenceMs);
    this.#stall = new Stall(this.#limits.readDeadlineMs, this.#limits.stallMs);
    this.#nextJob = options.firstJob ?? 1;
    this.#fence = this.#nextJob;
    this.#unlogged = new BlockSet(geometry.blockCount);
    this.#prefetcher = new Prefetcher(geometry.spanCount, (span) => this.#blocks.size(span), {
      batchSpans: this.#limits.prefetchBatchSpans,
      batchSpansAround: this.#limits.prefetchBatchSpansAround,
      aroundMs: this.#limits.prefetchAroundMs,
      inFlight: this.#limits.prefetchInFlight,
      aimedInFlight: this.#limits.aimedInFlight,
      aimedBlocks: this.#limits.aimedBlocks,
      aimedRuns: this.#limits.aimedRuns,
      alongBlocks: this.#limits.alongBlocks,
      gapBlocks: this.#limits.gapBlocks,
      pauseMs: this.#limits.prefetchPauseMs,
      pauseMaxMs: this.#limits.prefetchPauseMaxMs,
    });
  }

  get state(): LayerState {
    return this.#state;
  }

  get blockCount(): number {
    return this.#blocks.blockCount;
  }

  /** Blocks by state. */
  get counts(): { absent: number; fetching: number; present: number } {
    return this.#blocks.counts;
  }

  get counters(): Readonly<LayerCounters> {
    return this.#counters;
  }

  /** What waits and what runs. */
  get load(): {
    reads: number;
    jobs: number;
    prefetchJobs: number;
    pausedSpans: number;
    unloggedBlocks: number;
  } {
    return {
      reads: this.#reads.size,
      jobs: this.#jobs.size,
      prefetchJobs: this.#prefetchRunning,
      pausedSpans: this.#retries.size.paused,
      unloggedBlocks: this.#unlogged.size,
    };
  }

  /** When something is due, ms; Infinity when nothing is. */
  get nextWake(): number {
    const lazy = this.#state === 'lazy';
    const prefetch = lazy
      ? this.#prefetcher.nextWake(this.#clock, this.#prefetchRunning)
      : Number.POSITIVE_INFINITY;
    return Math.min(
      this.#reads.nextDeadline,
      this.#retries.nextEnd,
      this.#jobSilence.next,
      this.#promises.nextEnd,
      prefetch,
    );
  }

  /** Applies one event. The effects are to be run in order; none of them is ever repeated. */
  handle(event: LayerEvent): LayerEffect[] {
    const effects: LayerEffect[] = [];
    if ('now' in event && event.now > this.#clock) this.#clock = event.now;
    if (this.#state === 'closed') {
      if (event.type === 'read') this.#refuse(event.id, CLOSED, effects);
      else if (event.type === 'flush') this.#flush(effects);
      return effects;
    }
    // The tick that was asked for has come, be it a little early: timers are not exact.
    if (event.type === 'tick') this.#announced = Number.POSITIVE_INFINITY;
    this.#apply(event, effects);
    if (event.type !== 'close') this.#settle(effects);
    return effects;
  }

  #apply(event: LayerEvent, effects: LayerEffect[]): void {
    switch (event.type) {
      case 'read':
        this.#read(event, effects);
        return;
      case 'blocks.fetched':
        this.#fetched(event, effects);
        return;
      case 'job.done':
        this.#done(event, effects);
        return;
      case 'job.failed':
        this.#failed(event.job, event.retryable, { code: event.code, message: event.message }, effects);
        return;
      case 'prefetch':
        this.#prefetcher.turn(event.on);
        return;
      case 'pace':
        this.#prefetcher.pace = event.pace;
        return;
      case 'readahead':
        this.#prefetcher.readahead.turn(event.on);
        if (!event.on) this.#prefetcher.forgetAim();
        return;
      case 'aim':
        this.#aim(event.ranges);
        return;
      case 'promise':
        this.#promise(event, effects);
        return;
      case 'promise.heard':
        this.#promises.heard(event.job, this.#clock);
        return;
      case 'promise.ended':
        this.#endPromise(event.job, effects);
        return;
      case 'flush':
        this.#flush(effects);
        return;
      case 'append.failed':
        this.#relog(event.ranges);
        return;
      case 'restore':
        this.#restore(event, effects);
        return;
      case 'verified':
        if (event.ok && this.#move('PROVEN')) effects.push({ type: 'complete' });
        if (!event.ok && event.damaged !== undefined) {
          if (this.#state === 'verifying' && this.#move('EVICTED')) this.#evict(event.damaged, effects);
        } else if (!event.ok && this.#move('REFUTED')) this.#refute(effects);
        return;
      case 'handed-over':
        this.#move('HANDED_OVER');
        return;
      case 'taken-back':
        this.#move('TAKEN_BACK');
        return;
      case 'evict':
        this.#evict(event.ranges, effects);
        return;
      case 'evicted':
        this.#evicted(event.job, event.undone === true, effects);
        return;
      case 'close':
        this.#close(effects);
        return;
      case 'tick':
        return;
    }
  }

  /** After every event: what is due, what may start, what has been reached. */
  #settle(effects: LayerEffect[]): void {
    this.#expire(effects);
    if (this.#state === 'lazy') {
      this.#prefetch(effects);
      if (this.#blocks.isFull && this.#move('FILLED')) effects.push({ type: 'verify' });
    }
    if (this.#announced <= this.#clock) this.#announced = Number.POSITIVE_INFINITY;
    const next = this.nextWake;
    if (next < this.#announced) {
      this.#announced = next;
      effects.push({ type: 'wake', at: next });
    }
  }

  // ── Reads ──

  /** The lookup order of a cold read: present, bad lately, nothing comes, being fetched or paused, fetch. */
  #read({ id, firstBlock, lastBlock }: LayerEvent & { type: 'read' }, effects: LayerEffect[]): void {
    if (this.#reads.has(id)) return;
    const isInside = firstBlock >= 0 && firstBlock <= lastBlock && lastBlock < this.blockCount;
    const isWhole = Number.isSafeInteger(firstBlock) && Number.isSafeInteger(lastBlock);
    if (!isInside || !isWhole || lastBlock - firstBlock >= this.#limits.maxReadBlocks) {
      this.#refuse(id, OUTSIDE, effects);
      return;
    }
    if (allPresent(this.#states, firstBlock, lastBlock)) {
      this.#counters.hits += 1;
      effects.push({ type: 'answer', id, errno: 0 });
      return;
    }
    if (this.#state === 'corrupt' || this.#reads.size >= this.#limits.maxWaiters) {
      this.#refuse(id, this.#state === 'corrupt' ? CORRUPT : CROWDED, effects);
      return;
    }
    const firstSpan = this.#blocks.spanOf(firstBlock);
    const lastSpan = this.#blocks.spanOf(lastBlock);
    const missing: number[] = [];
    const spans: number[] = [];
    for (let span = firstSpan; span <= lastSpan; span++) {
      const before = missing.length;
      const end = Math.min(lastBlock + 1, this.#blocks.end(span));
      for (let block = Math.max(firstBlock, this.#blocks.start(span)); block < end; block++) {
        if (!this.#blocks.isPresent(block)) missing.push(block);
      }
      if (missing.length === before) continue;
      // Blocks that a pack is about to bring are waited for; the span of any other one is fetched.
      if (missing.slice(before).every((block) => this.#promises.has(block))) continue;
      spans.push(span);
      const verdict = this.#retries.verdict(span);
      if (verdict !== undefined) {
        this.#refuse(id, verdict, effects);
        return;
      }
    }
    const [first] = spans;
    if (first !== undefined && this.#stall.holds(this.#clock, this.#jobs.size > 0)) {
      this.#refuse(id, STALLED, effects);
      // Somebody has to find out when it is over.
      if (this.#jobs.size === 0) this.#demand([first], effects);
      return;
    }
    this.#counters.misses += 1;
    this.#reads.add(id, missing, firstSpan, lastSpan, this.#clock + this.#limits.readDeadlineMs);
    for (const span of spans) this.#prefetcher.demanded(span, this.#clock);
    this.#demand(spans, effects, true);
  }

  #refuse(id: number, reason: ReadFailure, effects: LayerEffect[]): void {
    this.#counters.errors += 1;
    effects.push({ type: 'answer', id, errno: EIO, reason });
  }

  /** Answers the reads that wait for a block of the span, and no others. */
  #giveUp(span: number, reason: ReadFailure, effects: LayerEffect[]): void {
    if (!this.#reads.touches(span)) return;
    for (let block = this.#blocks.start(span); block < this.#blocks.end(span); block++) {
      for (const id of this.#reads.takeWaiting(block)) this.#refuse(id, reason, effects);
    }
  }

  #isWanted(span: number): boolean {
    if (!this.#reads.touches(span)) return false;
    for (let block = this.#blocks.start(span); block < this.#blocks.end(span); block++) {
      if (this.#reads.waitsFor(block)) return true;
    }
    return false;
  }

  #expire(effects: LayerEffect[]): void {
    for (const id of this.#reads.takeExpired(this.#clock)) {
      this.#stall.expired(this.#clock);
      this.#refuse(id, LATE, effects);
    }
    const again: number[] = [];
    for (let ended = this.#retries.takeEnded(this.#clock); ended !== undefined; ) {
      const { span, retryable } = ended;
      if (retryable && this.#isWanted(span)) again.push(span);
      else if (retryable) this.#leave(span);
      ended = this.#retries.takeEnded(this.#clock);
    }
    if (again.length > 0) {
      this.#counters.retries += again.length;
      this.#demand(
        again.sort((a, b) => a - b),
        effects,
      );
    }
    for (
      let job = this.#jobSilence.take(this.#clock);
      job !== undefined;
      job = this.#jobSilence.take(this.#clock)
    ) {
      effects.push({ type: 'cancel', job });
      this.#failed(job, true, SILENT, effects);
    }
    for (
      let left = this.#promises.takeSilent(this.#clock);
      left !== undefined;
      left = this.#promises.takeSilent(this.#clock)
    )
      this.#waitNoLonger(left, effects);
  }

  // ── Jobs ──

  /**
   * `spans`, ascending, are waited for: those that nobody owns get a job, neighbours a common one. `along`: what the start is
   * likely to read next in the layer comes with them, since a request costs more than that.
   */
  #demand(spans: readonly number[], effects: LayerEffect[], along = false): void {
    let first = 0;
    let count = 0;
    const start = (alone = false) => {
      if (count === 0) return;
      const behind = along && !alone ? this.#prefetcher.along(first + count, this.#clock, this.#choice) : [];
      this.#fetch(joined([spanRun(first, count), ...behind]), 'demand', effects);
      count = 0;
    };
    for (const span of spans) {
      const owner = this.#owners.get(span);
      if (owner?.kind === 'fetch' && owner.class === 'prefetch') {
        owner.class = 'demand';
        this.#prefetchRunning -= 1;
        effects.push({ type: 'promote', job: owner.number });
      }
      if (owner !== undefined || this.#retries.isPaused(span)) continue;
      const alone = this.#retries.isSuspect(span);
      if (alone || span !== first + count || count >= this.#limits.demandBatchSpans) start();
      if (count === 0) first = span;
      count += 1;
      if (alone) start(true);
    }
    start();
  }

  #prefetch(effects: LayerEffect[]): void {
    for (;;) {
      const batch = this.#prefetcher.next(this.#clock, this.#prefetchRunning, this.#choice);
      if (batch === undefined) return;
      this.#fetch(batch.runs, 'prefetch', effects, batch.soon);
    }
  }

  readonly #choice: SpanChoice = {
    free: (span) => {
      const owner = this.#owners.get(span);
      if (owner?.kind === 'evict') owner.passed.push(span);
      if (owner !== undefined || this.#blocks.isComplete(span) || this.#retries.isPaused(span)) return false;
      if (!this.#isPromised(span)) return true;
      this.#passed = Math.min(this.#passed, span);
      return false;
    },
    alone: (span) => this.#retries.isSuspect(span),
  };

  #aim(ranges: readonly BlockRun[]): void {
    const spans = new Set<number>();
    for (const block of blocksOf(this.#inside(ranges)))
      if (!this.#blocks.isPresent(block)) spans.add(this.#blocks.spanOf(block));
    this.#prefetcher.aim([...spans]);
  }

  #fetch(runs: readonly SpanRun[], kind: JobClass, effects: LayerEffect[], soon?: true): void {
    const job: Job = { kind: 'fetch', number: this.#nextJob++, class: kind, runs };
    this.#jobs.set(job.number, job);
    this.#jobSilence.set(job.number, this.#clock + this.#limits.jobSilenceMs);
    for (const span of spansOf(runs)) {
      this.#owners.set(span, job);
      this.#stepSpan(span, BlockEvent.FETCH);
    }
    if (kind === 'prefetch') this.#prefetchRunning += 1;
    this.#counters[kind === 'prefetch' ? 'prefetchJobs' : 'demandJobs'] += 1;
    effects.push({
      type: 'fetch',
      job: job.number,
      runs,
      class: kind,
      ...(soon === undefined ? {} : { soon }),
    });
  }

  #fetched(event: LayerEvent & { type: 'blocks.fetched' }, effects: LayerEffect[]): void {
    const { job: number, firstBlock, count, bytes } = event;
    const job = this.#jobs.get(number);
    // A pack outlives evictions: what it still owes was absent all the time, so its bytes cannot have been taken away. It
    // writes more than it owes, and of that its word is worth nothing.
    const owed = this.#promises.isKnown(number);
    const isLate = !owed && number >= this.#fence && number < this.#nextJob;
    if (this.#state === 'corrupt' || (job === undefined && !isLate && !owed)) return;
    const told = cut(blockRun(firstBlock, count), this.blockCount);
    if (told === undefined) return;
    if (bytes > 0) this.#counters.bytes += bytes;
    if (job !== undefined) this.#jobSilence.set(number, this.#clock + this.#limits.jobSilenceMs);
    this.#promises.heard(number, this.#clock);
    const runs = owed
      ? this.#promises.owedIn(number, told)
      : job !== undefined
        ? this.#ownedIn(job, told)
        : [told];
    let became = 0;
    for (const run of runs) became += this.#fill(run, BlockEvent.FETCHED, true, effects);
    if (job === undefined && !owed) this.#counters.lateBlocks += became;
  }

  /** Which of the blocks belong to the job. */
  *#ownedIn({ runs }: Job, [first, count]: BlockRun): IterableIterator<BlockRun> {
    for (const run of runs) {
      const [start, size] = this.#blocks.blocksOf(run);
      const from = Math.max(first, start);
      const end = Math.min(first + count, start + size);
      if (end > from) yield blockRun(from, end - from);
    }
  }

  /** Makes the blocks present, and answers the reads that waited for them. Returns how many were not present before. */
  #fill([first, count]: BlockRun, event: BlockEvent, log: boolean, effects: LayerEffect[]): number {
    const to = first + count;
    let became = 0;
    for (let block = first; block < to; ) {
      const span = this.#blocks.spanOf(block);
      const end = Math.min(to, this.#blocks.end(span));
      const isLeaving = this.#owners.get(span)?.kind === 'evict';
      for (; block < end; block++) {
        if (isLeaving || !this.#blocks.step(span, block, event)) continue;
        became += 1;
        if (event === BlockEvent.FETCHED) this.#stall.arrived(this.#clock);
        if (log) this.#unlogged.add(block);
        this.#promises.kept(block);
        for (const id of this.#reads.arrived(block)) effects.push({ type: 'answer', id, errno: 0 });
      }
      if (this.#blocks.isComplete(span)) this.#retries.forgive(span);
    }
    return became;
  }

  #done({ job: number, times }: LayerEvent & { type: 'job.done' }, effects: LayerEffect[]): void {
    const job = this.#jobs.get(number);
    if (job === undefined) return;
    if (times !== undefined && job.class === 'demand')
      this.#prefetcher.readahead.observe(times.firstByteUs, times.fetchUs);
    for (const run of job.runs) this.#fill(this.#blocks.blocksOf(run), BlockEvent.FETCHED, true, effects);
    this.#release(job);
    this.#prefetcher.succeeded();
  }

  #failed(number: number, retryable: boolean, reason: ReadFailure, effects: LayerEffect[]): void {
    const job = this.#jobs.get(number);
    if (job === undefined) return;
    this.#release(job);
    this.#stall.failed(this.#clock);
    if (job.class === 'prefetch') this.#prefetcher.failed(this.#clock);
    const again: number[] = [];
    for (const span of spansOf(job.runs)) {
      if (this.#blocks.isComplete(span)) continue;
      this.#stepSpan(span, BlockEvent.FAILED);
      if (retryable) this.#retryLater(span, reason, effects);
      else if (sizeOf(job.runs) === 1) {
        this.#retries.remember(span, reason, this.#clock);
        this.#giveUp(span, reason, effects);
      } else {
        this.#retries.suspect(span);
        if (this.#isWanted(span)) again.push(span);
        else this.#leave(span);
      }
    }
    this.#counters.retries += again.length;
    this.#demand(again, effects);
  }

  /** The job is over: its spans belong to nobody. */
  #release(job: Job): void {
    this.#jobs.delete(job.number);
    this.#jobSilence.delete(job.number);
    if (job.class === 'prefetch') this.#prefetchRunning -= 1;
    for (const span of spansOf(job.runs)) this.#owners.delete(span);
  }

  /** The span could not be had now. Where somebody waits, it is tried again after a pause, `attempts` times in all. */
  #retryLater(span: number, reason: ReadFailure, effects: LayerEffect[]): void {
    if (this.#isWanted(span) && this.#retries.again(span, reason, this.#clock)) return;
    this.#giveUp(span, reason, effects);
    this.#leave(span);
  }

  /** The span is absent, and nobody waits for it. */
  #leave(span: number): void {
    this.#retries.drop(span);
    this.#prefetcher.revisit(span);
  }

  #stepSpan(span: number, event: BlockEvent): void {
    for (let block = this.#blocks.start(span); block < this.#blocks.end(span); block++) {
      this.#blocks.step(span, block, event);
    }
  }

  // ── Startup packs ──

  #promise({ pack, ranges }: LayerEvent & { type: 'promise' }, effects: LayerEffect[]): void {
    if (this.#state !== 'lazy' || this.#promises.isFull) return;
    const job = this.#nextJob++;
    this.#promises.make(job, this.#absentIn(this.#inside(ranges)), this.#clock);
    effects.push({ type: 'promised', pack, job });
  }

  #endPromise(job: number, effects: LayerEffect[]): void {
    if (!this.#promises.isKnown(job)) return;
    // What it says from now on nobody can tell from what it owed.
    this.#fence = this.#nextJob;
    this.#waitNoLonger(this.#promises.end(job), effects);
  }

  /** A pack does not bring these blocks, or not soon. */
  #waitNoLonger(left: readonly BlockRun[], effects: LayerEffect[]): void {
    const spans = new Set<number>();
    for (const [first, count] of left) {
      for (let span = this.#blocks.spanOf(first); span <= this.#blocks.spanOf(first + count - 1); span++)
        spans.add(span);
    }
    // Also spans of which the pack has brought all that it promised may lack the rest.
    this.#prefetcher.revisit(this.#passed);
    this.#passed = Number.POSITIVE_INFINITY;
    const wanted: number[] = [];
    for (const span of spans) {
      if (this.#blocks.isComplete(span)) continue;
      const verdict = this.#retries.verdict(span);
      if (verdict !== undefined) this.#giveUp(span, verdict, effects);
      if (this.#isWanted(span)) wanted.push(span);
      else if (!this.#owners.has(span)) this.#prefetcher.revisit(span);
    }
    this.#demand(wanted, effects);
  }

  /** Whether a pack will bring a block of the span that is not there yet. */
  #isPromised(span: number): boolean {
    if (!this.#promises.isAny) return false;
    for (let block = this.#blocks.start(span); block < this.#blocks.end(span); block++)
      if (this.#promises.has(block)) return true;
    return false;
  }

  /**
   * The blocks that are not present. Left out are spans that are being evicted: bytes written there before the hole is
   * punched are punched with it, and may be told of afterwards.
   */
  #absentIn(runs: readonly BlockRun[]): BlockRun[] {
    return within(
      runs,
      (block) =>
        !this.#blocks.isPresent(block) && this.#owners.get(this.#blocks.spanOf(block))?.kind !== 'evict',
    );
  }

  // ── The log, eviction and the layer's own life ──

  #flush(effects: LayerEffect[]): void {
    const ranges = this.#unlogged.takeRuns();
    for (let at = 0; at < ranges.length; at += this.#limits.appendRanges) {
      effects.push({ type: 'append', ranges: ranges.slice(at, at + this.#limits.appendRanges) });
    }
  }

  #relog(ranges: readonly BlockRun[]): void {
    for (const block of blocksOf(this.#inside(ranges)))
      if (this.#blocks.isPresent(block)) this.#unlogged.add(block);
  }

  #restore(event: LayerEvent & { type: 'restore' }, effects: LayerEffect[]): void {
    if (this.#state !== 'lazy') return;
    for (const run of this.#inside(event.ranges))
      this.#fill(run, BlockEvent.RESTORED, event.logged === false, effects);
    if (event.complete !== true || !this.#blocks.isFull || !this.#move('RESTORED')) return;
    if (event.handedOver === true) this.#move('HANDED_OVER');
  }

  #evict(ranges: readonly BlockRun[], effects: LayerEffect[]): void {
    if (this.#state !== 'lazy' && this.#state !== 'complete') return;
    const gone = new BlockSet(this.blockCount);
    const spans = new Set<number>();
    for (const block of blocksOf(this.#inside(ranges))) {
      const span = this.#blocks.spanOf(block);
      // A reader that waits for other blocks of the span counts on those that were present when it came.
      if (this.#owners.has(span) || this.#reads.touches(span)) continue;
      if (!this.#blocks.step(span, block, BlockEvent.EVICTED)) continue;
      this.#unlogged.delete(block);
      gone.add(block);
      spans.add(span);
    }
    if (gone.size === 0) return;
    if (this.#state === 'complete') this.#move('EVICTED');
    const leaving = gone.takeRuns();
    const eviction: Eviction = {
      kind: 'evict',
      number: this.#nextJob++,
      spans: [...spans],
      ranges: leaving,
      passed: [],
    };
    this.#fence = this.#nextJob;
    this.#evictions.set(eviction.number, eviction);
    for (const span of spans) this.#owners.set(span, eviction);
    effects.push({ type: 'punch', job: eviction.number, ranges: leaving });
  }

  #evicted(number: number, undone: boolean, effects: LayerEffect[]): void {
    const eviction = this.#evictions.get(number);
    if (eviction === undefined) return;
    this.#evictions.delete(number);
    for (const span of eviction.spans) this.#owners.delete(span);
    if (undone) {
      for (const run of eviction.ranges) this.#fill(run, BlockEvent.RESTORED, true, effects);
    }
    for (const span of eviction.passed) this.#prefetcher.revisit(span);
    const wanted: number[] = [];
    for (const span of eviction.spans) {
      if (this.#isWanted(span)) wanted.push(span);
      else this.#retries.drop(span);
    }
    this.#demand(
      wanted.sort((a, b) => a - b),
      effects,
    );
  }

  /** Nothing that came with this span table is to be believed. */
  #refute(effects: LayerEffect[]): void {
    // Jobs may be left whose blocks all came late for others.
    for (const job of this.#jobs.values()) {
      this.#release(job);
      effects.push({ type: 'cancel', job: job.number });
    }
    this.#promises.clear();
    for (let span = 0; span < this.#blocks.spanCount; span++) this.#stepSpan(span, BlockEvent.EVICTED);
    this.#unlogged.clear();
    effects.push({ type: 'corrupt' });
  }

  #close(effects: LayerEffect[]): void {
    this.#move('CLOSE');
    for (const id of this.#reads.takeAll()) this.#refuse(id, CLOSED, effects);
    for (const job of this.#jobs.keys()) effects.push({ type: 'cancel', job });
    this.#jobs.clear();
    this.#jobSilence.clear();
    this.#owners.clear();
    this.#evictions.clear();
    this.#retries.clear();
    this.#promises.clear();
    this.#prefetchRunning = 0;
  }

  #move(event: LayerStep): boolean {
    const next = nextLayerState(this.#state, event);
    if (next === undefined) return false;
    this.#state = next;
    return true;
  }

  /** The runs as far as they lie in the layer. */
  #inside(runs: readonly BlockRun[]): BlockRun[] {
    return runs.map((run) => cut(run, this.blockCount)).filter((run) => run !== undefined);
  }

  /**
   * What of these ranges, which `append` gave out before a sync that is over now, may be said in the log: blocks that
   * have gone since are not there, and those that have come again are not synced.
   */
  loggable(ranges: readonly BlockRun[]): BlockRun[] {
    const still = new BlockSet(this.blockCount);
    for (const block of blocksOf(this.#inside(ranges)))
      if (this.#blocks.isPresent(block) && !this.#unlogged.has(block)) still.add(block);
    return still.takeRuns();
  }

  /** For tests: sentences about every rule that is broken. */
  audit(): string[] {
    if (this.#state === 'closed') return [];
    return auditLayer({
      state: this.#state,
      states: this.#states,
      blocks: this.#blocks,
      limits: this.#limits,
      reads: this.#reads,
      owners: this.#owners,
      jobs: this.#jobs,
      jobSilence: this.#jobSilence,
      evictions: this.#evictions,
      retries: this.#retries,
      promises: this.#promises,
      prefetchRunning: this.#prefetchRunning,
      unlogged: this.#unlogged,
    });
  }
}

const CLOSED: ReadFailure = { code: 'not-running', message: 'the layer is closed' };
const CORRUPT: ReadFailure = { code: 'integrity', message: 'the layer is not what its diffID says' };
const CROWDED: ReadFailure = { code: 'busy', message: 'too many reads wait for this layer' };
const LATE: ReadFailure = { code: 'timeout', message: 'the blocks did not come by the deadline of the read' };
const STALLED: ReadFailure = { code: 'unavailable', message: 'nothing has come for this layer for long' };
const OUTSIDE: ReadFailure = {
  code: 'invalid-argument',
  message: 'the read is outside of the layer, or too long',
};
const SILENT: ReadFailure = { code: 'timeout', message: 'nothing was heard of the job' };
