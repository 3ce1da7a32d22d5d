/**
 * How urgent each fetcher process is. A fetcher at work that no reader waits for is lowered. When a reader waits, all are raised: the
 * one that gets the job, and those that may have been stopped while they had locked what the job needs, such as the device's
 * file in the kernel. The front end raises them before it tells of the job: a process at idle priority may not even notice
 * that it has become urgent. One whose jobs all hold is raised as well: it does nothing, but for leaving what it had locked.
 *
 * It is lowered when no reader has waited for `calmMs`: readers come one after the other. One that says nothing for `starvedMs`
 * although it lives, since others take every processor, is raised until it is heard of: a fetcher that falls silent is lost.
 *
 * Time comes in with each call.
 */
export interface FetcherPriorityLimits {
  calmMs: number;
  starvedMs: number;
}

export const FETCHER_PRIORITY: FetcherPriorityLimits = { calmMs: 300, starvedMs: 2_000 };

/** `low`: its work has been held for so long that it is to go on beside others. */
export type FetcherPriority = 'normal' | 'low' | 'idle';

/** `reader`: a reader waits. `rest`: it is at work that no reader waits for. `held`: all of that work rests. */
export type FetcherLoad = 'reader' | 'rest' | 'held' | 'none';

interface Known {
  priority: FetcherPriority;
  /** When a reader needed it last, and when it was heard of last, ms. */
  neededAt: number;
  heardAt: number;
}

export interface PriorityChange {
  fetcher: string;
  priority: FetcherPriority;
}

export class FetcherPriorities {
  readonly #limits: FetcherPriorityLimits;
  readonly #fetchers = new Map<string, Known>();

  constructor(limits: Partial<FetcherPriorityLimits> = {}) {
    this.#limits = { ...FETCHER_PRIORITY, ...limits };
  }

  /** A process that has just started, or of which this front end has not heard before. */
  began(fetcher: string, now: number): void {
    this.#fetchers.set(fetcher, { priority: 'normal', neededAt: now, heardAt: now });
  }

  /** It has said something. */
  heard(fetcher: string, now: number): void {
    const known = this.#fetchers.get(fetcher);
    if (known !== undefined) known.heardAt = now;
  }

  /** A reader needs it: returns whether it is to be raised first. */
  needed(fetcher: string, now: number): boolean {
    const known = this.#fetchers.get(fetcher);
    if (known === undefined) return false;
    known.neededAt = now;
    const isLow = known.priority !== 'normal';
    known.priority = 'normal';
    return isLow;
  }

  /** Now and then: what changes. `lowest`: what idle work has at present. */
  look(
    now: number,
    loadOf: (fetcher: string) => FetcherLoad,
    lowest: Exclude<FetcherPriority, 'normal'>,
  ): PriorityChange[] {
    const changes: PriorityChange[] = [];
    for (const [fetcher, known] of this.#fetchers) {
      const priority = this.#next(known, loadOf(fetcher), lowest, now);
      if (priority === known.priority) continue;
      known.priority = priority;
      changes.push({ fetcher, priority });
    }
    return changes;
  }

  #next(
    known: Known,
    load: FetcherLoad,
    lowest: Exclude<FetcherPriority, 'normal'>,
    now: number,
  ): FetcherPriority {
    const { calmMs, starvedMs } = this.#limits;
    if (load === 'reader') known.neededAt = now;
    if (load !== 'rest' || now - known.neededAt < calmMs) return 'normal';
    return now - known.heardAt >= starvedMs ? 'normal' : lowest;
  }
}
