/**
 * Which bytes of an image belong to which part, so that in the end no byte belongs to two parts and none is left over.
 */
import type { Words } from './erofs-words.ts';

export type Fault = (what: string) => Error;

export class Claims {
  readonly #size: number;
  readonly #fault: Fault;
  /** Start / 4 in the upper 27 bits of the 53 that a double keeps, the number of the claim in the lower 26. */
  #starts = new Float64Array(1024);
  #lengths = new Uint32Array(1024);
  #count = 0;
  #bytes = 0;

  /** For an image of `size` bytes, at most MAX_IMAGE. */
  constructor(size: number, fault: Fault) {
    this.#size = size;
    this.#fault = fault;
  }

  /**
   * Call before reading the part: this also bounds the work that overlapping parts can cause. `at`: a multiple of 4.
   */
  claim(at: number, length: number): void {
    if (length === 0) return;
    if (at + length > this.#size) throw this.#fault(`a part of it at byte ${at} reaches beyond its end`);
    this.#bytes += length;
    // checkRest finds overlaps; until then they must not multiply the work.
    if (this.#bytes > this.#size) throw this.#fault('parts of it overlap');
    if (this.#count === this.#starts.length) this.#grow();
    this.#starts[this.#count] = (at / 4) * 2 ** 26 + this.#count;
    this.#lengths[this.#count] = length;
    this.#count++;
  }

  /** Throws where two claims overlap, and where a byte outside of all claims is not zero. */
  checkRest(words: Words): void {
    const starts = this.#starts.subarray(0, this.#count).sort();
    let end = 0;
    for (const packed of starts) {
      const index = packed % 2 ** 26;
      const at = ((packed - index) / 2 ** 26) * 4;
      if (at < end) throw this.#fault(`parts of it overlap at byte ${at}`);
      this.#checkGap(words, end, at);
      end = at + (this.#lengths[index] as number);
    }
    this.#checkGap(words, end, this.#size);
  }

  #checkGap(words: Words, from: number, to: number): void {
    if (words.isZero(from, to)) return;
    const at = words.image.subarray(from, to).findIndex((byte) => byte !== 0) + from;
    throw this.#fault(`it holds something at byte ${at} that belongs to nothing`);
  }

  #grow(): void {
    const starts = new Float64Array(2 * this.#starts.length);
    starts.set(this.#starts);
    this.#starts = starts;
    const lengths = new Uint32Array(2 * this.#lengths.length);
    lengths.set(this.#lengths);
    this.#lengths = lengths;
  }
}
