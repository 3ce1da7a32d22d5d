/**
 * One layer's part of the event log. Blocks that came are synced first and then named: an event never leads its data. What the
 * log does not take waits in the actor, as one bit a block, and is named at the next try.
 */
import { LAYER_LIMITS } from '../../actors/layer.ts';
import { BlockSet } from '../../actors/block-set.ts';
import { type BlockRun, blocksOf, pairsOf } from '../../actors/ranges.ts';
import { toErrorRecord } from '../../schemas/errors.ts';
import type { Timer } from '../process/ports.ts';
import type { NewLayerEvent } from '../store/layer-log.ts';
import { type LayerCore, RETRY_APPEND_MS } from './layer-core.ts';
import type { Trace } from './trace.ts';

/** Blocks are appended to the log at most this often, ms: an event is small, a sync is not. */
const FLUSH_MS = 250;

export class LayerWriter {
  readonly #core: LayerCore;
  readonly #trace: Trace;
  #timer: Timer | undefined;
  #turn: Promise<void> = Promise.resolve();
  /** Damaged blocks that are absent here; the log has not taken their eviction yet. */
  readonly #unsaid: BlockSet;
  /** Since when something waits for a flush, and for the one that runs; monotonic, ms. */
  #dueSince: number | undefined;
  #flushingSince: number | undefined;

  constructor(core: LayerCore, trace: Trace) {
    this.#core = core;
    this.#trace = trace;
    this.#unsaid = new BlockSet(core.actor.blockCount);
  }

  /** Whether the log calls a damaged block present that is absent here. */
  get hasUnsaid(): boolean {
    return this.#unsaid.size > 0;
  }

  isUnsaid(block: number): boolean {
    return this.#unsaid.has(block);
  }

  /** The log has not taken that these damaged blocks were evicted: it is told before anything else. */
  sayLater(blocks: readonly BlockRun[]): void {
    for (const block of blocksOf(blocks)) this.#unsaid.add(block);
    this.flushSoon(RETRY_APPEND_MS);
  }

  /** Syncs what has come, then says so in the log. */
  flush(): Promise<void> {
    return this.inTurn(() => this.#flushOnce());
  }

  /** How long something has waited for the log, ms; 0: nothing does. */
  get lagMs(): number {
    const since = this.#flushingSince ?? this.#dueSince;
    return since === undefined ? 0 : Math.max(0, this.#core.now() - since);
  }

  /** A flush within so many ms. */
  flushSoon(ms = FLUSH_MS): void {
    if (this.#core.isClosed) return;
    this.#dueSince ??= this.#core.now();
    this.#timer ??= this.#core.options.clock.after(ms, () => {
      this.#timer = undefined;
      this.flush().catch((error: unknown) => {
        this.#core.options.log.warn({ layer: this.#core.diffId, error }, 'blocks wait for the log');
        this.flushSoon(RETRY_APPEND_MS);
      });
    });
  }

  /** No flush is due any more. */
  stop(): void {
    this.#timer?.cancel();
  }

  /** One after the other, so that the log's order is that of what happened. */
  inTurn(work: () => Promise<void>): Promise<void> {
    const next = this.#turn.catch(() => {}).then(work);
    this.#turn = next;
    return next;
  }

  /** Errors: those of `LayerLog.append`. */
  async append(event: NewLayerEvent): Promise<void> {
    const { facts, on } = this.#core.options;
    await facts.append(this.#core.diffId, event).catch((error: unknown) => {
      on.logged(error);
      throw error;
    });
    on.logged(undefined);
  }

  /**
   * Brings a fact into the log, behind the blocks that came before it, and tries for as long as the fact holds and the
   * layer is open. Returns whether it is in the log.
   */
  async record(event: NewLayerEvent, holds: () => boolean): Promise<boolean> {
    const { log, clock } = this.#core.options;
    for (let tries = 1; ; tries++) {
      try {
        await this.flush();
        if (!holds()) return false;
        await this.append(event);
        return true;
      } catch (error) {
        if (this.#core.isClosed) return false;
        if (tries === 1)
          log.warn({ layer: this.#core.diffId, type: event.type, error }, 'a fact waits for the log');
        await clock.sleep(RETRY_APPEND_MS);
        if (this.#core.isClosed || !holds()) return false;
      }
    }
  }

  async #flushOnce(): Promise<void> {
    this.#flushingSince = this.#dueSince;
    this.#dueSince = undefined;
    try {
      await this.#bringAll();
    } catch (error) {
      // It waits on since then.
      this.#dueSince = this.#flushingSince ?? this.#dueSince;
      throw error;
    } finally {
      this.#flushingSince = undefined;
    }
  }

  async #bringAll(): Promise<void> {
    // First: blocks that have come in the place of damaged ones are named below.
    await this.#sayDamaged();
    const appends = this.#core.take({ type: 'flush', now: this.#core.now() }, 'append');
    const pending: Array<readonly BlockRun[]> = appends.map(({ ranges }) => ranges);
    const trace = this.#trace.take();
    try {
      await this.#appendBlocks(pending);
    } catch (error) {
      if (trace !== undefined) this.#trace.putBack(trace);
      throw error;
    }
    if (trace === undefined) return;
    await this.append(trace).catch((error: unknown) => {
      // One that the log cannot hold would keep all that comes behind it from the log.
      if (toErrorRecord(error).code !== 'invalid-argument') this.#trace.putBack(trace);
      throw error;
    });
  }

  async #appendBlocks(pending: Array<readonly BlockRun[]>): Promise<void> {
    const { actor, options } = this.#core;
    let left = pending;
    try {
      if (left.length > 0) await options.layer.file.datasync();
      for (; left.length > 0; left = left.slice(1)) {
        // Some may have been evicted since. Those that are evicted from here on are named by a later append.
        const ranges = actor.loggable(left[0] ?? []);
        if (ranges.length > 0) await this.append({ type: 'layer.blocks', ranges: pairsOf(ranges) });
      }
    } catch (error) {
      this.#core.send({ type: 'append.failed', ranges: left.flat() });
      throw error;
    }
  }

  async #sayDamaged(): Promise<void> {
    const { appendRanges } = LAYER_LIMITS;
    for (let left = this.#unsaid.runs(); left.length > 0; left = left.slice(appendRanges)) {
      const blocks = left.slice(0, appendRanges);
      await this.append({ type: 'layer.evicted', ranges: pairsOf(blocks), reason: 'scrub' });
      for (const block of blocksOf(blocks)) this.#unsaid.delete(block);
    }
  }
}
