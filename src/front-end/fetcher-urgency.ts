/** Gives fetcher processes the priority that their jobs have, and tells whether work that no reader waits for is to rest. */
import type { Dispatcher } from '../../actors/dispatcher.ts';
import { FetcherPriorities, type FetcherPriority } from '../../actors/fetcher-priority.ts';
import { IdleWork, type Waited } from '../../actors/idle-work.ts';

/** What the front end asks the machine for. */
export interface Machine {
  /** How long tasks have waited; undefined: the machine does not say. */
  pressure(): Waited | undefined;
  setPriority(pid: number, priority: FetcherPriority): void;
}

export class FetcherUrgency {
  readonly #machine: Machine;
  readonly #dispatcher: Pick<Dispatcher, 'hasRest' | 'hasReaders' | 'loadOf'>;
  readonly #priorities = new FetcherPriorities();
  readonly #idleWork = new IdleWork();
  readonly #pids = new Map<string, number>();
  /** Fetchers that were lowered. */
  readonly #lowered = new Set<string>();

  constructor(machine: Machine, dispatcher: Pick<Dispatcher, 'hasRest' | 'hasReaders' | 'loadOf'>) {
    this.#machine = machine;
    this.#dispatcher = dispatcher;
  }

  /** It has said hello. An earlier front end may have lowered the process. */
  heard(fetcher: string, pid: number, now: number): void {
    if (this.#pids.get(fetcher) !== pid) {
      this.#pids.set(fetcher, pid);
      this.#priorities.began(fetcher, now);
      this.#set(fetcher, 'normal');
    }
    this.#priorities.heard(fetcher, now);
  }

  heardOf(fetcher: string, now: number): void {
    this.#priorities.heard(fetcher, now);
  }

  /** Raises all fetchers where a reader waits. */
  raise(now: number): void {
    if (this.#lowered.size === 0 || !this.#dispatcher.hasReaders) return;
    for (const fetcher of this.#lowered)
      if (this.#priorities.needed(fetcher, now)) this.#set(fetcher, 'normal');
  }

  /** Now and then. Returns whether the machine is busy with others. */
  look(now: number): boolean {
    const { hasRest } = this.#dispatcher;
    const waited = hasRest ? this.#machine.pressure() : undefined;
    const state = this.#idleWork.look(now, hasRest, waited);
    // Where the machine does not say how busy it is, the work would have no end at idle priority.
    const lowest = state === 'aged' || waited === undefined ? 'low' : 'idle';
    const loadOf = (fetcher: string) => this.#dispatcher.loadOf(fetcher);
    for (const { fetcher, priority } of this.#priorities.look(now, loadOf, lowest))
      this.#set(fetcher, priority);
    return state === 'held';
  }

  /** The fetchers are another front end's from now on. */
  close(): void {
    for (const fetcher of this.#lowered) this.#set(fetcher, 'normal');
  }

  #set(fetcher: string, priority: FetcherPriority): void {
    const pid = this.#pids.get(fetcher);
    if (pid === undefined) return;
    if (priority === 'normal') this.#lowered.delete(fetcher);
    else this.#lowered.add(fetcher);
    this.#machine.setPriority(pid, priority);
  }
}
