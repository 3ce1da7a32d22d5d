/** What a gzip checkpoint holds, and how a decoder starts there; gzip.ts says why. */
import { CofaError } from '../../schemas/errors.ts';
import type { Header } from './layer-decoder.ts';
import type { Inflate } from './libz.ts';
import { NativeBuffer } from './native.ts';

/** What a decoder must know to start at a checkpoint, apart from the data. */
export interface GzipState {
  bits: number;
  header?: Header | undefined;
  window?: Buffer | undefined;
}

/** Brings a fresh raw stream to a checkpoint; the caller then primes it with the first `bits` bits, if any. */
export function restore(inflate: Inflate, state: GzipState): void {
  if (state.window !== undefined) inflate.dictionary(state.window);
  if (state.header === undefined) return;
  const { bytes, length } = state.header;
  const input = new NativeBuffer(MAX_HEADER);
  bytes.copy(input.bytes, 0, 0, MAX_HEADER);
  const whole = length >>> 3;
  inflate.input(input.address, whole);
  // a header writes nothing; a forged one that would has no room for it
  let written = inflate.run(input.address, 0, true);
  if (length % 8 > 0) {
    inflate.prime(length % 8, bytes[whole] as number);
    written += inflate.run(input.address, 0, true);
  }
  if (written !== 0 || !inflate.behindHeader || inflate.bits !== 0 || inflate.available !== 0) {
    throw new CofaError('integrity', 'span table: not the header of a deflate block', {
      hint: 'index the image again',
    });
  }
}

/** Deflate refers back by at most this many bytes (RFC 1951 §2). */
export const WINDOW_SIZE = 32_768;

/**
 * Bytes that the longest block header takes (RFC 1951 §3.2.7), with partial bytes at both ends: 17 bits, 19 lengths of
 * 3 bits, 320 code lengths of at most 14 bits each: 4,554 bits.
 */
export const MAX_HEADER = 576;

/** The byte that holds a bit, and how many bits of it are from there on (0: all). */
export function place(bit: number): { start: number; bits: number } {
  return { start: Math.floor(bit / 8), bits: (8 - (bit % 8)) % 8 };
}

/** RFC 1951 §3.2.4: final flag, type 00, padding, length, its complement. */
export function storedHeader(length: number, last: boolean): Header {
  const bytes = Buffer.alloc(5);
  bytes[0] = last ? 1 : 0;
  bytes.writeUInt16LE(length, 1);
  bytes.writeUInt16LE(length ^ 0xffff, 3);
  return { bytes, length: 40 };
}
