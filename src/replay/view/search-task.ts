/** A search done in slices: the view draws and takes keys between two of them. */
import type { ReplayLog } from '../replay-log.ts';
import { search, type Wanted } from '../search.ts';

/** Work of one slice, ms. */
const SLICE_MS = 20;

export interface SearchTaskOptions {
  wanted: Wanted;
  /** The first event to look at, and the one to stop before. */
  from: number;
  to: number;
  /** Names the work while it runs. */
  label: string;
  /** Receives the index of the event that was found; undefined where there is none. */
  end: (found: number | undefined) => void;
}

export class SearchTask {
  readonly label: string;
  readonly end: SearchTaskOptions['end'];
  readonly #from: number;
  readonly #to: number;
  readonly #steps: Generator<number, number | undefined>;
  #at: number;

  constructor(log: ReplayLog, { wanted, from, to, label, end }: SearchTaskOptions) {
    this.label = label;
    this.end = end;
    this.#from = from;
    this.#to = to;
    this.#at = from;
    this.#steps = search(log, wanted, from, to);
  }

  /** How far the search is, 0 to 1. */
  get share(): number {
    return Math.abs(this.#at - this.#from) / Math.max(1, Math.abs(this.#to - this.#from));
  }

  /** One slice by the clock `now` (ms). Returns the result once the search has ended: the caller hands it to `end`. */
  work(now: () => number): { found: number | undefined } | undefined {
    const until = now() + SLICE_MS;
    do {
      const next = this.#steps.next();
      if (next.done === true) return { found: next.value };
      this.#at = next.value;
    } while (now() < until);
    return undefined;
  }
}
