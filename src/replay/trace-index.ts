/** Which trace events cover which times: a trace is written some time after its reads. */
import { float64, uint32 } from './columns.ts';

export class TraceIndex {
  readonly #event = uint32();
  /** Of each trace event: arrival of its first read, answer of its last one, ms. */
  readonly #from = float64();
  readonly #to = float64();
  /** The latest answer up to each: it rises. */
  readonly #latest = float64();
  /** The longest wait in each, µs. */
  readonly #longest = float64();
  #reads = 0;
  #dropped = 0;

  /** Trace events. */
  get count(): number {
    return this.#event.length;
  }

  get reads(): number {
    return this.#reads;
  }

  get dropped(): number {
    return this.#dropped;
  }

  get memory(): number {
    return this.#event.bytes + this.#from.bytes + this.#to.bytes + this.#latest.bytes + this.#longest.bytes;
  }

  /** `record`: that of the trace event at `index`; indexes rise. */
  add(index: number, record: Record<string, unknown>): void {
    let from = Number.POSITIVE_INFINITY;
    let to = Number.NEGATIVE_INFINITY;
    let longest = 0;
    for (const read of Array.isArray(record.reads) ? record.reads : []) {
      const { at, us } = (read ?? {}) as { at?: unknown; us?: unknown };
      if (typeof at !== 'number' || typeof us !== 'number') continue;
      this.#reads += 1;
      from = Math.min(from, at);
      to = Math.max(to, at + us / 1000);
      longest = Math.max(longest, us);
    }
    if (typeof record.dropped === 'number') this.#dropped += record.dropped;
    this.#event.push(index);
    this.#from.push(from);
    const latest = this.#latest.length === 0 ? to : this.#latest.at(this.#latest.length - 1);
    this.#to.push(to);
    this.#latest.push(Math.max(to, latest));
    this.#longest.push(longest);
  }

  /** Indexes of the trace events with reads that were under way between `from` and `to` (ms), both included. */
  *between(from: number, to: number): IterableIterator<number> {
    for (let place = this.#latest.lowerBound(from); place < this.#event.length; place++) {
      if (this.#from.at(place) <= to && this.#to.at(place) >= from) yield this.#event.at(place);
    }
  }

  /** What each trace event that has reads tells of: their times (ms) and the longest wait (µs). */
  *spans(): IterableIterator<{ index: number; from: number; to: number; longest: number }> {
    for (let place = 0; place < this.#event.length; place++) {
      const from = this.#from.at(place);
      const to = this.#to.at(place);
      if (to >= from) yield { index: this.#event.at(place), from, to, longest: this.#longest.at(place) };
    }
  }

  /** The trace event at `place`, whether it has reads or not: `to` is below `from` then. */
  at(place: number): { index: number; from: number; to: number; longest: number } {
    return {
      index: this.#event.at(place),
      from: this.#from.at(place),
      to: this.#to.at(place),
      longest: this.#longest.at(place),
    };
  }

  /** Indexes of all trace events, from event `first` on. */
  *all(first = 0): IterableIterator<number> {
    for (let place = this.#event.lowerBound(first); place < this.#event.length; place++)
      yield this.#event.at(place);
  }
}
