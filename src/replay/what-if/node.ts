/**
 * The front end in simulated time: the engine's own actors (layers, dispatcher, start-quiet, one-stream), joined as
 * src/front-end joins them, with fetchers that are simulated. A library may not import a program: what the front end does around
 * its actors is told again here, by the names of its files.
 */
import { BlockState } from '../../../actors/block.ts';
import { Dispatcher, type DispatcherEffect, type DispatcherEvent } from '../../../actors/dispatcher.ts';
import { LayerActor, type LayerEffect, type LayerEvent } from '../../../actors/layer.ts';
import { OneStream } from '../../../actors/one-stream.ts';
import { Budgets } from '../../../actors/pace.ts';
import { blockRun, type SpanRun, spansOf } from '../../../actors/ranges.ts';
import { StartQuiet } from '../../../actors/start-quiet.ts';
import type { LayerShape } from '../shapes.ts';
import { bytesIn, withBytes } from './bytes.ts';
import type { SimulatedClock } from './clock.ts';
import { Fetchers, type JobPlan, type JobTold, piecesOf } from './fetchers.ts';
import type { Link } from './link.ts';
import type { Processors } from './processors.ts';
import type { Costs, OrderedRun, Outcome, Policy } from './recording.ts';

/** src/front-end/rest.ts, fetch-pool.ts, starts.ts, src/fetch/fetch-job.ts. */
const LOOK_MS = 100;
const HELLO_MS = 1_000;
const HEARD_MS = 250;
const REPORT_BLOCKS = 16;
const LONG_REPORT_BLOCKS = 32;
const LONG_BLOCKS = 64;
/** Blocks of a pack that are told together: its runs are short. */
const PACK_REPORT_BLOCKS = 8;
/** All layers come from one registry, for one image. */
const SOURCE = 'registry';
const IMAGE = 'image';

interface Layer {
  id: string;
  actor: LayerActor;
  shape: LayerShape;
  states: Uint8Array;
  answers: Map<number, (errno: number) => void>;
  wake: (() => void) | undefined;
}

type CountedAs = Exclude<keyof Outcome['bytes'], 'sidecar'>;

/** `as`: what its bytes count as by then. */
interface OrderTold extends Omit<JobTold, 'end'> {
  end(...ended: [...Parameters<JobTold['end']>, as: CountedAs]): void;
}

interface PoolJob {
  plan: JobPlan;
  told: OrderTold;
  counted: CountedAs;
}

export interface NodeOptions {
  clock: SimulatedClock;
  link: Link;
  processors: Processors;
  costs: Costs;
  policy: Policy;
  layers: ReadonlyMap<string, LayerShape>;
  present: ReadonlyMap<string, ReadonlyArray<readonly [number, number]>>;
}

export class SimulatedNode {
  readonly #options: NodeOptions;
  readonly #layers = new Map<string, Layer>();
  readonly #dispatcher = new Dispatcher();
  readonly #fetchers: Fetchers;
  readonly #quiet = new StartQuiet();
  readonly #stream = new OneStream();
  readonly #jobs = new Map<number, PoolJob>();
  /** `layer/job` of the actor: the number in the pool. */
  readonly #poolJobs = new Map<string, number>();
  #nextJob = 1;
  #nextRead = 1;
  #wake: (() => void) | undefined;
  #wakesAt = Number.POSITIVE_INFINITY;
  #packs = 0;
  #packJob: number | undefined;
  #lastFirstRead = Number.NEGATIVE_INFINITY;
  #hasFirstRead = false;
  readonly bytes: Record<CountedAs, number> = { pack: 0, demand: 0, ahead: 0, rest: 0 };

  constructor(options: NodeOptions) {
    const { clock, link, processors, costs, policy } = options;
    this.#options = options;
    this.#fetchers = new Fetchers(clock, link, processors, costs);
    const hello = () => {
      for (let number = 0; number < policy.fetchers; number++) {
        const fetcher = `fetcher-${number}`;
        this.#handle({ type: 'fetcher.hello', fetcher, slots: policy.slots, now: clock.now });
      }
    };
    hello();
    clock.every(HELLO_MS, hello);
  }

  get requests(): number {
    return this.#fetchers.requests;
  }

  // ── Layers (layer-host.ts, open-layers.ts) ──

  /** The image's layers are open. */
  attach(): void {
    const { clock, layers, policy, present } = this.#options;
    const budgets = new Budgets();
    const now = clock.now;
    for (const [id, shape] of layers) {
      const states = new Uint8Array(shape.blockCount);
      const layer: Layer = {
        id,
        actor: new LayerActor(shape, states),
        shape,
        states,
        answers: new Map(),
        wake: undefined,
      };
      this.#layers.set(id, layer);
      const ranges = (present.get(id) ?? []).map(([first, count]) => blockRun(first, count));
      this.#send(layer, { type: 'restore', ranges });
      if (policy.prefetchLimit !== undefined) budgets.set(id, [[IMAGE, policy.prefetchLimit]], now);
      const bytesOf = (run: SpanRun) => bytesIn(shape, run);
      this.#send(layer, { type: 'pace', pace: budgets.paceOf(id, bytesOf), now });
      if (!policy.prefetch) continue;
      this.#send(layer, { type: 'readahead', on: true, now });
      this.#quiet.want(id, now);
    }
    clock.every(LOOK_MS, () => this.#look());
  }

  /** The program reads these blocks; `done` when it is answered. */
  read({ layer: id, first, count }: OrderedRun, done: (how: 'present' | 'came' | 'failed') => void): void {
    this.#hasFirstRead = true;
    const layer = this.#layers.get(id);
    const end = Math.min(first + count, layer?.shape.blockCount ?? 0);
    if (layer === undefined || end <= first || isPresent(layer, first, end)) return done('present');
    const { clock, costs } = this.#options;
    this.#quiet.coldRead(clock.now);
    const read = this.#nextRead++;
    layer.answers.set(read, (errno) => {
      this.#tellReaders();
      clock.after(costs.replyMs, () => done(errno === 0 ? 'came' : 'failed'));
    });
    this.#tellReaders();
    this.#send(layer, { type: 'read', id: read, blocks: blockRun(first, end - first), now: clock.now });
  }

  #tellReaders(): void {
    let waiting = 0;
    for (const { answers } of this.#layers.values()) waiting += answers.size;
    this.#options.processors.hasReaders = waiting > 0;
  }

  #send(layer: Layer, event: LayerEvent): void {
    for (const effect of layer.actor.handle(event)) this.#run(layer, effect);
  }

  #run(layer: Layer, effect: LayerEffect): void {
    const { clock } = this.#options;
    switch (effect.type) {
      case 'answer': {
        const answer = layer.answers.get(effect.id);
        layer.answers.delete(effect.id);
        answer?.(effect.errno);
        return;
      }
      case 'fetch':
        return this.#fetch(layer, effect);
      case 'promote': {
        const job = this.#poolJobs.get(keyOf(layer, effect.job));
        if (job === undefined) return;
        const known = this.#jobs.get(job);
        if (known !== undefined) known.counted = 'demand';
        return this.#handle({ type: 'promote', job, now: clock.now });
      }
      case 'cancel': {
        const job = this.#poolJobs.get(keyOf(layer, effect.job));
        if (job !== undefined) this.#handle({ type: 'cancel', job, now: clock.now });
        return;
      }
      case 'wake':
        layer.wake?.();
        layer.wake = clock.at(effect.at, () => this.#send(layer, { type: 'tick', now: clock.now }));
        return;
      default:
      // The log, the check of the whole layer and evictions are not part of a start's waits.
    }
  }

  // ── Jobs (layer-fetches.ts, fetch-pool.ts) ──

  #fetch(layer: Layer, { job, runs, class: kind, soon, ahead }: LayerEffect & { type: 'fetch' }): void {
    const { costs, clock } = this.#options;
    const { shape, id } = layer;
    const isRest = kind === 'prefetch' && soon !== true;
    const parts = [];
    for (const run of runs) {
      const end = run[0] + run[1];
      for (const span of spansOf([run])) {
        const { firstBlock: first, blockCount: count } = shape.span(span);
        parts.push({ layer: id, first, count, bytes: shape.bytesOf(span), isEnd: span + 1 === end });
      }
    }
    const isLong = parts.reduce((sum, { count }) => sum + count, 0) > LONG_BLOCKS;
    const blockMs = (costs.fetchBlockMs * shape.blockSize) / 65_536;
    const pieces = piecesOf(parts, blockMs, isLong ? LONG_REPORT_BLOCKS : REPORT_BLOCKS);
    const told: OrderTold = {
      blocks: (found, bytes) => {
        for (const { first, count } of found)
          this.#send(layer, {
            type: 'blocks.fetched',
            job,
            blocks: blockRun(first, count),
            bytes,
            now: clock.now,
          });
      },
      end: (times, bytes, as) => {
        this.#poolJobs.delete(keyOf(layer, job));
        this.#stream.fetched({ bytes, isRest: as === 'rest', ...times });
        this.#send(layer, { type: 'job.done', job, now: clock.now, times });
      },
    };
    const counted = kind === 'demand' ? 'demand' : isRest ? 'rest' : 'ahead';
    const number = this.#nextJob++;
    this.#poolJobs.set(keyOf(layer, job), number);
    this.#jobs.set(number, { plan: { pieces, isRest, isHeld: false }, told, counted });
    this.#handle({
      type: 'submit',
      job: number,
      class: kind,
      layer: id,
      source: SOURCE,
      ...(isRest ? { rest: shape.rawSize } : {}),
      ...(ahead === true ? { ahead } : {}),
      now: clock.now,
    });
  }

  #handle(event: DispatcherEvent): void {
    for (const effect of this.#dispatcher.handle(event)) this.#dispatch(effect);
    const at = this.#dispatcher.nextWake;
    if (at === this.#wakesAt) return;
    this.#wake?.();
    this.#wakesAt = at;
    const { clock } = this.#options;
    if (at === Number.POSITIVE_INFINITY) return;
    this.#wake = clock.at(at, () => {
      this.#wakesAt = Number.POSITIVE_INFINITY;
      this.#handle({ type: 'tick', now: clock.now });
    });
  }

  #dispatch(effect: DispatcherEffect): void {
    const { job } = effect;
    switch (effect.type) {
      case 'send':
        return this.#sendToFetcher(job, effect.fetcher);
      case 'hold':
        return this.#fetchers.hold(job, effect.ms);
      case 'go-on':
        return this.#fetchers.hold(job, 0);
      case 'stop':
        return this.#fetchers.stop(job);
      default:
        // Refused, or given up: a start of the log's size comes to neither.
        this.#jobs.delete(job);
    }
  }

  #sendToFetcher(job: number, fetcher: string): void {
    const known = this.#jobs.get(job);
    if (known === undefined) return;
    const { clock } = this.#options;
    const { plan, told } = known;
    this.#fetchers.send(job, fetcher, plan, {
      begun: () => told.begun?.(),
      blocks: (runs, bytes) => {
        this.bytes[known.counted] += bytes;
        told.blocks(runs, bytes);
        this.#handle({ type: 'job.progress', job, fetcher, now: clock.now });
      },
      end: (times, bytes) => {
        this.#jobs.delete(job);
        this.#handle({ type: 'job.ended', job, fetcher, ok: true, now: clock.now });
        told.end(times, bytes, known.counted);
      },
    });
  }

  // ── Starts (starts.ts) ──

  /** The pack is asked for; what comes of it waits until `release`. `bytes`: as it is stored. */
  askForPack(runs: readonly OrderedRun[], bytes: number): void {
    const { clock, costs, layers } = this.#options;
    this.#packs += 1;
    const parts = [...withBytes(runs, layers, bytes)];
    const blockSize = layers.values().next().value?.blockSize ?? 65_536;
    const pieces = piecesOf(parts, (costs.packBlockMs * blockSize) / 65_536, PACK_REPORT_BLOCKS);
    const promised = new Map<string, number>();
    let heardAt = clock.now;
    const promise = () => {
      for (const [id, layer] of this.#layers) {
        const ranges = runs.flatMap((run) => (run.layer === id ? [blockRun(run.first, run.count)] : []));
        if (ranges.length === 0) continue;
        const effects = layer.actor.handle({ type: 'promise', pack: 1, ranges, now: clock.now });
        for (const effect of effects)
          if (effect.type === 'promised') promised.set(id, effect.job);
          else this.#run(layer, effect);
      }
    };
    const number = this.#nextJob++;
    this.#packJob = number;
    const told: JobTold = {
      // Its header names its blocks.
      begun: promise,
      blocks: (found, came) => {
        for (const [at, { layer: id, first, count }] of found.entries()) {
          const [layer, job] = [this.#layers.get(id), promised.get(id)];
          if (layer === undefined || job === undefined) continue;
          const blocks = blockRun(first, count);
          this.#send(layer, {
            type: 'blocks.fetched',
            job,
            blocks,
            bytes: at === 0 ? came : 0,
            now: clock.now,
          });
        }
        if (clock.now - heardAt < HEARD_MS) return;
        heardAt = clock.now;
        for (const [id, job] of promised) this.#to(id, { type: 'promise.heard', job, now: clock.now });
      },
      end: () => {
        this.#packs -= 1;
        for (const [id, job] of promised) this.#to(id, { type: 'promise.ended', job, now: clock.now });
      },
    };
    this.#jobs.set(number, { plan: { pieces, isRest: false, isHeld: true }, told, counted: 'pack' });
    this.#handle({ type: 'submit', job: number, class: 'demand', layer: '', now: clock.now });
  }

  /** The layers are open: the pack's blocks may be written. */
  release(): void {
    if (this.#packJob !== undefined) this.#fetchers.release(this.#packJob);
  }

  /** The start is likely to read these. */
  aim(runs: readonly OrderedRun[]): void {
    if (!this.#options.policy.prefetch) return;
    for (const id of this.#layers.keys()) {
      const ranges = runs.flatMap((run) => (run.layer === id ? [blockRun(run.first, run.count)] : []));
      if (ranges.length > 0) this.#to(id, { type: 'aim', ranges, now: this.#options.clock.now });
    }
  }

  #to(id: string, event: LayerEvent): void {
    const layer = this.#layers.get(id);
    if (layer !== undefined) this.#send(layer, event);
  }

  // ── The rest (rest.ts) ──

  #look(): void {
    const { now } = this.#options.clock;
    if (this.#hasFirstRead) this.#lastFirstRead = now;
    this.#hasFirstRead = false;
    const isBringing = this.#packs > 0;
    if (!isBringing) this.#streamWhatIsWaitedFor(now);
    const signs = { lastFirstRead: this.#lastFirstRead, isBringing };
    for (const id of this.#quiet.look(now, signs)) this.#to(id, { type: 'prefetch', on: true, now });
  }

  #streamWhatIsWaitedFor(now: number): void {
    const starting = this.#quiet.starting(now).flatMap((id) => {
      const layer = this.#layers.get(id);
      if (layer === undefined) return [];
      const { actor, shape, answers } = layer;
      const absentBytes = Math.ceil((actor.counts.absent / Math.max(1, shape.blockCount)) * shape.bytes);
      return [{ layer: id, isWaitedFor: answers.size > 0, absentBytes }];
    });
    for (const id of this.#stream.look(now, starting, this.#options.policy.fetchers)) {
      const blockCount = this.#layers.get(id)?.shape.blockCount ?? 0;
      this.#to(id, { type: 'aim', ranges: [blockRun(0, blockCount)], all: true, now });
    }
  }
}

function isPresent({ states }: Layer, first: number, end: number): boolean {
  for (let block = first; block < end; block++) if (states[block] !== BlockState.present) return false;
  return true;
}

const keyOf = ({ id }: Layer, job: number): string => `${id}/${job}`;
