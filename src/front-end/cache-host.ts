/**
 * The cache of a node, in the front end: measures what the layer devices take, lets actors/cache.ts choose what goes, and
 * has it go. Open layers evict through their host (layer-host.ts); those that are closed have no reader and no actor, so
 * their part is done here. One layer is never opened, closed and evicted from at the same time: `whileIdle`.
 *
 * A disk that cannot punch holes keeps a device as a whole or not at all: then devices go whose layer is not in use.
 */
import { statfsSync } from 'node:fs';
import { open, readlink, realpath, rm, stat, statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Logger } from 'pino';
import {
  CACHE_LIMITS,
  type CacheLayer,
  type CacheLimits,
  type CacheNeed,
  type CacheUse,
  cachePressure,
  isDiskLow,
  type EvictionPlan,
  planEviction,
  TICK_MS,
} from '../../actors/cache.ts';
import { type BlockRun, pairsOf } from '../../actors/ranges.ts';
import type { CacheStatus } from '../../schemas/api.ts';
import { type ErrorCode, toErrorRecord } from '../../schemas/errors.ts';
import type { CacheNeeds, CollectReply, FrontNotice, LayerUse } from '../../schemas/front.ts';
import { punchHole } from '../kernel/holes.ts';
import { backingFiles, loopReads } from '../kernel/loop.ts';
import { treeBytes } from '../store/disk-use.ts';
import type { LayerLog } from '../store/layer-log.ts';
import type { Layout } from '../store/layout.ts';
import type { Conditions } from '../process/conditions.ts';
import type { Clock, Timer } from '../process/ports.ts';
import type { EvictionReason, LayerHost } from './layer-host.ts';
import { presentIn, SpanUse, type SpanMemory, unknownSpans } from './span-use.ts';
import type { SpanTable } from '../image/span-table.ts';

export interface CacheHostOptions {
  layout: Layout;
  /** Bytes; undefined: what the disk has. */
  limit: number | undefined;
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

/** The disk keeps so much free: this share of it, at most so many bytes. */
const RESERVE_SHARE = 0.05;
const RESERVE_MAX = 2 * 2 ** 30;
const LOOK_MS = 1_000;
/** Between two looks that fetches ask for. */
const LOOK_PAUSE_MS = 50;
/** Metadata and closed devices are measured anew after this. */
const MEASURE_MS = 10_000;
/** What is read so soon after a layer was opened belongs to a start. */
const START_MS = 10_000;
const OFFER_TICKS = 50;
/** Layers that are evicted from side by side. */
const AT_ONCE = 4;
/** A look gives up after so many rounds; the next one goes on. */
const MOST_ROUNDS = 8;

export class CacheHost {
  readonly #options: CacheHostOptions;
  #limits: CacheLimits = CACHE_LIMITS;
  #needs: { mounts: ReadonlySet<string>; images: ReadonlySet<string> } | undefined;
  /** Of layers that are closed. */
  readonly #memories = new Map<string, SpanMemory>();
  readonly #closedBytes = new Map<string, number>();
  readonly #openBytes = new Map<string, number>();
  readonly #busy = new Map<string, Promise<unknown>>();
  /** Handed-over devices: reads of their loops when last looked, and the tick at which they had grown. */
  readonly #loops = new Map<string, { reads: number; seen: number; since: number }>();
  /** Layers whose start goes on: since which tick. */
  readonly #starts = new Map<LayerHost, number>();
  #metadataBytes = 0;
  #measuredAt = Number.NEGATIVE_INFINITY;
  #free = Number.POSITIVE_INFINITY;
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
    this.#timers.push(options.clock.every(TICK_MS, () => this.#turnClocks()));
  }

  /** Every layer that the kernel knows is open again: from now on something may go. */
  async start(): Promise<void> {
    if (this.#timers.length > 1 || this.#stopped) return;
    const { blocks, bsize } = await statfs(this.#options.layout.root);
    const limit = this.#options.limit ?? Number.POSITIVE_INFINITY;
    const reserve = Math.min(blocks * bsize * RESERVE_SHARE, RESERVE_MAX);
    this.#limits = { ...CACHE_LIMITS, limit, reserve };
    this.#timers.push(this.#options.clock.every(LOOK_MS, () => void this.look()));
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    for (const timer of this.#timers) timer.cancel();
    this.#lookAgain?.cancel();
    await this.#looking?.catch(() => {});
    await Promise.allSettled(this.#busy.values());
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
    this.#closedBytes.delete(diffId);
    // One that a new front end opens again was started long ago.
    if (this.#timers.length > 1) this.#starts.set(layer, this.#tick());
    if (!this.#prefetching) layer.holdPrefetch(true);
  }

  /** The layer is about to be closed. */
  layerClosing(diffId: string, layer: LayerHost): void {
    this.#endStart(layer);
    this.#memories.set(diffId, layer.use.memory());
    this.#openBytes.delete(diffId);
    this.#loops.delete(diffId);
  }

  /** A fetch began, or failed with `code`. */
  readonly onFetch = (code?: ErrorCode): void => {
    if (code === 'no-space') this.#isFull = true;
    else if (this.#estimate() <= this.#limits.limit * this.#limits.high) return;
    this.#lookSoon();
  };

  set needs(needs: CacheNeeds) {
    this.#needs = { mounts: new Set(needs.mounts), images: new Set(needs.images) };
  }

  /** Whether nothing has to go soon: only then a device is handed over to the kernel. */
  get hasRoom(): boolean {
    const { limit, low } = this.#limits;
    return this.#estimate() <= limit * low && !isDiskLow(this.#free, this.#limits);
  }

  /** Does `work` when nothing else is being done with the layer's files; later callers wait for it. */
  whileIdle<T>(diffId: string, work: () => Promise<T>): Promise<T> {
    const before = this.#busy.get(diffId) ?? Promise.resolve();
    const mine = before.catch(() => {}).then(work);
    this.#busy.set(diffId, mine);
    const done = () => {
      if (this.#busy.get(diffId) === mine) this.#busy.delete(diffId);
    };
    mine.then(done, done);
    return mine;
  }

  async status(): Promise<CacheStatus> {
    await this.#measure();
    const { limit, reserve } = this.#limits;
    return {
      usedBytes: this.#estimate(),
      metadataBytes: this.#metadataBytes,
      limitBytes: Number.isFinite(limit) ? limit : null,
      freeBytes: this.#free,
      reserveBytes: reserve,
      evictedBytes: this.#evictedBytes,
      prefetch: this.#prefetching,
    };
  }

  /** What each layer takes on the disk, and when it was used last, ms ago; for who chooses images to remove. */
  async layerUses(): Promise<LayerUse[]> {
    await this.#measure(true);
    const now = this.#tick();
    return this.#view().map((layer) => ({
      diffId: layer.id,
      bytes: this.#openBytes.get(layer.id) ?? this.#closedBytes.get(layer.id) ?? 0,
      idleMs: (now - Math.max(layer.seen, lastOf(layer))) * TICK_MS,
    }));
  }

  /** Makes what is needed go, as long as it can. Calls that overlap are one. */
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
   * for it. Returns the bytes that went; with `dryRun` those that would.
   */
  async shrink(order: { keep: number; dryRun: boolean }): Promise<number> {
    const limits = { ...this.#limits, startupShare: 1 };
    let total = 0;
    for (let round = 0; round < SHRINK_ROUNDS && !this.#stopped; round++) {
      await this.#measure(true);
      const need = this.#estimate() - order.keep;
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
      if (bytes === 0 && plan.takeBack.length === 0) break;
      if (bytes === 0) await this.#options.clock.sleep(TAKE_BACK_MS);
    }
    return total;
  }

  /**
   * Removes every layer that is not among `needed` and that nobody uses: its events end, its files go. Returns what
   * went. `dryRun`: what would.
   */
  async collect(order: { needed: readonly string[]; dryRun: boolean }): Promise<CollectReply> {
    const { facts, isInUse } = this.#options;
    const needed = new Set(order.needed);
    await this.#measure(true);
    const removed: CollectReply = { layers: [], bytes: 0 };
    for (const diffId of facts.layers.keys()) {
      if (needed.has(diffId) || isInUse(diffId)) continue;
      const bytes = this.#closedBytes.get(diffId) ?? 0;
      if (!order.dryRun && !(await this.whileIdle(diffId, () => this.#remove(diffId)))) continue;
      removed.layers.push(diffId);
      removed.bytes += bytes;
    }
    return removed;
  }

  // ── Measuring ──

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

  /** Bytes in use, those of fetches under way included; as exact as the last measurement. */
  #estimate(): number {
    let bytes = this.#metadataBytes;
    for (const closed of this.#closedBytes.values()) bytes += closed;
    for (const [diffId, layer] of this.#options.opened)
      bytes += Math.max(layer.blockBytes, this.#openBytes.get(diffId) ?? 0);
    return bytes;
  }

  /** Open devices each time; what changes slowly now and then, or with `all`. */
  async #measure(all = false): Promise<void> {
    const { layout, facts, opened, clock } = this.#options;
    // Not on the pool of threads, where these would wait behind syncs of the very devices that are to shrink.
    const { bavail, bsize } = statfsSync(layout.root);
    this.#free = bavail * bsize;
    for (const [diffId, layer] of opened) this.#openBytes.set(diffId, layer.diskBytes);
    if (all || clock.now() - this.#measuredAt > MEASURE_MS) {
      this.#measuredAt = clock.now();
      const folders = ['spans', 'tocs', 'images'].map((name) => treeBytes(layout.in(name)));
      this.#metadataBytes = (await Promise.all(folders)).reduce((sum, bytes) => sum + bytes, 0);
      for (const diffId of this.#closedBytes.keys())
        if (!facts.layers.has(diffId)) this.#closedBytes.delete(diffId);
      this.#closedBytes.clear();
    }
    for (const diffId of facts.layers.keys()) {
      if (opened.has(diffId) || this.#closedBytes.has(diffId)) continue;
      const bytes = await stat(layout.device(diffId)).then(
        ({ blocks }) => blocks * 512,
        () => 0,
      );
      if (!opened.has(diffId)) this.#closedBytes.set(diffId, bytes);
    }
  }

  /** Handed-over devices show by their loops alone that they are read. */
  async #watchLoops(): Promise<void> {
    const { layout, opened } = this.#options;
    const direct = [...opened].filter(([, layer]) => layer.isDirect);
    for (const diffId of this.#loops.keys()) {
      if (opened.get(diffId)?.isDirect !== true && this.#loops.get(diffId)?.reads !== -1)
        this.#loops.set(diffId, { reads: -1, seen: 0, since: this.#tick() });
    }
    if (direct.length === 0) return;
    const loops = backingFiles();
    const root = await realpath(layout.root);
    for (const [diffId, layer] of direct) {
      const path = layout.device(diffId).replace(layout.root, root);
      const counts = await Promise.all((loops.get(path) ?? []).map((number) => loopReads(number)));
      const reads = counts.reduce<number>((sum, count) => sum + (count ?? 0), 0);
      const tick = this.#tick();
      const known = this.#loops.get(diffId);
      if (!layer.isDirect) continue;
      if (known === undefined || known.reads === -1)
        this.#loops.set(diffId, { reads, seen: tick, since: tick });
      else if (known.reads !== reads) this.#loops.set(diffId, { ...known, reads, seen: tick });
    }
  }

  /** The layers as the decision needs them. */
  #view(): CacheLayer[] {
    const { facts, opened } = this.#options;
    const layers: CacheLayer[] = [];
    for (const [id, known] of facts.layers) {
      const need = this.#needOf(id);
      const layer = opened.get(id);
      const loop = this.#loops.get(id);
      const { seen = 0, since = 0 } = loop ?? {};
      if (layer !== undefined) {
        const direct = layer.isDirect;
        layers.push({ id, need: 'mount', ...layer.spans, direct, seen: direct ? seen : 0, since });
        continue;
      }
      if (known.presentCount === 0 || this.#options.isInUse(id)) continue;
      const remembered = this.#memories.get(id);
      const spans =
        remembered?.starts.at(-1) === known.blockCount ? remembered : unknownSpans(known.blockCount);
      const present = presentIn(spans.starts, known.present, 1);
      layers.push({
        id,
        need,
        blockSize: known.blockSize,
        ...spans,
        present,
        direct: false,
        seen: 0,
        since: 0,
      });
    }
    return layers;
  }

  #needOf(diffId: string): CacheNeed {
    if (this.#needs === undefined || this.#needs.mounts.has(diffId)) return 'mount';
    return this.#needs.images.has(diffId) ? 'image' : 'none';
  }

  // ── Evicting ──

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
      await this.#measure();
      await this.#watchLoops();
      const use = this.#use();
      const pressure = cachePressure(use, this.#limits, this.#prefetching);
      this.#turnPrefetch(pressure.prefetch && !this.#isFull);
      const atLeast = this.#isFull ? FULL_BYTES : 0;
      const need = Math.max(pressure.need, atLeast);
      const ofMounted = Math.max(pressure.ofMounted, atLeast);
      const urgency = this.#isFull ? 'flooded' : pressure.urgency;
      this.#isFull = false;
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
    const [used, free] = [this.#estimate(), this.#free];
    const isLow = isDiskLow(free, this.#limits);
    const held = [...this.#openBytes.values(), ...this.#closedBytes.values()].reduce(
      (sum, one) => sum + one,
      0,
    );
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
    for (const layer of this.#options.opened.values()) layer.holdPrefetch(!on);
  }

  async #carryOut({ evict, takeBack }: EvictionPlan, reason: EvictionReason): Promise<number> {
    for (const diffId of takeBack) this.#options.notify({ kind: 'take-back', diffId });
    const waiting = [...evict];
    let total = 0;
    const run = async () => {
      for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
        const bytes = await this.evict(next[0], next[1], reason);
        this.#evictedBytes += bytes;
        total += bytes;
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, run));
    return total;
  }

  /** Takes blocks out of a layer, open or not, as far as nobody needs them just now. Returns the bytes that went. */
  async evict(diffId: string, ranges: readonly BlockRun[], reason: EvictionReason): Promise<number> {
    try {
      const layer = this.#options.opened.get(diffId);
      if (layer !== undefined) return await layer.evict(ranges, reason);
      if (this.#options.isInUse(diffId)) return 0;
      return await this.whileIdle(diffId, () => this.#evictClosed(diffId, ranges, reason));
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

  async #evictClosed(diffId: string, ranges: readonly BlockRun[], reason: EvictionReason): Promise<number> {
    const { facts, isInUse, layout } = this.#options;
    const known = facts.layers.get(diffId);
    if (known === undefined || isInUse(diffId)) return 0;
    const file = await open(layout.device(diffId), 'r+').catch(() => undefined);
    try {
      const path = file === undefined ? undefined : await readlink(`/proc/self/fd/${file.fd}`);
      // A file system that an earlier engine left may still stand on it.
      if (path !== undefined && backingFiles().has(path)) return 0;
      await facts.append(diffId, { type: 'layer.evicted', ranges: pairsOf(ranges), reason });
      const before = file === undefined ? 0 : (await file.stat()).blocks;
      for (const [first, count] of ranges) {
        if (file !== undefined) await punchHole(file.fd, first * known.blockSize, count * known.blockSize);
      }
      const after = file === undefined ? 0 : (await file.stat()).blocks;
      this.#closedBytes.set(diffId, after * 512);
      return (before - after) * 512;
    } finally {
      await file?.close();
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
      plan.bytes += this.#closedBytes.get(layer.id) ?? 0;
      void this.whileIdle(layer.id, () => this.#dropDevice(layer.id)).catch((error: unknown) =>
        this.#options.log.warn({ layer: layer.id, error }, 'a device stays'),
      );
    }
    return plan;
  }

  async #dropDevice(diffId: string): Promise<void> {
    const { facts, isInUse, layout } = this.#options;
    const known = facts.layers.get(diffId);
    if (known === undefined || isInUse(diffId)) return;
    await facts.append(diffId, { type: 'layer.evicted', ranges: [[0, known.blockCount]], reason: 'limit' });
    await rm(layout.device(diffId), { force: true });
    this.#closedBytes.set(diffId, 0);
  }

  /** The event first: files without a fact are swept, a fact without its files would be believed. */
  async #remove(diffId: string): Promise<boolean> {
    const { facts, isInUse, layout } = this.#options;
    if (isInUse(diffId) || !facts.layers.has(diffId)) return false;
    await facts.append(diffId, { type: 'layer.removed' });
    this.#memories.delete(diffId);
    this.#closedBytes.delete(diffId);
    // Whoever still has it open, such as a loop of an earlier engine, keeps what it has.
    await rm(dirname(layout.device(diffId)), { recursive: true, force: true });
    return true;
  }
}

/** What goes when a fetch found the disk full, whatever the disk says: others take what is freed. */
const FULL_BYTES = 16 * 2 ** 20;
const SHRINK_ROUNDS = 20;
/** A device is taken back within this, ms. */
const TAKE_BACK_MS = 200;

const lastOf = (layer: CacheLayer): number =>
  Array.from(layer.lastUse).reduce((last, use) => Math.max(last, use), 0);

/** Startup spans count as not present. */
function withoutStartup(layer: CacheLayer): CacheLayer {
  const present = Array.from(layer.present, (count, span) => (layer.startup[span] === 1 ? 0 : count));
  return { ...layer, present };
}

function directBytes(layers: readonly CacheLayer[], { takeBack }: EvictionPlan): number {
  return layers
    .filter(({ id }) => takeBack.includes(id))
    .reduce(
      (sum, layer) =>
        sum + Array.from(layer.present).reduce((blocks, count) => blocks + count, 0) * layer.blockSize,
      0,
    );
}
