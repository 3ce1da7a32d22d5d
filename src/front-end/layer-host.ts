/**
 * One layer device that the front end serves: the layer actor (actors/layer.ts) joined with its effects. Reads come in
 * from the FUSE transport, jobs go out to the pool, facts go to the log once their bytes are synced.
 */
import { fstatSync, readlinkSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { BlockSet } from '../../actors/block-set.ts';
import type { CacheLayer } from '../../actors/cache.ts';
import {
  LAYER_LIMITS,
  LayerActor,
  type LayerEffect,
  type LayerEvent,
  type ReadFailure,
} from '../../actors/layer.ts';
import { presentRanges } from '../../actors/node-state.ts';
import type { Budgets } from '../../actors/pace.ts';
import { type BlockRun, blockRun, blocksOf, pairsOf, type SpanRun } from '../../actors/ranges.ts';
import type { LayerStatus } from '../../schemas/api.ts';
import type { ErrorCode } from '../../schemas/errors.ts';
import type { EventOf } from '../../schemas/events.ts';
import type { BlobSource, FetchOrder } from '../../schemas/fetch.ts';
import type { FrontNotice } from '../../schemas/front.ts';
import type { DeviceFile, FirstReads } from '../fuse/transport.ts';
import { BLOCK_PRESENT, inodeOf } from '../fuse/transport.ts';
import { punchHole } from '../kernel/holes.ts';
import { backingFiles } from '../kernel/loop.ts';
import type { SpanTable } from '../image/span-table.ts';
import type { LayerLog, NewLayerEvent } from '../store/layer-log.ts';
import { deviceSize } from '../store/device.ts';
import { hexOf } from '../store/layout.ts';
import type { FetchPool, JobListener } from './fetch-pool.ts';
import { presentIn, type SpanUse } from './span-use.ts';
import { Trace } from './trace.ts';

export interface LayerHostOptions {
  diffId: string;
  table: SpanTable;
  source: BlobSource;
  file: FileHandle;
  /** What the log says of the layer, and how more is said. */
  facts: LayerLog;
  /** Compressed bytes by layer; counted here. */
  fetched: Map<string, number>;
  pool: FetchPool;
  log: Logger;
  /** Monotonic, ms. */
  now: () => number;
  /** The wall clock, ms. */
  epochMs: () => number;
  readDeadlineMs: number;
  /** An append has ended, undefined: well. */
  onLogged: (error: unknown) => void;
  notify: (notice: FrontNotice) => void;
  /** Where the FUSE threads note which blocks are read first. */
  firstReads: FirstReads;
  /** Whether the front end has to go on seeing the layer's reads: then it is not handed over yet. */
  isWatched: () => boolean;
  /** `FuseTransport.quiesce` */
  quiesce: () => Promise<void>;
  /** The kernel reads the device file itself. */
  direct: boolean;
  /** When the layer's spans were used. */
  use: SpanUse;
  /** The whole is not the layer: whether it is blocks that the disk has lost, which have been taken out then. */
  onMismatch: (layer: LayerHost) => Promise<boolean>;
  /** A fetch was begun or has failed: the cache may have to act. */
  onFetch: (code?: ErrorCode) => void;
}

export type EvictionReason = EventOf<'layer.evicted'>['reason'];

/** Blocks are appended to the log at most this often, ms: an event is small, a sync is not. */
const FLUSH_MS = 250;
/** A log that does not take events is tried again after this, ms. */
const RETRY_APPEND_MS = 1_000;
/** How often a complete layer that is watched is looked at again, ms. */
const WATCHED_MS = 500;
/** Spans that `fetch` asks for side by side. */
const FETCHES_AT_ONCE = 4;
/** Node's timers fire at once beyond it; a tick that comes early only asks for the next one. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;
const LOST: ReadFailure = { code: 'internal', message: 'the block did not come' };

interface RunningJob {
  job: number;
  pool: number;
  runs: readonly SpanRun[];
  /** Compressed bytes so far. */
  bytes: number;
}

export class LayerHost {
  readonly device: DeviceFile;
  /** Ticks of the blocks' first reads; src/fuse/transport.ts. */
  readonly firstReads: Uint32Array;
  readonly #options: LayerHostOptions;
  readonly #actor: LayerActor;
  readonly #waiters = new Map<number, (errno: number, reason?: ReadFailure) => void>();
  /** By the actor's number; `pool` is the pool's. */
  readonly #jobs = new Map<number, RunningJob>();
  readonly #trace: Trace;
  #nextRead = 1;
  #wantsRest = false;
  #isHeld = false;
  #readsAhead = false;
  #prefetches = false;
  #timer: NodeJS.Timeout | undefined;
  #timerAt = Number.POSITIVE_INFINITY;
  #flushTimer: NodeJS.Timeout | undefined;
  #flushing: Promise<void> = Promise.resolve();
  #closed = false;
  /** The layer is complete, and that is about to be said. */
  #isUnsaid = false;
  #saying = false;
  /** How often the layer has become whole, so that what is told of an earlier time is known. */
  #verification = 0;
  /** A hand-over is about to be offered. */
  #offering = false;
  /** The kernel reads the device file itself, or may be about to: none of its bytes may go. */
  #direct: boolean;
  readonly #evictions = new Set<Promise<number>>();
  /** Damaged blocks that are absent here and present in the log, which has not taken yet that they went. */
  readonly #unsaid: BlockSet;

  constructor(options: LayerHostOptions) {
    this.#options = options;
    const { diffId, table, file, readDeadlineMs } = options;
    const blocks = new SharedArrayBuffer(table.blockCount);
    this.#direct = options.direct;
    this.#unsaid = new BlockSet(table.blockCount);
    this.device = {
      name: hexOf(diffId),
      inode: inodeOf(diffId),
      size: deviceSize(table.rawSize),
      fd: file.fd,
      blockSize: table.blockSize,
      blocks,
      firstReads: options.firstReads,
      uses: options.use.shared,
    };
    this.firstReads = new Uint32Array(options.firstReads.ticks);
    this.#trace = new Trace(table.spanCount, options);
    // The pauses between the tries alone are longer than the deadline: a read waits as long as it may.
    const attempts = LAYER_LIMITS.attempts + Math.ceil(readDeadlineMs / LAYER_LIMITS.retryMaxMs);
    this.#actor = new LayerActor(table, new Uint8Array(blocks), { readDeadlineMs, attempts });
    const known = options.facts.layers.get(diffId);
    if (known === undefined) return;
    const { complete } = known;
    this.#send({
      type: 'restore',
      ranges: presentRanges(known.present),
      complete,
      handedOver: options.direct,
    });
  }

  get state(): LayerStatus['state'] {
    return this.#actor.state === 'verifying' || this.#actor.state === 'closed' ? 'lazy' : this.#actor.state;
  }

  /** A read that found a block missing. `answer` is called once, by the read's deadline at the latest. */
  readonly cold = (offset: number, length: number, answer: (errno: number) => void): void => {
    const id = this.#nextRead++;
    const { blockSize } = this.device;
    const first = Math.floor(offset / blockSize);
    const last = Math.min(
      Math.floor((offset + Math.max(length, 1) - 1) / blockSize),
      this.#actor.blockCount - 1,
    );
    const blocks = blockRun(first, last + 1 - first);
    this.#waiters.set(id, answer);
    this.#trace.readStarted(id, blocks);
    this.#send({ type: 'read', id, blocks, now: this.#options.now() });
    this.#trace.readQueued(id);
  };

  /** Fetch ahead of the readers, near what they wait for. */
  readahead(on: boolean): void {
    this.#readsAhead = on;
    this.#send({ type: 'readahead', on: on && !this.#isHeld, now: this.#options.now() });
  }

  /** How fast what nobody waits for may come. */
  pace(budgets: Budgets): void {
    const { diffId, table, now } = this.#options;
    const bytesOf = ([first, count]: SpanRun) =>
      table.span(first + count - 1).inEnd - table.span(first).inStart;
    this.#send({ type: 'pace', pace: budgets.paceOf(diffId, bytesOf), now: now() });
  }

  /** Fetch what is absent in the background. */
  prefetch(on: boolean): void {
    this.#wantsRest = on;
    this.#turnPrefetch();
  }

  /** The cache has no room for what nobody waits for. */
  holdPrefetch(held: boolean): void {
    this.#isHeld = held;
    this.#turnPrefetch();
    if (this.#readsAhead) this.readahead(true);
  }

  #turnPrefetch(): void {
    const on = this.#wantsRest && !this.#isHeld;
    if (on === this.#prefetches) return;
    this.#prefetches = on;
    this.#send({ type: 'prefetch', on, now: this.#options.now() });
  }

  /** The spans as the cache sees them: their blocks that are present, and their uses in ticks. */
  get spans(): Pick<CacheLayer, 'starts' | 'present' | 'lastUse' | 'startup' | 'blockSize'> {
    const { use, table } = this.#options;
    const present = presentIn(use.starts, new Uint8Array(this.device.blocks), BLOCK_PRESENT);
    const { starts, startup } = use;
    return { starts, present, lastUse: use.lastUse(), startup, blockSize: table.blockSize };
  }

  get use(): SpanUse {
    return this.#options.use;
  }

  /** Bytes of the blocks that are present, and of those on their way. */
  get blockBytes(): number {
    const { present, fetching } = this.#actor.counts;
    return (present + fetching) * this.#options.table.blockSize;
  }

  /** Bytes that the device file takes on the disk. */
  get diskBytes(): number {
    return this.#closed ? 0 : fstatSync(this.#options.file.fd).blocks * 512;
  }

  /** A start is likely to read these soon; no more than a wish. */
  aim(ranges: readonly BlockRun[]): void {
    if (!this.#readsAhead || this.#isHeld) return;
    this.#send({ type: 'aim', ranges, now: this.#options.now() });
  }

  /** Whether one of these blocks is absent. */
  lacks(ranges: readonly BlockRun[]): boolean {
    const states = new Uint8Array(this.device.blocks);
    for (const block of blocksOf(ranges)) if (states[block] !== BLOCK_PRESENT) return true;
    return false;
  }

  /** A startup pack is about to bring these blocks. Returns the number for `arrived`; undefined: it is of no use here. */
  promise(pack: number, ranges: readonly BlockRun[]): number | undefined {
    const effects = this.#actor.handle({ type: 'promise', pack, ranges, now: this.#options.now() });
    let job: number | undefined;
    this.#options.use.markStartup(ranges);
    for (const effect of effects) {
      if (effect.type === 'promised') job = effect.job;
      else this.#run(effect);
    }
    return job;
  }

  /** Blocks of the startup pack are verified and written. `bytes`: compressed ones that came for them. */
  arrived(job: number, firstBlock: number, count: number, bytes: number): void {
    const { fetched, diffId } = this.#options;
    fetched.set(diffId, (fetched.get(diffId) ?? 0) + bytes);
    const blocks = blockRun(firstBlock, count);
    this.#options.use.arrived(blocks);
    this.#send({ type: 'blocks.fetched', job, blocks, bytes, now: this.#options.now() });
    this.#scheduleFlush(FLUSH_MS);
  }

  /** The startup pack brings blocks of other layers. */
  promiseHeard(job: number): void {
    this.#send({ type: 'promise.heard', job, now: this.#options.now() });
  }

  promiseEnded(job: number): void {
    this.#send({ type: 'promise.ended', job, now: this.#options.now() });
  }

  /** Whether the kernel reads the device file itself, or may be about to: then none of its bytes may go. */
  get isDirect(): boolean {
    return this.#direct;
  }

  /** Says again that the layer could be handed over, if it could. */
  offer(): void {
    const { diffId, isWatched, notify } = this.#options;
    if (this.#actor.state !== 'complete' || this.#direct || isWatched() || !this.#isKnown('complete')) return;
    notify({ kind: 'complete', diffId });
  }

  /** The kernel reads the device file itself, whatever the log says. */
  pin(): void {
    this.#direct = true;
    this.handedOver();
  }

  /** The kernel is about to read the device file itself; `state` says whether it may. */
  handedOver(): void {
    this.#send({ type: 'handed-over' });
    if (this.#actor.state !== 'handed-over') return;
    this.#direct = true;
    if (this.#isKnown('handedOver')) return;
    void this.#record({ type: 'layer.handed-over' }, () => this.#actor.state === 'handed-over');
  }

  /** Reads are about to come through here again; until `takenBack` the kernel may still read the device file itself. */
  async takeBack(): Promise<void> {
    if (this.#isKnown('handedOver')) await this.#inTurn(() => this.#append({ type: 'layer.taken-back' }));
  }

  /** Every read comes through here again. */
  takenBack(): void {
    this.#direct = false;
    this.#send({ type: 'taken-back' });
  }

  /**
   * Takes blocks out of the device file, as far as nobody needs them just now. Resolves with the bytes that went, when they
   * have gone; 0 where the log does not take it: then they stay, but for damaged ones (reason `scrub`), which are absent from
   * here on, and the log is told as soon as it can be (`isStuck`). Errors: `unsupported` where the file system cannot punch
   * holes: the blocks are absent, their bytes stay.
   */
  async evict(ranges: readonly BlockRun[], reason: EvictionReason): Promise<number> {
    // A loop that an engine before this one left may be there for users that nobody knows of.
    if (this.#direct || this.#closed) return 0;
    if (backingFiles().has(readlinkSync(`/proc/self/fd/${this.#options.file.fd}`))) return 0;
    return await this.#punchAll({ type: 'evict', ranges, now: this.#options.now() }, reason);
  }

  /** The whole device is not what its diffID says, since the disk lost these blocks: they go. Returns whether they did. */
  async damaged(ranges: readonly BlockRun[]): Promise<boolean> {
    if (this.#closed) return false;
    await this.#punchAll({ type: 'verified', ok: false, damaged: ranges, now: this.#options.now() }, 'scrub');
    return Array.from(blocksOf(ranges)).every((block) => !this.isPresent(block));
  }

  /** Resolves when what is being taken out has gone, or is here again. */
  async evicted(): Promise<void> {
    await Promise.allSettled(this.#evictions);
  }

  /** Whether the block, found to be damaged, is one that the log still calls present: after a crash it would be read. */
  isStuck(block: number): boolean {
    return this.#unsaid.has(block);
  }

  /** Resolves with the bytes that went. */
  async #punchAll(event: LayerEvent, reason: EvictionReason): Promise<number> {
    let bytes = 0;
    for (const effect of this.#actor.handle(event)) {
      if (effect.type !== 'punch') {
        this.#run(effect);
        continue;
      }
      const punch = this.#punch(effect, reason);
      this.#evictions.add(punch);
      bytes += await punch.finally(() => this.#evictions.delete(punch));
    }
    return bytes;
  }

  /** Whether every block can be served. */
  get isWhole(): boolean {
    return this.#actor.counts.present === this.#actor.blockCount;
  }

  /** Whether the block can be served. */
  isPresent(block: number): boolean {
    return new Uint8Array(this.device.blocks)[block] === BLOCK_PRESENT;
  }

  /**
   * Fetches blocks that are absent, as for a reader, and syncs them. Resolves with why some did not come. No reader: it
   * is in no trace.
   */
  async fetch(ranges: readonly BlockRun[]): Promise<ReadFailure | undefined> {
    let failure: ReadFailure | undefined;
    const spans = this.#inSpans(ranges);
    const run = async () => {
      for (let blocks = spans.pop(); blocks !== undefined; blocks = spans.pop()) {
        const id = this.#nextRead++;
        const answered = new Promise<ReadFailure | undefined>((resolve) => {
          this.#waiters.set(id, (errno, reason) => resolve(errno === 0 ? undefined : (reason ?? LOST)));
        });
        this.#send({ type: 'read', id, blocks, now: this.#options.now() });
        failure = (await answered) ?? failure;
      }
    };
    await Promise.all(Array.from({ length: FETCHES_AT_ONCE }, run));
    await this.#flush();
    return failure;
  }

  /** The runs, cut at the borders of spans. */
  #inSpans(ranges: readonly BlockRun[]): BlockRun[] {
    const { table } = this.#options;
    const parts: BlockRun[] = [];
    for (const [first, count] of ranges) {
      const end = Math.min(first + count, table.blockCount);
      for (let block = first; block < end; ) {
        const span = table.span(table.spanOfBlock(block));
        const last = Math.min(end, span.firstBlock + span.blockCount) - 1;
        parts.push(blockRun(block, last + 1 - block));
        block = last + 1;
      }
    }
    return parts;
  }

  status(): LayerStatus {
    const { absent, fetching, present } = this.#actor.counts;
    const { table, diffId } = this.#options;
    return {
      diffId,
      state: this.state,
      blocks: { absent, fetching, present },
      bytes: {
        total: table.rawSize,
        present: Math.min(present * table.blockSize, table.rawSize),
        fetched: this.#options.fetched.get(diffId) ?? 0,
      },
    };
  }

  /** Appends what is pending. */
  flush(): Promise<void> {
    return this.#flush();
  }

  /** Appends what is pending and lets go of the file. Reads that wait get EIO. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#send({ type: 'close' });
    clearTimeout(this.#timer);
    clearTimeout(this.#flushTimer);
    await Promise.allSettled(this.#evictions);
    await this.#flush().catch((error: unknown) =>
      this.#options.log.warn({ error }, 'last blocks not in the log'),
    );
    await this.#options.file.close();
  }

  #send(event: LayerEvent): void {
    for (const effect of this.#actor.handle(event)) this.#run(effect);
  }

  #run(effect: LayerEffect): void {
    switch (effect.type) {
      case 'answer': {
        const answer = this.#waiters.get(effect.id);
        this.#waiters.delete(effect.id);
        this.#trace.readEnded(effect.id, effect.errno);
        if (effect.errno !== 0) this.#scheduleFlush(FLUSH_MS);
        if (effect.reason !== undefined)
          this.#options.pool.readFailed(this.#options.source.registry, effect.reason);
        answer?.(effect.errno, effect.reason);
        return;
      }
      case 'missed':
        this.#trace.readMissed(effect.id, effect.spans);
        return;
      case 'fetch':
        this.#options.onFetch();
        this.#fetch(effect);
        return;
      case 'promote': {
        const job = this.#jobs.get(effect.job);
        if (job !== undefined) this.#options.pool.promote(job.pool);
        return;
      }
      case 'cancel':
        this.#cancel(effect.job);
        return;
      case 'verify':
        void this.#verify(++this.#verification);
        return;
      case 'complete':
        void this.#completed();
        return;
      case 'corrupt':
        void this.#corrupt();
        return;
      case 'punch':
        // Only asked for by evict, which runs it itself.
        return;
      case 'append':
        // Only asked for by #flushOnce, which takes it from the list itself.
        return;
      case 'wake':
        this.#wakeAt(effect.at);
    }
  }

  /**
   * The blocks are absent since the actor named them. Reads that saw them present a moment ago are waited for, the log is
   * told, and only then their bytes go. A flush that is under way leaves out what is absent by now (`loggable`).
   */
  async #punch({ job, ranges }: LayerEffect & { type: 'punch' }, reason: EvictionReason): Promise<number> {
    const { file, quiesce, table, log, diffId, now } = this.#options;
    let isLogged = false;
    try {
      await Promise.all([
        quiesce(),
        this.#append({ type: 'layer.evicted', ranges: pairsOf(ranges), reason }),
      ]);
      isLogged = true;
      let bytes = 0;
      for (const [first, count] of ranges) {
        const from = first * table.blockSize;
        // Whole blocks, past the end as well: a page in part is only zeroed.
        await punchHole(file.fd, from, count * table.blockSize);
        bytes += Math.min(count * table.blockSize, this.device.size - from);
      }
      return bytes;
    } catch (error) {
      log.warn(
        { layer: diffId, error },
        isLogged
          ? 'evicted blocks keep their bytes'
          : reason === 'scrub'
            ? 'damaged blocks are not read any more, which the log does not know yet'
            : 'blocks are not evicted',
      );
      if (isLogged) throw error;
      return 0;
    } finally {
      const isDamage = reason === 'scrub';
      if (isDamage && !isLogged) {
        // Nobody is given them again. Their bytes stay: what is fetched in their place may be written at any time.
        for (const block of blocksOf(ranges)) this.#unsaid.add(block);
        this.#scheduleFlush(RETRY_APPEND_MS);
      }
      this.#send({ type: 'evicted', job, undone: !isLogged && !isDamage, now: now() });
    }
  }

  #count(job: RunningJob, bytes: number): void {
    const { fetched, diffId } = this.#options;
    job.bytes += bytes;
    fetched.set(diffId, (fetched.get(diffId) ?? 0) + bytes);
  }

  #fetch({ job, runs, blocks, class: kind, soon }: LayerEffect & { type: 'fetch' }): void {
    const { diffId, source, pool, now } = this.#options;
    const running: RunningJob = { job, pool: 0, runs, bytes: 0 };
    // Before it is submitted: one that is refused ends within the call.
    this.#jobs.set(job, running);
    this.#trace.fetching(job, runs);
    const order: FetchOrder = {
      kind: 'fetch',
      class: kind,
      layer: diffId,
      runs: blocks,
      source,
    };
    const rest = kind === 'prefetch' && soon !== true ? { rest: this.device.size } : {};
    const listener: JobListener = {
      blocks: (firstBlock, count, bytes) => {
        this.#count(running, bytes);
        const blocks = blockRun(firstBlock, count);
        this.#options.use.arrived(blocks);
        this.#send({ type: 'blocks.fetched', job, blocks, bytes, now: now() });
        this.#scheduleFlush(FLUSH_MS);
      },
      end: (bytes, failure, timing) => {
        this.#count(running, bytes);
        this.#jobs.delete(job);
        this.#scheduleFlush(FLUSH_MS);
        if (failure === undefined) {
          this.#trace.jobEnded(running, timing, undefined);
          const { times } = timing;
          this.#send({ type: 'job.done', job, now: now(), ...(times === undefined ? {} : { times }) });
          return;
        }
        const { code, message } = failure.error;
        // What nobody waits for pushes out nothing.
        if (timing.class === 'demand') this.#options.onFetch(code);
        this.#trace.jobEnded(running, timing, `${code}: ${message}`);
        this.#options.log.warn({ layer: diffId, code, message }, 'fetch failed');
        this.#send({ type: 'job.failed', job, code, message, retryable: failure.retryable, now: now() });
      },
    };
    running.pool = pool.submit(order, listener, rest);
  }

  #cancel(number: number): void {
    const job = this.#jobs.get(number);
    if (job === undefined) return;
    this.#jobs.delete(number);
    const timing = this.#options.pool.cancel(job.pool);
    if (timing !== undefined) this.#trace.jobEnded(job, timing, 'timeout: given up');
    this.#scheduleFlush(FLUSH_MS);
  }

  /**
   * Every block is there: is it the layer that the image names? `turn`: of `#verification`. A check that was lost, or is late, may end
   * when blocks have gone and come since: it has read what was there in between, and says nothing.
   */
  async #verify(turn: number): Promise<void> {
    const { diffId, table, pool, log } = this.#options;
    // What the check reads must be what a crash would leave.
    await this.#flush().catch((error: unknown) => log.warn({ error }, 'blocks not in the log yet'));
    if (!this.#isVerifying(turn)) return;
    pool.submit(
      { kind: 'verify', layer: diffId, size: table.rawSize },
      {
        blocks: () => {},
        end: (_, failure) => {
          if (!this.#isVerifying(turn)) return;
          if (failure === undefined) this.#send({ type: 'verified', ok: true, now: this.#options.now() });
          else if (failure.error.code === 'integrity') void this.#mismatch(turn);
          else this.#verifyLater(turn);
        },
      },
    );
  }

  #isVerifying(turn: number): boolean {
    return !this.#closed && turn === this.#verification && this.#actor.state === 'verifying';
  }

  #verifyLater(turn: number): void {
    setTimeout(() => this.#isVerifying(turn) && void this.#verify(turn), RETRY_APPEND_MS).unref();
  }

  /** The disk, or the span table? A table whose blocks are all there and right leads to the diffID. */
  async #mismatch(turn: number): Promise<void> {
    const { onMismatch, log, diffId, now } = this.#options;
    try {
      const isDamaged = await onMismatch(this);
      if (!isDamaged && this.#isVerifying(turn)) this.#send({ type: 'verified', ok: false, now: now() });
    } catch (error) {
      log.warn({ layer: diffId, error }, 'a device that is not its layer was not compared');
      if (this.#isVerifying(turn)) this.#verifyLater(turn);
    }
  }

  /** Says once more that the layer is complete, where it is: the supervisor may not have heard it. */
  announce(): void {
    if (this.#isComplete) void this.#completed();
  }

  /** It may become incomplete and complete again while its last completion waits for the log, or for a hand-over. */
  async #completed(): Promise<void> {
    this.#isUnsaid = true;
    if (this.#saying) return;
    this.#saying = true;
    try {
      while (this.#isUnsaid) {
        this.#isUnsaid = false;
        await this.#sayWhole();
      }
    } finally {
      this.#saying = false;
    }
    await this.#offerLater();
  }

  async #sayWhole(): Promise<void> {
    const { diffId, notify } = this.#options;
    // What it does not know yet is that blocks were damaged, and so that it was not complete for a while.
    const isLogged =
      (this.#unsaid.size === 0 && this.#isKnown('complete')) ||
      (await this.#record({ type: 'layer.completed', digest: diffId }, () => this.#isComplete));
    if (isLogged && !this.#closed) notify({ kind: 'whole', diffId });
  }

  /** Says that the layer may be handed over, when nobody has to see its reads any more. */
  async #offerLater(): Promise<void> {
    if (this.#offering) return;
    this.#offering = true;
    while (this.#options.isWatched() && !this.#closed) await sleep(WATCHED_MS, undefined, { ref: false });
    this.#offering = false;
    const { diffId, notify } = this.#options;
    if (!this.#closed && this.#isComplete && this.#isKnown('complete')) notify({ kind: 'complete', diffId });
  }

  get #isComplete(): boolean {
    return this.#actor.state === 'complete';
  }

  async #corrupt(): Promise<void> {
    const { diffId, notify } = this.#options;
    const message = `layer ${diffId}: its blocks pass the sidecar's checks, but together they are not the layer`;
    notify({ kind: 'corrupt', diffId, message });
    await this.#record({ type: 'layer.dropped', reason: 'corrupt', message }, () => true);
  }

  #isKnown(fact: 'complete' | 'handedOver'): boolean {
    return this.#options.facts.layers.get(this.#options.diffId)?.[fact] === true;
  }

  /**
   * Brings a fact into the log, behind the blocks that came before it, and tries for as long as the fact holds and the
   * layer is open. Returns whether it is in the log.
   */
  async #record(event: NewLayerEvent, holds: () => boolean): Promise<boolean> {
    const { diffId, log } = this.#options;
    for (let tries = 1; ; tries++) {
      try {
        await this.#flush();
        if (!holds()) return false;
        await this.#append(event);
        return true;
      } catch (error) {
        if (this.#closed) return false;
        if (tries === 1) log.warn({ layer: diffId, type: event.type, error }, 'a fact waits for the log');
        await sleep(RETRY_APPEND_MS, undefined, { ref: false });
        if (this.#closed || !holds()) return false;
      }
    }
  }

  #scheduleFlush(ms: number): void {
    if (this.#closed) return;
    this.#flushTimer ??= setTimeout(() => {
      this.#flushTimer = undefined;
      this.#flush().catch((error: unknown) => {
        this.#options.log.warn({ layer: this.#options.diffId, error }, 'blocks wait for the log');
        if (!this.#closed) this.#scheduleFlush(RETRY_APPEND_MS);
      });
    }, ms);
  }

  /** Syncs what has come, then says so in the log. In this order: an event never leads its data. */
  #flush(): Promise<void> {
    return this.#inTurn(() => this.#flushOnce());
  }

  /** One after the other, so that the log's order is that of what happened. */
  #inTurn(work: () => Promise<void>): Promise<void> {
    const next = this.#flushing.catch(() => {}).then(work);
    this.#flushing = next;
    return next;
  }

  async #flushOnce(): Promise<void> {
    // First: blocks that have come in the place of damaged ones are named below.
    await this.#sayDamaged();
    let pending: Array<readonly BlockRun[]> = [];
    for (const effect of this.#actor.handle({ type: 'flush', now: this.#options.now() })) {
      if (effect.type === 'append') pending.push(effect.ranges);
      else this.#run(effect);
    }
    const trace = this.#trace.take();
    try {
      if (pending.length > 0) await this.#options.file.datasync();
      for (; pending.length > 0; pending = pending.slice(1)) {
        // Some may have been evicted since. Those that go from here on are named by a later append.
        const ranges = this.#actor.loggable(pending[0] ?? []);
        if (ranges.length > 0) await this.#append({ type: 'layer.blocks', ranges: pairsOf(ranges) });
      }
    } catch (error) {
      // They wait in the actor, as one bit a block.
      this.#send({ type: 'append.failed', ranges: pending.flat() });
      if (trace !== undefined) this.#trace.putBack(trace);
      throw error;
    }
    if (trace === undefined) return;
    await this.#append(trace).catch((error: unknown) => {
      this.#trace.putBack(trace);
      throw error;
    });
  }

  async #sayDamaged(): Promise<void> {
    const { appendRanges } = LAYER_LIMITS;
    for (let left = this.#unsaid.runs(); left.length > 0; left = left.slice(appendRanges)) {
      const ranges = left.slice(0, appendRanges);
      await this.#append({ type: 'layer.evicted', ranges: pairsOf(ranges), reason: 'scrub' });
      for (const block of blocksOf(ranges)) this.#unsaid.delete(block);
    }
  }

  async #append(event: NewLayerEvent): Promise<void> {
    const { facts, diffId, onLogged } = this.#options;
    await facts.append(diffId, event).catch((error: unknown) => {
      onLogged(error);
      throw error;
    });
    onLogged(undefined);
  }

  #wakeAt(at: number): void {
    if (at >= this.#timerAt || this.#closed) return;
    clearTimeout(this.#timer);
    this.#timerAt = at;
    this.#timer = setTimeout(
      () => {
        this.#timerAt = Number.POSITIVE_INFINITY;
        this.#send({ type: 'tick', now: this.#options.now() });
      },
      Math.min(Math.max(0, at - this.#options.now()), LONGEST_TIMER_MS),
    );
  }
}
