/**
 * The cache of a node, in the front end: measures what the layer devices take (cache-sizes.ts), lets actors/cache.ts choose
 * what is evicted, and evicts it. Open layers evict through their host (layer-host.ts), closed-layers.ts from those that
 * are closed.
 *
 * A disk that cannot punch holes keeps a device as a whole or not at all: then devices are removed whose layer is closed.
 */
import type { Logger } from 'pino';
import {
  CACHE_LIMITS,
  type CacheLayer,
  type CacheLimits,
  type CacheUse,
  cachePressure,
  isDiskLow,
  type EvictionPlan,
  planEviction,
  TICK_MS,
  windowOf,
} from '../../actors/cache.ts';
import type { BlockRun } from '../../actors/ranges.ts';
import type { CacheStatus } from '../../schemas/api.ts';
import { type ErrorCode, toErrorRecord } from '../../schemas/errors.ts';
import type { CacheNeeds, CollectReply, FrontNotice, LayerUse } from '../../schemas/front.ts';
import { diskBytes, diskReserve } from '../store/disk-room.ts';
import type { LayerLog } from '../store/layer-log.ts';
import type { Layout } from '../store/layout.ts';
import type { Conditions } from '../process/conditions.ts';
import type { Clock, Timer } from '../process/ports.ts';
import { CacheSizes } from './cache-sizes.ts';
import { directBytes, lastOf, type NeededLayers, viewLayers, withoutStartup } from './cache-view.ts';
import { ClosedLayers } from './closed-layers.ts';
import type { EvictionReason, LayerHost } from './layer-host.ts';
import { LoopReads } from './loop-reads.ts';
import { SpanUse, type SpanMemory } from './span-use.ts';
import type { SpanTable } from '../image/span-table.ts';

export interface CacheHostOptions {
  layout: Layout;
  /** Bytes; undefined: what the disk has. */
  limit: number | undefined;
  /** Percent of the disk: with less free, what no mount uses leaves; 0: the reserve alone counts. */
  keepFree: number;
  facts: LayerLog;
  /** Layers that are open. */
  opened: ReadonlyMap<string, LayerHost>;
  /** Whether the layer is open, opening or closing. */
  isInUse: (diffId: string) => boolean;
  conditions: Conditions;
  log: Logger;
  clock: Clock;
  notify: (notice: FrontNotice) => void;
}

const LOOK_MS = 1_000;
/** Between two looks that fetches ask for. */
const LOOK_PAUSE_MS = 50;
/** What is read so soon after a layer was opened belongs to a start. */
const START_MS = 10_000;
const OFFER_TICKS = 50;
/** Layers that are evicted from side by side. */
const AT_ONCE = 4;
/** A look gives up after so many rounds; the next one continues. */
const MOST_ROUNDS = 8;

export class CacheHost {
  readonly #options: CacheHostOptions;
  #limits: CacheLimits = CACHE_LIMITS;
  #needs: NeededLayers | undefined;
  /** Of layers that are closed. */
  readonly #memories = new Map<string, SpanMemory>();
  readonly #sizes: CacheSizes;
  readonly #closed: ClosedLayers;
  readonly #loops: LoopReads;
  /** Layers whose start is not over: since which tick. */
  readonly #starts = new Map<LayerHost, number>();
  #evictedBytes = 0;
  #prefetching = true;
  #canPunch = true;
  /** A fetch found the disk full. */
  #isFull = false;
  /** The least that the devices held since the disk is low, bytes. */
  #heldAtLow = Number.POSITIVE_INFINITY;
  #looking: Promise<void> | undefined;
  #lookAgain: Timer | undefined;
  #lastLook = Number.NEGATIVE_INFINITY;
  readonly #timers: Timer[] = [];
  #stopped = false;
  #offeredAt = 0;

  constructor(options: CacheHostOptions) {
    this.#options = options;
    this.#sizes = new CacheSizes(options);
    this.#closed = new ClosedLayers(options, this.#sizes);
    this.#loops = new LoopReads(options, () => this.#tick());
    this.#timers.push(options.clock.every(TICK_MS, () => this.#turnClocks()));
  }

  /** Every layer that the kernel knows is open again: from now on something may go. */
  async start(): Promise<void> {
    if (this.#timers.length > 1 || this.#stopped) return;
    const { limit = Number.POSITIVE_INFINITY, keepFree, layout } = this.#options;
    const reserve = diskReserve(layout.root);
    this.#limits = { ...CACHE_LIMITS, limit, reserve, spare: (diskBytes(layout.root) * keepFree) / 100 };
    this.#timers.push(this.#options.clock.every(LOOK_MS, () => void this.look()));
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    for (const timer of this.#timers) timer.cancel();
    this.#lookAgain?.cancel();
    await this.#looking?.catch(() => {});
    await this.#closed.idle();
  }

  /** Uses of a layer that is about to be opened. */
  useOf(diffId: string, table: SpanTable): SpanUse {
    const use = new SpanUse(table, this.#memories.get(diffId));
    use.time = this.#tick();
    return use;
  }

  /** The layer is open. */
  layerOpened(diffId: string, layer: LayerHost): void {
    this.#memories.delete(diffId);
    this.#sizes.forgetClosed(diffId);
    // One that a new front end opens again was started long ago.
    if (this.#timers.length > 1) this.#starts.set(layer, this.#tick());
    if (!this.#prefetching) layer.holdPrefetch(windowOf(this.#limits));
  }

  /** The layer is about to be closed. */
  layerClosing(diffId: string, layer: LayerHost): void {
    this.#endStart(layer);
    this.#memories.set(diffId, layer.use.memory());
    this.#sizes.forgetOpen(diffId);
    this.#loops.forget(diffId);
  }

  /** A fetch began, or failed with `code`. */
  readonly onFetch = (code?: ErrorCode): void => {
    if (code === 'no-space') this.#isFull = true;
    else if (this.#sizes.usedBytes <= this.#limits.limit * this.#limits.high) return;
    this.#lookSoon();
  };

  set needs(needs: CacheNeeds) {
    this.#needs = { mounts: new Set(needs.mounts), images: new Set(needs.images) };
  }

  /** Whether nothing has to go soon: only then a device is handed over to the kernel. */
  get hasRoom(): boolean {
    const { limit, low } = this.#limits;
    return this.#sizes.usedBytes <= limit * low && !isDiskLow(this.#sizes.freeBytes, this.#limits);
  }

  /** Does `work` when nothing else is being done with the layer's files; later callers wait for it. */
  whileIdle<T>(diffId: string, work: () => Promise<T>): Promise<T> {
    return this.#closed.whileIdle(diffId, work);
  }

  async status(): Promise<CacheStatus> {
    await this.#sizes.measure();
    const { limit, reserve } = this.#limits;
    return {
      usedBytes: this.#sizes.usedBytes,
      metadataBytes: this.#sizes.metadataBytes,
      limitBytes: Number.isFinite(limit) ? limit : null,
      freeBytes: this.#sizes.freeBytes,
      reserveBytes: reserve,
      evictedBytes: this.#evictedBytes,
      prefetch: this.#prefetching,
    };
  }

  /** What each layer takes on the disk, and when it was used last, ms ago; for who chooses images to remove. */
  async layerUses(): Promise<LayerUse[]> {
    await this.#sizes.measure(true);
    const now = this.#tick();
    return this.#view().map((layer) => ({
      diffId: layer.id,
      bytes: this.#sizes.of(layer.id),
      idleMs: (now - Math.max(layer.seen, lastOf(layer))) * TICK_MS,
    }));
  }

  /** Evicts as much as the limits want, as long as it can. Calls that overlap are one. */
  look(): Promise<void> {
    this.#looking ??= this.#look()
      .catch((error: unknown) => this.#options.log.error({ error }, 'the cache was not looked after'))
      .finally(() => {
        this.#looking = undefined;
        this.#lastLook = this.#options.clock.now();
      });
    return this.#looking;
  }

  /**
   * Evicts down to `keep` bytes, startup spans of mounted images excepted; devices that the kernel reads are taken back
   * for it, and layers that are being verified are waited for. Returns the bytes that went; with `dryRun` those that would.
   */
  async shrink(order: { keep: number; dryRun: boolean }): Promise<number> {
    const { clock } = this.#options;
    const limits = { ...this.#limits, startupShare: 1 };
    const patient = clock.now() + SHRINK_WAIT_MS;
    let total = 0;
    for (let rounds = 0; rounds < SHRINK_ROUNDS && !this.#stopped; ) {
      await this.#sizes.measure(true);
      const need = this.#sizes.usedBytes - order.keep;
      if (need <= 0) break;
      const layers = this.#view().map((layer) => withoutStartup(layer));
      const plan = planEviction(
        layers,
        { need, ofMounted: need, urgency: 'flooded', now: this.#tick() },
        limits,
      );
      if (order.dryRun) return plan.bytes + directBytes(layers, plan);
      const bytes = await this.#carryOut(plan, 'prune');
      total += bytes;
      if (bytes > 0) rounds += 1;
      else if (this.#mayGiveLater(plan) && clock.now() < patient) await clock.sleep(LATER_MS);
      else break;
    }
    return total;
  }

  /**
   * Removes every layer that is neither among `needed` nor in use: its events end, its files are deleted. Returns what
   * was removed; with `dryRun` what would be.
   */
  async collect(order: { needed: readonly string[]; dryRun: boolean }): Promise<CollectReply> {
    const { facts, isInUse } = this.#options;
    const needed = new Set(order.needed);
    // What the supervisor has said later counts as well.
    const before = this.#needs;
    const isNeeded = (diffId: string) =>
      needed.has(diffId) ||
      (this.#needs !== before &&
        (this.#needs?.mounts.has(diffId) === true || this.#needs?.images.has(diffId) === true));
    await this.#sizes.measure(true);
    const removed: CollectReply = { layers: [], bytes: 0 };
    const unneeded = [...facts.layers.keys()].filter((diffId) => !isNeeded(diffId) && !isInUse(diffId));
    const chosen = unneeded.map((diffId) => ({
      diffId,
      device: this.#closed.deviceOf(diffId),
      isUnused: this.#unusedSince(diffId),
    }));
    for (const { diffId, device, isUnused } of chosen) {
      const bytes = this.#sizes.closed(diffId);
      if (!order.dryRun) {
        const isStill = () => isUnused() && !isNeeded(diffId);
        if (!(await this.#closed.remove(diffId, device, isStill))) continue;
        this.#memories.delete(diffId);
      }
      removed.layers.push(diffId);
      removed.bytes += bytes;
    }
    return removed;
  }

  #tick(): number {
    return 1 + Math.floor(this.#options.clock.now() / TICK_MS);
  }

  #turnClocks(): void {
    const tick = this.#tick();
    for (const layer of this.#options.opened.values()) layer.use.time = tick;
    for (const [layer, since] of this.#starts) if (tick - since > START_MS / TICK_MS) this.#endStart(layer);
  }

  #endStart(layer: LayerHost): void {
    const since = this.#starts.get(layer);
    if (since === undefined) return;
    this.#starts.delete(layer);
    layer.use.markReadSince(since);
  }

  /** The layers as the decision needs them. */
  #view(): CacheLayer[] {
    return viewLayers({
      ...this.#options,
      needs: this.#needs,
      memories: this.#memories,
      loopOf: (diffId) => this.#loops.of(diffId),
    });
  }

  #lookSoon(): void {
    if (this.#stopped || this.#timers.length < 2 || this.#lookAgain !== undefined) return;
    const { clock } = this.#options;
    const wait = Math.max(0, LOOK_PAUSE_MS - (clock.now() - this.#lastLook));
    this.#lookAgain = clock.after(wait, () => {
      this.#lookAgain = undefined;
      void this.look();
    });
  }

  async #look(): Promise<void> {
    // Nothing may go before the log knows.
    if (this.#options.conditions.has('nats')) return;
    for (let round = 0; round < MOST_ROUNDS && !this.#stopped; round++) {
      await this.#sizes.measure();
      const use = this.#use();
      const pressure = cachePressure(use, this.#limits, this.#prefetching);
      this.#turnPrefetch(pressure.prefetch && !this.#isFull);
      const atLeast = this.#isFull ? FULL_BYTES : 0;
      const need = Math.max(pressure.need, atLeast);
      const ofMounted = Math.max(pressure.ofMounted, atLeast);
      const urgency = this.#isFull ? 'flooded' : pressure.urgency;
      this.#isFull = false;
      await this.#loops.look(need > 0);
      if (need === 0) {
        this.#options.conditions.clear('cache');
        this.#offer();
        return;
      }
      const order = { need, ofMounted, urgency, now: this.#tick() };
      const plan = planEviction(this.#view(), order, this.#limits);
      const bytes = await this.#carryOut(this.#canPunch ? plan : this.#wholeDevices(need), 'limit');
      if (urgency !== 'calm' && bytes === 0 && plan.takeBack.length === 0) this.#sayFull(use);
      if (bytes === 0) return;
    }
  }

  /** What has not arrived yet has not grown: for a fetch that fails, something would have gone for nothing. */
  #use(): CacheUse {
    const { usedBytes: used, freeBytes: free, heldBytes: held } = this.#sizes;
    const isLow = isDiskLow(free, this.#limits);
    this.#heldAtLow = isLow ? Math.min(this.#heldAtLow, held) : Number.POSITIVE_INFINITY;
    return { used, free, grown: isLow ? held - this.#heldAtLow : 0 };
  }

  /** Devices that were not handed over for want of room may be now. */
  #offer(): void {
    if (!this.hasRoom || this.#tick() - this.#offeredAt < OFFER_TICKS) return;
    this.#offeredAt = this.#tick();
    for (const layer of this.#options.opened.values()) layer.offer();
  }

  #sayFull({ used, free }: CacheUse): void {
    const { limit, reserve } = this.#limits;
    const what =
      used > limit
        ? `the cache holds ${used} bytes, its limit is ${limit}, and nothing of it can go now`
        : `the disk of ${this.#options.layout.root} has ${free} bytes left, ${reserve} are to stay free, and the cache has nothing that no mount needs`;
    this.#options.conditions.set('cache', what);
  }

  #turnPrefetch(on: boolean): void {
    if (on === this.#prefetching) return;
    this.#prefetching = on;
    const heldTo = on ? undefined : windowOf(this.#limits);
    for (const layer of this.#options.opened.values()) layer.holdPrefetch(heldTo);
  }

  async #carryOut({ evict, takeBack }: EvictionPlan, reason: EvictionReason): Promise<number> {
    for (const diffId of takeBack) this.#options.notify({ kind: 'take-back', diffId });
    const waiting = Array.from(
      evict,
      ([diffId, ranges]) => [diffId, ranges, this.#unusedSince(diffId)] as const,
    );
    let total = 0;
    const run = async () => {
      for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
        const [diffId, ranges, isUnused] = next;
        const bytes = await this.evict(diffId, ranges, reason, isUnused);
        this.#evictedBytes += bytes;
        total += bytes;
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, run));
    return total;
  }

  /** Whether a plan that gave nothing may give something in a moment. */
  #mayGiveLater({ evict, takeBack }: EvictionPlan): boolean {
    const isVerifying = (diffId: string) => this.#options.opened.get(diffId)?.isVerifying === true;
    return takeBack.length > 0 || Array.from(evict.keys()).some(isVerifying);
  }

  /**
   * Asked in the same turn in which something of a closed layer was chosen: whether no client has opened the layer since. What it has
   * read then was not known to the choice.
   */
  #unusedSince(diffId: string): () => boolean {
    const memory = this.#memories.get(diffId);
    return () => this.#memories.get(diffId) === memory;
  }

  /**
   * Takes blocks out of a layer, open or not, as far as no read and no fetch needs them just now; of a layer that is closed by the time
   * of its turn only while `isStill`. Returns the evicted bytes.
   */
  async evict(
    diffId: string,
    ranges: readonly BlockRun[],
    reason: EvictionReason,
    isStill: () => boolean = () => true,
  ): Promise<number> {
    try {
      const layer = this.#options.opened.get(diffId);
      if (layer !== undefined) return await layer.evict(ranges, reason);
      if (this.#options.isInUse(diffId)) return 0;
      return await this.#closed.evict(diffId, ranges, reason, isStill);
    } catch (error) {
      const { code, message } = toErrorRecord(error);
      if (code === 'unsupported' && this.#canPunch) {
        this.#canPunch = false;
        this.#options.conditions.set('cache-holes', `${message}: only devices that are not in use can go`);
      }
      this.#options.log.warn({ layer: diffId, error }, 'not evicted');
      return 0;
    }
  }

  /** Where no holes can be punched: whole devices of layers that are closed, the longest unused first. */
  #wholeDevices(need: number): EvictionPlan {
    const plan: EvictionPlan = { evict: new Map(), takeBack: [], bytes: 0 };
    const closed = this.#view()
      .filter(({ id }) => !this.#options.opened.has(id))
      .map((layer) => ({ layer, last: lastOf(layer) }))
      .sort((a, b) => a.last - b.last);
    for (const { layer } of closed) {
      if (plan.bytes >= need) break;
      plan.bytes += this.#sizes.closed(layer.id);
      this.#closed
        .dropDevice(layer.id, this.#unusedSince(layer.id))
        .catch((error: unknown) => this.#options.log.warn({ layer: layer.id, error }, 'a device stays'));
    }
    return plan;
  }
}

/** Evicted when a fetch found the disk full, whatever the disk says: other programs take what is freed, bytes. */
const FULL_BYTES = 16 * 2 ** 20;
/** Evictions of one shrink: readers may fetch again what it evicts. */
const SHRINK_ROUNDS = 20;
/** A device is mostly taken back within this, ms; a layer of a gigabyte is verified within seconds. */
const LATER_MS = 200;
/** A shrink waits for both so long, ms: on a busy machine they take a while. */
const SHRINK_WAIT_MS = 30_000;
