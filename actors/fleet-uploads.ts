/** Slots for uploads at a home, and the requests that wait for one: those that readers wait for first. Bounded. */
import type { JobClass } from '../schemas/fetch.ts';

export class Uploads {
  readonly #most: number;
  readonly #mostQueued: number;
  readonly #sending = new Set<number>();
  readonly #queue: Record<JobClass, Set<number>> = { demand: new Set(), prefetch: new Set() };

  constructor({ uploads, queued }: { uploads: number; queued: number }) {
    this.#most = uploads;
    this.#mostQueued = queued;
  }

  get sending(): number {
    return this.#sending.size;
  }

  get queued(): number {
    return this.#queue.demand.size + this.#queue.prefetch.size;
  }

  /** Slots that are neither taken nor waited for by readers. `promised`: to askers that were told to come. */
  room(promised: number): number {
    return this.#most - Math.max(this.#sending.size + this.#queue.demand.size, promised);
  }

  get hasSlot(): boolean {
    return this.#sending.size < this.#most;
  }

  /** Takes a slot. */
  take(request: number): void {
    this.#sending.add(request);
  }

  /** It waits for a slot. False: too many do. Demand has room that prefetch cannot take. */
  wait(request: number, urgency: JobClass): boolean {
    const before = this.#queue.demand.size + (urgency === 'demand' ? 0 : this.#queue.prefetch.size);
    if (before >= this.#mostQueued) return false;
    this.#queue[urgency].add(request);
    return true;
  }

  /** Takes the next one that waits, where a slot is free: it has yet to take it. */
  next(): number | undefined {
    if (!this.hasSlot) return undefined;
    for (const waiting of [this.#queue.demand, this.#queue.prefetch])
      for (const request of waiting) {
        waiting.delete(request);
        return request;
      }
    return undefined;
  }

  /** It is over, or given up. True: it had a slot. */
  delete(request: number): boolean {
    this.#queue.demand.delete(request);
    this.#queue.prefetch.delete(request);
    return this.#sending.delete(request);
  }
}
