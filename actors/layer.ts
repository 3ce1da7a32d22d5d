/**
 * The layer actor: owns the block states of one layer device, which all images that have the layer share. It decides what
 * is fetched when and for whom, who waits for what, and when the layer is whole. `handle` takes one event and returns
 * the effects to run, in order; time comes in with the events, and nothing here reads, writes or waits.
 *
 *     lazy ─every block present→ verifying ─proven→ complete ⇄ handed-over        closed: from any state
 *       ↑                   │        └─not the layer→ corrupt
 *       └─────── evicted ───┴─ (from complete, or blocks that the disk lost)
 *
 * **One owner a span.** A span that is absent has no owner. A job that fetches it owns it from `fetch` until
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
 *
 * Its parts share layer-inside.ts, and each has a file: reads (layer-reads.ts), jobs (layer-jobs.ts), startup packs
 * (layer-packs.ts), evictions (layer-evictions.ts), the log (layer-records.ts), the life as a whole (layer-life.ts). The rules
 * that hold between two inputs are sentences in layer-audit.ts.
 */
import { BlockEvent } from './block.ts';
import type { LayerGeometry } from './block-map.ts';
import { auditLayer } from './layer-audit.ts';
import { LayerEvictions } from './layer-evictions.ts';
import { LayerInside, type LayerOptions } from './layer-inside.ts';
import { LayerJobs } from './layer-jobs.ts';
import type { LayerState } from './layer-life.ts';
import { LayerPacks } from './layer-packs.ts';
import type { LayerCounters, LayerEffect, LayerEvent, LayerLimits, ReadFailure } from './layer-protocol.ts';
import { LayerReads } from './layer-reads.ts';
import { LayerRecords } from './layer-records.ts';
import type { BlockRun } from './ranges.ts';

export type { LayerGeometry } from './block-map.ts';
export { layerMachine, type LayerState } from './layer-life.ts';
export * from './layer-protocol.ts';

export class LayerActor {
  readonly #inside: LayerInside;
  readonly #jobs: LayerJobs;
  readonly #reads: LayerReads;
  readonly #packs: LayerPacks;
  readonly #evictions: LayerEvictions;
  readonly #records: LayerRecords;
  /** Time of the last `wake` that has not come. */
  #announced = Number.POSITIVE_INFINITY;

  /**
   * `states`: one zeroed byte a block, written here alone, read by the threads that serve reads. Throws an Error where states,
   * spans and blocks do not fit each other.
   */
  constructor(
    geometry: LayerGeometry,
    states: Uint8Array,
    limits: Partial<LayerLimits> = {},
    options: LayerOptions = {},
  ) {
    const inside = new LayerInside(geometry, states, limits, options);
    this.#inside = inside;
    this.#jobs = new LayerJobs(inside);
    this.#reads = new LayerReads(inside, this.#jobs);
    this.#packs = new LayerPacks(inside, this.#jobs);
    this.#evictions = new LayerEvictions(inside, this.#jobs);
    this.#records = new LayerRecords(inside);
  }

  get state(): LayerState {
    return this.#inside.state;
  }

  get blockCount(): number {
    return this.#inside.blocks.blockCount;
  }

  /** Blocks by state. */
  get counts(): { absent: number; fetching: number; present: number } {
    return this.#inside.blocks.counts;
  }

  get counters(): Readonly<LayerCounters> {
    return this.#inside.counters;
  }

  /** What waits and what runs. */
  get load(): {
    reads: number;
    jobs: number;
    prefetchJobs: number;
    pausedSpans: number;
    unloggedBlocks: number;
  } {
    const { reads, jobs, prefetchRunning, retries, unlogged } = this.#inside;
    return {
      reads: reads.size,
      jobs: jobs.size,
      prefetchJobs: prefetchRunning,
      pausedSpans: retries.size.paused,
      unloggedBlocks: unlogged.size,
    };
  }

  /** When something is due, ms; Infinity when nothing is. */
  get nextWake(): number {
    const { state, prefetcher, clock, prefetchRunning, reads, retries, jobSilence, promises } = this.#inside;
    const prefetch =
      state === 'lazy' ? prefetcher.nextWake(clock, prefetchRunning) : Number.POSITIVE_INFINITY;
    return Math.min(reads.nextDeadline, retries.nextEnd, jobSilence.next, promises.nextEnd, prefetch);
  }

  /** Applies one event. The effects are to be run in order; none of them is ever repeated. */
  handle(event: LayerEvent): LayerEffect[] {
    const inside = this.#inside;
    const effects: LayerEffect[] = [];
    inside.effects = effects;
    if ('now' in event && event.now > inside.clock) inside.clock = event.now;
    if (inside.state === 'closed') {
      if (event.type === 'read') inside.refuse(event.id, CLOSED);
      else if (event.type === 'flush') this.#records.flush();
      return effects;
    }
    // The tick that was asked for has come, be it a little early: timers are not exact.
    if (event.type === 'tick') this.#announced = Number.POSITIVE_INFINITY;
    this.#apply(event);
    if (event.type !== 'close') this.#settle();
    return effects;
  }

  #apply(event: LayerEvent): void {
    switch (event.type) {
      case 'read':
        return this.#reads.read(event);
      case 'blocks.fetched':
        return this.#jobs.fetched(event);
      case 'job.done':
        return this.#jobs.done(event);
      case 'job.failed':
        return this.#jobs.failed(event.job, event.retryable, { code: event.code, message: event.message });
      case 'prefetch':
      case 'pace':
      case 'readahead':
        return this.#steerPrefetch(event);
      case 'aim':
        return this.#jobs.aim(event.ranges, event.all === true);
      case 'promise':
        return this.#packs.promise(event);
      case 'promise.heard':
        return this.#inside.promises.heard(event.job, this.#inside.clock);
      case 'promise.ended':
        return this.#packs.ended(event.job);
      case 'flush':
        return this.#records.flush();
      case 'append.failed':
        return this.#records.relog(event.ranges);
      case 'restore':
        return this.#records.restore(event);
      case 'verified':
        return this.#verified(event);
      case 'handed-over':
        return void this.#inside.move('HANDED_OVER');
      case 'taken-back':
        return void this.#inside.move('TAKEN_BACK');
      case 'evict':
        return this.#evictions.evict(event.ranges);
      case 'evicted':
        return this.#evictions.evicted(event.job, event.undone === true);
      case 'close':
        return this.#close();
      case 'tick':
    }
  }

  /** After every event: what is due, what may start, what has been reached. */
  #settle(): void {
    const inside = this.#inside;
    this.#reads.expire();
    this.#jobs.expire();
    this.#packs.expire();
    if (inside.state === 'lazy') {
      this.#jobs.prefetch();
      if (inside.blocks.isFull && inside.move('FILLED')) inside.emit({ type: 'verify' });
    }
    if (this.#announced <= inside.clock) this.#announced = Number.POSITIVE_INFINITY;
    const next = this.nextWake;
    if (next < this.#announced) {
      this.#announced = next;
      inside.emit({ type: 'wake', at: next });
    }
  }

  #steerPrefetch(event: LayerEvent & { type: 'prefetch' | 'pace' | 'readahead' }): void {
    const { prefetcher } = this.#inside;
    if (event.type === 'prefetch') prefetcher.turn(event.on);
    else if (event.type === 'pace') prefetcher.pace = event.pace;
    else {
      prefetcher.readahead.turn(event.on, event.window);
      if (!event.on || event.window !== undefined) prefetcher.forgetAim();
    }
  }

  // ── The life of the layer ──

  #verified({ ok, damaged }: LayerEvent & { type: 'verified' }): void {
    const inside = this.#inside;
    if (ok) {
      if (inside.move('PROVEN')) inside.emit({ type: 'complete' });
    } else if (damaged === undefined) {
      if (inside.move('REFUTED')) this.#refute();
    } else if (inside.state === 'verifying' && inside.move('EVICTED')) this.#evictions.evict(damaged);
  }

  /** No block that came with this span table is to be believed. */
  #refute(): void {
    const { jobs, promises, blocks, unlogged } = this.#inside;
    // Jobs may be left whose blocks all came late for others.
    for (const job of jobs.values()) {
      this.#jobs.release(job);
      this.#inside.emit({ type: 'cancel', job: job.number });
    }
    promises.clear();
    for (let span = 0; span < blocks.spanCount; span++) this.#inside.stepSpan(span, BlockEvent.EVICTED);
    unlogged.clear();
    this.#inside.emit({ type: 'corrupt' });
  }

  #close(): void {
    const inside = this.#inside;
    inside.move('CLOSE');
    for (const id of inside.reads.takeAll()) inside.refuse(id, CLOSED);
    for (const job of inside.jobs.keys()) inside.emit({ type: 'cancel', job });
    inside.jobs.clear();
    inside.jobSilence.clear();
    inside.owners.clear();
    inside.evictions.clear();
    inside.retries.clear();
    inside.promises.clear();
    inside.prefetchRunning = 0;
  }

  /**
   * What of these ranges, which `append` gave out before a sync that is over now, may be said in the log: blocks that
   * were evicted since are not there, and those that have come again are not synced.
   */
  loggable(ranges: readonly BlockRun[]): BlockRun[] {
    return this.#records.loggable(ranges);
  }

  /** For tests: sentences about every rule that is broken. */
  audit(): string[] {
    return this.#inside.state === 'closed' ? [] : auditLayer(this.#inside);
  }
}

const CLOSED: ReadFailure = { code: 'not-running', message: 'the layer is closed' };
