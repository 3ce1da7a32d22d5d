/** A rehearsal beside a process's real work: it begins when the process has nothing to do, and real work ends it. */
import type { Logger } from 'pino';
import type { Tidying } from '../heap.ts';
import type { Clock } from '../ports.ts';
import type { Rehearsal } from './rounds.ts';

/** Repeats a part of a start. Throws what is wrong in it. */
export type RunRehearsal = (rehearsal: Rehearsal) => Promise<void>;

export interface IdleRehearsalOptions {
  clock: Clock;
  tidying: Pick<Tidying, 'now'>;
  log: Logger;
  /** For the log, where it fails: what will be slower. */
  slower: string;
  /** Aborted when a client wants something of the engine: the rehearsal would be in its way. */
  hushed?: AbortSignal;
}

export class IdleRehearsal {
  readonly #options: IdleRehearsalOptions;
  readonly #working = new AbortController();
  #done: Promise<void> = Promise.resolve();

  constructor(options: IdleRehearsalOptions) {
    this.#options = options;
    const { hushed } = options;
    if (hushed?.aborted === true) this.workCame();
    else hushed?.addEventListener('abort', this.workCame, { once: true });
  }

  /**
   * Begins, in the background, and resolves when it has ended. A rehearsal that fails is only said in the log: starts are
   * slower then, not wrong.
   */
  begin(rehearsal: Omit<Rehearsal, 'signal'>, run: RunRehearsal): Promise<void> {
    this.#done = this.#run({ ...rehearsal, signal: this.#working.signal }, run);
    return this.#done;
  }

  /** There has been real work. */
  get hasWork(): boolean {
    return this.#working.signal.aborted;
  }

  /** There is real work: the rehearsal ends with its present round. */
  readonly workCame = (): void => this.#working.abort();

  /** Resolves when it has ended, at the latest after so many ms. */
  async stop(patienceMs: number): Promise<void> {
    this.#working.abort();
    await Promise.race([this.#done, this.#options.clock.sleep(patienceMs)]);
  }

  async #run(rehearsal: Rehearsal, run: RunRehearsal): Promise<void> {
    const { tidying, log, slower } = this.#options;
    try {
      await run(rehearsal);
      if (!rehearsal.signal.aborted) tidying.now();
    } catch (error) {
      log.warn({ error }, `${slower} will be slower: its rehearsal failed`);
    }
  }
}
