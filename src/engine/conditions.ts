/**
 * What is wrong at the moment, as sentences for people: `status.degraded`. Each has a key, so that whoever finds out
 * that something is wrong also says when it is over. Supervisor and front end have one each; `status` shows both.
 */
import type { Logger } from 'pino';

/** Conditions that hold at once; further ones are in the log alone. */
const MOST = 100;

export class Conditions {
  readonly #log: Logger;
  readonly #sentences = new Map<string, string>();

  /** `log` is told when a condition begins, changes and ends. */
  constructor(log: Logger) {
    this.#log = log;
  }

  /** `sentence` holds from now on: what is wrong, and why. An earlier one of the same key is replaced. */
  set(key: string, sentence: string): void {
    if (this.#sentences.get(key) === sentence) return;
    this.#log.warn({ condition: key }, sentence);
    if (this.#sentences.size < MOST || this.#sentences.has(key)) this.#sentences.set(key, sentence);
  }

  /** It is over. Unknown keys: nothing. */
  clear(key: string): void {
    if (this.#sentences.delete(key)) this.#log.info({ condition: key }, 'over');
  }

  has(key: string): boolean {
    return this.#sentences.has(key);
  }

  /** The sentences that hold, oldest first. */
  list(): string[] {
    return [...this.#sentences.values()];
  }
}
