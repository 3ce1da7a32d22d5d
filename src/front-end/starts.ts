/**
 * Starts of images in the front end: bring the startup pack where there is one, and record what is read until the start is
 * over, so that the next one has a better pack. What the FUSE threads note (FirstReads) is the recording.
 */
import type { Logger } from 'pino';
import { type BlockRun, blockRuns } from '../../actors/ranges.ts';
import { isWhole } from '../../actors/layer-life.ts';
import type { Counts } from '../../actors/counts.ts';
import type { StartSet } from '../../actors/start-set.ts';
import { StartWatch } from '../../actors/start-watch.ts';
import type { LayerStatus } from '../../schemas/api.ts';
import { layerOf, type PackSource, type RecordOrder, type StartRun } from '../../schemas/fetch.ts';
import type { BeginStart } from '../../schemas/front.ts';
import type { FirstReads } from '../fuse/transport.ts';
import type { FetchPool } from './fetch-pool.ts';
import { StartStories, type StartedEvent } from './start-story.ts';

/** What is needed of a layer that is open. */
export interface StartLayer {
  readonly device: { readonly blockSize: number };
  readonly state: LayerStatus['state'];
  /** The ticks of its blocks. */
  readonly firstReads: Uint32Array;
  /** Whether one of these blocks is absent. */
  lacks(blocks: readonly BlockRun[]): boolean;
  /** Tells the layer what is about to come, of a pack that was asked for then (monotonic, ms); the job number for `arrived`, undefined where it is of no use. */
  promise(pack: number, blocks: readonly BlockRun[], askedAt: number): number | undefined;
  /** What is likely to be read soon: fetched before any other prefetch. */
  aim(blocks: readonly BlockRun[]): void;
  arrived(job: number, first: number, count: number, bytes: number): void;
  /** The pack brings blocks, of other layers. */
  promiseHeard(job: number): void;
  promiseEnded(job: number): void;
  /** A start that has read of it is over: the log is told. */
  started(event: StartedEvent): void;
}

interface Recording {
  order: BeginStart;
  watch: StartWatch;
  /** Ticks above it belong to this start. */
  since: number;
}

/** A recording that becomes a pack as soon as nothing starts. */
interface Recorded {
  job: RecordOrder;
  at: number;
}

/** A pack that a fetcher has asked for, and keeps. */
interface HeldPack {
  number: number;
  job: number;
  pack: PackSource;
  since: number;
}

/** An image that is not attached so long, ms, after its pack was asked for has no use for what came of it. */
const HELD_MS = 5_000;
/** Starts that are recorded at once; further ones are not recorded. */
const MOST_RECORDINGS = 32;
/**
 * A pack has its blocks in the order of the start: over a slow link a layer may have none of them for longer than a silent pack is
 * waited for. So often, ms, each is told that the pack still comes.
 */
const HEARD_MS = 250;
/** Making a pack is half a second of work: it waits for so long a pause, ms, but no longer than the second limit. */
const IDLE_MS = 2_000;
const IDLE_LIMIT_MS = 30_000;
/** What packs have is kept of so many, each of so many runs: they go into one message. */
const MOST_KNOWN = 64;
const MOST_KNOWN_RUNS = 20_000;

export interface StartsOptions {
  pool: Pick<FetchPool, 'submit' | 'release' | 'cancel'>;
  layer(diffId: string): StartLayer | undefined;
  /** Monotonic, ms. */
  now: () => number;
  /** Ms since the epoch; absent: the log is told of no start. */
  epochMs?: () => number;
  /** Processors of the node, for the log. */
  cores?: number;
  log: Logger;
  /** Starts that are over are counted here. */
  counts?: Counts | undefined;
}

export class Starts {
  readonly #options: StartsOptions;
  readonly #clock = new Int32Array(new SharedArrayBuffer(8));
  readonly #recordings = new Map<string, Recording>();
  /** By start: what the pack has that came from the registry for it. */
  readonly #brought = new Map<string, StartSet>();
  /** By pack: what those have that have come as a whole. */
  readonly #whole = new Map<string, StartSet>();
  /** By start: packs that were only asked for yet. */
  readonly #held = new Map<string, HeldPack>();
  /** What the log is to hear of starts that are under way. */
  readonly #stories = new StartStories();
  #recorded: Recorded[] = [];
  #packs = 0;
  #nextPack = 1;
  #seen = 0;
  #lastFirstRead = Number.NEGATIVE_INFINITY;

  constructor(options: StartsOptions) {
    this.#options = options;
  }

  /** For a device of so many blocks. */
  firstReads(blockCount: number): FirstReads {
    return {
      clock: this.#clock.buffer as SharedArrayBuffer,
      ticks: new SharedArrayBuffer(blockCount * 4),
    };
  }

  /** Whether a pack is on its way: nothing else should take its bandwidth. */
  get isBringing(): boolean {
    return this.#packs > 0;
  }

  /** When something was read for the first time, by the clock of `now`. */
  get lastFirstRead(): number {
    return this.#lastFirstRead;
  }

  /** Whether the layer's first reads are being recorded: it must not be handed over to the kernel yet. */
  isRecording(diffId: string): boolean {
    for (const { order } of this.#recordings.values())
      if (order.layers.some((layer) => layerOf(layer) === diffId)) return true;
    return false;
  }

  /** An image was attached, and what will run in it starts. */
  begin(order: BeginStart): void {
    if (order.pack !== undefined && !this.#release(order, order.pack)) this.#bring(order);
    if (order.hints !== undefined) {
      const { devices, runs } = order.hints;
      this.#stories.of(keyOf(order)).named('hints', devices, runs);
      this.#aim(order.hints);
    }
    if (!order.record || this.#recordings.size >= MOST_RECORDINGS) return;
    // Recordings that run at the same time share the clock: the later one restarts the ticks of layers in common.
    const since = Atomics.load(this.#clock, 0);
    Atomics.store(this.#clock, 1, since);
    const watch = new StartWatch(this.#options.now(), since);
    this.#recordings.set(keyOf(order), { order, watch, since });
  }

  /** To be called every 100 ms or so. */
  tick(): void {
    const now = this.#options.now();
    const ticks = Atomics.load(this.#clock, 0);
    if (ticks !== this.#seen) this.#lastFirstRead = now;
    this.#seen = ticks;
    for (const [key, recording] of this.#recordings) {
      const isAll = recording.order.layers.every((layer) =>
        isWhole(this.#options.layer(layerOf(layer))?.state),
      );
      this.#note(key, recording, ticks);
      const state = recording.watch.look(now, ticks, isAll);
      if (state === 'going-on') continue;
      this.#recordings.delete(key);
      if (state === 'over') this.#record(recording);
    }
    for (const [key, held] of this.#held) if (now - held.since >= HELD_MS) this.#giveUp(key, held);
    this.#submitRecorded(now);
  }

  #note(key: string, { since }: Recording, ticks: number): void {
    const { epochMs } = this.#options;
    if (epochMs !== undefined) this.#stories.of(key).look(ticks - since, epochMs());
  }

  /** The layer is about to be closed: what started is over, or at an end that comes to the same. */
  closing(diffId: string): void {
    this.tick();
    for (const [key, recording] of this.#recordings) {
      if (!recording.order.layers.some((layer) => layerOf(layer) === diffId)) continue;
      this.#recordings.delete(key);
      this.#record(recording);
    }
  }

  /** The layers of a pack that was asked for are open. False where it was not, or not this one. */
  #release(order: BeginStart, pack: PackSource): boolean {
    const key = keyOf(order);
    const held = this.#held.get(key);
    if (held === undefined) return false;
    if (!isSame(held.pack, pack)) {
      this.#giveUp(key, held);
      return false;
    }
    if (order.ahead === true) return true;
    this.#held.delete(key);
    this.#options.pool.release(held.job, order.layers);
    return true;
  }

  #aim({ devices, runs }: StartSet): void {
    for (const [device, diffId] of devices.entries()) {
      const mine = runsOf(device, runs);
      if (mine.length > 0) this.#options.layer(diffId)?.aim(mine);
    }
  }

  #bring(order: BeginStart): void {
    const { pack, layers, manifest, ahead } = order;
    if (pack === undefined) return;
    if (this.#isHere(pack)) {
      this.#options.log.info({ pack }, 'startup pack not asked for: its blocks are here');
      return;
    }
    const key = keyOf(order);
    const contents: { devices: readonly string[]; runs: StartRun[] } = { devices: [], runs: [] };
    const number = this.#nextPack++;
    const { pool, log } = this.#options;
    /** By diffID: the layer and its promise. */
    const promises = new Map<string, Array<{ layer: StartLayer; job: number }>>();
    const startedAt = this.#options.now();
    let heardAt = startedAt;
    this.#packs += 1;
    const story = this.#stories.of(key);
    if (pack.kind !== 'files') story.asked(pack.size, this.#options.epochMs?.() ?? 0);
    let isOver = false;
    const job = pool.submit(
      { kind: 'pack', layer: '', manifest, layers, pack, ...(ahead === true ? { held: true } : {}) },
      {
        pack: ({ devices, runs }) => {
          contents.devices = devices;
          for (const run of runs) contents.runs.push(run);
          story.named(pack.kind === 'files' ? 'files' : 'pack', devices, runs);
          if (pack.kind === 'registry') keep(this.#brought, key, contents);
          for (const [device, diffId] of devices.entries()) {
            const mine = runsOf(device, runs);
            const layer = this.#options.layer(diffId);
            if (layer === undefined || mine.length === 0) continue;
            if (pack.kind === 'files') {
              layer.aim(mine);
              continue;
            }
            const job = layer.promise(number, mine, startedAt);
            if (job === undefined) continue;
            const known = promises.get(diffId);
            if (known === undefined) promises.set(diffId, [{ layer, job }]);
            else known.push({ layer, job });
          }
        },
        blocks: (first, count, bytes, diffId) => {
          const known = promises.get(diffId);
          // Closed and opened again meanwhile: the job number is another layer's.
          const [made] = known ?? [];
          if (made === undefined || this.#options.layer(diffId) !== made.layer) return;
          made.layer.arrived(made.job, first, count, bytes);
          const now = this.#options.now();
          if (now - heardAt < HEARD_MS) return;
          heardAt = now;
          for (const one of [...promises.values()].flat()) one.layer.promiseHeard(one.job);
        },
        end: (_, failure) => {
          this.#packs -= 1;
          // It may end before it has a number.
          isOver = true;
          if (this.#held.get(key)?.number === number) this.#held.delete(key);
          for (const made of [...promises.values()].flat()) made.layer.promiseEnded(made.job);
          const ms = Math.round(this.#options.now() - startedAt);
          if (failure === undefined) story.came(ms * 1000);
          else story.gaveUp(`${failure.error.code}: ${failure.error.message}`);
          if (failure !== undefined) this.#brought.delete(key);
          else if (pack.kind !== 'files') keep(this.#whole, JSON.stringify(pack), contents);
          const what = pack.kind === 'files' ? 'start of an earlier image' : 'startup pack';
          if (failure === undefined) log.info({ pack, ms }, `${what} brought`);
          else log.warn({ pack, ms, error: failure.error }, `${what} given up`);
          const isWrong = failure?.error.code === 'integrity' && pack.kind !== 'files';
          if (isWrong) this.#options.counts?.add('integrity_failures_total', 1, 'pack');
        },
      },
    );
    if (ahead === true && !isOver) this.#held.set(key, { number, job, pack, since: startedAt });
  }

  #giveUp(key: string, { job }: HeldPack): void {
    this.#held.delete(key);
    this.#options.pool.cancel(job);
    this.#packs -= 1;
  }

  /** Whether all that the pack has is present, as far as is known what it has: a container that starts again needs no pack. */
  #isHere(pack: PackSource): boolean {
    const known = this.#whole.get(JSON.stringify(pack));
    return (
      known !== undefined &&
      known.devices.every((diffId, device) => {
        const layer = this.#options.layer(diffId);
        return layer !== undefined && !layer.lacks(runsOf(device, known.runs));
      })
    );
  }

  #record({ order, watch, since }: Recording): void {
    const found: Array<{ device: number; block: number; tick: number }> = [];
    const devices: string[] = [];
    for (const one of order.layers) {
      const id = layerOf(one);
      const layer = this.#options.layer(id);
      if (layer === undefined) continue;
      const device = devices.push(id) - 1;
      const { firstReads } = layer;
      for (let block = 0; block < firstReads.length; block++) {
        const tick = firstReads[block] as number;
        if (tick > since) found.push({ device, block, tick });
      }
    }
    found.sort((a, b) => a.tick - b.tick);
    const runs: Array<[number, number, number]> = [];
    for (const { device, block } of found) {
      const last = runs.at(-1);
      if (last !== undefined && last[0] === device && last[1] + last[2] === block) last[2] += 1;
      else runs.push([device, block, 1]);
    }
    const { manifest, start, repository, layers } = order;
    const story = this.#stories.take(keyOf(order));
    const { epochMs, cores = 1 } = this.#options;
    if (epochMs !== undefined)
      for (const [id, event] of story.events({ manifest, start, devices, found, since, cores }))
        this.#options.layer(id)?.started(event);
    this.#options.log.info({ manifest, start, blocks: found.length, ms: watch.lasted }, 'start recorded');
    if (runs.length === 0) return;
    this.#options.counts?.observe('start_reads_seconds', watch.lasted / 1000, story.ahead);
    const set: StartSet = { devices, runs };
    const brought = this.#brought.get(keyOf(order));
    this.#recorded.push({
      job: {
        kind: 'record',
        layer: '',
        manifest,
        start,
        repository,
        layers,
        set,
        ...(brought === undefined ? {} : { brought }),
      },
      at: this.#options.now(),
    });
    if (this.#recorded.length > MOST_RECORDINGS) this.#recorded.shift();
  }

  /** What was recorded is brought into the store when no start waits, one after the other. */
  #submitRecorded(now: number): void {
    const [next] = this.#recorded;
    if (next === undefined) return;
    const isIdle =
      this.#packs === 0 &&
      this.#recordings.size === 0 &&
      now - Math.max(this.#lastFirstRead, next.at) >= IDLE_MS;
    if (!isIdle && now - next.at < IDLE_LIMIT_MS) return;
    this.#recorded.shift();
    const { pool, log } = this.#options;
    const listener = {
      blocks: () => {},
      end: (_bytes: number, failure: { error: unknown } | undefined) => {
        if (failure !== undefined)
          log.warn({ manifest: next.job.manifest, error: failure.error }, 'no startup pack was made');
      },
    };
    pool.submit(next.job, listener, { rest: 0 });
  }
}

function keep(sets: Map<string, StartSet>, key: string, set: StartSet): void {
  sets.delete(key);
  if (set.runs.length > MOST_KNOWN_RUNS) return;
  sets.set(key, set);
  if (sets.size > MOST_KNOWN) sets.delete(sets.keys().next().value as string);
}

/** The blocks of one device. */
const runsOf = (device: number, runs: readonly StartRun[]): BlockRun[] =>
  blockRuns(runs.flatMap(([of, first, count]) => (of === device ? [[first, count] as const] : [])));

const isSame = (one: PackSource, other: PackSource): boolean => JSON.stringify(one) === JSON.stringify(other);
const keyOf = ({ manifest, start }: BeginStart): string => `${manifest} ${start}`;
