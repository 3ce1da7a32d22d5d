/**
 * Slots for uploads at a home, and the requests that wait for one: those that readers wait for first. Prefetch leaves a quarter of
 * the slots to them. Bounded.
 */
import type { JobClass } from '../schemas/fetch.ts';

/** Of the slots, what prefetch may have. */
const PREFETCH_SHARE = 0.75;

export class Uploads {
  readonly #most: Record<JobClass, number>;
  readonly #mostQueued: number;
  readonly #sending: Record<JobClass, Set<number>> = { demand: new Set(), prefetch: new Set() };
  readonly #queue: Record<JobClass, Set<number>> = { demand: new Set(), prefetch: new Set() };

  constructor({ uploads, queued }: { uploads: number; queued: number }) {
    this.#most = { demand: uploads, prefetch: Math.max(1, Math.floor(uploads * PREFETCH_SHARE)) };
    this.#mostQueued = queued;
  }

  get sending(): number {
    return this.#sending.demand.size + this.#sending.prefetch.size;
  }

  get queued(): number {
    return this.#queue.demand.size + this.#queue.prefetch.size;
  }

  /**
   * Slots for which askers of the class may be told to come: neither taken, nor waited for by readers. `promised`: to askers that
   * were told so.
   */
  room(urgency: JobClass, promised: number): number {
    return this.#most[urgency] - Math.max(this.sending + this.#queue.demand.size, promised);
  }

  /** Whether one that comes may take a slot. */
  hasSlot(urgency: JobClass): boolean {
    if (this.sending >= this.#most.demand) return false;
    return urgency === 'demand' || this.#sending.prefetch.size < this.#most.prefetch;
  }

  /** Takes a slot. */
  take(request: number, urgency: JobClass): void {
    this.#sending[urgency].add(request);
  }

  /** It waits for a slot. False: too many do. Demand has room that prefetch cannot take. */
  wait(request: number, urgency: JobClass): boolean {
    const before = this.#queue.demand.size + (urgency === 'demand' ? 0 : this.#queue.prefetch.size);
    if (before >= this.#mostQueued) return false;
    this.#queue[urgency].add(request);
    return true;
  }

  /** Takes the next one that waits, where a slot is free for it: it has yet to take it. */
  next(): number | undefined {
    for (const urgency of ['demand', 'prefetch'] as const) {
      const [request] = this.#queue[urgency];
      if (request === undefined || !this.hasSlot(urgency)) continue;
      this.#queue[urgency].delete(request);
      return request;
    }
    return undefined;
  }

  /** It is over, or given up. True: it had a slot. */
  delete(request: number): boolean {
    for (const urgency of ['demand', 'prefetch'] as const) this.#queue[urgency].delete(request);
    return this.#sending.demand.delete(request) || this.#sending.prefetch.delete(request);
  }
}
