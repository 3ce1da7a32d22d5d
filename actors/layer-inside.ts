/**
 * What the parts of a layer actor share (layer.ts lists them): the block states, who owns which span, the reads that wait, and
 * the effects of the input that is being handled. Helpers that more than one part needs are here too.
 */
import type { JobClass } from '../schemas/fetch.ts';
import { BlockEvent } from './block.ts';
import { BlockMap, type LayerGeometry } from './block-map.ts';
import { BlockSet } from './block-set.ts';
import { type LayerState, type LayerStep, nextLayerState } from './layer-life.ts';
import {
  LAYER_LIMITS,
  type LayerCounters,
  type LayerEffect,
  type LayerLimits,
  type ReadFailure,
} from './layer-protocol.ts';
import { Prefetcher } from './prefetch.ts';
import { Promises } from './promises.ts';
import { type BlockRun, cutAll, type SpanRun } from './ranges.ts';
import { ReadQueue } from './read-queue.ts';
import { Retries } from './retries.ts';
import { Stall } from './stall.ts';
import { TimerQueue } from './timers.ts';

/** A job owns the spans that it fetches. */
export interface FetchOwner {
  readonly kind: 'fetch';
  readonly number: number;
  class: JobClass;
  /** Ascending, no two adjacent. */
  readonly runs: readonly SpanRun[];
}

/** An eviction owns the spans of the blocks that it takes out. */
export interface EvictionOwner {
  readonly kind: 'evict';
  readonly number: number;
  readonly spans: readonly number[];
  readonly ranges: readonly BlockRun[];
  /** Spans that prefetch would have taken meanwhile. */
  readonly passed: number[];
}

export type Owner = FetchOwner | EvictionOwner;

export interface LayerOptions {
  /** Where completions for an actor before this one can still come in: a number above all of its jobs. */
  firstJob?: number;
  /** In [0, 1), spreads retries. */
  random?: () => number;
}

const EIO = 5;

export class LayerInside {
  readonly states: Uint8Array;
  readonly blocks: BlockMap;
  readonly limits: LayerLimits;
  readonly reads = new ReadQueue();
  /** By span; a span that is not here has no owner. */
  readonly owners = new Map<number, Owner>();
  readonly jobs = new Map<number, FetchOwner>();
  readonly jobSilence = new TimerQueue<number>();
  readonly evictions = new Map<number, EvictionOwner>();
  readonly retries: Retries;
  readonly stall: Stall;
  readonly promises: Promises;
  readonly prefetcher: Prefetcher;
  prefetchRunning = 0;
  /** Present, and not handed out for the log. */
  readonly unlogged: BlockSet;
  readonly counters: LayerCounters = {
    hits: 0,
    misses: 0,
    errors: 0,
    demandJobs: 0,
    prefetchJobs: 0,
    retries: 0,
    lateBlocks: 0,
    bytes: 0,
  };
  state: LayerState = 'lazy';
  /** The first span that prefetch has left to a startup pack. */
  passed = Number.POSITIVE_INFINITY;
  nextJob: number;
  /** Jobs and packs below it that have ended may speak of bytes that were punched since. */
  fence: number;
  clock = Number.NEGATIVE_INFINITY;
  /** Of the input that is being handled, in the order in which they are to run. */
  effects: LayerEffect[] = [];

  /** Throws an Error where states, spans and blocks do not fit each other. */
  constructor(
    geometry: LayerGeometry,
    states: Uint8Array,
    limits: Partial<LayerLimits>,
    { firstJob = 1, random = () => 0 }: LayerOptions,
  ) {
    this.states = states;
    this.blocks = new BlockMap(geometry, states);
    this.limits = { ...LAYER_LIMITS, ...limits };
    this.retries = new Retries(this.limits, random);
    this.promises = new Promises(geometry.blockCount, this.limits.promiseSilenceMs);
    this.stall = new Stall(this.limits.readDeadlineMs, this.limits.stallMs);
    this.nextJob = firstJob;
    this.fence = firstJob;
    this.unlogged = new BlockSet(geometry.blockCount);
    this.prefetcher = new Prefetcher(geometry.spanCount, (span) => this.blocks.size(span), {
      batchSpans: this.limits.prefetchBatchSpans,
      batchSpansAround: this.limits.prefetchBatchSpansAround,
      aroundMs: this.limits.prefetchAroundMs,
      inFlight: this.limits.prefetchInFlight,
      aimedInFlight: this.limits.aimedInFlight,
      inOrderInFlight: this.limits.inOrderInFlight,
      aimedBlocks: this.limits.aimedBlocks,
      aimedRuns: this.limits.aimedRuns,
      alongBlocks: this.limits.alongBlocks,
      gapBlocks: this.limits.gapBlocks,
      pauseMs: this.limits.prefetchPauseMs,
      pauseMaxMs: this.limits.prefetchPauseMaxMs,
    });
  }

  emit(effect: LayerEffect): void {
    this.effects.push(effect);
  }

  /** False, and nothing changes, where the layer's life does not allow it. */
  move(step: LayerStep): boolean {
    const next = nextLayerState(this.state, step);
    if (next === undefined) return false;
    this.state = next;
    return true;
  }

  /** Answers a read with EIO. */
  refuse(id: number, reason: ReadFailure): void {
    this.counters.errors += 1;
    this.emit({ type: 'answer', id, errno: EIO, reason });
  }

  /** Refuses the reads that wait for a block of the span, and no others. */
  giveUp(span: number, reason: ReadFailure): void {
    if (!this.reads.touches(span)) return;
    for (let block = this.blocks.start(span); block < this.blocks.end(span); block++) {
      for (const id of this.reads.takeWaiting(block)) this.refuse(id, reason);
    }
  }

  /** Whether a read waits for a block of the span. */
  isWanted(span: number): boolean {
    if (!this.reads.touches(span)) return false;
    for (let block = this.blocks.start(span); block < this.blocks.end(span); block++)
      if (this.reads.waitsFor(block)) return true;
    return false;
  }

  /** The runs as far as they lie in the layer. */
  inside(runs: readonly BlockRun[]): BlockRun[] {
    return cutAll(runs, this.blocks.blockCount);
  }

  stepSpan(span: number, event: BlockEvent): void {
    for (let block = this.blocks.start(span); block < this.blocks.end(span); block++)
      this.blocks.step(span, block, event);
  }

  /**
   * Makes the blocks present, and answers the reads that waited for them. `log`: the log does not know them yet. Returns how
   * many were not present before. Blocks that are being evicted stay absent.
   */
  fill([first, count]: BlockRun, event: BlockEvent, log: boolean): number {
    const end = first + count;
    let became = 0;
    for (let block = first; block < end; ) {
      const span = this.blocks.spanOf(block);
      const spanEnd = Math.min(end, this.blocks.end(span));
      const isLeaving = this.owners.get(span)?.kind === 'evict';
      for (; block < spanEnd; block++) {
        if (isLeaving || !this.blocks.step(span, block, event)) continue;
        became += 1;
        if (event === BlockEvent.FETCHED) this.stall.arrived(this.clock);
        if (log) this.unlogged.add(block);
        this.promises.kept(block);
        for (const id of this.reads.arrived(block)) this.emit({ type: 'answer', id, errno: 0 });
      }
      if (this.blocks.isComplete(span)) this.retries.forgive(span);
    }
    return became;
  }
}
