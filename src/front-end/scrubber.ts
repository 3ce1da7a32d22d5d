/**
 * Compares blocks of layer devices with their digests, in the front end: fetchers read and hash (src/fetch/scrub-job.ts),
 * and what is bad is taken out as the cache does it, so that reads fetch it again. The supervisor says what is to be
 * compared and when (scrubs.ts); here it is done for some blocks at a time.
 *
 * **A block is bad only where it was present all the time.** One that is evicted while it is read is a hole, and says nothing
 * about the disk. Everything that takes bytes away is in the log before it happens, so what the log takes meanwhile is
 * left out of the result (`onStored`).
 *
 * **Doubt.** After an unclean stop the blocks near the end of the log are compared before their layer is served, for as long
 * as a start can wait; then behind it. They are few, and no fetcher may be there yet, so this is done here: half a
 * millisecond at a time.
 */
import type { Logger } from 'pino';
import { BlockSet } from '../../actors/block-set.ts';
import type { LayerFacts } from '../../actors/node-state.ts';
import {
  addBlock,
  addBlocks,
  type BlockRun,
  blockRun,
  blockRuns,
  blocksOf,
  cutAll,
  sizeOf,
  within,
} from '../../actors/ranges.ts';
import { CofaError, fromErrorRecord, toErrorRecord } from '../../schemas/errors.ts';
import type { CofaEvent } from '../../schemas/events.ts';
import type {
  Doubt,
  FrontNotice,
  Refetch,
  RefetchReply,
  Scrub,
  Scrubbed,
  ScrubReply,
} from '../../schemas/front.ts';
import { SpanTables } from '../fetch/fetch-job.ts';
import { checkBlocks } from '../fetch/scrub-job.ts';
import type { LayerLog } from '../store/layer-log.ts';
import type { Layout } from '../store/layout.ts';
import type { CacheHost } from './cache-host.ts';
import type { Conditions } from '../process/conditions.ts';
import type { Clock } from '../process/ports.ts';
import type { FetchPool } from './fetch-pool.ts';
import type { LayerHost } from './layer-host.ts';

export interface ScrubberOptions {
  layout: Layout;
  facts: LayerLog;
  /** Layers that are open. */
  opened: ReadonlyMap<string, LayerHost>;
  pool: FetchPool;
  cache: CacheHost;
  conditions: Conditions;
  log: Logger;
  clock: Clock;
  notify: (notice: FrontNotice) => void;
}

/** A layer that is opened waits so long, ms, for the comparison of blocks in doubt. */
const OPEN_MS = 2_000;
/** Bad blocks that cannot be taken out at once are tried again, so often and after this pause, ms. */
const TRIES = 25;
const AGAIN_MS = 200;
/** Of a device that is not its layer, blocks that one fetcher compares: 16 MiB. */
const MISMATCH_BLOCKS = 256;
/** What fails for want of NATS or fetchers is tried again after this, ms. */
const LATER_MS = 2_000;

export class Scrubber {
  readonly #options: ScrubberOptions;
  /** What is being compared, by layer; blocks that are taken away meanwhile leave it. */
  readonly #watched = new Map<string, Set<BlockSet>>();
  /** Answers that are on their way: a question may be put twice. */
  readonly #running = new Map<string, Promise<ScrubReply>>();
  /** Blocks near the end of the log that have not been compared. */
  readonly #stopping = new AbortController();
  #checking: Promise<unknown> = Promise.resolve();
  readonly #doubts = new Map<string, Promise<void>>();
  /** Those that have been: by layer, which blocks. The supervisor asks again where it has not heard of that. */
  readonly #compared = new Map<string, string>();

  constructor(options: ScrubberOptions) {
    this.#options = options;
    for (const [diffId, known] of options.facts.layers) this.#sayDamage(diffId, known);
  }

  /** A record of this process is in the log. */
  readonly onStored = (diffId: string, event: CofaEvent): void => {
    if (event.type === 'layer.removed') this.#options.conditions.clear(`scrub:${diffId}`);
    if (event.type === 'layer.evicted' && event.reason === 'scrub')
      this.#sayDamage(diffId, {
        damaged: { at: event.at, bad: sizeOf(event.ranges), repaired: 0, kept: 0 },
      });
    const watched = this.#watched.get(diffId);
    if (watched === undefined) return;
    for (const blocks of watched) {
      if (event.type === 'layer.removed' || event.type === 'layer.dropped') blocks.clear();
      if (event.type !== 'layer.evicted') continue;
      for (const block of blocksOf(blockRuns(event.ranges))) blocks.delete(block);
    }
  };

  stop(): void {
    this.#stopping.abort(new Error('the front end stops'));
  }

  scrub(order: Scrub): Promise<ScrubReply> {
    const key = JSON.stringify([order.diffId, order.from, order.count, order.ranges]);
    const known = this.#running.get(key);
    if (known !== undefined) return known;
    const mine = this.#scrub(order).finally(() => this.#running.delete(key));
    this.#running.set(key, mine);
    return mine;
  }

  /** Fetches absent blocks of an open layer. Error `not-found` where it is not open. */
  async refetch({ diffId, ranges }: Refetch): Promise<RefetchReply> {
    const layer = this.#options.opened.get(diffId);
    if (layer === undefined) throw new CofaError('not-found', `layer ${diffId} is not open`);
    const failure = await layer.fetch(blockRuns(ranges));
    return failure === undefined ? {} : { failure };
  }

  /** Makes a fact of what was found; the alarm is there even if the log does not take it. */
  async scrubbed({ diffId, since, kept, scope, ...counts }: Scrubbed): Promise<number> {
    const { facts, clock } = this.#options;
    const known = facts.layers.get(diffId);
    if (known === undefined) return counts.bad;
    const { damaged } = known;
    if (counts.bad === 0 && damaged !== undefined && damaged.at >= since) counts.bad = damaged.bad;
    const event = {
      type: 'layer.scrubbed' as const,
      ...counts,
      ...(kept === 0 ? {} : { kept }),
      ...(scope === undefined ? {} : { scope }),
    };
    if (counts.bad > 0)
      this.#sayDamage(diffId, {
        damaged: { at: clock.wallMs(), bad: counts.bad, repaired: counts.repaired, kept },
      });
    await facts.append(diffId, event);
    this.#sayDamage(diffId, known);
    return counts.bad;
  }

  /**
   * A device whose blocks were all verified when they came is not its layer: are there blocks that the disk has lost? Then
   * they are taken out.
   */
  async mismatch(diffId: string, layer: LayerHost): Promise<boolean> {
    const known = this.#options.facts.layers.get(diffId);
    if (known === undefined) return false;
    const since = this.#options.clock.wallMs();
    const bad: BlockRun[] = [];
    for (let first = 0; first < known.blockCount; first += MISMATCH_BLOCKS) {
      const count = Math.min(MISMATCH_BLOCKS, known.blockCount - first);
      const found = await this.#checkByFetcher(diffId, known, [blockRun(first, count)]);
      for (const [from, blocks] of found) addBlocks(bad, from, blocks);
    }
    if (bad.length === 0) return false;
    this.#options.log.error({ layer: diffId, blocks: sizeOf(bad) }, 'blocks are damaged on the disk');
    if (!(await layer.damaged(bad))) return true;
    // Somebody wants the whole layer, or it would not have become whole.
    const failure = await layer.fetch(bad);
    const repaired = failure === undefined ? sizeOf(bad) : 0;
    await this.scrubbed({ diffId, since, blocks: known.blockCount, bad: sizeOf(bad), repaired, kept: 0 });
    return true;
  }

  // ── After an unclean stop ──

  /** Blocks to be compared. */
  doubt({ layers }: Doubt): void {
    for (const { diffId, ranges } of layers) {
      if (this.#doubts.has(diffId)) continue;
      if (this.#compared.get(diffId) === JSON.stringify(ranges)) {
        this.#options.notify({ kind: 'checked', diffId });
        continue;
      }
      const settled = this.#untilCompared(diffId, ranges).finally(() => this.#doubts.delete(diffId));
      this.#doubts.set(diffId, settled);
    }
  }

  /** Before a layer is opened: its blocks in doubt are compared, as long as one can wait for that. */
  async opening(diffId: string): Promise<void> {
    const settled = this.#doubts.get(diffId);
    if (settled === undefined) return;
    const patience = Promise.withResolvers<void>();
    const timer = this.#options.clock.after(OPEN_MS, patience.resolve);
    await Promise.race([settled, patience.promise]);
    timer.cancel();
  }

  async #untilCompared(diffId: string, ranges: Doubt['layers'][number]['ranges']): Promise<void> {
    for (let tries = 1; ; tries++) {
      try {
        await this.#compareNewest(diffId, blockRuns(ranges));
        this.#compared.set(diffId, JSON.stringify(ranges));
        return;
      } catch (error) {
        const { code, message } = toErrorRecord(error);
        this.#options.log.warn({ layer: diffId, error }, 'the newest blocks are not compared yet');
        if (tries < TRIES && code === 'unavailable') await this.#options.clock.sleep(LATER_MS);
        else {
          const sentence = `the newest blocks of layer ${this.#nameOf(diffId)} could not be compared after an unclean stop: ${message}`;
          this.#options.conditions.set(`scrub:${diffId}`, sentence);
          return;
        }
      }
    }
  }

  async #compareNewest(diffId: string, ranges: readonly BlockRun[]): Promise<void> {
    const order: Scrub = { diffId, from: 0, count: 0, ranges };
    const since = this.#options.clock.wallMs();
    const first = await this.#scrub(order, true);
    if (first.blocks === 0) return this.#options.notify({ kind: 'checked', diffId });
    let { kept } = first;
    // What is open by now may have a reader; the kernel gives back what it reads itself.
    for (let tries = 0; kept.length > 0 && tries < TRIES; tries++) {
      if (this.#options.opened.get(diffId)?.isDirect === true)
        this.#options.notify({ kind: 'take-back', diffId });
      await this.#options.clock.sleep(AGAIN_MS);
      kept = (await this.#scrub({ ...order, ranges: kept }, true)).kept;
    }
    const bad = sizeOf(first.bad);
    await this.scrubbed({
      diffId,
      since,
      blocks: first.blocks,
      bad,
      repaired: 0,
      kept: sizeOf(kept),
      scope: 'newest',
    });
    this.#options.notify({ kind: 'checked', diffId });
  }

  // ── Comparing ──

  async #scrub(order: Scrub, isHere = false): Promise<ScrubReply> {
    const { diffId } = order;
    // A block that is just being taken out may be here again in a moment.
    await this.#options.opened.get(diffId)?.evicted();
    const known = this.#options.facts.layers.get(diffId);
    if (known === undefined) return { blocks: 0, bad: [], kept: [], direct: false, whole: false };
    const watched = new BlockSet(known.blockCount);
    const { ranges, next, whole } = this.#choose(order, known);
    for (const block of blocksOf(ranges)) watched.add(block);
    const blocks = watched.size;
    const all = this.#watched.get(diffId) ?? new Set();
    this.#watched.set(diffId, all.add(watched));
    const check = isHere ? this.#checkHere.bind(this) : this.#checkByFetcher.bind(this);
    let bad: BlockRun[] = [];
    try {
      const found = blocks === 0 ? [] : await check(diffId, known, ranges);
      bad = within(found, (block) => watched.has(block));
    } finally {
      all.delete(watched);
      if (all.size === 0) this.#watched.delete(diffId);
    }
    if (bad.length > 0) await this.#takeOut(diffId, bad);
    const kept = this.#keptOf(diffId, order.ranges === undefined ? bad : blockRuns(order.ranges), bad);
    const direct = this.#options.opened.get(diffId)?.isDirect === true;
    return { ...(next === undefined ? {} : { next }), blocks, bad, kept, direct, whole };
  }

  /** Present blocks, as the order says. */
  #choose(
    { diffId, from, count, ranges }: Scrub,
    known: LayerFacts,
  ): { ranges: BlockRun[]; next?: number; whole: boolean } {
    const layer = this.#options.opened.get(diffId);
    const { blockCount, present } = known;
    const isPresent = (block: number) =>
      layer === undefined ? present[block] === 1 : layer.isPresent(block);
    if (ranges !== undefined) {
      return { ranges: within(cutAll(blockRuns(ranges), blockCount), isPresent), whole: false };
    }
    const whole = layer === undefined ? known.presentCount === blockCount : layer.isWhole;
    const chosen: BlockRun[] = [];
    let taken = 0;
    for (let block = from; block < blockCount; block++) {
      if (!isPresent(block)) continue;
      if (taken === count) return { ranges: chosen, next: block, whole };
      taken += 1;
      addBlock(chosen, block);
    }
    return { ranges: chosen, whole };
  }

  /** One layer after the other. */
  async #checkHere(diffId: string, known: LayerFacts, ranges: readonly BlockRun[]): Promise<BlockRun[]> {
    const { layout } = this.#options;
    const { signal } = this.#stopping;
    const mine = this.#checking.then(() =>
      checkBlocks(
        { layer: diffId, ...tableOf(known), ranges },
        { layout, tables: new SpanTables(layout), signal },
      ),
    );
    this.#checking = mine.catch(() => {});
    return await mine;
  }

  #checkByFetcher(diffId: string, known: LayerFacts, ranges: readonly BlockRun[]): Promise<BlockRun[]> {
    return new Promise((resolve, reject) => {
      this.#options.pool.submit(
        { kind: 'scrub', layer: diffId, ...tableOf(known), ranges },
        {
          blocks: () => {},
          end: (_bytes, failure, _timing, bad) => {
            if (failure !== undefined) reject(fromErrorRecord(failure.error));
            else resolve(blockRuns(bad ?? []));
          },
        },
        { rest: 0 },
      );
    });
  }

  /** Bad blocks become absent, so that they are fetched again, as far as they can. */
  async #takeOut(diffId: string, bad: readonly BlockRun[]): Promise<void> {
    const { cache, opened, log } = this.#options;
    log.error({ layer: diffId, blocks: sizeOf(bad), first: bad[0]?.[0] }, 'blocks are damaged on the disk');
    const bytes = await cache.evict(diffId, bad, 'scrub');
    // One that the cache was just taking out is here again where the log does not take that.
    await opened.get(diffId)?.evicted();
    const kept = sizeOf(this.#keptOf(diffId, bad, bad));
    log.warn({ layer: diffId, bytes, kept }, 'damaged blocks were taken out');
  }

  /** Those of `ranges` that may be read though they are damaged: bad ones that stayed, and what the log does not know of yet. */
  #keptOf(diffId: string, ranges: readonly BlockRun[], bad: readonly BlockRun[]): BlockRun[] {
    const { opened, facts } = this.#options;
    const layer = opened.get(diffId);
    const present = facts.layers.get(diffId)?.present;
    const isBad = new Set(blocksOf(bad));
    return within(ranges, (block) =>
      layer === undefined
        ? isBad.has(block) && present?.[block] === 1
        : layer.isStuck(block) || (isBad.has(block) && layer.isPresent(block)),
    );
  }

  /** What users call the layer: its diffID. */
  #nameOf(id: string): string {
    return this.#options.facts.layers.get(id)?.diffId ?? id;
  }

  #sayDamage(diffId: string, { damaged }: Pick<LayerFacts, 'damaged'>): void {
    const { conditions } = this.#options;
    const key = `scrub:${diffId}`;
    if (damaged === undefined) return conditions.clear(key);
    conditions.set(key, damageSentence(this.#nameOf(diffId), damaged));
  }
}

const tableOf = ({ blob, table }: LayerFacts): { blob: string; table?: string } =>
  table === undefined ? { blob } : { blob, table };

export function damageSentence(diffId: string, damaged: NonNullable<LayerFacts['damaged']>): string {
  const { at, bad, repaired, kept } = damaged;
  const blocks = (count: number) => `${count} block${count === 1 ? '' : 's'}`;
  const when = new Date(at).toISOString();
  const fate =
    kept > 0
      ? `${kept === bad ? 'they' : blocks(kept)} cannot be taken out and may be read: unmount what uses the layer`
      : repaired === bad
        ? 'fetched again since'
        : `${repaired > 0 ? `${repaired} fetched again, the others` : 'they'} are fetched again when they are read`;
  return `${blocks(bad)} of layer ${diffId} were found damaged on the disk at ${when}; ${fate}. Until cofa scrub finds all right, the disk may be failing`;
}
