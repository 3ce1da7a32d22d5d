/**
 * Starts and ends of the engine's processes, as facts in the log. They are told on the side: a log that is away loses
 * the oldest of them, and a process that crashes all the time writes a few only.
 */
import type { Logger } from 'pino';
import { Allowance } from '../../../actors/allowance.ts';
import type { NewEvent } from '../../../schemas/events.ts';
import type { Clock, Timer } from '../../process/ports.ts';
import type { LiveFold } from '../../store/live-fold.ts';
import type { End } from '../end.ts';

export type ProcessEvent = Extract<NewEvent, { type: 'process.started' | 'process.ended' }>;

/** Events that wait for the log. */
const MOST_WAITING = 100;
/** Of one process. */
const ALLOWED = { burst: 24, refillMs: 600_000 };
/** A log that does not take events is tried again after this, ms. */
const RETRY_MS = 1_000;

export class ProcessEvents {
  /** The log; undefined while it takes nothing: before it is open, and from the end on. */
  #append: ((event: ProcessEvent) => Promise<unknown>) | undefined;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #waiting: ProcessEvent[] = [];
  /** By process name. */
  readonly #allowed = new Map<string, Allowance>();
  #timer: Timer | undefined;
  #writing = false;

  constructor(options: { log: Logger; end: End; ports: { clock: Clock } }) {
    const { log, end, ports } = options;
    this.#clock = ports.clock;
    this.#log = log;
    end.at('background', () => this.close());
  }

  /** The log takes events from now on. */
  open(live: Pick<LiveFold, 'append'>): void {
    this.#append = (event) => live.append('main', event);
    void this.#write();
  }

  /** Nothing more is written; what waits is lost. */
  close(): void {
    this.#append = undefined;
    this.#timer?.cancel();
    this.#waiting.length = 0;
  }

  add(event: ProcessEvent): void {
    if (!this.#isAllowed(event.name)) return;
    this.#waiting.push(event);
    if (this.#waiting.length > MOST_WAITING) this.#waiting.shift();
    void this.#write();
  }

  #isAllowed(name: string): boolean {
    const allowance = this.#allowed.get(name) ?? new Allowance(ALLOWED);
    this.#allowed.set(name, allowance);
    return allowance.take(this.#clock.now());
  }

  async #write(): Promise<void> {
    if (this.#writing) return;
    this.#writing = true;
    try {
      for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
        if (this.#append === undefined) return;
        await this.#append(next);
        if (this.#waiting[0] === next) this.#waiting.shift();
      }
    } catch (error) {
      if (this.#append === undefined) return;
      this.#log.debug({ error }, 'facts about processes wait for the log');
      this.#timer?.cancel();
      this.#timer = this.#clock.after(RETRY_MS, () => void this.#write());
    } finally {
      this.#writing = false;
    }
  }
}
