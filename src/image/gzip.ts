import { CofaError } from '../../schemas/errors.ts';
import type { Checkpoint, Header, LayerDecoder } from './layer-decoder.ts';
import { FastStretch } from './fast-stretch.ts';
import { type GzipState, MAX_HEADER, place, restore, storedHeader, WINDOW_SIZE } from './gzip-restart.ts';
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
 * Where the caller needs checkpoints at known places only, ISA-L decodes the blocks between these (fast-stretch.ts). All
 * that comes out is what zlib alone would give: bytes, checkpoints, errors.
 *
 * It ignores bytes behind the last member that do not begin another one, as gunzip does: padding and signatures lie
 * there. (Go's reader, and so containerd without an external decompressor, refuses them.)
 */
export class GzipDecoder implements LayerDecoder {
  readonly checkpointsAnywhere = true;
  readonly #inflate: Inflate;
  readonly #track: boolean;
  #primeBits: number;
  #state: 'prime' | 'raw' | 'fast' | 'trailer' | 'between' | 'half-magic' | 'member' | 'garbage';
  #source: NativeBuffer | undefined;
  #at = 0;
  #end = 0;
  #consumed = 0;
  /** `consumed` when something was written last. */
  #written = 0;
  /** Raw bytes of this member, and of all. */
  #produced = 0;
  #total = 0;
  /** Bytes of a trailer that are still to be read; those that were. */
  #trailer = 0;
  readonly #tail = Buffer.alloc(TRAILER_SIZE);
  /** CRC-32 of the member so far, where zlib does not keep it; undefined also where nothing does. */
  #crc: number | undefined;
  #fast: FastStretch | undefined;
  /** zlib takes over at this bit, before a block, and has not begun. */
  #resumed: number | undefined;
  /** Bytes of the block header that the decoder is reading, or has read last. */
  readonly #header = Buffer.alloc(MAX_HEADER);
  #headerSize = 0;
  /** The header's first bit in its first byte, and the bits of the header behind which it ended. */
  #headerFirst = 0;
  #headerEnd = 0;
  #inHeader = false;

  /**
   * `track`: the caller will use checkpoint(). `marks`: from the start, and at multiples of so many raw bytes only;
   * run()'s target then has the last WINDOW_SIZE raw bytes in front of `start`, its source the last bytes read.
   */
  constructor(options: { track?: boolean; from?: GzipState; marks?: number } = {}) {
    this.#track = options.track ?? false;
    if (options.marks !== undefined) this.#fast = FastStretch.create(options.marks);
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
    while (!this.#inBlock() && this.#state !== 'fast') {
      if (this.#at === this.#end) return 0;
      this.#step();
    }
    if (this.#fast !== undefined && this.#beginFast(this.#fast, target, start))
      return this.#runFast(this.#fast, target, start, end);
    return this.#runZlib(target, start, end);
  }

  checkpoint(): Checkpoint | undefined {
    if (this.#resumed !== undefined)
      return { ...place(this.#resumed), back: 0, reach: Math.min(this.#produced, WINDOW_SIZE) };
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

  #runZlib(target: NativeBuffer, start: number, end: number): number {
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
    this.#resumed = undefined;
    this.#count(target, start, written);
    if (written > 0) this.#written = this.#consumed;
    if (inflate.ended) this.#endMember();
    return written;
  }

  /** Whether ISA-L is to decode what follows, or does so already. */
  #beginFast(fast: FastStretch, target: NativeBuffer, start: number): boolean {
    if (this.#state === 'fast') return true;
    const { atBlock, bits, check } = this.#inflate;
    if (this.#resumed !== undefined || !atBlock || !fast.isWorth(this.#total)) return false;
    if (this.#state === 'member') this.#crc = check;
    const last = this.#source?.bytes[this.#at - 1] ?? 0;
    const reach = Math.min(this.#produced, WINDOW_SIZE);
    fast.begin({
      window: target.bytes.subarray(start - reach, start),
      bits,
      value: bits === 0 ? 0 : last >> (8 - bits),
      consumed: this.#consumed,
      produced: this.#produced,
    });
    this.#inHeader = false;
    this.#state = 'fast';
    return true;
  }

  #runFast(fast: FastStretch, target: NativeBuffer, start: number, end: number): number {
    const { isal } = fast;
    const input = { source: this.#source as NativeBuffer, at: this.#at, end: this.#end };
    let ran: { written: number; taken: number };
    try {
      ran = fast.run(this.#total, input, target, start, end);
    } catch (error) {
      // What is corrupt, and where, is zlib's to say.
      fast.giveUp();
      if (!this.#rewind(fast)) throw error;
      return 0;
    }
    const { written, taken } = ran;
    this.#take(taken);
    this.#count(target, start, written);
    if (written > 0) this.#written = this.#consumed - (isal.bits >>> 3);
    if (isal.ended) {
      this.#take(-(isal.bits >>> 3));
      this.#endMember();
    } else if (isal.atBlock) this.#resume(isal.bits, target, start + written);
    else if (fast.isMissed(this.#total, written)) this.#rewind(fast);
    return written;
  }

  /**
   * In the middle of a block zlib decodes the stretch once more, and goes on from here as if it had decoded all. False
   * where it cannot: then the mark has no checkpoint.
   */
  #rewind(fast: FastStretch): boolean {
    const { kept, from } = fast;
    const [source, at, end, consumed, written, crc] = [
      this.#source,
      this.#at,
      this.#end,
      this.#consumed,
      this.#written,
      this.#crc,
    ];
    const [produced, total] = [this.#produced, this.#total];
    this.#inflate.reset('raw');
    if (from.window.length > 0) this.#inflate.dictionary(from.window);
    if (from.bits > 0) this.#inflate.prime(from.bits, from.value);
    this.#beginHeader(from.bits);
    this.#header[0] = from.value << (8 - from.bits);
    this.#state = 'raw';
    this.input(kept, 0, fast.keptSize);
    this.#consumed = from.consumed;
    this.#produced = from.produced;
    this.#crc = undefined;
    while (this.#produced < produced && this.#at < this.#end)
      this.#runZlib(SCRATCH, 0, Math.min(SCRATCH.bytes.length, produced - this.#produced));
    const unread = this.#end - this.#at;
    this.#crc = crc;
    this.#total = total;
    if (this.#produced === produced && unread <= at) {
      this.input(source as NativeBuffer, at - unread, end as number);
      return true;
    }
    // Thousands of empty blocks lie between what was written and what was read: ISA-L goes on.
    [this.#source, this.#at, this.#end, this.#consumed, this.#written] = [source, at, end, consumed, written];
    this.#produced = produced;
    this.#inHeader = false;
    this.#state = 'fast';
    return false;
  }

  /** zlib goes on where ISA-L stopped: before a block, whose first bit it has read with `bits` - 1 others. */
  #resume(bits: number, target: NativeBuffer, end: number): void {
    this.#resumed = this.#consumed * 8 - bits;
    this.#take(-Math.ceil(bits / 8));
    this.#primeBits = bits % 8;
    this.#state = this.#primeBits > 0 ? 'prime' : 'raw';
    this.#inflate.reset('raw');
    this.#inflate.dictionary(target.bytes.subarray(end - Math.min(this.#produced, WINDOW_SIZE), end));
    this.#beginHeader(this.#primeBits);
  }

  #count(target: NativeBuffer, start: number, written: number): void {
    this.#produced += written;
    this.#total += written;
    if (written > 0) this.#fast?.passed(this.#total);
    if (this.#crc !== undefined)
      this.#crc = this.#fast?.isal.crc32(target.bytes.subarray(start, start + written), this.#crc);
  }

  /** Whether zlib reads the input: in a member's header, data or trailer. */
  #inBlock(): boolean {
    return this.#state === 'member' || this.#state === 'raw';
  }

  #endMember(): void {
    this.#inHeader = false;
    this.#trailer = TRAILER_SIZE;
    this.#state = this.#state === 'member' ? 'between' : 'trailer';
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
        // One of its two words.
        const read = Math.min(((this.#trailer - 1) % 4) + 1, this.#end - this.#at);
        this.#source?.bytes.copy(this.#tail, TRAILER_SIZE - this.#trailer, this.#at, this.#at + read);
        this.#take(read);
        this.#trailer -= read;
        if (this.#trailer % 4 === 0) this.#checkTrailer();
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

  /** As zlib does where it has seen the whole member. */
  #checkTrailer(): void {
    const isOver = this.#trailer === 0;
    if (this.#crc !== undefined && !isOver && this.#tail.readUInt32LE(0) !== this.#crc)
      throw new CofaError('integrity', 'corrupt gzip data (incorrect data check)');
    if (this.#crc !== undefined && isOver && this.#tail.readUInt32LE(4) !== this.#produced % 2 ** 32)
      throw new CofaError('integrity', 'corrupt gzip data (incorrect length check)');
    if (!isOver) return;
    this.#state = 'between';
    this.#crc = undefined;
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

/** CRC-32 and length. */
const TRAILER_SIZE = 8;
const MAGIC = [0x1f, 0x8b] as const;
/** Takes what is decoded once more. */
const SCRATCH = new NativeBuffer(65_536);
const firstMagicByte = new NativeBuffer(1);
firstMagicByte.bytes[0] = MAGIC[0];
