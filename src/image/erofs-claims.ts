/**
 * Which words of an image belong to a part, so that in the end no byte belongs to two parts and none is left over. Parts
 * begin at multiples of 4, so a part has all of its last word: bytes behind its end belong to nothing, and are zero.
 */
import type { Words } from './erofs-words.ts';

export type Fault = (what: string) => Error;

export class Claims {
  readonly #words: Words;
  readonly #fault: Fault;
  /** One bit a word: it belongs to a part. */
  readonly #taken: Int32Array;

  /** For an image whose size is a multiple of 128 bytes. */
  constructor(words: Words, fault: Fault) {
    this.#words = words;
    this.#fault = fault;
    this.#taken = new Int32Array(words.image.length / GROUP);
  }

  /**
   * Call before reading the part: no byte is claimed twice, so claims also bound the work that overlapping parts can
   * cause. `at`: a multiple of 4. Throws where another part has some of it.
   */
  claim(at: number, length: number): void {
    if (length === 0) return;
    const end = at + length;
    if (end > this.#words.image.length)
      throw this.#fault(`a part of it at byte ${at} reaches beyond its end`);
    if ((end & 3) !== 0 && !this.#words.isZero(end, (end | 3) + 1)) throw this.#leftOver(end, (end | 3) + 1);
    const first = at >> 2;
    const last = (end - 1) >> 2;
    const lastGroup = last >> 5;
    let mask = -1 << (first & 31);
    for (let group = first >> 5; group < lastGroup; group++) {
      this.#take(group, mask, at);
      mask = -1;
    }
    this.#take(lastGroup, mask & (-1 >>> (31 - (last & 31))), at);
  }

  /** Throws where a byte outside of all claims is not zero. */
  checkRest(): void {
    const words = this.#words;
    const taken = this.#taken;
    for (let group = 0; group < taken.length; group++) {
      // A bit for each word that belongs to nothing; each round takes the lowest.
      for (let free = ~(taken[group] as number); free !== 0; free &= free - 1) {
        const at = group * GROUP + (31 - Math.clz32(free & -free)) * 4;
        if (words.u32(at) !== 0) throw this.#leftOver(at, at + 4);
      }
    }
  }

  #take(group: number, mask: number, at: number): void {
    const bits = this.#taken[group] as number;
    if ((bits & mask) !== 0) throw this.#fault(`parts of it overlap at byte ${at} or behind it`);
    this.#taken[group] = bits | mask;
  }

  #leftOver(from: number, to: number): Error {
    const at = this.#words.image.subarray(from, to).findIndex((byte) => byte !== 0) + from;
    return this.#fault(`it holds something at byte ${at} that belongs to nothing`);
  }
}

/** Bytes that 32 bits stand for. */
const GROUP = 128;
