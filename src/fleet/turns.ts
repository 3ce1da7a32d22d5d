/** Who may go on, and when: so many at once, those that a reader waits for first, and so many bytes a second. */
import { CofaError } from '../../schemas/errors.ts';
import type { JobClass } from '../../schemas/fetch.ts';
import type { Clock } from '../process/ports.ts';

interface Waiting {
  begin: () => void;
}

/** One that has asked for its turn. */
export interface Turn {
  /** Resolves when it may begin, with a function that says that it is over. */
  begun: Promise<() => void>;
  /** A reader waits for it by now: where it has yet to begin it comes before prefetch. */
  promote: () => void;
}

/** Work of two classes: demand overtakes prefetch until the moment it begins, and a quarter of all turns is for demand alone. */
export class Turns {
  readonly #atOnce: number;
  readonly #mostWaiting: number;
  #running = 0;
  readonly #waiting: Record<JobClass, Waiting[]> = { demand: [], prefetch: [] };

  constructor(atOnce: number, mostWaiting: number) {
    this.#atOnce = atOnce;
    this.#mostWaiting = mostWaiting;
  }

  get running(): number {
    return this.#running;
  }

  /**
   * Resolves when it may begin, with a function that says that it is over. Errors: `busy` where too much waits already; the
   * signal's reason.
   */
  async take(urgency: JobClass, signal?: AbortSignal): Promise<() => void> {
    return await this.ask(urgency, signal).begun;
  }

  /** As `take`, of one that may be promoted while it waits. */
  ask(urgency: JobClass, signal?: AbortSignal): Turn {
    const turn = Promise.withResolvers<void>();
    const entry = { begin: turn.resolve };
    return { begun: this.#begin(entry, turn, urgency, signal), promote: () => this.#promote(entry) };
  }

  async #begin(
    entry: Waiting,
    turn: PromiseWithResolvers<void>,
    urgency: JobClass,
    signal: AbortSignal | undefined,
  ): Promise<() => void> {
    signal?.throwIfAborted();
    if (this.#running >= this.#mostFor(urgency)) await this.#wait(entry, turn, urgency, signal);
    else this.#running += 1;
    let isOver = false;
    return () => {
      if (isOver) return;
      isOver = true;
      this.#running -= 1;
      for (const waiting of ['demand', 'prefetch'] as const) {
        if (this.#running >= this.#mostFor(waiting)) continue;
        const next = this.#waiting[waiting].shift();
        if (next === undefined) continue;
        this.#running += 1;
        next.begin();
        return;
      }
    };
  }

  readonly #mostFor = (urgency: JobClass): number =>
    urgency === 'demand' ? this.#atOnce : Math.max(1, Math.floor(this.#atOnce * 0.75));

  #promote(entry: Waiting): void {
    const { demand, prefetch } = this.#waiting;
    const at = prefetch.indexOf(entry);
    // Where too many readers wait it keeps the place that it has.
    if (at < 0 || demand.length >= this.#mostWaiting) return;
    prefetch.splice(at, 1);
    if (this.#running >= this.#mostFor('demand')) {
      demand.push(entry);
      return;
    }
    // The quarter that is demand's is free.
    this.#running += 1;
    entry.begin();
  }

  async #wait(
    entry: Waiting,
    turn: PromiseWithResolvers<void>,
    urgency: JobClass,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const { demand, prefetch } = this.#waiting;
    // What no reader waits for gives up its place.
    const isFull = demand.length + (urgency === 'demand' ? 0 : prefetch.length) >= this.#mostWaiting;
    if (isFull) throw new CofaError('busy', 'this member of the fleet has enough to do');
    this.#waiting[urgency].push(entry);
    const leave = () => {
      // It may have been promoted meanwhile.
      const queue = [demand, prefetch].find((one) => one.includes(entry));
      // Its turn has come in the same moment: the caller ends at the next look at its signal.
      if (queue === undefined) return;
      queue.splice(queue.indexOf(entry), 1);
      turn.reject(signal?.reason);
    };
    signal?.addEventListener('abort', leave, { once: true });
    try {
      await turn.promise;
    } finally {
      signal?.removeEventListener('abort', leave);
    }
  }
}

/** So many bytes a second, in the order of the calls; what was not used of one second is not added to another. */
export class Rate {
  readonly #bytesPerSecond: number;
  readonly #clock: Pick<Clock, 'now' | 'sleep'>;
  /** When all that has been allowed will have been sent, by the clock. */
  #until = 0;

  constructor(bytesPerSecond: number, clock: Pick<Clock, 'now' | 'sleep'>) {
    this.#bytesPerSecond = bytesPerSecond;
    this.#clock = clock;
  }

  /** Resolves when so many bytes may be sent. */
  async spend(bytes: number): Promise<void> {
    const now = this.#clock.now();
    const from = Math.max(now, this.#until);
    this.#until = from + (bytes / this.#bytesPerSecond) * 1000;
    if (from > now) await this.#clock.sleep(from - now);
  }
}
