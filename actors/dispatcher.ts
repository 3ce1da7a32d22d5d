/**
 * The queue between the layers of a front end and the pool of fetchers. `handle` takes one event and returns the effects
 * to run, in order; time comes in with the events.
 *
 * **Order.** As long as demand waits, no prefetch is sent. Demand of one registry is served first come first served, and
 * registries take turns (demand-queue.ts); a job that lost its fetcher has waited longest and comes first. Prefetch leaves
 * slots free for the demand that comes next: one of every fetcher that has several, and a share of the pool. What readers
 * are likely to want next comes before the rest of the images, and of that the smallest layer first (background-queue.ts).
 *
 * **The rest of the images** is to use what no other job does. A byte that is on its way cannot be overtaken, and shares the link
 * with what a reader waits for. So while readers wait, and for `demandAroundMs` after that, the dispatcher runs one such job at
 * most. Not none: a reader of everything would otherwise fetch all of it by itself, span by span, with the link idle between.
 * When a reader begins to wait, the dispatcher tells the fetchers to hold such jobs: a fetcher that holds a job reads and decodes
 * nothing of it, since both would take the link and the processor from the reader. It goes on when no reader waits, or after
 * `holdMs`, and then for `breathMs` at least: readers who come one after the other slow the job down, and do not stop it. A message
 * that gets lost does no harm: a fetcher holds no job for longer than the message said.
 *
 * **While the machine is busy with others** (`busy`; actors/idle-work.ts says when) none of these jobs is sent, and those that run
 * hold. One that has a connection to a registry goes on after `holdFetchMs`, since a registry may close what rests for long.
 *
 * **What lies ahead of a reader in order** comes in long ranges, many at once (in-order.ts), and would be in the way of others: such jobs
 * hold in the same way while a reader of another layer waits. His own waits do not hold them, nor those of another one in order.
 *
 * **A job has at most one fetcher**, as far as one can know: a fetcher that fell silent may still be at work. Its job
 * goes to another after `jobSilenceMs`, the late one is told to stop, and the first that is done ends the job. Both
 * write the same verified bytes to the same place, so this costs bandwidth and nothing else.
 *
 * **A slot is taken** from `send` until the fetcher says that the job ended. A job that was stopped keeps its slot until
 * then, or until `jobSilenceMs`, so that a fetcher is not sent more than it said it can do. There are two exceptions, up to twice
 * the slots: jobs of a registry that would get nothing while others have all slots, and any but the rest beside jobs of the
 * rest. Those may hold for seconds, and what a reader waits for would wait with them.
 *
 *     queued ─SEND→ running ─END→ over
 *       ↑  └─END─────────────────↗ (cancelled, waited too long, or done by a fetcher given up)
 *       └──LOSE──────┘
 */
import { setup } from 'xstate';
import type { JobClass } from '../schemas/fetch.ts';
import type { FetcherLoad } from './fetcher-priority.ts';
import { BackgroundQueue } from './background-queue.ts';
import { DemandQueue } from './demand-queue.ts';
import { compileTable } from './table.ts';
import { TimerQueue } from './timers.ts';

/** `now`: milliseconds of a clock that should be monotonic; a step back is ignored. */
export type DispatcherEvent =
  /** `silenceMs`: how long nothing may be heard of this job, where `jobSilenceMs` is too short for its kind. */
  | {
      type: 'submit';
      job: number;
      class: JobClass;
      layer: string;
      /** Registry that its bytes come from. */
      source?: string;
      silenceMs?: number;
      /** The rest of an image, of a layer with so many bytes; undefined: wanted sooner than that. */
      rest?: number;
      /** Of a window ahead of a reader in order. */
      ahead?: true;
      now: number;
    }
  | { type: 'promote'; job: number; now: number }
  | { type: 'cancel'; job: number; now: number }
  /** Sent by each fetcher when it starts, and then as heartbeat. `slots` 0: ends what it has, takes nothing more. */
  | { type: 'fetcher.hello'; fetcher: string; slots: number; now: number }
  | { type: 'fetcher.lost'; fetcher: string; now: number }
  | { type: 'job.progress'; job: number; fetcher: string; now: number }
  /** `ok` false: the fetcher gave it up. Whether it is tried again is for the layer to say, as a new job. */
  | { type: 'job.ended'; job: number; fetcher: string; ok: boolean; now: number }
  /** The machine has other things to do, or no longer. */
  | { type: 'busy'; isBusy: boolean; now: number }
  | { type: 'tick'; now: number };

export type DispatcherEffect =
  | { type: 'send'; job: number; fetcher: string }
  /** The fetcher need not go on. The job is over, or another has it: this does not end it. */
  | { type: 'stop'; job: number; fetcher: string }
  /** A reader waits for another job: the fetcher is to let the job rest, for so long at most or until `go-on`, ms. */
  | { type: 'hold'; job: number; fetcher: string; ms: number }
  | { type: 'go-on'; job: number; fetcher: string }
  | { type: 'rejected'; job: number; reason: 'full' }
  /** lost: sent too often to fetchers that died or fell silent. waited: no slot became free in time. */
  | { type: 'failed'; job: number; reason: 'lost' | 'waited' };

export interface DispatcherLimits {
  /** Jobs that wait or run, by class; further ones are rejected. */
  maxDemand: number;
  maxPrefetch: number;
  /** Fetchers that are known at once; further ones are ignored. */
  maxFetchers: number;
  /** A fetcher of which nothing was heard for this long is lost, ms. */
  fetcherSilenceMs: number;
  /** A job of which nothing was heard for this long is given to another fetcher, ms. */
  jobSilenceMs: number;
  /** How often a job is sent. */
  attempts: number;
  /** How long a job waits for a slot before it fails, ms. */
  demandWaitMs: number;
  prefetchWaitMs: number;
  /** Share of all slots that prefetch leaves free, at least one slot. A pool of one slot has none to leave. */
  demandShare: number;
  /** How long after demand the rest of the images keeps back, ms. */
  demandAroundMs: number;
  /** How long the rest of the images holds at a time while a reader waits, and how long it goes on at the least between, ms. */
  holdMs: number;
  breathMs: number;
  /** How often fetchers are told that the machine is busy, and how long a fetch holds for that, ms. */
  busyWordMs: number;
  holdFetchMs: number;
}

export const DISPATCHER_LIMITS: DispatcherLimits = {
  maxDemand: 10_000,
  maxPrefetch: 2_000,
  maxFetchers: 1_000,
  fetcherSilenceMs: 5_000,
  jobSilenceMs: 20_000,
  attempts: 3,
  demandWaitMs: 30_000,
  prefetchWaitMs: Number.POSITIVE_INFINITY,
  demandShare: 0.25,
  demandAroundMs: 500,
  holdMs: 50,
  breathMs: 5,
  busyWordMs: 1_000,
  holdFetchMs: 10_000,
};

type JobState = 'queued' | 'running' | 'over';
type JobStep = 'SEND' | 'LOSE' | 'END';

export const jobMachine = setup({ types: { events: {} as { type: JobStep } } }).createMachine({
  id: 'job',
  initial: 'queued',
  states: {
    queued: { on: { SEND: 'running', END: 'over' } },
    running: { on: { LOSE: 'queued', END: 'over' } },
    over: {},
  },
});

interface Fetcher {
  readonly name: string;
  slots: number;
  readonly running: Map<number, Assignment>;
}

/** A slot of a fetcher that is taken. */
interface Assignment {
  readonly job: number;
  readonly source: string;
  readonly fetcher: Fetcher;
  /** What it is for by now; `rest`: no reader waits for it, or is likely to want it soon; `ahead`: one in order will. */
  kind: JobKind;
  /** When its silence has lasted too long, ms. */
  silentAt: number;
  /** Its fetcher was told to let it rest, last at this time, ms; undefined: it may go on. */
  heldAt: number | undefined;
  readonly layer: string;
  readonly isAhead: boolean;
}

type JobKind = 'demand' | 'soon' | 'ahead' | 'rest';

interface Entry {
  readonly job: number;
  class: JobClass;
  readonly layer: string;
  readonly source: string;
  readonly isRest: boolean;
  readonly isAhead: boolean;
  /** Of the layer, as far as that says when its turn is. */
  readonly size: number;
  readonly silenceMs: number;
  state: JobState;
  /** Times sent. */
  attempts: number;
  /** While running. */
  assignment: Assignment | undefined;
  /** A fetcher that fell silent over it: another one is better, if there is one. */
  avoid: string | undefined;
}

export class Dispatcher {
  readonly #limits: DispatcherLimits;
  readonly #jobs = new Map<number, Entry>();
  readonly #byClass = { demand: 0, prefetch: 0 };
  readonly #demand = new DemandQueue<Entry>();
  readonly #soon = new BackgroundQueue<Entry>();
  readonly #ahead = new BackgroundQueue<Entry>();
  readonly #rest = new BackgroundQueue<Entry>();
  /** Slots by what they are taken for. */
  readonly #slots: Record<JobKind, number> = { demand: 0, soon: 0, ahead: 0, rest: 0 };
  /** When demand was fetched last, and when it was sent last, ms. */
  #demandAt = Number.NEGATIVE_INFINITY;
  #askedAt = Number.NEGATIVE_INFINITY;
  /** Since when the rest of the images holds; undefined: it does not. */
  #heldSince: number | undefined;
  /** It does not hold before this. */
  #breathesUntil = Number.NEGATIVE_INFINITY;
  /** Since when the machine is busy with others; undefined: it is not. */
  #busySince: number | undefined;
  /** When fetchers are told so again. */
  #busyWordAt = 0;
  readonly #fetchers = new Map<string, Fetcher>();
  readonly #waits = new TimerQueue<Entry>();
  readonly #silences = new TimerQueue<Assignment>();
  readonly #heartbeats = new TimerQueue<Fetcher>();
  #clock = Number.NEGATIVE_INFINITY;

  constructor(limits: Partial<DispatcherLimits> = {}) {
    this.#limits = { ...DISPATCHER_LIMITS, ...limits };
  }

  /** Applies one event; the effects are to be run in order. */
  handle(event: DispatcherEvent): DispatcherEffect[] {
    const effects: DispatcherEffect[] = [];
    if (event.now > this.#clock) this.#clock = event.now;
    this.#apply(event, effects);
    this.#expire(effects);
    this.#goOn(effects);
    this.#assign(effects);
    this.#hold(effects);
    this.#holdWhileBusy(effects);
    return effects;
  }

  /** When something is due, ms; Infinity when nothing is. */
  get nextWake(): number {
    const quietAt = this.#demandAt + this.#limits.demandAroundMs;
    const isKept = this.#rest.size > 0 && this.#slots.demand === 0 && quietAt > this.#clock;
    return Math.min(
      this.#waits.next,
      this.#silences.next,
      this.#heartbeats.next,
      isKept ? quietAt : Number.POSITIVE_INFINITY,
      this.#nextHold,
      this.#busySince !== undefined && this.#slots.rest > 0 ? this.#busyWordAt : Number.POSITIVE_INFINITY,
    );
  }

  /** When fetchers are next told to hold their jobs of the rest, or to go on. */
  get #nextHold(): number {
    if (this.#heldSince !== undefined) return this.#heldSince + this.#limits.holdMs;
    return this.#mayHold ? this.#breathesUntil : Number.POSITIVE_INFINITY;
  }

  /** `jobs`: those that wait and those that run. `running`: slots that are taken. */
  status(): {
    jobs: number;
    fetchers: Array<{ fetcher: string; slots: number; running: number }>;
    queued: { demand: number; prefetch: number };
  } {
    return {
      jobs: this.#jobs.size,
      fetchers: Array.from(this.#fetchers.values(), ({ name, slots, running }) => ({
        fetcher: name,
        slots,
        running: running.size,
      })),
      queued: { demand: this.#demand.size, prefetch: this.#prefetchWaiting },
    };
  }

  /** Whether jobs of the rest wait or run. */
  get hasRest(): boolean {
    return this.#rest.size > 0 || this.#slots.rest > 0;
  }

  /** What the fetcher is needed for. Where a reader waits that is every fetcher: another one may have locked what it needs. */
  loadOf(name: string): FetcherLoad {
    if (this.hasReaders) return 'reader';
    const running = [...(this.#fetchers.get(name)?.running.values() ?? [])];
    if (running.length === 0) return 'none';
    return running.some(({ heldAt }) => heldAt === undefined) ? 'rest' : 'held';
  }

  /** Whether readers wait, or are likely to soon for what is being fetched. */
  get hasReaders(): boolean {
    return this.#demand.size > 0 || this.#slots.demand > 0 || this.#slots.soon + this.#slots.ahead > 0;
  }

  get #prefetchWaiting(): number {
    return this.#soon.size + this.#ahead.size + this.#rest.size;
  }

  /** Whether the job is this fetcher's. A failure that another one reports says nothing about the job. */
  isRunning(job: number, fetcher: string): boolean {
    return this.#jobs.get(job)?.assignment?.fetcher.name === fetcher;
  }

  #apply(event: DispatcherEvent, effects: DispatcherEffect[]): void {
    switch (event.type) {
      case 'submit':
        this.#submit(event, effects);
        return;
      case 'promote':
        this.#promote(event.job, effects);
        return;
      case 'cancel': {
        const job = this.#jobs.get(event.job);
        if (job !== undefined) this.#end(job, effects);
        return;
      }
      case 'fetcher.hello':
        this.#hello(event.fetcher, event.slots);
        return;
      case 'fetcher.lost':
        this.#lose(event.fetcher, effects);
        return;
      case 'job.progress': {
        const job = this.#jobs.get(event.job);
        this.#hear(event.fetcher);
        if (job?.assignment?.fetcher.name === event.fetcher) {
          this.#expectWord(job.assignment, this.#clock + job.silenceMs);
        }
        return;
      }
      case 'job.ended':
        this.#ended(event, effects);
        return;
      case 'busy':
        this.#setBusy(event.isBusy, effects);
        return;
      case 'tick':
        return;
    }
  }

  // ── Jobs ──

  #submit(event: DispatcherEvent & { type: 'submit' }, effects: DispatcherEffect[]): void {
    if (this.#jobs.has(event.job)) return;
    const { maxDemand, maxPrefetch } = this.#limits;
    // Promoted jobs count as demand, so prefetch must also look at the sum.
    const isFull =
      event.class === 'demand' ? this.#byClass.demand >= maxDemand : this.#byClass.prefetch >= maxPrefetch;
    if (isFull || this.#jobs.size >= maxDemand + maxPrefetch) {
      effects.push({ type: 'rejected', job: event.job, reason: 'full' });
      return;
    }
    const job: Entry = {
      job: event.job,
      class: event.class,
      layer: event.layer,
      source: event.source ?? '',
      isRest: event.rest !== undefined,
      isAhead: event.ahead === true,
      size: event.rest ?? 0,
      silenceMs: event.silenceMs ?? this.#limits.jobSilenceMs,
      state: 'queued',
      attempts: 0,
      assignment: undefined,
      avoid: undefined,
    };
    this.#jobs.set(job.job, job);
    this.#byClass[job.class] += 1;
    this.#enqueue(job);
  }

  #promote(number: number, effects: DispatcherEffect[]): void {
    const job = this.#jobs.get(number);
    if (job === undefined || job.class === 'demand') return;
    const isQueued = job.state === 'queued';
    if (isQueued) this.#dequeue(job);
    this.#byClass.prefetch -= 1;
    this.#byClass.demand += 1;
    job.class = 'demand';
    if (isQueued) this.#enqueue(job);
    else if (job.assignment !== undefined) {
      this.#slots[job.assignment.kind] -= 1;
      job.assignment.kind = 'demand';
      this.#slots.demand += 1;
      this.#askedAt = this.#clock;
      this.#letGoOn(job.assignment, effects);
    }
  }

  #ended(event: DispatcherEvent & { type: 'job.ended' }, effects: DispatcherEffect[]): void {
    this.#hear(event.fetcher);
    const assignment = this.#fetchers.get(event.fetcher)?.running.get(event.job);
    if (assignment !== undefined) this.#free(assignment);
    const job = this.#jobs.get(event.job);
    if (job === undefined) return;
    const isHis = job.assignment === undefined ? false : job.assignment === assignment;
    // Done is done, by any fetcher. A failure counts only from the fetcher that has the job.
    if (isHis) job.assignment = undefined;
    if (!isHis && !event.ok) return;
    this.#demand.ended(job.source, event.ok);
    this.#end(job, effects);
  }

  /** The job is over; its fetcher, if it has one still, is told, and keeps its slot until it answers. */
  #end(job: Entry, effects: DispatcherEffect[]): void {
    if (job.state === 'queued') this.#dequeue(job);
    if (!move(job, 'END')) return;
    this.#jobs.delete(job.job);
    this.#byClass[job.class] -= 1;
    const { assignment } = job;
    job.assignment = undefined;
    if (assignment === undefined) return;
    this.#expectWord(assignment, this.#clock + this.#limits.jobSilenceMs);
    effects.push({ type: 'stop', job: job.job, fetcher: assignment.fetcher.name });
  }

  /** Its fetcher is gone or silent: the job waits again, or has been tried often enough. */
  #retry(job: Entry, effects: DispatcherEffect[]): void {
    job.assignment = undefined;
    if (job.attempts >= this.#limits.attempts) {
      this.#end(job, effects);
      effects.push({ type: 'failed', job: job.job, reason: 'lost' });
    } else if (move(job, 'LOSE')) this.#enqueue(job);
  }

  #enqueue(job: Entry): void {
    this.#waits.set(
      job,
      this.#clock + this.#limits[job.class === 'demand' ? 'demandWaitMs' : 'prefetchWaitMs'],
    );
    this.#queueOf(job).add(job);
  }

  #dequeue(job: Entry): void {
    this.#waits.delete(job);
    this.#queueOf(job).delete(job);
  }

  #queueOf(job: Entry): DemandQueue<Entry> | BackgroundQueue<Entry> {
    if (job.class === 'demand') return this.#demand;
    return this.#backgroundOf(job);
  }

  #backgroundOf(job: Entry): BackgroundQueue<Entry> {
    if (job.isRest) return this.#rest;
    return job.isAhead ? this.#ahead : this.#soon;
  }

  // ── Fetchers ──

  #hello(name: string, wanted: number): void {
    const slots = Number.isSafeInteger(wanted) ? Math.max(0, wanted) : 0;
    let fetcher = this.#fetchers.get(name);
    if (fetcher === undefined) {
      if (this.#fetchers.size >= this.#limits.maxFetchers) return;
      fetcher = { name, slots: 0, running: new Map() };
      this.#fetchers.set(name, fetcher);
    }
    fetcher.slots = slots;
    this.#hear(name);
  }

  #hear(name: string): void {
    const fetcher = this.#fetchers.get(name);
    if (fetcher !== undefined) this.#heartbeats.set(fetcher, this.#clock + this.#limits.fetcherSilenceMs);
  }

  #lose(name: string, effects: DispatcherEffect[]): void {
    const fetcher = this.#fetchers.get(name);
    if (fetcher === undefined) return;
    this.#fetchers.delete(name);
    this.#heartbeats.delete(fetcher);
    for (const assignment of fetcher.running.values()) {
      this.#free(assignment);
      const job = this.#jobs.get(assignment.job);
      if (job?.assignment === assignment) this.#retry(job, effects);
    }
  }

  #free(assignment: Assignment): void {
    assignment.fetcher.running.delete(assignment.job);
    this.#silences.delete(assignment);
    this.#demand.freed(assignment.source);
    this.#slots[assignment.kind] -= 1;
    if (assignment.kind === 'demand') this.#demandAt = this.#clock;
  }

  #expire(effects: DispatcherEffect[]): void {
    const now = this.#clock;
    for (
      let fetcher = this.#heartbeats.take(now);
      fetcher !== undefined;
      fetcher = this.#heartbeats.take(now)
    ) {
      this.#lose(fetcher.name, effects);
    }
    for (let silent = this.#silences.take(now); silent !== undefined; silent = this.#silences.take(now)) {
      this.#free(silent);
      const job = this.#jobs.get(silent.job);
      if (job?.assignment !== silent) continue;
      this.#demand.ended(job.source, false);
      job.avoid = silent.fetcher.name;
      effects.push({ type: 'stop', job: job.job, fetcher: silent.fetcher.name });
      this.#retry(job, effects);
    }
    for (let job = this.#waits.take(now); job !== undefined; job = this.#waits.take(now)) {
      this.#end(job, effects);
      effects.push({ type: 'failed', job: job.job, reason: 'waited' });
    }
  }

  // ── Who gets what ──

  #assign(effects: DispatcherEffect[]): void {
    if (this.#demand.size + this.#prefetchWaiting === 0) return;
    let slots = 0;
    for (const fetcher of this.#fetchers.values()) slots += fetcher.slots;
    for (let job = this.#demand.next(slots); job !== undefined; job = this.#demand.next(slots)) {
      const fetcher = this.#freest(job, 0);
      if (fetcher === undefined) {
        this.#assignBeyond(slots, effects);
        return;
      }
      this.#send(job, fetcher, effects);
    }
    if (this.#demand.size > 0) return;
    const kept = slots <= 1 ? 0 : Math.max(1, Math.ceil(slots * this.#limits.demandShare));
    for (let job = this.#nextBackground(); job !== undefined; job = this.#nextBackground()) {
      let free = 0;
      for (const fetcher of this.#fetchers.values()) free += Math.max(0, freeSlots(fetcher, job));
      const fetcher = free > kept ? this.#freest(job, 1) : undefined;
      if (fetcher === undefined) return;
      this.#backgroundOf(job).taken(job.layer);
      this.#send(job, fetcher, effects);
    }
  }

  #nextBackground(): Entry | undefined {
    return (
      this.#soon.next() ??
      (this.#heldSince === undefined ? this.#ahead.next() : undefined) ??
      (this.#mayFetchRest ? this.#rest.next() : undefined)
    );
  }

  get #mayFetchRest(): boolean {
    const isAround = this.#slots.demand > 0 || this.#clock - this.#demandAt < this.#limits.demandAroundMs;
    if (this.#heldSince !== undefined || this.#busySince !== undefined) return false;
    return !isAround || this.#slots.rest === 0;
  }

  /** A reader began to wait a moment ago, and jobs are in its way. Of demand that takes long the link has room beside it. */
  get #mayHold(): boolean {
    if (this.#busySince !== undefined || this.#slots.demand === 0) return false;
    if (this.#clock >= this.#askedAt + this.#limits.holdMs) return false;
    return this.#inTheWay().next().done !== true;
  }

  #hold(effects: DispatcherEffect[]): void {
    if (this.#heldSince !== undefined || !this.#mayHold || this.#clock < this.#breathesUntil) return;
    this.#heldSince = this.#clock;
    for (const assignment of this.#inTheWay()) this.#holdOne(assignment, this.#limits.holdMs, effects);
  }

  #holdOne(assignment: Assignment, ms: number, effects: DispatcherEffect[]): void {
    this.#excuse(assignment);
    assignment.heldAt = this.#clock;
    effects.push({ type: 'hold', job: assignment.job, fetcher: assignment.fetcher.name, ms });
  }

  #setBusy(isBusy: boolean, effects: DispatcherEffect[]): void {
    if (isBusy === (this.#busySince !== undefined)) return;
    this.#busySince = isBusy ? this.#clock : undefined;
    this.#busyWordAt = this.#clock;
    // It holds for the one reason or for the other.
    this.#heldSince = undefined;
    for (const assignment of this.#assignments())
      if (!isBusy || assignment.kind !== 'rest') this.#letGoOn(assignment, effects);
  }

  /** In time before the fetchers' last word ends. */
  #holdWhileBusy(effects: DispatcherEffect[]): void {
    if (this.#busySince === undefined || this.#clock < this.#busyWordAt) return;
    const { busyWordMs, holdFetchMs } = this.#limits;
    this.#busyWordAt = this.#clock + busyWordMs;
    for (const assignment of this.#restRunning()) {
      const hasConnection = assignment.source !== '';
      if (hasConnection && this.#clock - this.#busySince >= holdFetchMs) this.#letGoOn(assignment, effects);
      else this.#holdOne(assignment, 2 * busyWordMs, effects);
    }
  }

  #goOn(effects: DispatcherEffect[]): void {
    const { holdMs, breathMs } = this.#limits;
    if (this.#heldSince === undefined) return;
    if (this.#slots.demand > 0 && this.#clock < this.#heldSince + holdMs) return;
    for (const assignment of this.#assignments()) this.#letGoOn(assignment, effects);
    this.#heldSince = undefined;
    this.#breathesUntil = this.#clock + breathMs;
  }

  #letGoOn(assignment: Assignment, effects: DispatcherEffect[]): void {
    if (assignment.heldAt === undefined) return;
    this.#excuse(assignment);
    assignment.heldAt = undefined;
    effects.push({ type: 'go-on', job: assignment.job, fetcher: assignment.fetcher.name });
  }

  /** It was told to be silent: that time does not count. */
  #excuse(assignment: Assignment): void {
    if (assignment.heldAt !== undefined)
      this.#expectWord(assignment, assignment.silentAt + this.#clock - assignment.heldAt);
  }

  #expectWord(assignment: Assignment, by: number): void {
    assignment.silentAt = by;
    this.#silences.set(assignment, by);
  }

  /** Running jobs that are to hold for a reader who waits: the rest, and what lies ahead of readers of other layers. */
  *#inTheWay(): IterableIterator<Assignment> {
    if (this.#slots.rest + this.#slots.ahead === 0) return;
    const waiting = new Set<string>();
    for (const { kind, isAhead, layer } of this.#assignments())
      if (kind === 'demand' && !isAhead) waiting.add(layer);
    for (const assignment of this.#assignments()) {
      const { kind, layer } = assignment;
      const isOther = waiting.size > (waiting.has(layer) ? 1 : 0);
      if (kind === 'rest' || (kind === 'ahead' && isOther)) yield assignment;
    }
  }

  *#restRunning(): IterableIterator<Assignment> {
    for (const assignment of this.#assignments()) if (assignment.kind === 'rest') yield assignment;
  }

  /** Slots whose job is still this fetcher's. */
  *#assignments(): IterableIterator<Assignment> {
    for (const fetcher of this.#fetchers.values())
      for (const assignment of fetcher.running.values())
        if (this.#jobs.get(assignment.job)?.assignment === assignment) yield assignment;
  }

  /** All slots are taken, maybe by jobs of one registry that will never end well: others get a few all the same. */
  #assignBeyond(slots: number, effects: DispatcherEffect[]): void {
    const share = Math.max(1, Math.ceil(slots * this.#limits.demandShare));
    for (let job = this.#demand.poor(share); job !== undefined; job = this.#demand.poor(share)) {
      const fetcher = this.#freest(job, 0, roomOf);
      if (fetcher === undefined) return;
      this.#send(job, fetcher, effects);
    }
  }

  /** Of the fetchers that have a slot for it the one that has least to do. `kept`: slots that must stay free where there are several. */
  #freest(job: Entry, kept: number, freeOf = freeSlots): Fetcher | undefined {
    let best: Fetcher | undefined;
    let most = 0;
    for (const fetcher of this.#fetchers.values()) {
      // A slot that still holds an earlier try of the same job could not be told from the new one.
      if (fetcher.running.has(job.job)) continue;
      const keeps = fetcher.slots > 1 ? kept : 0;
      if (freeOf(fetcher, job) <= keeps) continue;
      const free = fetcher.slots - fetcher.running.size - keeps;
      const isBest =
        best === undefined || best.name === job.avoid || (fetcher.name !== job.avoid && free > most);
      if (!isBest) continue;
      best = fetcher;
      most = free;
    }
    return best;
  }

  #send(job: Entry, fetcher: Fetcher, effects: DispatcherEffect[]): void {
    this.#dequeue(job);
    if (!move(job, 'SEND')) return;
    const kind = kindOf(job);
    const assignment: Assignment = {
      job: job.job,
      source: job.source,
      fetcher,
      kind,
      layer: job.layer,
      isAhead: job.isAhead,
      silentAt: 0,
      heldAt: undefined,
    };
    this.#slots[kind] += 1;
    if (kind === 'demand') this.#askedAt = this.#clock;
    this.#demand.taken(job.source);
    job.assignment = assignment;
    job.attempts += 1;
    fetcher.running.set(job.job, assignment);
    this.#expectWord(assignment, this.#clock + job.silenceMs);
    effects.push({ type: 'send', job: job.job, fetcher: fetcher.name });
  }

  /** For tests: sentences about every rule that is broken. */
  audit(): string[] {
    const wrong: string[] = [];
    const check = (ok: boolean, text: () => string) => {
      if (!ok) wrong.push(text());
    };
    const queued = new Map<Entry, string>();
    for (const job of this.#demand) {
      check(!queued.has(job), () => `job ${job.job} is queued twice`);
      queued.set(job, 'demand');
    }
    for (const queue of [this.#soon, this.#ahead, this.#rest]) {
      const jobs = [...queue];
      check(jobs.length === queue.size, () => 'queued prefetch is miscounted');
      for (const job of jobs) {
        check(!queued.has(job), () => `job ${job.job} is queued twice`);
        check(queue === this.#backgroundOf(job), () => `job ${job.job} is in the wrong queue`);
        queued.set(job, 'prefetch');
      }
    }
    const byClass = { demand: 0, prefetch: 0 };
    for (const job of this.#jobs.values()) {
      byClass[job.class] += 1;
      const isQueued = queued.get(job) === job.class;
      check(
        isQueued === (job.state === 'queued'),
        () => `job ${job.job} is ${job.state}, and queued: ${isQueued}`,
      );
      check(
        (job.assignment !== undefined) === (job.state === 'running'),
        () => `job ${job.job} lost its fetcher`,
      );
      check(this.#waits.has(job) === isQueued, () => `job ${job.job} may wait for ever`);
      const { assignment } = job;
      if (assignment === undefined) continue;
      check(
        this.#fetchers.get(assignment.fetcher.name) === assignment.fetcher,
        () => `job ${job.job} is with a lost fetcher`,
      );
      check(assignment.fetcher.running.get(job.job) === assignment, () => `job ${job.job} takes no slot`);
    }
    const running = new Map<string, number>();
    for (const fetcher of this.#fetchers.values()) {
      for (const { source } of fetcher.running.values()) running.set(source, (running.get(source) ?? 0) + 1);
    }
    for (const { source } of this.#jobs.values()) {
      check(
        this.#demand.running(source) === (running.get(source) ?? 0),
        () => `slots of ${source} are miscounted`,
      );
    }
    check(queued.size === this.#waits.size, () => 'a job is queued that is over');
    check(
      byClass.demand === this.#byClass.demand && byClass.prefetch === this.#byClass.prefetch,
      () => 'jobs are miscounted',
    );
    check(this.#jobs.size <= this.#limits.maxDemand + this.#limits.maxPrefetch, () => 'too many jobs');
    const slots: Record<JobKind, number> = { demand: 0, soon: 0, ahead: 0, rest: 0 };
    for (const { running: assigned } of this.#fetchers.values())
      for (const { kind } of assigned.values()) slots[kind] += 1;
    for (const kind of ['demand', 'soon', 'ahead', 'rest'] as const)
      check(slots[kind] === this.#slots[kind], () => `slots taken for ${kind} are miscounted`);
    let taken = 0;
    for (const fetcher of this.#fetchers.values()) {
      taken += fetcher.running.size;
      check(this.#heartbeats.has(fetcher), () => `fetcher ${fetcher.name} may be silent for ever`);
      for (const assignment of fetcher.running.values()) {
        check(this.#silences.has(assignment), () => `job ${assignment.job} may be silent for ever`);
      }
    }
    check(this.#silences.size === taken, () => 'a slot that is free has a timer');
    check(
      this.#heldSince === undefined ||
        (this.#slots.demand > 0 && this.#clock < this.#heldSince + this.#limits.holdMs),
      () => 'the rest holds though no reader waits, or for too long',
    );
    for (const job of this.#jobs.values())
      check(
        job.assignment?.heldAt === undefined ||
          (HOLDING.has(job.assignment.kind) && (this.#heldSince ?? this.#busySince) !== undefined),
        () => `job ${job.job} holds for ever, or a reader waits for it`,
      );
    return wrong;
  }
}

const JOB_STATES: readonly JobState[] = ['queued', 'running', 'over'];
const JOB_STEPS: readonly JobStep[] = ['SEND', 'LOSE', 'END'];
const jobTable = compileTable(jobMachine, JOB_STATES, JOB_STEPS);

function move(job: Entry, event: JobStep): boolean {
  const next =
    JOB_STATES[jobTable[JOB_STATES.indexOf(job.state) * JOB_STEPS.length + JOB_STEPS.indexOf(event)] ?? -1];
  if (next === undefined) return false;
  job.state = next;
  return true;
}

/** How many jobs more the fetcher may get at all: twice its slots is the most that it ever has. */
const roomOf = ({ slots, running }: Fetcher): number => 2 * slots - running.size;

/**
 * How many slots the fetcher has free for the job. The rest of the images gets what is left of them. It keeps none from other jobs:
 * while it holds it would keep it for seconds.
 */
function freeSlots(fetcher: Fetcher, job: Entry): number {
  const { slots, running } = fetcher;
  if (kindOf(job) === 'rest') return slots - running.size;
  let taken = 0;
  for (const { kind } of running.values()) if (kind !== 'rest') taken += 1;
  return Math.min(slots - taken, roomOf(fetcher));
}

/** Jobs that a fetcher may be told to hold. */
const HOLDING: ReadonlySet<JobKind> = new Set<JobKind>(['ahead', 'rest']);

function kindOf({ class: kind, isRest, isAhead }: Entry): JobKind {
  if (kind === 'demand') return 'demand';
  if (isRest) return 'rest';
  return isAhead ? 'ahead' : 'soon';
}
