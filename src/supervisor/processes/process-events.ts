/**
 * Starts and ends of the engine's processes, as facts in the log. They are told on the side: a log that is away loses
 * the oldest of them, and a process that crashes all the time writes a few only.
 */
import type { Logger } from 'pino';
import type { NewEvent } from '../../../schemas/events.ts';

export type ProcessEvent = Extract<NewEvent, { type: 'process.started' | 'process.ended' }>;

/** Events that wait for the log. */
const MOST_WAITING = 100;
/** Events of one process that are written in a row; then one for each pause. */
const BURST = 24;
const REFILL_MS = 600_000;
/** A log that does not take events is tried again after this, ms. */
const RETRY_MS = 1_000;

export class ProcessEvents {
  readonly #append: (event: ProcessEvent) => Promise<unknown>;
  readonly #now: () => number;
  readonly #log: Logger;
  readonly #waiting: ProcessEvent[] = [];
  /** By process name: how many more may be written, and as of when. */
  readonly #allowed = new Map<string, { left: number; at: number }>();
  #timer: NodeJS.Timeout | undefined;
  #writing = false;
  #open = false;

  constructor(options: {
    append: (event: ProcessEvent) => Promise<unknown>;
    now: () => number;
    log: Logger;
  }) {
    this.#append = options.append;
    this.#now = options.now;
    this.#log = options.log;
  }

  /** The log takes events from now on. */
  open(): void {
    this.#open = true;
    void this.#write();
  }

  /** Nothing more is written; what waits is lost. */
  close(): void {
    this.#open = false;
    clearTimeout(this.#timer);
    this.#waiting.length = 0;
  }

  add(event: ProcessEvent): void {
    if (!this.#isAllowed(event.name)) return;
    this.#waiting.push(event);
    if (this.#waiting.length > MOST_WAITING) this.#waiting.shift();
    void this.#write();
  }

  #isAllowed(name: string): boolean {
    const at = this.#now();
    const known = this.#allowed.get(name) ?? { left: BURST, at };
    const refilled = Math.floor((at - known.at) / REFILL_MS);
    const left = Math.min(BURST, known.left + refilled);
    this.#allowed.set(name, { left: Math.max(0, left - 1), at: refilled > 0 ? at : known.at });
    return left > 0;
  }

  async #write(): Promise<void> {
    if (this.#writing || !this.#open) return;
    this.#writing = true;
    try {
      for (let next = this.#waiting[0]; next !== undefined && this.#open; next = this.#waiting[0]) {
        await this.#append(next);
        if (this.#waiting[0] === next) this.#waiting.shift();
      }
    } catch (error) {
      if (!this.#open) return;
      this.#log.debug({ error }, 'facts about processes wait for the log');
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => void this.#write(), RETRY_MS);
    } finally {
      this.#writing = false;
    }
  }
}
