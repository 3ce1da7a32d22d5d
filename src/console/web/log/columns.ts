/**
 * What the page keeps of every event: columns of numbers, 30 bytes an event. They come in parts while one looks already, and grow
 * with the log. The layout of a part is that of src/console/columns-codec.ts.
 */
import { Column, float64, uint16, uint32 } from '../../../replay/columns.ts';
import type { Countable } from '../../../replay/density.ts';
import { decodeEvents, type EventColumns, WAIT_BYTES } from '../../columns-codec.ts';
import { ask, askBytes } from '../api.ts';

/** Events of a part; the server makes one in some tens of ms. */
const PART = 131_072;

export class Columns implements Countable {
  readonly #seq = float64();
  readonly #at = float64();
  /** The latest time up to each event: clocks may step back. */
  readonly #latest = float64();
  readonly #subject = uint32();
  readonly #type = uint16();
  readonly #waits: [Column<Float64Array>, Column<Float64Array>, Column<Float64Array>] = [
    float64(),
    float64(),
    float64(),
  ];
  readonly #waitIndex = uint32();
  #types: string[] = [];
  #subjects: Array<readonly [kind: string, id: string]> = [];

  get count(): number {
    return this.#seq.length;
  }

  seqAt(index: number): number {
    return this.#seq.at(index);
  }

  timeAt(index: number): number {
    return this.#at.at(index);
  }

  typeAt(index: number): string {
    return this.#types[this.#type.at(index)] ?? '';
  }

  kindAt(index: number): string {
    return this.#subjects[this.#subject.at(index)]?.[0] ?? '';
  }

  idAt(index: number): string {
    return this.#subjects[this.#subject.at(index)]?.[1] ?? '';
  }

  /** Events up to and with the time. */
  positionOfTime(at: number): number {
    return this.#latest.lowerBound(at + 0.0005);
  }

  /** Events up to and with the sequence. */
  positionOfSeq(seq: number): number {
    return this.#seq.lowerBound(seq + 0.5);
  }

  *waits(): IterableIterator<{ index: number; from: number; to: number; longest: number }> {
    const [from, to, longest] = this.#waits;
    for (let place = 0; place < this.#waitIndex.length; place++) {
      const [began, ended] = [from.at(place), to.at(place)];
      if (ended >= began)
        yield { index: this.#waitIndex.at(place), from: began, to: ended, longest: longest.at(place) };
    }
  }

  /** Up to `count` events; `step` is called after each part. Errors of `ask`. */
  async load(count: number, step: () => void, stop: AbortSignal): Promise<void> {
    while (this.count < count) {
      const from = this.count;
      // The words of a part are asked for behind it: they are there then.
      const part = await askBytes('log/events', { from, count: Math.min(PART, count - from) }, stop);
      const events = decodeEvents(part);
      if (events.seq.length === 0) break;
      await this.#learnWords(stop);
      this.#take(events);
      step();
    }
    for (;;) {
      const from = this.#waitIndex.length;
      const part = await askBytes('log/waits', { from, count: PART }, stop);
      this.#takeWaits(part);
      if (part.byteLength < PART * WAIT_BYTES) break;
    }
    step();
  }

  async #learnWords(stop: AbortSignal): Promise<void> {
    for (;;) {
      const known = { types: this.#types.length, subjects: this.#subjects.length, count: PART };
      const words = await ask<{ types: string[]; subjects: Array<[string, string]> }>(
        'log/words',
        known,
        stop,
      );
      this.#types = [...this.#types, ...words.types];
      this.#subjects.push(...words.subjects);
      if (words.subjects.length < PART) return;
    }
  }

  #take({ seq, at, subject, type }: EventColumns): void {
    const latest = new Float64Array(at.length);
    let last = this.count === 0 ? Number.NEGATIVE_INFINITY : this.#latest.at(this.count - 1);
    for (let place = 0; place < at.length; place++) latest[place] = last = Math.max(last, at[place] ?? last);
    this.#at.append(at);
    this.#latest.append(latest);
    this.#subject.append(subject);
    this.#type.append(type);
    // Its length is that of all of them.
    this.#seq.append(seq);
  }

  #takeWaits(bytes: ArrayBuffer): void {
    const length = bytes.byteLength / WAIT_BYTES;
    for (const [place, column] of this.#waits.entries())
      column.append(new Float64Array(bytes, 8 * length * place, length));
    this.#waitIndex.append(new Uint32Array(bytes, 24 * length, length));
  }
}
