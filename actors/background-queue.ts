/**
 * Jobs that no reader waits for, by layer: the smallest layer comes first, so that one after the other gets whole and is handed
 * to the kernel, instead of all at the very end. Layers of one size take turns.
 */
export interface BackgroundJob {
  readonly layer: string;
  /** Bytes of the layer; what belongs to none, or is small anyhow, has 0. */
  readonly size: number;
}

export class BackgroundQueue<Job extends BackgroundJob> {
  /** By layer, the one whose turn came last at the end. None is empty. */
  readonly #layers = new Map<string, Set<Job>>();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  add(job: Job): void {
    const others = this.#layers.get(job.layer);
    if (others === undefined) this.#layers.set(job.layer, new Set([job]));
    else others.add(job);
    this.#size += 1;
  }

  delete(job: Job): void {
    const others = this.#layers.get(job.layer);
    if (others?.delete(job) !== true) return;
    this.#size -= 1;
    if (others.size === 0) this.#layers.delete(job.layer);
  }

  /** The job that is to be sent next. */
  next(): Job | undefined {
    let best: Job | undefined;
    for (const jobs of this.#layers.values()) {
      const [job] = jobs;
      if (job !== undefined && (best === undefined || job.size < best.size)) best = job;
    }
    return best;
  }

  /** A job of the layer was sent: its turn is over. */
  taken(layer: string): void {
    const jobs = this.#layers.get(layer);
    if (jobs === undefined) return;
    this.#layers.delete(layer);
    this.#layers.set(layer, jobs);
  }

  *[Symbol.iterator](): IterableIterator<Job> {
    for (const jobs of this.#layers.values()) yield* jobs;
  }
}
