/** A clock that the test turns: time stands still otherwise. */
import type { Clock, Timer } from '../../src/process/ports.ts';

interface Alarm {
  at: number;
  everyMs: number | undefined;
  run: () => void;
}

export class HandClock implements Clock {
  #ms = 0;
  readonly #alarms = new Set<Alarm>();

  readonly now = (): number => this.#ms;
  readonly wallMs = (): number => this.#ms;
  readonly sleep = (ms: number): Promise<void> => new Promise((resolve) => this.after(ms, resolve));
  readonly after = (ms: number, run: () => void): Timer => this.#set(ms, undefined, run);
  readonly every = (ms: number, run: () => void): Timer => this.#set(ms, ms, run);

  /** Timers that will run. */
  get alarms(): number {
    return this.#alarms.size;
  }

  /** Lets so many ms pass; timers run when they are due, the earliest first. */
  turn(ms: number): void {
    const end = this.#ms + ms;
    for (;;) {
      const due = [...this.#alarms].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
      if (due === undefined) break;
      this.#ms = due.at;
      if (due.everyMs === undefined) this.#alarms.delete(due);
      else due.at += due.everyMs;
      due.run();
    }
    this.#ms = end;
  }

  #set(ms: number, everyMs: number | undefined, run: () => void): Timer {
    const alarm = { at: this.#ms + ms, everyMs, run };
    this.#alarms.add(alarm);
    const timer: Timer = { cancel: () => void this.#alarms.delete(alarm), unref: () => timer };
    return timer;
  }
}
