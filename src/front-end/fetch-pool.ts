/**
 * The front end's side of the pool of fetchers: joins the dispatcher's decisions (actors/dispatcher.ts) with NATS.
 * A layer submits a job and hears of its blocks and its end; which fetcher runs it is no business of the layer's.
 *
 * While NATS is away, or no fetcher lives, a fetcher in this very process takes part like any other (local-fetcher.ts).
 * Messages get lost with NATS. When it is back, each fetcher is sent again what it has, which it knows how to take
 * (src/fetch/job-runner.ts), and those that were given up say hello.
 */
import type { Msg, NatsConnection } from '@nats-io/nats-core';
import type { Logger } from 'pino';
import { Dispatcher, type DispatcherEffect, type DispatcherEvent } from '../../actors/dispatcher.ts';
import { isCompletion, isFetcherHello } from '../../schemas/check-fetch.ts';
import type { ErrorRecord } from '../../schemas/errors.ts';
import type {
  BlockPair,
  Completion,
  FetcherHello,
  FetchTimes,
  Job,
  JobClass,
  JobLayer,
  JobOrder,
  JobWord,
  PackCompletion,
} from '../../schemas/fetch.ts';
import type { Subjects } from '../../schemas/subjects.ts';
import { decodeIfSound, encode } from '../bus/connection.ts';
import type { Conditions } from '../process/conditions.ts';
import type { Clock, Timer } from '../process/ports.ts';
import { FetchConditions } from './fetch-conditions.ts';
import { FetcherUrgency, type Machine } from './fetcher-urgency.ts';
import type { MakeOwnFetcher, OwnFetcher } from './local-fetcher.ts';
import type { JobTiming } from './trace.ts';

/**
 * What a layer hears of its job. After `end`, or after it has cancelled the job, only `blocks` may come: a fetcher that
 * was given up may have written some.
 */
export interface JobListener {
  /** `layer`: whose blocks; a startup pack brings those of several. */
  blocks(first: number, count: number, bytes: number, layer: string): void;
  /** What a startup pack is about to bring. */
  pack?(completion: PackCompletion): void;
  end(
    bytes: number,
    failure: { error: ErrorRecord; retryable: boolean } | undefined,
    timing: JobTiming,
    /** Of a scrub: blocks that are not the layer's. */
    bad?: readonly BlockPair[],
  ): void;
}

interface PoolJob {
  job: Job;
  listener: JobListener;
  class: JobClass;
  queuedAt: number;
  sentAt: number | undefined;
  fetcher: string;
}

const TICK_MS = 250;
const LOOK_MS = 100;
/** Bytes per ms that a device is read with at the least while it is hashed. */
const SLOW_DISK = 10_000;
/** Making a startup pack reports nothing until it is done either. */
const RECORD_MS = 300_000;
/** Jobs that have ended and may still be heard of. */
const MOST_LATE = 4_096;
/** Name of the fetcher in this process, and how much it does side by side. */
const LOCAL = 'front-end';
const LOCAL_SLOTS = 4;
/** Fetchers that were killed are back before this, ms. */
const ALONE_MS = 2_000;

export class FetchPool {
  readonly #bus: NatsConnection;
  readonly #names: Subjects;
  readonly #front: string;
  readonly #clock: Clock;
  readonly #dispatcher: Dispatcher;
  readonly #jobs = new Map<number, PoolJob>();
  /** Jobs that are over, oldest first. */
  readonly #late = new Map<number, JobListener>();
  readonly #pids = new Map<string, { pid: number; slots: number }>();
  readonly #tick: Timer;
  readonly #look: Timer;
  readonly #log: Logger;
  readonly #local: OwnFetcher;
  readonly #conditions: Conditions;
  readonly #found: FetchConditions;
  readonly #urgency: FetcherUrgency;
  #next = 1;
  /** NATS is away. */
  #cut = false;
  #isClosed = false;
  #wake: Timer | undefined;
  /** What the timer is for; Infinity: nothing. */
  #wakesAt = Number.POSITIVE_INFINITY;
  /** Since when no fetcher of its own process is there. */
  #aloneSince: number | undefined;

  /** `front`: unique name of this front end's life; completions for another are not ours. */
  constructor(options: {
    bus: NatsConnection;
    names: Subjects;
    front: string;
    clock: Clock;
    log: Logger;
    root: string;
    conditions: Conditions;
    ownFetcher: MakeOwnFetcher;
    machine: Machine;
  }) {
    this.#bus = options.bus;
    this.#names = options.names;
    this.#front = options.front;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#dispatcher = new Dispatcher();
    this.#urgency = new FetcherUrgency(options.machine, this.#dispatcher);
    this.#conditions = options.conditions;
    this.#found = new FetchConditions(options.conditions, options.root);
    this.#local = options.ownFetcher({
      root: options.root,
      name: LOCAL,
      clock: options.clock,
      log: options.log,
      onCompletion: (completion) => this.#onCompletion(completion),
      onLost: () => this.#handle({ type: 'fetcher.lost', fetcher: LOCAL, now: this.#clock.now() }),
    });
    this.#bus.subscribe(this.#names.hello, {
      callback: (error, message) => {
        if (error !== null) return;
        const hello = decodeIfSound(message.data);
        if (isFetcherHello(hello)) this.#onHello(hello);
        else this.#passOver(message);
      },
    });
    this.#bus.subscribe(this.#names.completion, {
      callback: (error, message) => {
        if (error !== null) return;
        const completion = decodeIfSound(message.data);
        if (isCompletion(completion)) this.#onCompletion(completion);
        else this.#passOver(message);
      },
    });
    this.#bus.publish(this.#names.whoIsThere);
    this.#tick = this.#clock.every(TICK_MS, () => this.#onTick(this.#clock.now()));
    this.#look = this.#clock.every(LOOK_MS, () => this.#lookAround(this.#clock.now()));
  }

  /**
   * Queues a job; its number names it in `promote` and `cancel`. `rest`: it has time until nothing else is to be done, and
   * its layer has so many bytes. `ahead`: it lies ahead of a reader in order.
   */
  submit(
    order: JobOrder,
    listener: JobListener,
    { rest, ahead }: { rest?: number; ahead?: true } = {},
  ): number {
    const number = this.#next++;
    const job: Job = { v: 1, job: number, front: this.#front, ...order };
    const kind = classOf(order);
    const queuedAt = this.#clock.now();
    this.#jobs.set(number, { job, listener, class: kind, queuedAt, sentAt: undefined, fetcher: '' });
    const submitted = {
      type: 'submit',
      job: number,
      class: kind,
      layer: order.layer,
      ...(order.kind === 'fetch' ? { source: order.source.registry } : {}),
      ...(rest === undefined ? {} : { rest }),
      ...(ahead === undefined ? {} : { ahead }),
      now: this.#clock.now(),
    } as const;
    // A hash over a whole device reports nothing until it is done.
    this.#handle(
      order.kind === 'verify'
        ? { ...submitted, silenceMs: 60_000 + order.size / SLOW_DISK }
        : order.kind === 'record'
          ? { ...submitted, silenceMs: RECORD_MS }
          : submitted,
    );
    return number;
  }

  promote(job: number): void {
    const known = this.#jobs.get(job);
    if (known !== undefined) {
      known.class = 'demand';
      // A fetcher that gets it from here on passes that on to the fleet.
      if (known.job.kind === 'fetch') known.job = { ...known.job, class: 'demand' };
    }
    this.#handle({ type: 'promote', job, now: this.#clock.now() });
  }

  /** A held job may go on, with these layers: the fetcher that has it, or gets it later, is told by the job itself. */
  release(job: number, layers: JobLayer[]): void {
    const known = this.#jobs.get(job);
    if (known === undefined || known.job.kind !== 'pack') return;
    const { held: _, ...rest } = known.job;
    known.job = { ...rest, layers };
    if (this.#dispatcher.isRunning(job, known.fetcher)) this.#send(known.fetcher, known.job);
  }

  /** No layer waits for the job any more. Returns how far it came; undefined when it had ended. */
  cancel(job: number): JobTiming | undefined {
    const known = this.#over(job);
    this.#handle({ type: 'cancel', job, now: this.#clock.now() });
    return known === undefined ? undefined : this.#timing(known);
  }

  /** A read of a block that `registry` has was given up. */
  readFailed(registry: string, error: ErrorRecord): void {
    this.#found.readFailed(registry, error, this.#clock.now());
  }

  close(): void {
    this.#isClosed = true;
    this.#urgency.close();
    this.#tick.cancel();
    this.#look.cancel();
    this.#wake?.cancel();
    this.#local.close();
  }

  /** NATS is away, and with it every other fetcher: what they had is done here. */
  busAway(): void {
    this.#cut = true;
    for (const fetcher of this.#pids.keys())
      this.#handle({ type: 'fetcher.lost', fetcher, now: this.#clock.now() });
    this.#onTick(this.#clock.now());
  }

  /** NATS is back, maybe after a moment that no process noticed: what was sent last may be lost. */
  busBack(): void {
    this.#cut = false;
    for (const fetcher of this.#pids.keys()) this.#sendAgain(fetcher);
    this.#bus.publish(this.#names.whoIsThere);
  }

  /** What the fetcher has; it knows how to take a job twice. */
  #sendAgain(fetcher: string): void {
    for (const [number, { job, fetcher: mine }] of this.#jobs)
      if (mine === fetcher && this.#dispatcher.isRunning(number, fetcher))
        this.#bus.publish(this.#names.job(fetcher), encode(job));
  }

  #onTick(now: number): void {
    this.#handle({ type: 'tick', now });
    this.#found.tick(now);
    const { fetchers } = this.#dispatcher.status();
    const local = fetchers.find(({ fetcher }) => fetcher === LOCAL);
    const hasOthers = fetchers.some(({ fetcher, slots }) => fetcher !== LOCAL && slots > 0);
    if (hasOthers) this.#aloneSince = undefined;
    else this.#aloneSince ??= now;
    const isAlone = this.#aloneSince !== undefined && now - this.#aloneSince >= ALONE_MS;
    if (isAlone && !this.#cut)
      this.#conditions.set(
        'fetchers',
        'no fetcher is running: the front end fetches absent blocks by itself',
      );
    else this.#conditions.clear('fetchers');
    // NATS may be back before the fetchers have noticed: it goes on until one says so.
    if (this.#cut || isAlone || (local !== undefined && !hasOthers))
      this.#handle({ type: 'fetcher.hello', fetcher: LOCAL, slots: LOCAL_SLOTS, now });
    else if (local !== undefined && local.running > 0)
      // It ends what it has.
      this.#handle({ type: 'fetcher.hello', fetcher: LOCAL, slots: 0, now });
    else if (local !== undefined) this.#handle({ type: 'fetcher.lost', fetcher: LOCAL, now });
  }

  /** Whether work that no reader waits for is in the way of others. */
  #lookAround(now: number): void {
    const isBusy = this.#urgency.look(now);
    this.#handle({ type: 'busy', isBusy, now });
  }

  #send(fetcher: string, message: Job | JobWord): void {
    // A layer that is still on its way out may ask for something.
    if (this.#isClosed) return;
    if (fetcher === LOCAL) this.#local.send(message);
    else this.#bus.publish(this.#names.job(fetcher), encode(message));
  }

  /** How many fetchers take jobs, or end what they have. */
  get fetchers(): number {
    return this.#dispatcher.status().fetchers.length;
  }

  status(): {
    workers: Array<{ name: string; pid: number; slots: number; running: number }>;
    queued: { demand: number; prefetch: number };
  } {
    const { fetchers, queued } = this.#dispatcher.status();
    return {
      workers: fetchers.map(({ fetcher, slots, running }) => ({
        name: fetcher,
        pid: fetcher === LOCAL ? process.pid : (this.#pids.get(fetcher)?.pid ?? 0),
        slots,
        running,
      })),
      queued,
    };
  }

  /** For metrics: what waits, what fetchers have, and what they may have at once. */
  load(): { queued: { demand: number; prefetch: number }; running: number; slots: number } {
    const { fetchers, queued } = this.#dispatcher.status();
    const sum = (of: 'running' | 'slots') => fetchers.reduce((total, fetcher) => total + fetcher[of], 0);
    return { queued, running: sum('running'), slots: sum('slots') };
  }

  #passOver({ subject, data }: Msg): void {
    this.#log.warn({ subject, bytes: data.length }, 'a message that no fetcher sends was passed over');
  }

  #onHello({ worker: fetcher, pid, slots, leaving, back }: FetcherHello): void {
    const known = this.#pids.get(fetcher);
    // Another process under the same name: the one before it is gone with all it ran.
    if (known !== undefined && known.pid !== pid)
      this.#handle({ type: 'fetcher.lost', fetcher, now: this.#clock.now() });
    this.#pids.set(fetcher, { pid, slots });
    this.#urgency.heard(fetcher, pid, this.#clock.now());
    // One that leaves ends what it has and takes nothing more.
    this.#handle({
      type: 'fetcher.hello',
      fetcher,
      slots: leaving === true ? 0 : slots,
      now: this.#clock.now(),
    });
    if (back === true) this.#sendAgain(fetcher);
  }

  #onCompletion(completion: Completion): void {
    if (completion.front !== this.#front) return;
    const known = this.#jobs.get(completion.job);
    if (completion.kind === 'blocks') {
      const listener = known?.listener ?? this.#late.get(completion.job);
      listener?.blocks(completion.firstBlock, completion.count, completion.bytes, completion.layer);
      for (const [layer, first, count] of completion.more ?? []) listener?.blocks(first, count, 0, layer);
      this.#handle({
        type: 'job.progress',
        job: completion.job,
        fetcher: completion.worker,
        now: this.#clock.now(),
      });
      return;
    }
    if (completion.kind === 'pack') {
      known?.listener.pack?.(completion);
      return;
    }
    const ended = { type: 'job.ended', job: completion.job, fetcher: completion.worker } as const;
    // The failure of a fetcher that was given up says nothing about the one that has the job now; but it has a slot free again,
    // also where it was told to stop and the job is over.
    if (completion.kind === 'failed' && !this.#dispatcher.isRunning(completion.job, completion.worker)) {
      this.#handle({ ...ended, ok: false, now: this.#clock.now() });
      return;
    }
    this.#over(completion.job);
    const failure =
      completion.kind === 'done'
        ? undefined
        : {
            error: completion.error ?? { code: 'internal' as const, message: 'failed without a reason' },
            retryable: completion.retryable ?? false,
          };
    this.#handle({ ...ended, ok: failure === undefined, now: this.#clock.now() });
    if (known === undefined) return;
    if (known.job.kind === 'fetch')
      this.#found.ended(known.job.source.registry, failure?.error, this.#clock.now());
    known.fetcher = completion.worker;
    known.listener.end(completion.bytes, failure, this.#timing(known, completion.times), completion.bad);
  }

  /** Takes the job out; what still comes of it goes to its layer as before. */
  #over(job: number): PoolJob | undefined {
    const known = this.#jobs.get(job);
    if (known === undefined) return undefined;
    this.#jobs.delete(job);
    this.#late.set(job, known.listener);
    if (this.#late.size > MOST_LATE) this.#late.delete(this.#late.keys().next().value as number);
    return known;
  }

  #timing({ class: kind, fetcher, queuedAt, sentAt }: PoolJob, times?: FetchTimes): JobTiming {
    return { class: kind, fetcher, queuedAt, sentAt, endedAt: this.#clock.now(), times };
  }

  #handle(event: DispatcherEvent): void {
    const effects = this.#dispatcher.handle(event);
    if (event.type === 'job.progress' || event.type === 'job.ended')
      this.#urgency.heardOf(event.fetcher, event.now);
    // Before it hears of what a reader waits for.
    this.#urgency.raise(event.now);
    for (const effect of effects) this.#run(effect);
    this.#wakeInTime();
  }

  /** What is due before the next tick gets a timer of its own. */
  #wakeInTime(): void {
    const at = this.#dispatcher.nextWake;
    if (at === this.#wakesAt || this.#isClosed) return;
    this.#wake?.cancel();
    this.#wakesAt = at;
    const waitMs = at - this.#clock.now();
    if (waitMs >= TICK_MS) return;
    this.#wake = this.#clock.after(Math.max(1, Math.ceil(waitMs)), () => {
      this.#wakesAt = Number.POSITIVE_INFINITY;
      this.#handle({ type: 'tick', now: this.#clock.now() });
    });
  }

  #wordOn(job: number): Omit<JobWord, 'kind'> {
    return { v: 1, job, front: this.#front, layer: this.#jobs.get(job)?.job.layer ?? '' };
  }

  #run(effect: DispatcherEffect): void {
    const known = this.#jobs.get(effect.job);
    if (effect.type === 'stop') {
      this.#send(effect.fetcher, { ...this.#wordOn(effect.job), kind: 'stop' });
      return;
    }
    if (known === undefined) return;
    if (effect.type === 'hold' || effect.type === 'go-on') {
      const ms = effect.type === 'hold' ? effect.ms : 0;
      this.#send(effect.fetcher, { ...this.#wordOn(effect.job), kind: 'hold', ms });
      return;
    }
    if (effect.type === 'send') {
      known.sentAt = this.#clock.now();
      known.fetcher = effect.fetcher;
      this.#send(effect.fetcher, known.job);
      return;
    }
    this.#over(effect.job);
    this.#log.warn({ job: effect.job, reason: effect.reason }, 'job not done');
    const message = REASONS[effect.reason];
    const failure = { error: { code: 'unavailable' as const, message }, retryable: true };
    known.listener.end(0, failure, this.#timing(known));
  }
}

/** A startup pack is waited for, the start behind it; a recording or a scrub is not. */
function classOf(order: JobOrder): JobClass {
  if (order.kind === 'fetch') return order.class;
  return order.kind === 'pack' ? 'demand' : 'prefetch';
}

const REASONS = {
  full: 'too many fetches are waiting',
  lost: 'the fetchers that had the job died or fell silent',
  waited: 'no fetcher was free in time',
} as const;
