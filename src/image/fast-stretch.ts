import { IsalInflate } from './libisal.ts';
import { NativeBuffer } from './native.ts';

/**
 * Where ISA-L decodes between two marks: from a block's begin behind the one to a block's begin before the other. How
 * far before is a guess at the size of blocks: it doubles where none began in time, and shrinks again with each mark.
 * Where it is too far, zlib alone decodes for some MiB.
 *
 * Compressed bytes of the stretch are kept: at a mark in the middle of a block zlib has to decode them again.
 */
export class FastStretch {
  readonly isal: IsalInflate;
  /** Where the stretch began. */
  from: StretchStart = NOWHERE;
  /** The compressed bytes since then are its first `keptSize`. */
  readonly kept = new NativeBuffer(MOST_KEPT, false);
  keptSize = 0;
  readonly #marks: number;
  #before = FIRST_BEFORE;

  /** `marks`: at multiples of so many raw bytes. Undefined where there is no ISA-L. */
  static create(marks: number): FastStretch | undefined {
    const isal = IsalInflate.create();
    return isal && new FastStretch(isal, marks);
  }

  private constructor(isal: IsalInflate, marks: number) {
    this.isal = isal;
    this.#marks = marks;
  }

  /** Whether it is, at this raw offset. Not at a mark: its checkpoint may be a later block's. */
  isWorth(offset: number): boolean {
    return this.#before <= MOST_BEFORE && offset % this.#marks !== 0 && this.#left(offset) >= LEAST_STRETCH;
  }

  begin(from: StretchStart): void {
    this.from = { ...from, window: Buffer.from(from.window) };
    this.keptSize = 0;
    this.isal.begin(this.from.window, from.bits, from.value);
  }

  /** Decodes from the raw offset on, into the target's bytes [start, end). `taken`: bytes of the input; negative where more were read before than belong to the stream. */
  run(
    offset: number,
    input: { source: NativeBuffer; at: number; end: number },
    target: NativeBuffer,
    start: number,
    end: number,
  ): { written: number; taken: number } {
    const { source, at } = input;
    const given = Math.min(input.end - at, MOST_KEPT - this.keptSize);
    const left = this.#left(offset);
    const stop = left <= 0;
    this.isal.input(source.address + BigInt(at), given);
    const written = this.isal.run(target, start, stop ? end : Math.min(end, start + left), stop);
    const taken = given - this.isal.available;
    if (taken > 0) {
      source.bytes.copy(this.kept.bytes, this.keptSize, at, at + taken);
      this.keptSize += taken;
    }
    return { written, taken };
  }

  /** Whether it has come to a mark, which is this offset, and to no block before; or can keep no more. */
  isMissed(offset: number, written: number): boolean {
    const isFull = this.keptSize === MOST_KEPT;
    if (!isFull && (written === 0 || offset % this.#marks !== 0)) return false;
    this.#before = Math.min(2 * this.#before, this.#marks);
    return true;
  }

  /** Bytes up to this raw offset have been decoded, by whichever. */
  passed(offset: number): void {
    if (offset % this.#marks === 0) this.#before = Math.max(FIRST_BEFORE, Math.floor(this.#before * SHRINKS));
  }

  /** zlib is to decode the rest of the layer. */
  giveUp(): void {
    this.#before = Number.POSITIVE_INFINITY;
  }

  /** Raw bytes until it should look for a block. */
  #left(offset: number): number {
    return this.#marks - (offset % this.#marks) - this.#before;
  }
}

/** A place before a block. */
interface StretchStart {
  /** Raw bytes before it. */
  window: Buffer;
  /** Bits of the last byte that belong to the block, at most 7. */
  bits: number;
  value: number;
  /** Compressed bytes before it, and raw bytes of the member. */
  consumed: number;
  produced: number;
}

const NOWHERE: StretchStart = { window: Buffer.alloc(0), bits: 0, value: 0, consumed: 0, produced: 0 };

/** Raw bytes: twice what a block of zlib's has on average; beyond the second zlib decodes as much as ISA-L would. */
const FIRST_BEFORE = 131_072;
const MOST_BEFORE = 524_288;
const LEAST_STRETCH = 65_536;
/** It is halved by ten marks and a bit: one that has to be decoded twice costs as much as these with twice the distance. */
const SHRINKS = 15 / 16;
/** Compressed bytes: those of 1 MiB that does not compress, and of what ISA-L decodes ahead. */
const MOST_KEPT = (1 << 20) + 131_072;
