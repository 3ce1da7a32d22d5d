/**
 * The layer actors and the dispatcher in a world of simulated time: disks, a log, fetchers, messages, readers, and
 * faults, all drawn from one seed. After every event it checks the rules that must always hold:
 *
 * - every read is answered once, by its deadline; with 0 only when each of its blocks lies on the disk, with an error
 *   only for a reason that the world knows of;
 * - no span is fetched twice at once, none without need; a present block is on the disk;
 * - the log says of no block that it is present before it is synced, or after it was punched;
 * - no prefetch is sent while demand waits; demand keeps its order; queues keep their limits; counts equal a recount.
 *
 * When the faults end, everything must recover: all reads served, every block fetched that can be fetched, no job left
 * running, and the log equal to the states. A restart folds the log and forgets all else.
 *
 * What is not simulated: bytes (a block is there or not), two front ends at once, and time that passes inside an actor.
 */
import { BURST_MS, Budgets } from '../../actors/pace.ts';
import { Dispatcher, type DispatcherEffect, type DispatcherEvent } from '../../actors/dispatcher.ts';
import { IdleWork } from '../../actors/idle-work.ts';
import { LayerActor, type LayerEffect, type LayerEvent, type ReadFailure } from '../../actors/layer.ts';
import { type BlockRun, blockRun, blocksOf, type SpanRun, spansOf } from '../../actors/ranges.ts';
import { geometryOf } from './geometry.ts';
import { Random } from './random.ts';
import { SimDisk, SimLog } from './simulation-store.ts';
import { drawPace, drawPlan, healed, type Plan } from './simulation-plan.ts';
import { type JobMessage, SimFetcher, type FetcherMessage } from './simulation-fetcher.ts';

/** Mistakes that can be built in, to see that the rules notice them. */
export type Sabotage =
  | 'drop-waiter'
  | 'double-fetch'
  | 'answer-early'
  | 'log-before-sync'
  | 'punch-before-log'
  | 'forget-append'
  | 'prefetch-first'
  | 'overspend'
  | 'miss-deadline';

export interface Outcome {
  seed: number;
  /** Hash of all events of the run, in order. */
  trace: string;
  events: number;
  /** Reads by how they ended. */
  served: number;
  failed: number;
  /** What the seed met: jobs, retries, restarts, evicted blocks, late blocks… */
  met: Record<string, number>;
}

/** How often the front end looks at the machine, ms, and limits that a seed lives to see. */
const LOOK_MS = 30;
const IDLE_LIMITS = { lookMs: 20, settleMs: 10, trustMs: 50, trustMaxMs: 200, ageMs: 400, turnMs: 300 };

export class Violation extends Error {}

/** Runs one seed. Throws a Violation that names seed, time and rule, with the last things that happened. */
export function simulate(
  seed: number,
  options: { sabotage?: Sabotage; onTrace?: (line: string) => void } = {},
): Outcome {
  return new Simulation(seed, options.sabotage, options.onTrace).run();
}

interface Read {
  id: number;
  layer: SimLayer;
  first: number;
  last: number;
  deadline: number;
}

/** A layer device: what outlives the front end, then what its present actor has. */
interface SimLayer {
  index: number;
  /** Where a reader in order goes on, a block. */
  place: number;
  spans: number[];
  geometry: ReturnType<typeof geometryOf>;
  disk: SimDisk;
  log: SimLog;
  bad: Set<number>;
  isLiar: boolean;

  states: Uint8Array;
  actor: LayerActor;
  /** Jobs that run in the actor's view: its number → spans and the pool's number. */
  jobs: Map<number, { runs: readonly SpanRun[]; pool: number }>;
  /** Failed jobs by span. */
  failures: number[];
  /** Appends and punches, one after the other. */
  line: Array<(next: () => void) => void>;
  isBusy: boolean;
  wakeAt: number;
  corrupt: boolean;
  /** A read has waited in vain, and no block has arrived since. */
  isStalled: boolean;
  /** Blocks of the startup pack that is about to be promised. */
  pack: number[];
  /** Packs that have not ended: a read that waits for one needs no job. */
  packs: Set<number>;
}

interface PoolJob {
  layer: SimLayer;
  job: number;
  class: 'demand' | 'prefetch';
  /** When the dispatcher got the job as it is now, in order; NaN: not yet. */
  since: number;
  /** Times sent. */
  sent: number;
}

const HELLO_MS = 100;
const RESTART_MS = 50;
/** Longer than any read that can be served takes. */
const PATIENCE_MS = 200_000;
/** More than any seed needs. */
const MAX_EVENTS = 200_000;

class Simulation {
  readonly #seed: number;
  readonly #random: Random;
  readonly #sabotage: Sabotage | undefined;
  readonly #onTrace: ((line: string) => void) | undefined;
  #plan: Plan;
  #now = 0;
  readonly #queue: Array<{ at: number; order: number; run: () => void }> = [];
  #order = 0;
  #hash = 0x811c9dc5;
  readonly #recent: string[] = [];
  #events = 0;
  #met: Record<string, number> = {};

  readonly #layers: SimLayer[] = [];
  #fetchers: SimFetcher[] = [];
  /** Counts restarts of the node; work of an earlier life is void. */
  #node = 0;
  /** Counts front ends; their timers and appends end with them. */
  #front = 0;
  #isUp = false;
  #dispatcher = new Dispatcher();
  #dispatcherWakeAt = Number.POSITIVE_INFINITY;
  #dispatches: DispatcherEvent[] = [];
  #budgets = new Budgets();
  /** Blocks of prefetch jobs since the pace was set last, but those of the last job; and when that was. */
  #spent = { since: 0, blocks: 0, last: 0, fastest: 0 };
  #nextPoolJob = 1;
  /** Jobs in the pool of the present front end. */
  readonly #pool = new Map<number, PoolJob>();
  readonly #reads = new Map<number, Read>();
  #nextRead = 1;
  #served = 0;
  #failed = 0;

  /** Others want the machine at present, and for how long tasks have waited in all, ms. */
  #othersAreBusy = false;
  readonly #waited = { at: 0, cpuMs: 0, ioMs: 0 };

  constructor(seed: number, sabotage: Sabotage | undefined, onTrace: ((line: string) => void) | undefined) {
    this.#seed = seed;
    this.#sabotage = sabotage;
    this.#onTrace = onTrace;
    this.#random = new Random(seed);
    this.#plan = drawPlan(this.#random);
    for (const [index, spans] of this.#plan.layers.entries())
      this.#layers.push(this.#makeLayer(index, spans));
    this.#fetchers = this.#plan.fetchers.map((slots, index) => this.#makeFetcher(`w${index}`, slots));
  }

  run(): Outcome {
    this.#startFront();
    for (const fetcher of this.#fetchers) this.#beat(fetcher, this.#node);
    this.#every(
      () => this.#plan.readEveryMs,
      () => this.#readSome(),
    );
    this.#every(
      () => this.#plan.fetcherCrashMs,
      () => this.#crashFetcher(),
    );
    this.#every(
      () => this.#plan.frontCrashMs,
      () => this.#crashFront(),
    );
    this.#every(
      () => this.#plan.powerCutMs,
      () => this.#cutPower(),
    );
    this.#every(
      () => this.#plan.evictMs,
      () => this.#evict(),
    );
    this.#every(
      () => this.#plan.packMs,
      () => this.#promise(),
    );
    this.#every(
      () => this.#plan.togglePrefetchMs,
      () => this.#prefetch(this.#random.chance(0.5)),
    );
    this.#every(
      () => this.#plan.busyMs,
      () => {
        this.#othersAreBusy = !this.#othersAreBusy;
      },
    );
    this.#every(
      () => this.#plan.paceMs,
      () => this.#pace(drawPace(this.#random)),
    );
    this.#runUntil(this.#plan.faultsEndMs, () => false);
    this.#trace('heal');
    this.#plan = healed(this.#plan);
    for (const fetcher of this.#fetchers) fetcher.heal();
    this.#prefetch(true);
    const readUntil = this.#now + 500;
    this.#runUntil(this.#now + PATIENCE_MS, () => {
      if (this.#now < readUntil) return false;
      this.#plan.readEveryMs = Number.POSITIVE_INFINITY;
      return this.#isQuiet();
    });
    this.#checkEnd();
    return {
      seed: this.#seed,
      trace: (this.#hash >>> 0).toString(16),
      events: this.#events,
      served: this.#served,
      failed: this.#failed,
      met: this.#met,
    };
  }

  // ── Time ──

  #after(ms: number, run: () => void): void {
    const item = { at: this.#now + ms, order: this.#order++, run };
    if (item.at === Number.POSITIVE_INFINITY) return;
    let low = 0;
    let high = this.#queue.length;
    // Latest first, so that the next one is popped from the end.
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#queue[middle] as { at: number }).at > item.at) low = middle + 1;
      else high = middle;
    }
    this.#queue.splice(low, 0, item);
  }

  /** Again and again, at intervals around a mean that is looked up each time. */
  #every(meanMs: () => number, run: () => void): void {
    const mean = meanMs();
    const isOn = mean < Number.POSITIVE_INFINITY;
    this.#after(isOn ? mean * (0.5 + this.#random.next()) : 1_000, () => {
      if (isOn && meanMs() < Number.POSITIVE_INFINITY) run();
      this.#every(meanMs, run);
    });
  }

  #runUntil(end: number, isDone: () => boolean): void {
    for (let item = this.#queue.at(-1); item !== undefined && item.at <= end; item = this.#queue.at(-1)) {
      this.#queue.pop();
      this.#now = Math.max(this.#now, item.at);
      this.#events += 1;
      this.#check(this.#events < MAX_EVENTS, () => 'it goes round in circles');
      item.run();
      const { jobs } = this.#dispatcher.status();
      this.#check(
        !this.#isUp || jobs === this.#pool.size,
        () => `${jobs} jobs, and ${this.#pool.size} were asked for`,
      );
      for (const { id, deadline } of this.#reads.values()) {
        // Reads wait in order of their deadlines.
        if (deadline >= this.#now) break;
        this.#fail(`read ${id} was not answered by its deadline ${deadline}`);
      }
      if (isDone()) return;
    }
    this.#now = Math.max(this.#now, end);
  }

  #trace(line: string): void {
    const text = `${this.#now.toFixed(2)} ${line}`;
    for (let at = 0; at < text.length; at++)
      this.#hash = Math.imul(this.#hash ^ text.charCodeAt(at), 0x01000193);
    this.#recent.push(text);
    this.#onTrace?.(text);
    if (this.#recent.length > 400) this.#recent.splice(0, 200);
  }

  #meet(what: string, count = 1): void {
    this.#met[what] = (this.#met[what] ?? 0) + count;
  }

  #fail(rule: string): never {
    const recent = this.#recent.slice(-40).join('\n  ');
    throw new Violation(`seed ${this.#seed}, ${this.#now.toFixed(2)} ms: ${rule}\n  ${recent}`);
  }

  #check(isOk: boolean, rule: () => string): void {
    if (!isOk) this.#fail(rule());
  }

  // ── Front end ──

  #makeLayer(index: number, spans: number[]): SimLayer {
    const geometry = geometryOf(spans);
    const states = new Uint8Array(geometry.blockCount);
    return {
      index,
      spans,
      geometry,
      disk: new SimDisk(geometry.blockCount),
      log: new SimLog(geometry.blockCount),
      bad: new Set([...spans.keys()].filter(() => this.#random.chance(this.#plan.badSpan))),
      isLiar: this.#random.chance(this.#plan.liar),
      states,
      actor: new LayerActor(geometry, states),
      jobs: new Map(),
      failures: [],
      line: [],
      isBusy: false,
      wakeAt: Number.POSITIVE_INFINITY,
      corrupt: false,
      isStalled: false,
      place: 0,
      pack: [],
      packs: new Set(),
    };
  }

  #startFront(): void {
    this.#front += 1;
    this.#isUp = true;
    const front = this.#front;
    this.#trace(`front end ${front}`);
    this.#dispatcher = new Dispatcher(this.#plan.dispatcherLimits);
    this.#dispatcherWakeAt = Number.POSITIVE_INFINITY;
    this.#pool.clear();
    for (const layer of this.#layers) {
      const states = new Uint8Array(layer.geometry.blockCount);
      const random = new Random(this.#seed + front);
      layer.states = states;
      layer.actor = new LayerActor(layer.geometry, states, this.#plan.layerLimits, {
        firstJob: front * 1_000_000,
        random: () => random.next(),
      });
      layer.jobs = new Map();
      layer.failures = layer.spans.map(() => 0);
      layer.line = [];
      layer.isBusy = false;
      layer.wakeAt = Number.POSITIVE_INFINITY;
      layer.corrupt = false;
      layer.isStalled = false;
      layer.packs.clear();
      for (const block of layer.log.presentBlocks()) {
        this.#check(
          layer.disk.isSynced(block),
          () => `the log says that block ${block} is present, and it is not`,
        );
      }
      const { complete, handedOver } = layer.log;
      this.#send(layer, { type: 'restore', ranges: layer.log.ranges(), complete, handedOver });
      if (handedOver) this.#takeBack(layer);
    }
    this.#every_(
      () => this.#plan.flushEveryMs,
      front,
      () => {
        for (const layer of this.#layers) this.#flush(layer);
      },
    );
    const idleWork = new IdleWork(IDLE_LIMITS);
    this.#every_(
      () => LOOK_MS,
      front,
      () => this.#lookAround(idleWork),
    );
    this.#budgets = new Budgets();
    this.#spent.fastest = 0;
    this.#pace(this.#plan.pace);
    this.#prefetch(this.#plan.prefetch);
    // The kernel sends unanswered requests again.
    const reads = [...this.#reads.values()];
    this.#reads.clear();
    for (const { layer, first, last } of reads) this.#ask(layer, first, last);
  }

  /** `#every`, for as long as the front end lives. */
  #every_(meanMs: () => number, front: number, run: () => void): void {
    this.#after(meanMs(), () => {
      if (this.#front !== front || !this.#isUp) return;
      run();
      this.#every_(meanMs, front, run);
    });
  }

  /** Tasks wait while others want the machine, and sometimes for the rest itself. */
  #lookAround(idleWork: IdleWork): void {
    const waited = this.#waited;
    const isOwn = this.#dispatcher.hasRest && idleWork.state !== 'held' && this.#random.chance(0.3);
    if (this.#othersAreBusy || isOwn) waited.cpuMs += this.#now - waited.at;
    waited.at = this.#now;
    const state = idleWork.look(this.#now, this.#dispatcher.hasRest, { ...waited });
    if (state !== 'free') this.#meet(`idle work: ${state}`);
    this.#dispatch({ type: 'busy', isBusy: state === 'held', now: this.#now });
  }

  #prefetch(on: boolean): void {
    if (!this.#isUp) return;
    for (const layer of this.#layers)
      for (const type of ['readahead', 'prefetch'] as const) this.#send(layer, { type, on, now: this.#now });
  }

  /** For all layers together. */
  #pace(rate: number): void {
    this.#plan.pace = rate;
    if (!this.#isUp) return;
    this.#trace(`pace ${rate}`);
    const fastest = Math.max(this.#spent.fastest, Number.isFinite(rate) ? rate : 0);
    this.#spent = { since: this.#now, blocks: 0, last: 0, fastest };
    for (const layer of this.#layers) {
      const name = String(layer.index);
      const limits = Number.isFinite(rate) ? [['all', rate] as const] : [];
      this.#budgets.set(name, limits, this.#now);
      const pace = this.#budgets.paceOf(name, ([first, count]) =>
        layer.spans.slice(first, first + count).reduce((sum, blocks) => sum + blocks, 0),
      );
      const kept = this.#sabotage === 'overspend' ? undefined : pace;
      this.#send(layer, { type: 'pace', pace: kept, now: this.#now });
    }
  }

  /** Prefetch keeps to its pace, but for one job and the burst of the fastest pace. */
  #checkPace(blocks: number): void {
    const { pace } = this.#plan;
    this.#spent.blocks += this.#spent.last;
    this.#spent.last = blocks;
    if (!Number.isFinite(pace)) return;
    this.#meet('prefetch at a pace');
    const { since, fastest } = this.#spent;
    const most = ((this.#now - since) * pace + BURST_MS * fastest) / 1_000 + 1e-6;
    this.#check(
      this.#spent.blocks <= most,
      () => `${this.#spent.blocks} blocks of prefetch are more than the ${most.toFixed(2)} of the pace`,
    );
  }

  #send(layer: SimLayer, event: LayerEvent): void {
    if (event.type !== 'tick') this.#trace(`layer ${layer.index} ← ${JSON.stringify(event)}`);
    if (event.type === 'promise.ended') layer.packs.delete(event.job);
    let effects = layer.actor.handle(event);
    const wrong = layer.actor.audit();
    this.#check(wrong.length === 0, () => `layer ${layer.index}: ${wrong.join('; ')}`);
    for (let block = 0; block < layer.states.length; block++) {
      const isThere = layer.states[block] !== 2 || layer.disk.has(block);
      this.#check(isThere, () => `layer ${layer.index} has block ${block} present, and the disk has not`);
    }
    if (this.#sabotage !== undefined) effects = this.#spoil(layer, event, effects);
    for (const effect of effects) this.#run(layer, effect);
    if (event.type === 'read') this.#checkPromoted(layer, event.blocks);
  }

  /** The pool knows every span that a read waits for as demand. */
  #checkPromoted(layer: SimLayer, [first, count]: BlockRun): void {
    for (const [number, job] of this.#pool) {
      if (job.layer !== layer || job.class === 'demand') continue;
      const mine = new Set(spansOf(layer.jobs.get(job.job)?.runs ?? []));
      for (let block = first; block < first + count && this.#reads.has(this.#nextRead - 1); block++) {
        const isMine = mine.has(layer.geometry.spanOfBlock(block));
        const isWaited = layer.states[block] !== 2 && isMine && layer.packs.size === 0;
        this.#check(!isWaited, () => `a read waits for block ${block}, and job ${number} is still prefetch`);
      }
    }
  }

  #run(layer: SimLayer, effect: LayerEffect): void {
    if (effect.type !== 'wake') this.#trace(`layer ${layer.index} → ${JSON.stringify(effect)}`);
    switch (effect.type) {
      case 'answer':
        this.#answered(layer, effect.id, effect.errno, effect.reason);
        return;
      case 'fetch':
        this.#submit(layer, effect);
        return;
      case 'promote': {
        const pool = layer.jobs.get(effect.job)?.pool;
        this.#check(pool !== undefined, () => `job ${effect.job} is promoted and does not run`);
        this.#meet('promoted');
        this.#dispatch({ type: 'promote', job: pool as number, now: this.#now });
        return;
      }
      case 'cancel': {
        const job = layer.jobs.get(effect.job);
        if (job === undefined) return;
        this.#endJob(layer, effect.job, true);
        this.#pool.delete(job.pool);
        this.#dispatch({ type: 'cancel', job: job.pool, now: this.#now });
        return;
      }
      case 'append':
        this.#line(layer, (next) => this.#append(layer, effect.ranges, next));
        return;
      case 'punch':
        this.#meet('punched');
        this.#line(layer, (next) => this.#punch(layer, effect.job, effect.ranges, next));
        return;
      case 'verify':
        this.#flush(layer);
        this.#line(layer, (next) => {
          this.#later(this.#random.int(1, 50), () => {
            next();
            this.#send(layer, { type: 'verified', ok: !layer.isLiar, now: this.#now });
          });
        });
        return;
      case 'complete':
        this.#meet('complete');
        this.#check(
          layer.states.every((state) => state === 2),
          () => 'a layer is complete that lacks blocks',
        );
        this.#check(!layer.isLiar, () => 'a layer is complete that is another');
        this.#line(layer, (next) => this.#completed(layer, next));
        return;
      case 'corrupt':
        this.#meet('corrupt');
        this.#check(layer.isLiar, () => `layer ${layer.index} is called corrupt and is not`);
        layer.corrupt = true;
        this.#line(layer, (next) => {
          layer.log.drop();
          next();
        });
        return;
      case 'promised':
        this.#meet('packs');
        layer.packs.add(effect.job);
        this.#bring(layer, effect.job, layer.pack);
        return;
      case 'wake':
        this.#wake(layer, effect.at);
    }
  }

  #wake(layer: SimLayer, at: number): void {
    if (at >= layer.wakeAt) return;
    layer.wakeAt = at;
    this.#later(Math.max(0, at - this.#now), () => {
      if (layer.wakeAt !== at) return;
      layer.wakeAt = Number.POSITIVE_INFINITY;
      this.#send(layer, { type: 'tick', now: this.#now });
    });
  }

  /** After a while, if the front end still lives. */
  #later(ms: number, run: () => void): void {
    const front = this.#front;
    this.#after(ms, () => {
      if (this.#isUp && this.#front === front) run();
    });
  }

  // ── Reads ──

  #readSome(): void {
    for (let count = this.#random.int(1, this.#plan.burst); count > 0; count--) {
      const layer = this.#random.pick(this.#layers);
      const { blockCount } = layer.geometry;
      // Some read on from where the last one was.
      const first = this.#random.chance(0.3) ? layer.place : this.#random.int(0, blockCount - 1);
      const last = Math.min(first + this.#random.int(0, this.#plan.readBlocks - 1), blockCount - 1);
      layer.place = (last + 1) % blockCount;
      if (this.#reads.size < 200) this.#ask(layer, first, last);
    }
  }

  #ask(layer: SimLayer, first: number, last: number): void {
    const deadline = this.#isUp
      ? this.#now + (this.#plan.layerLimits.readDeadlineMs as number)
      : Number.POSITIVE_INFINITY;
    const id = this.#nextRead++;
    this.#reads.set(id, { id, layer, first, last, deadline });
    if (!this.#isUp) return;
    this.#send(layer, { type: 'read', id, blocks: blockRun(first, last + 1 - first), now: this.#now });
  }

  #answered(layer: SimLayer, id: number, errno: number, reason: ReadFailure | undefined): void {
    const read = this.#reads.get(id);
    if (read === undefined) this.#fail(`read ${id} is answered twice, or was never asked`);
    const waiting = [...this.#reads.values()].filter(
      (other) => other.layer === layer && other !== read,
    ).length;
    this.#reads.delete(id);
    const blocks = Array.from({ length: read.last - read.first + 1 }, (_, at) => read.first + at);
    if (errno === 0) {
      this.#served += 1;
      for (const block of blocks) {
        this.#check(layer.disk.has(block), () => `read ${id} is served, and block ${block} is not there`);
      }
      return;
    }
    this.#failed += 1;
    this.#meet(`failed: ${reason?.code}`);
    const spans = blocks
      .filter((block) => layer.states[block] !== 2)
      .map((block) => layer.geometry.spanOfBlock(block));
    const attempts = this.#plan.layerLimits.attempts as number;
    const isJust =
      reason?.message.includes('deadline') === true
        ? this.#now >= read.deadline
        : reason?.message.includes('nothing has come') === true
          ? layer.isStalled
          : reason?.message.includes('too many reads') === true
            ? waiting >= (this.#plan.layerLimits.maxWaiters as number)
            : reason?.code === 'integrity'
              ? layer.corrupt || spans.some((span) => layer.bad.has(span))
              : reason?.code !== 'invalid-argument' &&
                spans.some((span) => (layer.failures[span] ?? 0) >= attempts);
    if (reason?.message.includes('deadline') === true) layer.isStalled = true;
    this.#check(isJust, () => `read ${id} failed without cause: ${JSON.stringify(reason)}`);
  }

  // ── Jobs ──

  #submit(layer: SimLayer, { job, runs, class: kind, soon, ahead }: LayerEffect & { type: 'fetch' }): void {
    const spans = new Set(spansOf(runs));
    for (const [number, other] of layer.jobs) {
      const isApart = [...spansOf(other.runs)].every((span) => !spans.has(span));
      this.#check(isApart, () => `jobs ${number} and ${job} fetch the same span`);
    }
    for (const span of spans) {
      const { firstBlock, blockCount } = layer.geometry.span(span);
      const isWhole = layer.states
        .subarray(firstBlock, firstBlock + blockCount)
        .every((state) => state === 2);
      this.#check(!isWhole, () => `span ${span} is fetched and nothing of it is missing`);
    }
    const pool = this.#nextPoolJob++;
    layer.jobs.set(job, { runs, pool });
    this.#pool.set(pool, { layer, job, class: kind, since: Number.NaN, sent: 0 });
    this.#meet(`${kind} jobs`);
    if (kind === 'prefetch')
      this.#checkPace([...spans].reduce((sum, span) => sum + (layer.spans[span] as number), 0));
    const said = this.#sabotage === 'prefetch-first' ? 'demand' : kind;
    const rest = kind === 'prefetch' && soon !== true ? { rest: layer.spans.length } : {};
    const asked = { type: 'submit', job: pool, class: said, layer: String(layer.index) } as const;
    const isAhead = ahead === undefined ? {} : { ahead };
    if (ahead !== undefined) this.#meet('ranges ahead of readers in order');
    this.#dispatch({ ...asked, ...rest, ...isAhead, now: this.#now });
  }

  /** An input that comes up while effects run waits for its turn: effects of two inputs never mix. */
  #dispatch(event: DispatcherEvent): void {
    this.#dispatches.push(event);
    if (this.#dispatches.length > 1) return;
    for (const next of this.#dispatches) this.#dispatchOne(next);
    this.#dispatches = [];
  }

  #dispatchOne(event: DispatcherEvent): void {
    const asked = event.type === 'submit' || event.type === 'promote' ? this.#pool.get(event.job) : undefined;
    if (asked !== undefined) {
      asked.since = this.#order++;
      if (event.type === 'promote') asked.class = 'demand';
    }
    if (event.type !== 'tick' && event.type !== 'fetcher.hello')
      this.#trace(`pool ← ${JSON.stringify(event)}`);
    const effects = this.#dispatcher.handle(event);
    const wrong = this.#dispatcher.audit();
    this.#check(wrong.length === 0, () => `dispatcher: ${wrong.join('; ')}`);
    for (const effect of effects) this.#runPool(effect);
    const wake = this.#dispatcher.nextWake;
    if (wake >= this.#dispatcherWakeAt) return;
    this.#dispatcherWakeAt = wake;
    this.#later(wake - this.#now, () => {
      if (this.#dispatcherWakeAt !== wake) return;
      this.#dispatcherWakeAt = Number.POSITIVE_INFINITY;
      this.#dispatch({ type: 'tick', now: this.#now });
    });
  }

  #runPool(effect: DispatcherEffect): void {
    this.#trace(`pool → ${JSON.stringify(effect)}`);
    const known = this.#pool.get(effect.job);
    if (effect.type === 'stop') {
      this.#deliver(effect.fetcher, { kind: 'stop', front: this.#front, job: effect.job });
      return;
    }
    this.#check(known !== undefined, () => `job ${effect.job} is over, and still: ${effect.type}`);
    if (effect.type === 'hold' || effect.type === 'go-on') {
      const ms = effect.type === 'hold' ? effect.ms : 0;
      this.#meet('pool: held jobs');
      this.#deliver(effect.fetcher, { kind: 'hold', front: this.#front, job: effect.job, ms });
      return;
    }
    const { layer, job } = known as { layer: SimLayer; job: number };
    if (effect.type === 'send') {
      this.#checkOrder(effect.job);
      const { runs } = layer.jobs.get(job) as { runs: readonly SpanRun[] };
      const blocks = [...spansOf(runs)].flatMap((span) => {
        const { firstBlock, blockCount } = layer.geometry.span(span);
        const bad = layer.bad.has(span);
        return Array.from({ length: blockCount }, (_, at) => ({ block: firstBlock + at, bad }));
      });
      const order = {
        kind: 'job',
        front: this.#front,
        job: effect.job,
        layer: layer.index,
        layerJob: job,
      } as const;
      this.#deliver(effect.fetcher, { ...order, blocks });
      return;
    }
    this.#meet(`pool: ${effect.reason}`);
    this.#pool.delete(effect.job);
    this.#endJob(layer, job, true);
    const code = effect.type === 'rejected' ? 'busy' : 'unavailable';
    this.#send(layer, {
      type: 'job.failed',
      job,
      code,
      message: effect.reason,
      retryable: true,
      now: this.#now,
    });
  }

  /** No prefetch before demand, and no demand before demand that came earlier and was never sent. */
  #checkOrder(number: number): void {
    const job = this.#pool.get(number);
    if (job === undefined) return;
    for (const [other, { class: kind, since, sent }] of this.#pool) {
      if (sent > 0 || other === number || kind === 'prefetch' || Number.isNaN(since)) continue;
      this.#check(job.class === 'demand', () => `prefetch job ${number} is sent, demand job ${other} waits`);
      this.#check(
        job.sent > 0 || job.since < since,
        () => `job ${number} is sent before ${other}, which is older`,
      );
    }
    job.sent += 1;
    const { attempts } = this.#plan.dispatcherLimits;
    this.#check(job.sent <= (attempts as number), () => `job ${number} is sent ${job.sent} times`);
  }

  /** The actor gets the end of the job, or has reported it itself. */
  #endJob(layer: SimLayer, job: number, isFailed: boolean): void {
    const known = layer.jobs.get(job);
    if (known === undefined) return;
    layer.jobs.delete(job);
    if (!isFailed) return;
    for (const span of spansOf(known.runs)) {
      layer.failures[span] = (layer.failures[span] ?? 0) + 1;
    }
  }

  // ── Fetchers and messages ──

  #makeFetcher(name: string, slots: number): SimFetcher {
    return new SimFetcher(name, slots, {
      random: this.#random,
      plan: () => this.#plan,
      after: (ms, run) => {
        const node = this.#node;
        this.#after(ms, () => {
          if (this.#node === node) run();
        });
      },
      write: (layer, block) => this.#layers[layer]?.disk.write(block),
      send: (message) => this.#travel(() => this.#heard(message)),
    });
  }

  #beat(fetcher: SimFetcher, node: number): void {
    if (this.#node !== node) return;
    if (fetcher.isUp) fetcher.hello();
    this.#after(HELLO_MS, () => this.#beat(fetcher, node));
  }

  /** Messages may be lost, doubled, and overtake each other. */
  #travel(run: () => void): void {
    const node = this.#node;
    const isTwice = this.#random.chance(this.#plan.double);
    for (let copy = isTwice ? 2 : 1; copy > 0; copy--) {
      if (this.#random.chance(this.#plan.lose)) {
        this.#meet('lost messages');
        continue;
      }
      this.#after(this.#random.next() * this.#plan.delayMs, () => {
        if (this.#node === node) run();
      });
    }
  }

  #deliver(name: string, message: JobMessage): void {
    const fetcher = this.#fetchers.find((one) => one.name === name);
    const life = fetcher?.life;
    this.#travel(() => {
      if (fetcher?.life === life) fetcher?.receive(message);
    });
  }

  #heard(message: FetcherMessage): void {
    if (!this.#isUp) return;
    const { fetcher } = message;
    if (message.kind === 'hello') {
      const { slots, life } = message;
      const known = this.#fetchers.find(({ name }) => name === fetcher);
      // Words of a dead process.
      if (known?.life !== life) return;
      this.#dispatch({ type: 'fetcher.hello', fetcher, slots, now: this.#now });
      return;
    }
    const layer = this.#layers[message.layer] as SimLayer;
    const { layerJob } = message;
    const before = layer.actor.counts.present;
    const arrived = () => {
      if (layer.actor.counts.present > before) layer.isStalled = false;
    };
    if (message.kind === 'blocks') {
      // Also for jobs that the actor no longer has: it has to tell them apart.
      const { firstBlock, count } = message;
      this.#send(layer, {
        type: 'blocks.fetched',
        job: layerJob,
        blocks: blockRun(firstBlock, count),
        bytes: count,
        now: this.#now,
      });
      arrived();
      if (message.front === this.#front)
        this.#dispatch({ type: 'job.progress', job: message.job, fetcher, now: this.#now });
      return;
    }
    if (message.front !== this.#front) return;
    const isOk = message.kind === 'done';
    const counts = isOk || this.#dispatcher.isRunning(message.job, fetcher);
    const known = counts ? this.#pool.get(message.job) : undefined;
    if (counts) this.#pool.delete(message.job);
    this.#dispatch({ type: 'job.ended', job: message.job, fetcher, ok: isOk, now: this.#now });
    if (!counts) return;
    if (known !== undefined) this.#endJob(layer, layerJob, !isOk);
    if (isOk) {
      this.#send(layer, { type: 'job.done', job: layerJob, now: this.#now });
      arrived();
    } else {
      const { code, retryable } = message;
      this.#send(layer, {
        type: 'job.failed',
        job: layerJob,
        code,
        message: code,
        retryable,
        now: this.#now,
      });
    }
  }

  // ── The log ──

  #flush(layer: SimLayer): void {
    this.#send(layer, { type: 'flush', now: this.#now });
  }

  #line(layer: SimLayer, task: (next: () => void) => void): void {
    layer.line.push(task);
    if (layer.isBusy) return;
    layer.isBusy = true;
    const next = () => {
      const first = layer.line.shift();
      if (first === undefined) layer.isBusy = false;
      else first(next);
    };
    next();
  }

  #append(layer: SimLayer, ranges: readonly BlockRun[], next: () => void): void {
    const synced = layer.disk.beginSync();
    this.#later(this.#random.next() * this.#plan.appendMs, () => {
      if (this.#sabotage !== 'log-before-sync') layer.disk.endSync(synced);
      this.#later(this.#random.next() * this.#plan.appendMs, () => {
        const isFailed = this.#random.chance(this.#plan.appendFails);
        // An append that was not acknowledged may be in the log all the same.
        if (!isFailed || this.#random.chance(0.3)) {
          layer.log.append(ranges);
          for (const [first, count] of ranges) {
            for (let block = first; block < first + count; block++) {
              this.#check(layer.disk.isSynced(block), () => `block ${block} is in the log and not synced`);
            }
          }
        }
        if (isFailed) this.#meet('failed appends');
        if (isFailed) this.#send(layer, { type: 'append.failed', ranges });
        next();
      });
    });
  }

  #punch(layer: SimLayer, job: number, ranges: readonly BlockRun[], next: () => void): void {
    this.#later(this.#random.next() * this.#plan.appendMs, () => {
      const isFailed = this.#random.chance(this.#plan.appendFails);
      if ((!isFailed || this.#random.chance(0.3)) && this.#sabotage !== 'punch-before-log')
        layer.log.evict(ranges);
      this.#later(this.#random.next() * this.#plan.appendMs, () => {
        if (!isFailed) layer.disk.punch(ranges);
        for (const block of layer.log.presentBlocks()) {
          this.#check(layer.disk.isSynced(block), () => `block ${block} is punched and still in the log`);
        }
        this.#send(layer, { type: 'evicted', job, undone: isFailed, now: this.#now });
        next();
      });
    });
  }

  #completed(layer: SimLayer, next: () => void): void {
    this.#later(this.#random.next() * this.#plan.appendMs, () => {
      // An eviction may have come first.
      if (layer.actor.state === 'complete') layer.log.complete = layer.log.isFull;
      if (this.#plan.handOver && layer.actor.state === 'complete') {
        this.#send(layer, { type: 'handed-over' });
        layer.log.handedOver = layer.log.complete;
        this.#takeBack(layer);
      }
      next();
    });
  }

  #takeBack(layer: SimLayer): void {
    this.#later(this.#random.int(50, 500), () => {
      this.#send(layer, { type: 'taken-back' });
      layer.log.handedOver = false;
    });
  }

  #someRanges({ geometry }: SimLayer, most: number, longest: number): BlockRun[] {
    return Array.from({ length: this.#random.int(1, most) }, () => {
      const first = this.#random.int(0, geometry.blockCount - 1);
      return blockRun(first, this.#random.int(1, longest));
    });
  }

  #evict(): void {
    if (!this.#isUp) return;
    const layer = this.#random.pick(this.#layers);
    const ranges = this.#someRanges(layer, 3, 12);
    this.#send(layer, { type: 'evict', ranges, now: this.#now });
  }

  // ── Startup packs ──

  #promise(): void {
    if (!this.#isUp) return;
    const layer = this.#random.pick(this.#layers);
    const ranges = this.#someRanges(layer, 4, 8);
    layer.pack = [...blocksOf(ranges)].filter((block) => block < layer.geometry.blockCount);
    // Of an image without a pack, only the blocks that it may bring are known.
    const type = this.#random.chance(0.3) ? 'aim' : 'promise';
    this.#send(layer, { type, pack: 1, ranges, now: this.#now } as LayerEvent);
  }

  /**
   * A fetcher writes the pack's blocks one after the other, whatever happens to them meanwhile, and reports some at a
   * time, in order, a while later. The front end may have aborted it before.
   */
  #bring(layer: SimLayer, job: number, blocks: readonly number[]): void {
    const node = this.#node;
    let heardAt = this.#now;
    const tell = (event: LayerEvent) => {
      heardAt = Math.max(heardAt, this.#now + this.#random.next() * this.#plan.delayMs);
      this.#after(heardAt - this.#now, () => {
        if (this.#node !== node || !this.#isUp) return;
        const before = layer.actor.counts.present;
        this.#send(layer, { ...event, now: this.#now } as LayerEvent);
        if (layer.actor.counts.present > before) layer.isStalled = false;
      });
    };
    const ended: LayerEvent = { type: 'promise.ended', job, now: 0 };
    if (this.#random.chance(this.#plan.hang))
      this.#after(this.#random.int(1, 2_000), () => {
        if (this.#node === node && this.#isUp) this.#send(layer, { ...ended, now: this.#now });
      });
    let told = 0;
    const report = (to: number) => {
      for (; told < to; told++) {
        const firstBlock = blocks[told] as number;
        let count = 1;
        while (told + 1 < to && blocks[told + 1] === firstBlock + count) {
          count += 1;
          told += 1;
        }
        tell({ type: 'blocks.fetched', job, blocks: blockRun(firstBlock, count), bytes: count, now: 0 });
      }
    };
    const step = (at: number) => {
      const block = blocks[at];
      if (block === undefined || layer.bad.has(layer.geometry.spanOfBlock(block))) {
        report(at);
        tell(ended);
        return;
      }
      layer.disk.write(block);
      if ((at + 1) % this.#plan.reportBlocks === 0) report(at + 1);
      // Between them it has blocks of other layers.
      if (this.#random.chance(0.05)) tell({ type: 'promise.heard', job, now: 0 });
      this.#after(this.#plan.blockMs * this.#random.next(), () => {
        if (this.#node === node) step(at + 1);
      });
    };
    this.#after(this.#plan.latencyMs * this.#random.next(), () => {
      if (this.#node === node) step(0);
    });
  }

  // ── Faults ──

  #crashFetcher(): void {
    const fetcher = this.#random.pick(this.#fetchers);
    if (!fetcher.isUp) return;
    this.#trace(`fetcher ${fetcher.name} dies`);
    this.#meet('fetcher crashes');
    fetcher.crash();
    const node = this.#node;
    this.#after(this.#random.int(10, 600), () => {
      if (this.#node !== node) return;
      // The supervisor reports that the process before it has ended, or the front end notices its silence.
      if (this.#isUp && this.#random.chance(0.5)) {
        this.#dispatch({ type: 'fetcher.lost', fetcher: fetcher.name, now: this.#now });
      }
      fetcher.start();
    });
  }

  #crashFront(): void {
    if (!this.#isUp) return;
    this.#trace('front end dies');
    this.#meet('front end crashes');
    this.#isUp = false;
    for (const read of this.#reads.values()) read.deadline = Number.POSITIVE_INFINITY;
    const node = this.#node;
    this.#after(RESTART_MS, () => {
      if (this.#node === node) this.#startFront();
    });
  }

  #cutPower(): void {
    this.#trace('power cut');
    this.#meet('power cuts');
    this.#node += 1;
    this.#isUp = false;
    this.#reads.clear();
    for (const { disk } of this.#layers) disk.crash(this.#random);
    for (const fetcher of this.#fetchers) fetcher.crash();
    const node = this.#node;
    this.#after(RESTART_MS, () => {
      if (this.#node !== node) return;
      for (const fetcher of this.#fetchers) {
        fetcher.start();
        this.#beat(fetcher, node);
      }
      this.#startFront();
    });
  }

  // ── The end ──

  #isQuiet(): boolean {
    return (
      this.#isUp &&
      this.#reads.size === 0 &&
      this.#pool.size === 0 &&
      this.#layers.every((layer) => {
        if (layer.isBusy || layer.jobs.size > 0 || layer.actor.load.unloggedBlocks > 0) return false;
        if (layer.corrupt) return true;
        if (layer.actor.state !== 'lazy') return layer.actor.state !== 'verifying';
        return layer.bad.size > 0 && this.#isFetched(layer);
      })
    );
  }

  #isFetched(layer: SimLayer): boolean {
    return layer.states.every(
      (state, block) => state === 2 || layer.bad.has(layer.geometry.spanOfBlock(block)),
    );
  }

  #checkEnd(): void {
    this.#check(this.#isQuiet(), () => {
      const layers = this.#layers.map(({ actor, isBusy, bad }) => ({
        ...actor.load,
        state: actor.state,
        isBusy,
        bad: [...bad],
      }));
      const pool = { ...this.#dispatcher.status(), jobs: this.#pool.size };
      return `it does not come right: ${JSON.stringify({ layers, pool, reads: this.#reads.size })}`;
    });
    for (const layer of this.#layers) {
      // The log may say more: the front end punches nothing for an eviction that the log did not take.
      const isKnown = layer.states.every((state, block) => state !== 2 || layer.log.isPresent(block));
      this.#check(isKnown, () => `layer ${layer.index}: the log lacks blocks that are present`);
      for (const block of layer.log.presentBlocks()) {
        this.#check(layer.disk.isSynced(block), () => `block ${block} is in the log and not on the disk`);
      }
      this.#meet('late blocks', layer.actor.counters.lateBlocks);
      this.#meet('retries', layer.actor.counters.retries);
      for (let block = 0; block < layer.geometry.blockCount; block++) this.#ask(layer, block, block);
    }
    this.#runUntil(this.#now + PATIENCE_MS, () => this.#reads.size === 0);
    this.#check(this.#reads.size === 0, () => 'reads wait for ever');
    for (const layer of this.#layers) {
      if (!layer.corrupt)
        this.#check(this.#isFetched(layer), () => `layer ${layer.index} lacks blocks that can be had`);
    }
  }

  // ── Sabotage ──

  #spoil(layer: SimLayer, event: LayerEvent, effects: LayerEffect[]): LayerEffect[] {
    switch (this.#sabotage) {
      case 'drop-waiter':
        return effects.filter(
          (effect) => effect.type !== 'answer' || event.type === 'read' || !this.#random.chance(0.05),
        );
      case 'double-fetch':
        return effects.flatMap((effect) =>
          effect.type === 'fetch' && this.#random.chance(0.05)
            ? [effect, { ...effect, job: effect.job + 500_000 }]
            : [effect],
        );
      case 'answer-early': {
        const first = [...this.#reads.values()].find((read) => read.layer === layer);
        const isSoon = event.type === 'blocks.fetched' && first !== undefined && this.#random.chance(0.05);
        return isSoon ? [...effects, { type: 'answer', id: first.id, errno: 0 }] : effects;
      }
      case 'forget-append':
        return effects.filter((effect) => effect.type !== 'append' || !this.#random.chance(0.05));
      case 'miss-deadline':
        return effects.map((effect) => (effect.type === 'wake' ? { ...effect, at: effect.at + 1 } : effect));
      default:
        return effects;
    }
  }
}
