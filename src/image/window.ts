import { CofaError } from '../../schemas/errors.ts';
import { type GzipState, restore, WINDOW_SIZE } from './gzip-restart.ts';
import type { Header } from './layer-decoder.ts';
import { Inflate } from './libz.ts';
import { NativeBuffer } from './native.ts';

/**
 * Windows: what a gzip checkpoint needs of the 32 KiB before it.
 *
 * Deflate refers back to bytes already written, so a decoder that starts in the middle needs those that are referred
 * to, and only the first 32 KiB of output can refer so far. Of a typical layer that is one byte in ten; the window
 * leaves out the others (rapidgzip's authors found that windows are mostly unused).
 *
 * To learn which bytes are needed, the tracer decodes those 32 KiB twice, with two made-up windows instead of the real
 * one. Byte i is x in the first and y in the second window, x ≠ y, and no other place has the same pair. An output byte
 * that differs between the two decodings was copied from the window, and the pair names the place. Literals, and bytes
 * copied from them, are equal in both.
 *
 * Packed form: varint length of the window from its first byte in use to its end, then runs until that length is
 * reached: varint bytes in use, varint bytes not in use; then all bytes in use. A varint has 7 bits a byte, low ones
 * first, the high bit set on all but the last. The form is not compressed, so that it is the same whatever library
 * compresses it later.
 */
export class WindowTracer {
  readonly #inflate = new Inflate('raw');
  readonly #source = new NativeBuffer(TRACE_INPUT);
  readonly #first = new NativeBuffer(WINDOW_SIZE);
  readonly #second = new NativeBuffer(WINDOW_SIZE);
  readonly #firstWords = new Uint32Array(this.#first.bytes.buffer);
  readonly #secondWords = new Uint32Array(this.#second.bytes.buffer);
  readonly #used = new Uint8Array(WINDOW_SIZE);

  /**
   * Packs what a decoder needs of `window` to decode `following`: the compressed bytes from the checkpoint on,
   * TRACE_INPUT of them or all that there are. undefined: it needs nothing.
   */
  pack(
    window: Buffer,
    following: Buffer,
    state: { bits: number; header?: Header | undefined },
  ): Buffer | undefined {
    return packWindow(window, this.#trace(window.length, following, state));
  }

  close(): void {
    this.#inflate.close();
  }

  /** Marks the bytes in use with 1; all of them where the data cannot be followed. */
  #trace(length: number, following: Buffer, state: GzipState): Uint8Array {
    const size = following.copy(this.#source.bytes, 0, 0, TRACE_INPUT);
    const used = this.#used.subarray(0, length);
    const written = this.#decode(this.#first, FIRST, length, size, state);
    if (written === undefined) return used.fill(1);
    this.#decode(this.#second, SECOND, length, size, state);
    used.fill(0);
    const a = this.#first.bytes;
    const b = this.#second.bytes;
    for (let word = 0; word * 4 < written; word++) {
      // most of the output did not come from the window: pass over it quickly
      if (this.#firstWords[word] === this.#secondWords[word]) continue;
      const end = Math.min(word * 4 + 4, written);
      for (let at = word * 4; at < end; at++) {
        if (a[at] !== b[at]) used[indexOfPair(a[at] as number, b[at] as number)] = 1;
      }
    }
    return used;
  }

  /** Bytes written, up to 32 KiB; undefined where the input is too short or corrupt. */
  #decode(
    target: NativeBuffer,
    window: Buffer,
    length: number,
    size: number,
    state: GzipState,
  ): number | undefined {
    const inflate = this.#inflate;
    try {
      inflate.reset('raw');
      restore(inflate, { ...state, window: window.subarray(0, length) });
      const start = state.bits > 0 ? 1 : 0;
      if (start > 0) inflate.prime(state.bits, (this.#source.bytes[0] as number) >> (8 - state.bits));
      inflate.input(this.#source.address + BigInt(start), size - start);
      const written = inflate.run(target.address, WINDOW_SIZE, false);
      return written === WINDOW_SIZE || inflate.ended ? written : undefined;
    } catch (error) {
      // the indexer comes to the corrupt place itself and names it
      if (error instanceof CofaError && error.code === 'integrity') return undefined;
      throw error;
    }
  }
}

/** Compressed bytes that 32 KiB of output take at most, in all but contrived data. */
export const TRACE_INPUT = 65_536;

/**
 * Bytes that pack returns at most: a run and the gap behind it have more bytes than the two numbers that describe them.
 */
export const MAX_PACKED_WINDOW: number = WINDOW_SIZE + 16;

/** Inverse of pack. Bytes not in use are zero. Throws CofaError('integrity'). */
export function unpackWindow(packed: Buffer): Buffer {
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let shift = 0; shift <= 14; shift += 7) {
      const byte = packed[at++];
      if (byte === undefined) break;
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    throw corrupt();
  };
  const length = varint();
  if (length === 0 || length > WINDOW_SIZE) throw corrupt();
  const window = Buffer.alloc(length);
  const runs: number[] = [];
  for (let place = 0; place < length; ) {
    const run = varint();
    const end = place + run;
    if (run === 0 || end > length) throw corrupt();
    runs.push(place, end);
    place = end === length ? end : end + varint();
    if (place > length) throw corrupt();
  }
  for (let run = 0; run < runs.length; run += 2) {
    const place = runs[run] as number;
    const count = (runs[run + 1] as number) - place;
    if (at + count > packed.length) throw corrupt();
    packed.copy(window, place, at, at + count);
    at += count;
  }
  if (at !== packed.length) throw corrupt();
  return window;
}

/** Longest gap that is not worth the two numbers that describe it. */
const SMALL_GAP = 2;

function packWindow(window: Buffer, used: Uint8Array): Buffer | undefined {
  const first = used.indexOf(1);
  if (first < 0) return undefined;
  const head: number[] = [];
  const parts: Buffer[] = [];
  const varint = (value: number): void => {
    let rest = value;
    for (; rest > 0x7f; rest >>>= 7) head.push((rest & 0x7f) | 0x80);
    head.push(rest);
  };
  varint(window.length - first);
  for (let place = first; place < window.length; ) {
    let end = place + 1;
    let next = end;
    for (; next < window.length && next - end <= SMALL_GAP; next++) if (used[next] === 1) end = next + 1;
    while (next < window.length && used[next] === 0) next++;
    parts.push(window.subarray(place, end));
    varint(end - place);
    if (end < window.length) varint(next - end);
    place = next;
  }
  return Buffer.concat([Buffer.from(head), ...parts]);
}

const FIRST = Buffer.alloc(WINDOW_SIZE);
const SECOND = Buffer.alloc(WINDOW_SIZE);
for (let index = 0; index < WINDOW_SIZE; index++) {
  FIRST[index] = index;
  // 1 to 128 more than the byte above, so never equal to it
  SECOND[index] = index + 1 + (index >> 8);
}

function indexOfPair(first: number, second: number): number {
  return first | (((second - first - 1) & 0xff) << 8);
}

function corrupt(): CofaError {
  return new CofaError('integrity', 'span table: corrupt window', { hint: 'index the image again' });
}
