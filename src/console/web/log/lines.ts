/** What events say, for the list: parts of two hundred that the server has told, the last used ones. */
import type { EventLine } from '../../../replay/documents.ts';
import { ask } from '../api.ts';
import { Latest } from './latest.ts';

const PART = 200;
const MOST_PARTS = 60;

export class LineCache {
  readonly #parts = new Map<number, readonly EventLine[]>();
  readonly #latest = new Latest();
  readonly #changed: () => void;

  /** `changed`: a part has come. */
  constructor(changed: () => void) {
    this.#changed = changed;
  }

  /** Undefined: not here yet. */
  at(index: number): EventLine | undefined {
    return this.#parts.get(Math.floor(index / PART))?.[index % PART];
  }

  /** Asks for what is missing of these events. */
  want(first: number, end: number): void {
    const missing = [Math.floor(first / PART), Math.floor((end - 1) / PART)].find(
      (number) => this.at(Math.min(end, (number + 1) * PART) - 1) === undefined,
    );
    if (missing === undefined || end <= first) return;
    this.#latest.ask(async (stop) => {
      const { lines } = await ask<{ lines: EventLine[] }>(
        'log/lines',
        { from: missing * PART, count: PART },
        stop,
      );
      this.#parts.delete(missing);
      this.#parts.set(missing, lines);
      for (const old of this.#parts.keys()) {
        if (this.#parts.size <= MOST_PARTS) break;
        this.#parts.delete(old);
      }
      this.#changed();
    });
  }
}
