/** The fetches that a home has begun and not ended: one for each piece. It ends each by its deadline, and keeps those that wait for a busy member. */
import type { BlobSource, JobClass } from '../schemas/fetch.ts';
import type { FetchBy } from './fleet-home-protocol.ts';
import { TimerQueue } from './timers.ts';

export interface Flight {
  number: number;
  source: BlobSource;
  index: number;
  /** `demand` from when a reader waits for it. */
  class: JobClass;
  /** As home of this cell. */
  cell: number | undefined;
  /** `lease`: an asker fetches. `up`: one of the cell gets it of the zone's homes. */
  by: FetchBy | { by: 'lease'; member: string } | { by: 'up'; member: string };
  /** Requests that get the bytes when they are here. */
  requests: number[];
}

export class Flights {
  readonly #flights = new Map<string, Flight>();
  readonly #ends = new TimerQueue<string>();
  /** Fetches from members that were busy: when they are asked again. */
  readonly #retries = new TimerQueue<string>();
  #number = 0;

  get size(): number {
    return this.#flights.size;
  }

  /** ms; Infinity when nothing is due. */
  get nextWake(): number {
    return Math.min(this.#ends.next, this.#retries.next);
  }

  has(key: string): boolean {
    return this.#flights.has(key);
  }

  get(key: string): Flight | undefined {
    return this.#flights.get(key);
  }

  /** Another one of the piece is given up. `end`: when this one is, ms. */
  begin(key: string, flight: Omit<Flight, 'number'>, end: number): Flight {
    const begun = { ...flight, number: ++this.#number };
    this.#flights.set(key, begun);
    this.#ends.set(key, end);
    this.#retries.delete(key);
    return begun;
  }

  delete(key: string): void {
    this.#flights.delete(key);
    this.#ends.delete(key);
    this.#retries.delete(key);
  }

  /** It ends by then at the latest, ms. */
  endBy(key: string, at: number): void {
    if (this.#ends.at(key) > at) this.#ends.set(key, at);
  }

  retryAt(key: string, at: number): void {
    this.#retries.set(key, at);
  }

  /** Takes a piece whose fetch has lasted too long. */
  takeLate(now: number): string | undefined {
    return this.#ends.take(now);
  }

  /** Takes a piece that a member was too busy for, and which it is asked for again. */
  takeRetry(now: number): string | undefined {
    return this.#retries.take(now);
  }
}
