/** Decides which pieces an asker fetches now: so many at once, those that readers wait for first. Prefetch leaves a part of the places free. */
import type { JobClass } from '../schemas/fetch.ts';

/** Its class is changed by `promote` alone. */
export interface Placed {
  class: JobClass;
  /** Whether it has a place. */
  isRunning: boolean;
}

export class Places<Piece extends Placed> {
  readonly #most: Record<JobClass, number>;
  readonly #queue: Record<JobClass, Set<Piece>> = { demand: new Set(), prefetch: new Set() };
  readonly #running: Record<JobClass, number> = { demand: 0, prefetch: 0 };

  /** `demandShare`: of the places, what prefetch leaves free. */
  constructor(atOnce: number, demandShare: number) {
    this.#most = { demand: atOnce, prefetch: Math.max(1, Math.floor(atOnce * (1 - demandShare))) };
  }

  get running(): number {
    return this.#running.demand + this.#running.prefetch;
  }

  get queued(): number {
    return this.#queue.demand.size + this.#queue.prefetch.size;
  }

  /** It waits for a place. */
  add(piece: Piece): void {
    this.#queue[piece.class].add(piece);
  }

  /** The next one that has a place by now. */
  next(): Piece | undefined {
    for (const urgency of ['demand', 'prefetch'] as const) {
      const [piece] = this.#queue[urgency];
      if (piece === undefined || this.running >= this.#most[urgency]) continue;
      this.#queue[urgency].delete(piece);
      piece.isRunning = true;
      this.#running[urgency] += 1;
      return piece;
    }
    return undefined;
  }

  /** A reader waits for it by now. */
  promote(piece: Piece): void {
    if (this.#queue.prefetch.delete(piece)) this.#queue.demand.add(piece);
    if (piece.isRunning) {
      this.#running.prefetch -= 1;
      this.#running.demand += 1;
    }
    piece.class = 'demand';
  }

  /** It waits for none any more; one that has a place keeps it. */
  unqueue(piece: Piece): void {
    this.#queue[piece.class].delete(piece);
  }

  /** It is over. */
  leave(piece: Piece): void {
    this.unqueue(piece);
    if (piece.isRunning) this.#running[piece.class] -= 1;
    piece.isRunning = false;
  }
}
