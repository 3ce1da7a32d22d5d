/** Columns of numbers that grow as a log is read: a million events cost a few megabytes instead of a million objects. */

type Numbers = Float64Array | Uint32Array | Uint16Array;

export class Column<A extends Numbers> {
  #values: A;
  #length = 0;
  readonly #make: (length: number) => A;

  constructor(make: (length: number) => A) {
    this.#make = make;
    this.#values = make(1024);
  }

  get length(): number {
    return this.#length;
  }

  get bytes(): number {
    return this.#values.byteLength;
  }

  push(value: number): void {
    if (this.#length === this.#values.length) {
      const larger = this.#make(2 * this.#length);
      larger.set(this.#values as never);
      this.#values = larger;
    }
    this.#values[this.#length++] = value;
  }

  /** Adds all of them to the end. */
  append(values: A): void {
    const length = this.#length + values.length;
    if (length > this.#values.length) {
      const larger = this.#make(Math.max(length, 2 * this.#values.length));
      larger.set(this.#values.subarray(0, this.#length) as never);
      this.#values = larger;
    }
    this.#values.set(values as never, this.#length);
    this.#length = length;
  }

  /** `index` below `length`. */
  at(index: number): number {
    return this.#values[index] as number;
  }

  /** First index from `from` on whose value is at least `value`; `length` where none is. For rising columns. */
  lowerBound(value: number, from = 0): number {
    let low = from;
    let high = this.#length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.at(middle) < value) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** Texts by number, each kept once. */
export class Words {
  readonly #numbers = new Map<string, number>();
  readonly #words: string[] = [];

  get size(): number {
    return this.#words.length;
  }

  numberOf(word: string): number {
    let number = this.#numbers.get(word);
    if (number === undefined) {
      number = this.#words.push(word) - 1;
      this.#numbers.set(word, number);
    }
    return number;
  }

  find(word: string): number | undefined {
    return this.#numbers.get(word);
  }

  word(number: number): string {
    return this.#words[number] ?? '';
  }

  [Symbol.iterator](): IterableIterator<string> {
    return this.#words.values();
  }
}

export const float64 = (): Column<Float64Array> => new Column((length) => new Float64Array(length));
export const uint32 = (): Column<Uint32Array> => new Column((length) => new Uint32Array(length));
export const uint16 = (): Column<Uint16Array> => new Column((length) => new Uint16Array(length));
