/**
 * Reads that failed in the last five minutes. The front end knows its own; those of one that has died stay for their time,
 * and so do those that the supervisor answered in its place.
 */
import { Recent } from '../../../actors/counts.ts';

export class FailedReads {
  readonly #past = new Recent();
  #last: { pid: number; count: number; at: number } | undefined;
  #standIn = 0;

  /** What the front end says; `now`: monotonic, ms. */
  heard(pid: number, count: number, now: number): void {
    const last = this.#last;
    if (last !== undefined && last.pid !== pid) this.#past.add(last.count, last.at);
    this.#last = { pid, count, at: now };
  }

  /** Reads that the supervisor has answered with EIO so far. */
  answered(total: number, now: number): void {
    this.#past.add(total - this.#standIn, now);
    this.#standIn = total;
  }

  sum(now: number): number {
    return this.#past.sum(now) + (this.#last?.count ?? 0);
  }
}
