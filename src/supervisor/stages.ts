/** Runs the stages of a start one after the other, and notes how long each took. */
import type { Logger } from 'pino';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import type { Clock } from '../process/ports.ts';
import type { End } from './end.ts';

export class Stages {
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #end: Pick<End, 'hasBegun'>;
  readonly #ms: Record<string, number>;

  constructor(options: { log: Logger; end: Pick<End, 'hasBegun'>; ports: { clock: Clock } }) {
    this.#clock = options.ports.clock;
    this.#log = options.log;
    this.#end = options.end;
    this.#ms = { process: Math.round(this.#clock.now()) };
  }

  /** By stage, ms; `process`: from the process's start to the first one. */
  get ms(): Readonly<Record<string, number>> {
    return this.#ms;
  }

  /**
   * Runs a stage. Errors: its own, which tell the user what to do; one that is not made for a user names the stage. `not-running`
   * when the engine ends already.
   */
  async run<T>(stage: string, work: () => Promise<T>): Promise<T> {
    if (this.#end.hasBegun) throw new CofaError('not-running', 'the engine is stopping');
    const began = this.#clock.now();
    try {
      return await work();
    } catch (error) {
      if (this.#end.hasBegun) throw error;
      this.#log.error({ stage, error }, 'the start failed');
      throw named(stage, error);
    } finally {
      this.#ms[stage] = Math.round(this.#clock.now() - began);
    }
  }
}

function named(stage: string, error: unknown): unknown {
  if (error instanceof CofaError) return error;
  const { code, message, hint } = toErrorRecord(error);
  return new CofaError(code, `the start failed at its stage "${stage}": ${message}`, {
    cause: error,
    ...(hint === undefined ? {} : { hint }),
  });
}
