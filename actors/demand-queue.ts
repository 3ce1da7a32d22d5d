/**
 * Demand that waits for a slot, by where its bytes come from. Those who lost their fetcher come first; then the sources
 * take turns, each first come first served.
 *
 * A registry that is dead or silent must not hold up the reads of another one, and each of its jobs takes seconds to
 * fail. So a source that has next to no slots may go beyond them (`poor`), and one that fails may take half of them.
 */
export interface Demand {
  /** Registry; empty where there is none to tell apart. */
  readonly source: string;
  /** Times sent. */
  readonly attempts: number;
}

export class DemandQueue<Job extends Demand> {
  readonly #again = new Set<Job>();
  /** By source; the one whose turn it is comes first. None is empty. */
  readonly #sources = new Map<string, Set<Job>>();
  /** Slots that each source has. */
  readonly #running = new Map<string, number>();
  readonly #failing = new Set<string>();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  add(job: Job): void {
    this.#size += 1;
    if (job.attempts > 0) {
      this.#again.add(job);
      return;
    }
    const others = this.#sources.get(job.source);
    if (others === undefined) this.#sources.set(job.source, new Set([job]));
    else others.add(job);
  }

  delete(job: Job): void {
    if (this.#again.delete(job)) this.#size -= 1;
    const others = this.#sources.get(job.source);
    if (others?.delete(job) !== true) return;
    this.#size -= 1;
    if (others.size === 0) this.#sources.delete(job.source);
  }

  /** The job that is to be sent next, of `slots` in all; undefined where all who wait have what they may. */
  next(slots: number): Job | undefined {
    for (const job of this.#again) if (this.#may(job.source, slots)) return job;
    for (const [source, jobs] of this.#sources) if (this.#may(source, slots)) return first(jobs);
    return undefined;
  }

  /** A job that may be sent though all slots are taken: its source has fewer than `share` jobs at work. */
  poor(share: number): Job | undefined {
    for (const [source, jobs] of this.#sources) {
      if (source !== '' && this.running(source) < share) return first(jobs);
    }
    return undefined;
  }

  /** A job of the source got a slot: its turn is over. */
  taken(source: string): void {
    this.#running.set(source, (this.#running.get(source) ?? 0) + 1);
    const jobs = this.#sources.get(source);
    if (jobs === undefined) return;
    this.#sources.delete(source);
    this.#sources.set(source, jobs);
  }

  freed(source: string): void {
    const left = (this.#running.get(source) ?? 0) - 1;
    if (left > 0) this.#running.set(source, left);
    else this.#running.delete(source);
  }

  /** A job of the source has ended. */
  ended(source: string, ok: boolean): void {
    if (ok) this.#failing.delete(source);
    else if (source !== '' && this.#failing.size < MOST_FAILING) this.#failing.add(source);
  }

  /** Everyone who waits, and how many slots a source has. */
  *[Symbol.iterator](): IterableIterator<Job> {
    yield* this.#again;
    for (const jobs of this.#sources.values()) yield* jobs;
  }

  running(source: string): number {
    return this.#running.get(source) ?? 0;
  }

  #may(source: string, slots: number): boolean {
    if (!this.#failing.has(source)) return true;
    return this.running(source) < Math.max(1, Math.floor(slots / 2));
  }
}

/** Sources that are remembered as failing. */
const MOST_FAILING = 1_000;

const first = <T>(items: Set<T>): T | undefined => items.values().next().value;
