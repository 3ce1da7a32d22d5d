import { CofaError } from '../../schemas/errors.ts';
import type { Checkpoint, Header, LayerDecoder } from './layer-decoder.ts';
import { Inflate } from './libz.ts';
import { NativeBuffer } from './native.ts';

/**
 * Decodes a gzip file (RFC 1952) from its start or from a checkpoint: one member or several, empty ones too. zlib
 * parses the headers and checks CRC and length in the trailers, but for the member in which a checkpoint lies: the
 * decoder did not see its beginning.
 *
 * A checkpoint may lie anywhere, in the middle of a deflate block too. The usual way is to start at block boundaries
 * alone, but zlib's blocks hold 16,383 codes: 52 KB of a typical layer on average, megabytes where it compresses well
 * or where zopfli wrote it. A span that starts at the boundary before its first byte then fetches and decodes 70 KB for
 * nothing (measured; 7 %). Instead the checkpoint keeps the block's header, 80 bytes that hold its Huffman codes. The
 * decoder reads the header, then continues at the very bit where the code for the wanted byte begins. In a stored block
 * the header is made up: a stored block of what was left of the old one.
 *
 * It ignores bytes behind the last member that do not begin another one, as gunzip does: padding and signatures lie
 * there. (Go's reader, and so containerd without an external decompressor, refuses them.)
 */
export class GzipDecoder implements LayerDecoder {
  readonly checkpointsAnywhere = true;
  readonly #inflate: Inflate;
  readonly #track: boolean;
  readonly #primeBits: number;
  #state: 'prime' | 'raw' | 'trailer' | 'between' | 'half-magic' | 'member' | 'garbage';
  #source: NativeBuffer | undefined;
  #at = 0;
  #end = 0;
  #consumed = 0;
  /** `consumed` when something was written last. */
  #written = 0;
  /** Raw bytes of this member. */
  #produced = 0;
  /** Bytes of a trailer that are still to be skipped. */
  #trailer = 0;
  /** Bytes of the block header that the decoder is reading, or has read last. */
  readonly #header = Buffer.alloc(MAX_HEADER);
  #headerSize = 0;
  /** The header's first bit in its first byte, and the bits of the header behind which it ended. */
  #headerFirst = 0;
  #headerEnd = 0;
  #inHeader = false;

  /** `track`: the caller will use checkpoint(). */
  constructor(options: { track?: boolean; from?: GzipState } = {}) {
    this.#track = options.track ?? false;
    this.#primeBits = options.from?.bits ?? 0;
    this.#state = options.from === undefined ? 'member' : this.#primeBits > 0 ? 'prime' : 'raw';
    this.#inflate = new Inflate(options.from === undefined ? 'gzip' : 'raw');
    if (options.from?.header !== undefined) {
      const { bytes, length } = options.from.header;
      bytes.copy(this.#header);
      this.#headerSize = bytes.length;
      this.#headerEnd = length;
    } else if (options.from !== undefined) this.#beginHeader(this.#primeBits);
    try {
      if (options.from !== undefined) restore(this.#inflate, options.from);
    } catch (error) {
      this.#inflate.close();
      throw error;
    }
  }

  get available(): number {
    return this.#end - this.#at;
  }

  get consumed(): number {
    return this.#consumed;
  }

  get needed(): number {
    const mark = this.#inBlock() ? this.#inflate.mark() : undefined;
    if (mark?.kind !== 'code') return this.#written;
    // zlib reads the next code before it finds the target full: that code is not needed
    const bit = this.#consumed * 8 - this.#inflate.bits;
    return Math.ceil((mark.written === 0 ? bit - mark.back : bit) / 8);
  }

  get complete(): boolean {
    return this.#state === 'between' || this.#state === 'half-magic' || this.#state === 'garbage';
  }

  input(source: NativeBuffer, start: number, end: number): void {
    this.#source = source;
    this.#at = start;
    this.#end = end;
  }

  run(target: NativeBuffer, start: number, end: number): number {
    while (!this.#inBlock()) {
      if (this.#at === this.#end) return 0;
      this.#step();
    }
    const inflate = this.#inflate;
    const available = this.#end - this.#at;
    inflate.input((this.#source?.address ?? 0n) + BigInt(this.#at), available);
    let taken = 0;
    let written = 0;
    try {
      written = inflate.run(target.address + BigInt(start), end - start, this.#track);
    } finally {
      taken = available - inflate.available;
      if (this.#track) this.#followHeader(taken);
      this.#take(taken);
    }
    this.#produced += written;
    if (written > 0) this.#written = this.#consumed;
    if (inflate.ended) this.#endMember();
    return written;
  }

  checkpoint(): Checkpoint | undefined {
    if (!this.#track || !this.#inBlock()) return undefined;
    const { atBlock, bits } = this.#inflate;
    const bit = this.#consumed * 8 - bits;
    if (atBlock) return { ...place(bit), back: 0, reach: Math.min(this.#produced, WINDOW_SIZE) };
    const mark = this.#inflate.mark();
    if (mark === undefined) return undefined;
    if (mark.kind === 'stored') {
      const header = storedHeader(mark.left, this.#inflate.inLastBlock);
      return { ...place(bit), back: 0, reach: Math.min(this.#produced, WINDOW_SIZE), header };
    }
    const reach = Math.min(this.#produced - mark.written, WINDOW_SIZE);
    return { ...place(bit - mark.back), back: mark.written, reach, header: this.#blockHeader() };
  }

  close(): void {
    this.#inflate.close();
    this.#source = undefined;
  }

  /** Whether zlib reads the input: in a member's header, data or trailer. */
  #inBlock(): boolean {
    return this.#state === 'member' || this.#state === 'raw';
  }

  #endMember(): void {
    this.#inHeader = false;
    this.#trailer = TRAILER_SIZE;
    this.#state = this.#state === 'raw' ? 'trailer' : 'between';
  }

  /** One move outside of deflate data; at least one input byte is there. */
  #step(): void {
    const byte = this.#source?.bytes[this.#at] as number;
    switch (this.#state) {
      case 'prime':
        if (this.#inHeader) this.#header[0] = byte;
        this.#inflate.prime(this.#primeBits, byte >> (8 - this.#primeBits));
        this.#take(1);
        this.#state = 'raw';
        break;
      case 'trailer': {
        const skipped = Math.min(this.#trailer, this.#end - this.#at);
        this.#take(skipped);
        this.#trailer -= skipped;
        if (this.#trailer === 0) this.#state = 'between';
        break;
      }
      case 'between':
        this.#state = byte === MAGIC[0] ? 'half-magic' : 'garbage';
        if (byte === MAGIC[0]) this.#take(1);
        break;
      case 'half-magic':
        this.#state = byte === MAGIC[1] ? 'member' : 'garbage';
        if (this.#state === 'member') this.#beginMember();
        break;
      default:
        this.#take(this.#end - this.#at);
    }
  }

  #beginMember(): void {
    this.#inflate.reset('gzip');
    this.#produced = 0;
    // the first byte of the magic was consumed to look at the second, which may lie in another chunk
    this.#inflate.input(firstMagicByte.address, 1);
    this.#inflate.run(firstMagicByte.address, 0, false);
  }

  #take(count: number): void {
    this.#at += count;
    this.#consumed += count;
  }

  /** Keeps the bytes of a block's header; zlib has just consumed `taken` bytes of the input. */
  #followHeader(taken: number): void {
    const inflate = this.#inflate;
    const source = this.#source?.bytes ?? this.#header;
    if (this.#inHeader) {
      const copied = source.copy(this.#header, this.#headerSize, this.#at, this.#at + taken);
      this.#headerSize += copied;
      if (inflate.behindHeader) {
        this.#headerEnd = this.#headerSize * 8 - inflate.bits;
        this.#inHeader = false;
      }
    } else if (inflate.atBlock) {
      this.#beginHeader(inflate.bits);
      if (inflate.bits > 0) this.#header[0] = source[this.#at + taken - 1] as number;
    }
  }

  /** The header begins in the last byte consumed, with the last `bits` bits of it, or in the byte after it. */
  #beginHeader(bits: number): void {
    this.#headerSize = bits > 0 ? 1 : 0;
    this.#headerFirst = (8 - bits) % 8;
    this.#inHeader = true;
  }

  #blockHeader(): Header {
    const length = this.#headerEnd - this.#headerFirst;
    const bytes = Buffer.alloc(Math.ceil(length / 8));
    const shift = this.#headerFirst;
    for (let at = 0; at < bytes.length; at++) {
      bytes[at] = ((this.#header[at] as number) >> shift) | ((this.#header[at + 1] as number) << (8 - shift));
    }
    if (length % 8 > 0)
      bytes[bytes.length - 1] = (bytes[bytes.length - 1] as number) & ((1 << (length % 8)) - 1);
    return { bytes, length };
  }
}

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

/** CRC-32 and length. */
const TRAILER_SIZE = 8;
const MAGIC = [0x1f, 0x8b] as const;
const firstMagicByte = new NativeBuffer(1);
firstMagicByte.bytes[0] = MAGIC[0];

/** The byte that holds a bit, and how many bits of it are from there on (0: all). */
function place(bit: number): { start: number; bits: number } {
  return { start: Math.floor(bit / 8), bits: (8 - (bit % 8)) % 8 };
}

/** RFC 1951 §3.2.4: final flag, type 00, padding, length, its complement. */
function storedHeader(length: number, last: boolean): Header {
  const bytes = Buffer.alloc(5);
  bytes[0] = last ? 1 : 0;
  bytes.writeUInt16LE(length, 1);
  bytes.writeUInt16LE(length ^ 0xffff, 3);
  return { bytes, length: 40 };
}
