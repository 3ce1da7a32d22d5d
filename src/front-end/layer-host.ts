/**
 * One layer device that the front end serves: the layer actor (actors/layer.ts) joined with its effects. Reads come in
 * from the FUSE transport, jobs go to the pool (layer-fetches.ts), facts go to the log once their bytes are synced
 * (layer-writer.ts), evicted bytes are punched (layer-evictions.ts), and a whole layer is handed over (layer-whole.ts).
 */
import { fstatSync } from 'node:fs';
import type { CacheLayer } from '../../actors/cache.ts';
import type { LayerEffect, ReadFailure } from '../../actors/layer.ts';
import { presentRanges } from '../../actors/node-state.ts';
import type { Budgets } from '../../actors/pace.ts';
import { type BlockRun, blockRun, blocksOf, type SpanRun } from '../../actors/ranges.ts';
import type { LayerStatus } from '../../schemas/api.ts';
import type { FrontLayer, Supply } from '../../schemas/front.ts';
import { BLOCK_PRESENT, type DeviceFile, inodeOf } from '../fuse/transport.ts';
import type { Timer } from '../process/ports.ts';
import { deviceSize } from '../store/device.ts';
import { hexOf } from '../../schemas/digest.ts';
import { type EvictionReason, LayerCore, type LayerHostOptions } from './layer-core.ts';
import { LayerEvictions } from './layer-evictions.ts';
import { LayerFetches } from './layer-fetches.ts';
import { LayerWhole } from './layer-whole.ts';
import { LayerWriter } from './layer-writer.ts';
import type { StartedEvent } from './start-story.ts';
import { presentIn, type SpanUse } from './span-use.ts';
import { spanRunsOf, Trace } from './trace.ts';

export type { EvictionReason, LayerHostOptions } from './layer-core.ts';

/** Spans that `fetch` asks for side by side. */
const FETCHES_AT_ONCE = 4;
/** Node's timers fire at once beyond it; a tick that comes early only asks for the next one. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;
const LOST: ReadFailure = { code: 'internal', message: 'the block did not come' };

type Answer = (errno: number, reason?: ReadFailure) => void;

export class LayerHost {
  readonly device: DeviceFile;
  /** Ticks of the blocks' first reads; src/fuse/transport.ts. */
  readonly firstReads: Uint32Array;
  readonly #core: LayerCore;
  readonly #trace: Trace;
  readonly #writer: LayerWriter;
  readonly #fetches: LayerFetches;
  readonly #evictions: LayerEvictions;
  readonly #whole: LayerWhole;
  /** By read. */
  readonly #answers = new Map<number, Answer>();
  #nextRead = 1;
  #wantsRest = false;
  /** Bytes that may be fetched ahead of a reader in order, while the cache has no room for prefetch. */
  #heldTo: number | undefined;
  #readsAhead = false;
  #prefetches = false;
  #timer: Timer | undefined;
  #timerAt = Number.POSITIVE_INFINITY;

  constructor(options: LayerHostOptions) {
    const { layer, fuse, cache, clock, facts } = options;
    this.#core = new LayerCore(options, this.#run);
    this.#trace = new Trace(layer.table.spanCount, { now: clock.now, epochMs: clock.wallMs });
    this.#writer = new LayerWriter(this.#core, this.#trace);
    this.#fetches = new LayerFetches(this.#core, this.#writer, this.#trace);
    this.#evictions = new LayerEvictions(this.#core, this.#writer);
    this.#whole = new LayerWhole(this.#core, this.#writer, this);
    this.device = {
      name: hexOf(layer.diffId),
      inode: inodeOf(layer.diffId),
      size: deviceSize(layer.table.rawSize),
      fd: layer.file.fd,
      blockSize: layer.table.blockSize,
      blocks: this.#core.states.buffer,
      firstReads: fuse.firstReads,
      uses: cache.use.shared,
    };
    this.firstReads = new Uint32Array(fuse.firstReads.ticks);
    const known = facts.layers.get(layer.diffId);
    if (known === undefined) return;
    const { complete, present } = known;
    const ranges = presentRanges(present);
    this.#core.send({ type: 'restore', ranges, complete, handedOver: layer.direct });
  }

  // ── Reads ──

  /**
   * A read that found a block missing; bytes of the device. `answer` is called once, by the read's deadline at the latest. The
   * only place where bytes become blocks on this side (docs/cold-read.md).
   */
  readonly cold = (offset: number, length: number, answer: (errno: number) => void): void => {
    const { blockSize } = this.device;
    const first = Math.floor(offset / blockSize);
    const end = Math.floor((offset + Math.max(length, 1) - 1) / blockSize) + 1;
    const blocks = blockRun(first, Math.min(end, this.#core.actor.blockCount) - first);
    const id = this.#nextRead++;
    this.#trace.readStarted(id, blocks);
    this.#read(id, blocks, this.#counted(answer));
    this.#trace.readQueued(id);
  };

  /**
   * Fetches blocks that are absent, as for a reader, and syncs them. Resolves with why some did not come. No reader: it
   * is in no trace.
   */
  async fetch(ranges: readonly BlockRun[]): Promise<ReadFailure | undefined> {
    let failure: ReadFailure | undefined;
    const parts = this.#cutAtSpans(ranges);
    const run = async () => {
      for (let blocks = parts.pop(); blocks !== undefined; blocks = parts.pop()) {
        const { promise, resolve } = Promise.withResolvers<ReadFailure | undefined>();
        this.#read(this.#nextRead++, blocks, (errno, reason) =>
          resolve(errno === 0 ? undefined : (reason ?? LOST)),
        );
        failure = (await promise) ?? failure;
      }
    };
    await Promise.all(Array.from({ length: FETCHES_AT_ONCE }, run));
    await this.#writer.flush();
    return failure;
  }

  /** A reader's answer, with the time that it waited. */
  #counted(answer: (errno: number) => void): Answer {
    const { counts } = this.#core.options;
    if (counts === undefined) return answer;
    const since = this.#core.now();
    return (errno) => {
      const outcome = errno === 0 ? 'data' : 'failed';
      counts.observe('read_wait_seconds', (this.#core.now() - since) / 1000, outcome);
      answer(errno);
    };
  }

  #read(id: number, blocks: BlockRun, answer: Answer): void {
    this.#answers.set(id, answer);
    this.#core.send({ type: 'read', id, blocks, now: this.#core.now() });
  }

  #answer({ id, errno, reason }: LayerEffect & { type: 'answer' }): void {
    const answer = this.#answers.get(id);
    this.#answers.delete(id);
    this.#trace.readEnded(id, errno);
    if (errno !== 0) this.#writer.flushSoon();
    const { pool, layer } = this.#core.options;
    if (reason !== undefined) pool.readFailed(layer.supplies.current.source.registry, reason);
    answer?.(errno, reason);
  }

  #cutAtSpans(runs: readonly BlockRun[]): BlockRun[] {
    const { table } = this.#core.options.layer;
    const parts: BlockRun[] = [];
    for (const [first, count] of runs) {
      const end = Math.min(first + count, table.blockCount);
      for (let block = first; block < end; ) {
        const span = table.span(table.spanOfBlock(block));
        const next = Math.min(end, span.firstBlock + span.blockCount);
        parts.push(blockRun(block, next - block));
        block = next;
      }
    }
    return parts;
  }

  // ── Effects ──

  readonly #run = (effect: LayerEffect): void => {
    switch (effect.type) {
      case 'answer':
        return this.#answer(effect);
      case 'missed':
        return this.#trace.readMissed(effect.id, effect.spans);
      case 'fetch':
        this.#core.options.cache.onFetch();
        return this.#fetches.start(effect);
      case 'promote':
        return this.#fetches.promote(effect.job);
      case 'cancel':
        return this.#fetches.cancel(effect.job);
      case 'verify':
        return void this.#whole.verify();
      case 'complete':
        return void this.#whole.completed();
      case 'corrupt':
        return void this.#whole.corrupt();
      case 'wake':
        return this.#wakeAt(effect.at);
      case 'punch': // LayerEvictions takes it
      case 'append': // LayerWriter
      case 'promised': // `promise`
        // Left undone, it would hold its spans for ever.
        throw new Error(`the layer actor wants ${effect.type} where no part takes it`);
    }
  };

  #wakeAt(at: number): void {
    if (at >= this.#timerAt || this.#core.isClosed) return;
    this.#timer?.cancel();
    this.#timerAt = at;
    const waitMs = Math.min(Math.max(0, at - this.#core.now()), LONGEST_TIMER_MS);
    this.#timer = this.#core.options.clock.after(waitMs, () => {
      this.#timerAt = Number.POSITIVE_INFINITY;
      this.#core.send({ type: 'tick', now: this.#core.now() });
    });
  }

  // ── Prefetch ──

  hasSupply(supply: Supply): boolean {
    return this.#core.options.layer.supplies.has(supply);
  }

  /** Where its blocks may come from by now. */
  supply(list: readonly [Supply, ...Supply[]]): void {
    this.#fetches.supply(list);
  }

  /** No better table can be made: reads of blocks that do not come fail. */
  givenUp(): void {
    this.#fetches.givenUp();
  }

  /** Fetch ahead of the readers, near what they wait for. */
  readahead(on: boolean): void {
    this.#readsAhead = on;
    const now = this.#core.now();
    const window =
      this.#heldTo === undefined ? {} : { window: Math.floor(this.#heldTo / this.device.blockSize) };
    this.#core.send({ type: 'readahead', on, ...window, now });
  }

  /** How fast prefetch may be. */
  pace(budgets: Budgets): void {
    const { diffId, table } = this.#core.options.layer;
    const bytesOf = ([first, count]: SpanRun) =>
      table.span(first + count - 1).inEnd - table.span(first).inStart;
    this.#core.send({ type: 'pace', pace: budgets.paceOf(diffId, bytesOf), now: this.#core.now() });
  }

  /** Fetch what is absent in the background. */
  prefetch(on: boolean): void {
    this.#wantsRest = on;
    this.#turnPrefetch();
  }

  /** The cache has no room for prefetch, but for so many bytes ahead of a reader in order; undefined: it has. */
  holdPrefetch(heldTo: number | undefined): void {
    this.#heldTo = heldTo;
    this.#turnPrefetch();
    if (this.#readsAhead) this.readahead(true);
  }

  #turnPrefetch(): void {
    const on = this.#wantsRest && this.#heldTo === undefined;
    if (on === this.#prefetches) return;
    this.#prefetches = on;
    this.#core.send({ type: 'prefetch', on, now: this.#core.now() });
  }

  // ── Starts ──

  /** A start is likely to read these soon; no more than a wish. */
  aim(ranges: readonly BlockRun[]): void {
    this.#aim({ ranges });
  }

  /** A start is likely to read all of it; no more than a wish. */
  aimAtAll(): void {
    this.#aim({ ranges: [blockRun(0, this.blockCount)], all: true });
  }

  #aim(at: { ranges: readonly BlockRun[]; all?: true }): void {
    if (!this.#readsAhead || this.#heldTo !== undefined) return;
    this.#core.send({ type: 'aim', ...at, now: this.#core.now() });
  }

  /** Whether one of these blocks is absent. */
  lacks(ranges: readonly BlockRun[]): boolean {
    for (const block of blocksOf(ranges)) if (!this.isPresent(block)) return true;
    return false;
  }

  /**
   * A startup pack, asked for at `askedAt`, is about to bring these blocks. Returns the number for `arrived`; undefined: it is of
   * no use here.
   */
  promise(pack: number, ranges: readonly BlockRun[], askedAt: number): number | undefined {
    this.use.markStartup(ranges);
    const now = this.#core.now();
    const job = this.#core.take({ type: 'promise', pack, ranges, now }, 'promised').at(-1)?.job;
    const { table } = this.#core.options.layer;
    if (job !== undefined) this.#trace.packBegan(job, ranges, spanRunsOf(ranges, table), askedAt);
    return job;
  }

  /** Blocks of the startup pack are verified and written. `bytes`: compressed ones that came for them. */
  arrived(job: number, firstBlock: number, count: number, bytes: number): void {
    this.#fetches.arrived(job, blockRun(firstBlock, count), bytes);
  }

  /** The startup pack brings blocks of other layers. */
  promiseHeard(job: number): void {
    this.#core.send({ type: 'promise.heard', job, now: this.#core.now() });
  }

  promiseEnded(job: number): void {
    this.#core.send({ type: 'promise.ended', job, now: this.#core.now() });
    this.#trace.packEnded(job);
    this.#writer.flushSoon();
  }

  /** A start that has read of the layer is over. An account that the log does not take is lost. */
  started(event: StartedEvent): void {
    const { log } = this.#core.options;
    this.#writer
      .inTurn(() => this.#writer.append(event))
      .catch((error: unknown) => log.warn({ layer: this.#core.diffId, error }, 'a start is not in the log'));
  }

  // ── What it is like ──

  get state(): LayerStatus['state'] {
    const { state } = this.#core.actor;
    return state === 'verifying' || state === 'closed' ? 'lazy' : state;
  }

  /** The spans as the cache sees them: their blocks that are present, and their uses in ticks. */
  get spans(): Pick<CacheLayer, 'starts' | 'present' | 'lastUse' | 'startup' | 'blockSize'> {
    const { use } = this;
    const { starts, startup } = use;
    const present = presentIn(starts, this.#core.states, BLOCK_PRESENT);
    return { starts, present, lastUse: use.lastUse(), startup, blockSize: this.device.blockSize };
  }

  get use(): SpanUse {
    return this.#core.options.cache.use;
  }

  get blockCount(): number {
    return this.#core.actor.blockCount;
  }

  /** Whether a read waits for a block. */
  get isWaitedFor(): boolean {
    return this.#answers.size > 0;
  }

  /** Reads that wait, those of scrubs and repairs included. */
  get waiting(): number {
    return this.#answers.size;
  }

  /** How long the oldest blocks have been here that the log does not have, ms; 0: it has all. */
  get logLagMs(): number {
    return this.#writer.lagMs;
  }

  /** Compressed bytes of the blocks that are neither present nor on their way, where all blocks were alike. */
  get absentBytes(): number {
    const { blobSize, blockCount } = this.#core.options.layer.table;
    return Math.ceil((this.#core.actor.counts.absent / Math.max(1, blockCount)) * blobSize);
  }

  /** Bytes of the blocks that are present, and of those on their way. */
  get blockBytes(): number {
    const { present, fetching } = this.#core.actor.counts;
    return (present + fetching) * this.device.blockSize;
  }

  /** Bytes that the device file takes on the disk. */
  get diskBytes(): number {
    return this.#core.isClosed ? 0 : fstatSync(this.device.fd).blocks * 512;
  }

  /** Whether a fetcher compares the whole device with the diffID: until that has ended nothing of it can be evicted. */
  get isVerifying(): boolean {
    return this.#core.actor.state === 'verifying';
  }

  /** Whether every block can be served. */
  get isWhole(): boolean {
    return this.#core.actor.counts.present === this.#core.actor.blockCount;
  }

  /** Whether the block can be served. */
  isPresent(block: number): boolean {
    return this.#core.states[block] === BLOCK_PRESENT;
  }

  status(): FrontLayer {
    const { absent, fetching, present } = this.#core.actor.counts;
    const { layer, cache } = this.#core.options;
    const { table, diffId, content } = layer;
    return {
      diffId,
      ...(content === diffId ? {} : { content }),
      state: this.state,
      blocks: { absent, fetching, present },
      bytes: {
        total: table.rawSize,
        present: Math.min(present * table.blockSize, table.rawSize),
        fetched: cache.fetched.get(diffId) ?? 0,
      },
    };
  }

  // ── Hand-over (layer-whole.ts) ──

  /** Whether the kernel reads the device file itself, or may be about to: then none of its bytes may be punched. */
  get isDirect(): boolean {
    return this.#whole.isDirect;
  }

  /** Says again that the layer could be handed over, if it could. */
  offer(): void {
    this.#whole.offer();
  }

  /** Says once more that the layer is complete, where it is: the supervisor may not have heard it. */
  announce(): void {
    this.#whole.announce();
  }

  /** The kernel reads the device file itself, whatever the log says. */
  pin(): void {
    this.#whole.pin();
  }

  /** The kernel is about to read the device file itself; `state` says whether it may. */
  handedOver(): void {
    this.#whole.handedOver();
  }

  /** Reads are about to come through here again; until `takenBack` the kernel may still read the device file itself. */
  async takeBack(): Promise<void> {
    await this.#whole.takeBack();
  }

  /** Every read comes through here again. */
  takenBack(): void {
    this.#whole.takenBack();
  }

  // ── Eviction (layer-evictions.ts) ──

  /**
   * Evicts blocks, as far as no reader and no job needs them just now. Resolves with the bytes that were punched; 0 where the
   * log does not take it: then they stay, but for damaged ones (reason `scrub`), which are absent from here on, and the log is
   * told as soon as it can be (`isStuck`). Errors: `unsupported` where the file system cannot punch holes: the blocks are
   * absent, their bytes stay.
   */
  async evict(ranges: readonly BlockRun[], reason: EvictionReason): Promise<number> {
    return this.isDirect ? 0 : await this.#evictions.evict(ranges, reason);
  }

  /** The whole device is not what its diffID says, since the disk lost these blocks: evicts them. Returns whether all are absent. */
  async damaged(ranges: readonly BlockRun[]): Promise<boolean> {
    return await this.#evictions.damaged(ranges);
  }

  /** Resolves when every eviction that runs has ended, well or not. */
  async evicted(): Promise<void> {
    await this.#evictions.ended();
  }

  /** Whether the block, found to be damaged, is one that the log still calls present: after a crash it would be read. */
  isStuck(block: number): boolean {
    return this.#writer.isUnsaid(block);
  }

  // ── The end ──

  /** Appends what is pending. Errors: those of the log. */
  flush(): Promise<void> {
    return this.#writer.flush();
  }

  /** Appends what is pending and closes the file. Reads that wait get EIO. */
  async close(): Promise<void> {
    const { log, layer } = this.#core.options;
    this.#core.isClosed = true;
    this.#core.send({ type: 'close' });
    this.#timer?.cancel();
    this.#writer.stop();
    await this.#evictions.ended();
    await this.#writer.flush().catch((error: unknown) => log.warn({ error }, 'last blocks not in the log'));
    await layer.file.close();
  }
}
