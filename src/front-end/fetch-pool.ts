/**
 * The front end's side of the pool of fetchers: joins the dispatcher's decisions (actors/dispatcher.ts) with NATS.
 * A layer submits a job and hears of its blocks and its end; which fetcher runs it is no business of the layer's.
 *
 * While NATS is away, or no fetcher lives, a fetcher in this very process takes part like any other (local-fetcher.ts).
 * Messages get lost with NATS. When it is back, each fetcher is sent again what it has, which it knows how to take
 * (src/fetch/job-runner.ts), and those that were given up say hello.
 */
import type { NatsConnection } from '@nats-io/nats-core';
import type { Logger } from 'pino';
import { Dispatcher, type DispatcherEffect, type DispatcherEvent } from '../../actors/dispatcher.ts';
import type { ErrorRecord } from '../../schemas/errors.ts';
import type {
  BlockPair,
  Completion,
  FetchTimes,
  Job,
  JobLayer,
  JobWord,
  PackCompletion,
  WorkerHello,
} from '../../schemas/fetch.ts';
import type { Subjects } from '../../schemas/subjects.ts';
import { decode, encode } from '../bus/connection.ts';
import type { Conditions } from '../process/conditions.ts';
import { FetchConditions } from './fetch-conditions.ts';
import { LocalFetcher } from './local-fetcher.ts';
import type { JobTiming } from './trace.ts';

/** A job before the pool numbers it. */
export type JobOrder = Job extends infer J ? (J extends Job ? Omit<J, 'v' | 'job' | 'front'> : never) : never;

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
  class: 'demand' | 'prefetch';
  queuedAt: number;
  sentAt: number | undefined;
  worker: string;
}

const TICK_MS = 250;
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
  readonly #now: () => number;
  readonly #dispatcher: Dispatcher;
  readonly #jobs = new Map<number, PoolJob>();
  /** Jobs that are over, oldest first. */
  readonly #late = new Map<number, JobListener>();
  readonly #pids = new Map<string, { pid: number; slots: number }>();
  readonly #tick: NodeJS.Timeout;
  readonly #log: Logger;
  readonly #local: LocalFetcher;
  readonly #conditions: Conditions;
  readonly #found: FetchConditions;
  #next = 1;
  /** NATS is away. */
  #cut = false;
  #isClosed = false;
  #wake: NodeJS.Timeout | undefined;
  /** What the timer is for; Infinity: nothing. */
  #wakesAt = Number.POSITIVE_INFINITY;
  /** Since when no fetcher of its own process is there. */
  #aloneSince: number | undefined;

  /** `front`: unique name of this front end's life; completions for another are not ours. */
  constructor(options: {
    bus: NatsConnection;
    names: Subjects;
    front: string;
    now: () => number;
    log: Logger;
    root: string;
    conditions: Conditions;
  }) {
    this.#bus = options.bus;
    this.#names = options.names;
    this.#front = options.front;
    this.#now = options.now;
    this.#log = options.log;
    this.#dispatcher = new Dispatcher();
    this.#conditions = options.conditions;
    this.#found = new FetchConditions(options.conditions, options.root);
    this.#local = new LocalFetcher({
      root: options.root,
      name: LOCAL,
      log: options.log,
      onCompletion: (completion) => this.#onCompletion(completion),
      onLost: () => this.#handle({ type: 'worker.lost', worker: LOCAL, now: this.#now() }),
    });
    this.#bus.subscribe(this.#names.hello, {
      callback: (error, message) => {
        if (error === null) this.#onHello(decode<WorkerHello>(message.data));
      },
    });
    this.#bus.subscribe(this.#names.completion, {
      callback: (error, message) => {
        if (error === null) this.#onCompletion(decode<Completion>(message.data));
      },
    });
    this.#bus.publish(this.#names.whoIsThere);
    this.#tick = setInterval(() => this.#onTick(this.#now()), TICK_MS);
  }

  /**
   * Queues a job; its number names it in `promote` and `cancel`. `rest`: it has time until nothing else is to be done, and
   * its layer has so many bytes.
   */
  submit(order: JobOrder, listener: JobListener, { rest }: { rest?: number } = {}): number {
    const number = this.#next++;
    const job = { v: 1, job: number, front: this.#front, ...order } as Job;
    const kind = classOf(order);
    const queuedAt = this.#now();
    this.#jobs.set(number, { job, listener, class: kind, queuedAt, sentAt: undefined, worker: '' });
    const submitted = {
      type: 'submit',
      job: number,
      class: kind,
      layer: order.layer,
      ...(order.kind === 'fetch' ? { source: order.source.registry } : {}),
      ...(rest === undefined ? {} : { rest }),
      now: this.#now(),
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
    if (known !== undefined) known.class = 'demand';
    this.#handle({ type: 'promote', job, now: this.#now() });
  }

  /** A held job may go on, with these layers: whoever has it, or gets it later, is told by the job itself. */
  release(job: number, layers: JobLayer[]): void {
    const known = this.#jobs.get(job);
    if (known === undefined || known.job.kind !== 'pack') return;
    const { held: _, ...rest } = known.job;
    known.job = { ...rest, layers };
    if (this.#dispatcher.isRunning(job, known.worker)) this.#send(known.worker, known.job);
  }

  /** Nobody waits for the job any more. Returns how far it came; undefined when it had ended. */
  cancel(job: number): JobTiming | undefined {
    const known = this.#over(job);
    this.#handle({ type: 'cancel', job, now: this.#now() });
    return known === undefined ? undefined : this.#timing(known);
  }

  /** A read of a block that `registry` has was given up. */
  readFailed(registry: string, error: ErrorRecord): void {
    this.#found.readFailed(registry, error, this.#now());
  }

  close(): void {
    this.#isClosed = true;
    clearInterval(this.#tick);
    clearTimeout(this.#wake);
    this.#local.close();
  }

  /** NATS is away, and with it every other fetcher: what they had is done here. */
  busAway(): void {
    this.#cut = true;
    for (const worker of this.#pids.keys()) this.#handle({ type: 'worker.lost', worker, now: this.#now() });
    this.#onTick(this.#now());
  }

  /** NATS is back, maybe after a moment that nobody noticed: what was sent last may be lost. */
  busBack(): void {
    this.#cut = false;
    for (const worker of this.#pids.keys()) this.#sendAgain(worker);
    this.#bus.publish(this.#names.whoIsThere);
  }

  /** What the fetcher has; it knows how to take a job twice. */
  #sendAgain(worker: string): void {
    for (const [number, { job, worker: mine }] of this.#jobs)
      if (mine === worker && this.#dispatcher.isRunning(number, worker))
        this.#bus.publish(this.#names.job(worker), encode(job));
  }

  #onTick(now: number): void {
    this.#handle({ type: 'tick', now });
    this.#found.tick(now);
    const { workers } = this.#dispatcher.status();
    const local = workers.find(({ worker }) => worker === LOCAL);
    const hasOthers = workers.some(({ worker, slots }) => worker !== LOCAL && slots > 0);
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
      this.#handle({ type: 'worker.hello', worker: LOCAL, slots: LOCAL_SLOTS, now });
    else if (local !== undefined && local.running > 0)
      // It ends what it has.
      this.#handle({ type: 'worker.hello', worker: LOCAL, slots: 0, now });
    else if (local !== undefined) this.#handle({ type: 'worker.lost', worker: LOCAL, now });
  }

  #send(worker: string, message: Job | JobWord): void {
    // A layer that is still on its way out may ask for something.
    if (this.#isClosed) return;
    if (worker === LOCAL) this.#local.send(message);
    else this.#bus.publish(this.#names.job(worker), encode(message));
  }

  status(): {
    workers: Array<{ name: string; pid: number; slots: number; running: number }>;
    queued: { demand: number; prefetch: number };
  } {
    const { workers, queued } = this.#dispatcher.status();
    return {
      workers: workers.map(({ worker, slots, running }) => ({
        name: worker,
        pid: worker === LOCAL ? process.pid : (this.#pids.get(worker)?.pid ?? 0),
        slots,
        running,
      })),
      queued,
    };
  }

  #onHello({ worker, pid, slots, leaving, back }: WorkerHello): void {
    const known = this.#pids.get(worker);
    // Another process under the same name: the one before it is gone with all it ran.
    if (known !== undefined && known.pid !== pid)
      this.#handle({ type: 'worker.lost', worker, now: this.#now() });
    this.#pids.set(worker, { pid, slots });
    // One that leaves ends what it has and takes nothing more.
    this.#handle({ type: 'worker.hello', worker, slots: leaving === true ? 0 : slots, now: this.#now() });
    if (back === true) this.#sendAgain(worker);
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
        worker: completion.worker,
        now: this.#now(),
      });
      return;
    }
    if (completion.kind === 'pack') {
      known?.listener.pack?.(completion);
      return;
    }
    // The failure of a fetcher that was given up says nothing about the one that has the job now.
    if (completion.kind === 'failed' && !this.#dispatcher.isRunning(completion.job, completion.worker))
      return;
    this.#over(completion.job);
    const failure =
      completion.kind === 'done'
        ? undefined
        : {
            error: completion.error ?? { code: 'internal' as const, message: 'failed without a reason' },
            retryable: completion.retryable ?? false,
          };
    this.#handle({
      type: 'job.ended',
      job: completion.job,
      worker: completion.worker,
      ok: failure === undefined,
      now: this.#now(),
    });
    if (known === undefined) return;
    if (known.job.kind === 'fetch') this.#found.ended(known.job.source.registry, failure?.error, this.#now());
    known.worker = completion.worker;
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

  #timing({ class: kind, worker, queuedAt, sentAt }: PoolJob, times?: FetchTimes): JobTiming {
    return { class: kind, worker, queuedAt, sentAt, endedAt: this.#now(), times };
  }

  #handle(event: DispatcherEvent): void {
    for (const effect of this.#dispatcher.handle(event)) this.#run(effect);
    this.#wakeInTime();
  }

  /** What is due before the next tick gets a timer of its own. */
  #wakeInTime(): void {
    const at = this.#dispatcher.nextWake;
    if (at === this.#wakesAt || this.#isClosed) return;
    clearTimeout(this.#wake);
    this.#wakesAt = at;
    const waitMs = at - this.#now();
    if (waitMs >= TICK_MS) return;
    this.#wake = setTimeout(
      () => {
        this.#wakesAt = Number.POSITIVE_INFINITY;
        this.#handle({ type: 'tick', now: this.#now() });
      },
      Math.max(1, Math.ceil(waitMs)),
    );
  }

  #wordOn(job: number): Omit<JobWord, 'kind' | 'ms'> {
    return { v: 1, job, front: this.#front, layer: this.#jobs.get(job)?.job.layer ?? '' };
  }

  #run(effect: DispatcherEffect): void {
    const known = this.#jobs.get(effect.job);
    if (effect.type === 'stop') {
      this.#send(effect.worker, { ...this.#wordOn(effect.job), kind: 'stop' });
      return;
    }
    if (known === undefined) return;
    if (effect.type === 'hold' || effect.type === 'go-on') {
      const ms = effect.type === 'hold' ? effect.ms : 0;
      this.#send(effect.worker, { ...this.#wordOn(effect.job), kind: 'hold', ms });
      return;
    }
    if (effect.type === 'send') {
      known.sentAt = this.#now();
      known.worker = effect.worker;
      this.#send(effect.worker, known.job);
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
function classOf(order: JobOrder): 'demand' | 'prefetch' {
  if (order.kind === 'fetch') return order.class;
  return order.kind === 'pack' ? 'demand' : 'prefetch';
}

const REASONS = {
  full: 'too many fetches are waiting',
  lost: 'the fetchers that had the job died or fell silent',
  waited: 'no fetcher was free in time',
} as const;
