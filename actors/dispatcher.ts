/**
 * The queue between the layers of a front end and the pool of fetchers. Pure: time comes in with the events, what is to
 * be sent comes out as effects.
 *
 * Demand goes before prefetch until the moment that a job is sent, first come first served; prefetch is fair between
 * layers and never takes the last slot of a fetcher that has more than one. A fetcher that falls silent is lost, and
 * its jobs go to another. Without any fetcher jobs wait, for a bounded time.
 */
export type JobClass = 'demand' | 'prefetch';

export type DispatcherEvent =
  | { type: 'submit'; job: number; class: JobClass; layer: string; now: number }
  | { type: 'promote'; job: number; now: number }
  | { type: 'cancel'; job: number; now: number }
  | { type: 'worker.hello'; worker: string; slots: number; now: number }
  | { type: 'worker.lost'; worker: string; now: number }
  | { type: 'job.progress'; job: number; worker: string; now: number }
  | { type: 'job.ended'; job: number; worker: string; ok: boolean; now: number }
  | { type: 'tick'; now: number };

export type DispatcherEffect =
  | { type: 'send'; job: number; worker: string }
  /** The queue is full. */
  | { type: 'rejected'; job: number }
  /** It was sent too often to fetchers that died or fell silent, or no fetcher came. */
  | { type: 'failed'; job: number; reason: 'lost' | 'no-worker' };

export interface DispatcherLimits {
  /** Jobs that wait or run; further ones are rejected. */
  jobs: number;
  /** A fetcher that said nothing for this long is lost, ms. */
  workerSilenceMs: number;
  /** A job of which nothing was heard for this long is given to another fetcher, ms. */
  jobSilenceMs: number;
  /** How often a job is sent. */
  attempts: number;
  /** How long a job waits for a slot before it fails, ms. */
  queueMs: number;
}

export const DISPATCHER_LIMITS: DispatcherLimits = {
  jobs: 10_000,
  workerSilenceMs: 5_000,
  jobSilenceMs: 20_000,
  attempts: 3,
  queueMs: 30_000,
};

interface Worker {
  name: string;
  slots: number;
  running: Set<number>;
  heardAt: number;
}

interface Job {
  job: number;
  class: JobClass;
  layer: string;
  queuedAt: number;
  sentAt: number;
  attempts: number;
  worker: Worker | undefined;
}

export class Dispatcher {
  readonly #limits: DispatcherLimits;
  readonly #jobs = new Map<number, Job>();
  readonly #demand: Job[] = [];
  /** By layer, in turns. */
  readonly #prefetch = new Map<string, Job[]>();
  readonly #workers = new Map<string, Worker>();

  constructor(limits: Partial<DispatcherLimits> = {}) {
    this.#limits = { ...DISPATCHER_LIMITS, ...limits };
  }

  /** Applies one event; the effects are to be run in order. */
  handle(event: DispatcherEvent): DispatcherEffect[] {
    const effects: DispatcherEffect[] = [];
    this.#apply(event, effects);
    this.#assign(event.now, effects);
    return effects;
  }

  status(): {
    workers: Array<{ worker: string; slots: number; running: number }>;
    queued: { demand: number; prefetch: number };
  } {
    return {
      workers: [...this.#workers.values()].map(({ name, slots, running }) => ({
        worker: name,
        slots,
        running: running.size,
      })),
      queued: {
        demand: this.#demand.length,
        prefetch: [...this.#prefetch.values()].reduce((sum, jobs) => sum + jobs.length, 0),
      },
    };
  }

  #apply(event: DispatcherEvent, effects: DispatcherEffect[]): void {
    switch (event.type) {
      case 'submit': {
        if (this.#jobs.size >= this.#limits.jobs) {
          effects.push({ type: 'rejected', job: event.job });
          return;
        }
        const { job, layer, now } = event;
        const fresh: Job = {
          job,
          class: event.class,
          layer,
          queuedAt: now,
          sentAt: 0,
          attempts: 0,
          worker: undefined,
        };
        this.#jobs.set(job, fresh);
        this.#enqueue(fresh);
        return;
      }
      case 'promote': {
        const job = this.#jobs.get(event.job);
        if (job === undefined || job.class === 'demand') return;
        const waiting = job.worker === undefined;
        if (waiting) this.#dequeue(job);
        job.class = 'demand';
        if (waiting) this.#demand.push(job);
        return;
      }
      case 'cancel': {
        const job = this.#jobs.get(event.job);
        if (job === undefined) return;
        this.#dequeue(job);
        job.worker?.running.delete(job.job);
        this.#jobs.delete(job.job);
        return;
      }
      case 'worker.hello': {
        const known = this.#workers.get(event.worker);
        if (known === undefined) {
          const { worker, slots, now } = event;
          this.#workers.set(worker, { name: worker, slots, running: new Set(), heardAt: now });
        } else {
          known.slots = event.slots;
          known.heardAt = event.now;
        }
        return;
      }
      case 'worker.lost':
        this.#lose(event.worker, event.now, effects);
        return;
      case 'job.progress': {
        const job = this.#jobs.get(event.job);
        if (job?.worker?.name !== event.worker) return;
        job.sentAt = event.now;
        job.worker.heardAt = event.now;
        return;
      }
      case 'job.ended': {
        const job = this.#jobs.get(event.job);
        if (job === undefined) return;
        // Also when another fetcher was asked meanwhile: the work is done.
        this.#dequeue(job);
        job.worker?.running.delete(job.job);
        this.#jobs.delete(job.job);
        return;
      }
      case 'tick':
        this.#expire(event.now, effects);
    }
  }

  #expire(now: number, effects: DispatcherEffect[]): void {
    for (const worker of [...this.#workers.values()]) {
      if (now - worker.heardAt > this.#limits.workerSilenceMs) this.#lose(worker.name, now, effects);
    }
    for (const job of [...this.#jobs.values()]) {
      if (job.worker !== undefined && now - job.sentAt > this.#limits.jobSilenceMs) {
        job.worker.running.delete(job.job);
        this.#again(job, now, effects);
      } else if (
        job.worker === undefined &&
        job.class === 'demand' &&
        now - job.queuedAt > this.#limits.queueMs
      ) {
        this.#dequeue(job);
        this.#jobs.delete(job.job);
        effects.push({ type: 'failed', job: job.job, reason: 'no-worker' });
      }
    }
  }

  #lose(name: string, now: number, effects: DispatcherEffect[]): void {
    const worker = this.#workers.get(name);
    if (worker === undefined) return;
    this.#workers.delete(name);
    for (const number of worker.running) {
      const job = this.#jobs.get(number);
      if (job !== undefined) this.#again(job, now, effects);
    }
  }

  #again(job: Job, now: number, effects: DispatcherEffect[]): void {
    job.worker = undefined;
    job.queuedAt = now;
    if (job.attempts >= this.#limits.attempts) {
      this.#jobs.delete(job.job);
      effects.push({ type: 'failed', job: job.job, reason: 'lost' });
      return;
    }
    this.#enqueue(job);
  }

  #enqueue(job: Job): void {
    if (job.class === 'demand') {
      this.#demand.push(job);
      return;
    }
    const mine = this.#prefetch.get(job.layer);
    if (mine === undefined) this.#prefetch.set(job.layer, [job]);
    else mine.push(job);
  }

  #dequeue(job: Job): void {
    const queue = job.class === 'demand' ? this.#demand : this.#prefetch.get(job.layer);
    const at = queue?.indexOf(job) ?? -1;
    if (queue === undefined || at < 0) return;
    queue.splice(at, 1);
    if (queue.length === 0 && queue !== this.#demand) this.#prefetch.delete(job.layer);
  }

  #assign(now: number, effects: DispatcherEffect[]): void {
    for (;;) {
      const demand = this.#demand.length > 0;
      const worker = this.#freest(demand);
      if (worker === undefined) return;
      const job = demand ? this.#demand.shift() : this.#nextPrefetch();
      if (job === undefined) return;
      job.worker = worker;
      job.sentAt = now;
      job.attempts += 1;
      worker.running.add(job.job);
      effects.push({ type: 'send', job: job.job, worker: worker.name });
    }
  }

  /** The fetcher with the most free slots; for prefetch one slot is left, so that demand finds it free. */
  #freest(demand: boolean): Worker | undefined {
    let best: Worker | undefined;
    let most = 0;
    for (const worker of this.#workers.values()) {
      const free = worker.slots - worker.running.size - (demand || worker.slots === 1 ? 0 : 1);
      if (free > most) {
        best = worker;
        most = free;
      }
    }
    return best;
  }

  /** The next prefetch job of the layer whose turn it is; the layer goes to the end of the line. */
  #nextPrefetch(): Job | undefined {
    for (const [layer, jobs] of this.#prefetch) {
      const job = jobs.shift();
      this.#prefetch.delete(layer);
      if (jobs.length > 0) this.#prefetch.set(layer, jobs);
      if (job !== undefined) return job;
    }
    return undefined;
  }
}
