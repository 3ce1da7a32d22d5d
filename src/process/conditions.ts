/**
 * What is wrong at the moment, as sentences for people: `status.degraded`. Each has a key, so that whoever finds out
 * that something is wrong also says when it is over. Supervisor and front end have one each; `status` shows both.
 */
import type { Logger } from 'pino';

/** Conditions that hold at once; further ones are in the log alone. */
const MOST = 100;
/** One that comes and goes, or changes its figures only, is in the log this often, ms. */
const QUIET_MS = 60_000;

export class Conditions {
  readonly #log: Logger;
  readonly #now: () => number;
  readonly #sentences = new Map<string, string>();
  /** What the log was told last of a condition, without figures; until it is told again whatever happens. */
  readonly #told = new Map<string, { shape: string; until: number }>();
  /** Those whose beginning is in the log: so will be their end. */
  readonly #inLog = new Set<string>();

  /** `log` is told when a condition begins, changes and ends. `now`: monotonic or not, ms. */
  constructor(log: Logger, now: () => number = Date.now) {
    this.#log = log;
    this.#now = now;
  }

  /** `sentence` holds from now on: what is wrong, and why. An earlier one of the same key is replaced. */
  set(key: string, sentence: string): void {
    if (this.#sentences.get(key) === sentence) return;
    this.#tell(key, sentence);
    if (this.#sentences.size < MOST || this.#sentences.has(key)) this.#sentences.set(key, sentence);
  }

  /** It is over. Unknown keys: nothing. */
  clear(key: string): void {
    this.#sentences.delete(key);
    if (this.#inLog.delete(key)) this.#log.info({ condition: key }, 'over');
  }

  #tell(key: string, sentence: string): void {
    const shape = sentence.replaceAll(/\d+/g, '#');
    const told = this.#told.get(key);
    if (told?.shape === shape && this.#now() < told.until) return;
    if (this.#told.size >= 10 * MOST) this.#told.clear();
    this.#told.set(key, { shape, until: this.#now() + QUIET_MS });
    this.#inLog.add(key);
    this.#log.warn({ condition: key }, sentence);
  }

  has(key: string): boolean {
    return this.#sentences.has(key);
  }

  /** The sentences that hold, oldest first. */
  list(): string[] {
    return [...this.#sentences.values()];
  }
}
