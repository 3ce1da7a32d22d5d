import koffi from 'koffi';
import { CofaError } from '../../schemas/errors.ts';
import { bindLibrary, HOST_LITTLE, NativeBuffer } from './native.ts';

/**
 * zlib's inflate as C offers it. node:zlib hides what random access into a gzip file needs:
 *
 * - to stop at any raw byte, and to learn the bit where the code (literal or match) of the next byte begins, and how
 *   much of that code's output is written already: inflateMark, made for this purpose (zlib 1.2.3.5);
 * - to stop behind the header of a deflate block (Z_TREES), which holds the block's Huffman codes;
 * - to start again there: the 32 KiB before (inflateSetDictionary), the block's header, then the first bits of a byte
 *   (inflatePrime), then whole bytes.
 *
 * The object holds native memory until close(). z_stream, whose layout zlib keeps stable (LP64):
 *
 *      0 next_in  | 8 avail_in u32 | 16 total_in u64 | 24 next_out | 32 avail_out u32 | 40 total_out u64
 *     48 msg | 56 state | 64 zalloc | 72 zfree | 80 opaque | 88 data_type i32 | 96 adler | 104 reserved
 */
export class Inflate {
  /** After run(): the stream is complete. */
  ended = false;
  /** After run(): it stopped before the first bit of another deflate block. */
  atBlock = false;
  /** After run(): it stopped behind the header of a deflate block. */
  behindHeader = false;
  /** After run(): the deflate block is the last one of its stream. */
  inLastBlock = false;
  /**
   * After run(): so many bits of the bytes consumed are not used yet. Below 8 at a block, behind a header and when the
   * target is full.
   */
  bits = 0;

  readonly #stream = new NativeBuffer(STREAM_SIZE);
  readonly #z: Libz;
  #open = false;

  constructor(format: Format) {
    this.#z = libz();
    const { address } = this.#stream;
    const code = this.#z.inflateInit2_(address, WINDOW_BITS[format], this.#z.zlibVersion(), STREAM_SIZE);
    if (code !== Z_OK) throw new CofaError('environment', `zlib: inflateInit2 answers ${code}`);
    this.#open = true;
  }

  /** Compressed bytes that `input` got and that are not consumed yet. */
  get available(): number {
    return this.#stream.view.getUint32(8, HOST_LITTLE);
  }

  /** 'gzip': CRC-32 of the member's bytes so far. */
  get check(): number {
    return Number(this.#stream.view.getBigUint64(96, HOST_LITTLE));
  }

  /** Compressed bytes to read next; their memory must stay as it is until they are consumed. */
  input(address: bigint, length: number): void {
    this.#stream.view.setBigUint64(0, address, HOST_LITTLE);
    this.#stream.view.setUint32(8, length, HOST_LITTLE);
  }

  /**
   * Inflates into [address, address + length) until that is full, the input is consumed or the stream ends; with `stop`
   * also before and behind each block header. Returns the bytes written. May change bytes of the target behind those.
   * Throws CofaError('integrity') with zlib's reason.
   */
  run(address: bigint, length: number, stop: boolean): number {
    const { view } = this.#stream;
    view.setBigUint64(24, address, HOST_LITTLE);
    view.setUint32(32, length, HOST_LITTLE);
    const code = this.#z.inflate(this.#stream.address, stop ? Z_TREES : Z_NO_FLUSH);
    if (code !== Z_OK && code !== Z_STREAM_END && code !== Z_BUF_ERROR) this.#fail(code);
    const flags = view.getInt32(88, HOST_LITTLE);
    this.ended = code === Z_STREAM_END;
    this.bits = flags & UNUSED_BITS;
    this.inLastBlock = (flags & IN_LAST_BLOCK) !== 0;
    this.atBlock = !this.ended && (flags & (AT_BLOCK | IN_LAST_BLOCK)) === AT_BLOCK;
    this.behindHeader = (flags & BEHIND_HEADER) !== 0;
    return length - view.getUint32(32, HOST_LITTLE);
  }

  /** Where it stopped inside of a block; undefined: outside of one. */
  mark(): Mark | undefined {
    const mark = Number(this.#z.inflateMark(this.#stream.address));
    const back = mark >> 16;
    const low = mark & 0xffff;
    if (back >= 0) return { kind: 'code', back, written: low };
    return low === 0 ? undefined : { kind: 'stored', left: low };
  }

  /** Starts anew. */
  reset(format: Format): void {
    this.#ok(this.#z.inflateReset2(this.#stream.address, WINDOW_BITS[format]));
  }

  /** Puts bits, at most 7, between those consumed and the next input. Raw streams only. */
  prime(bits: number, value: number): void {
    this.#ok(this.#z.inflatePrime(this.#stream.address, bits, value));
  }

  /** What the output refers back to. Raw streams only, before the first run(). */
  dictionary(bytes: Uint8Array): void {
    this.#ok(this.#z.inflateSetDictionary(this.#stream.address, bytes, bytes.length));
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#z.inflateEnd(this.#stream.address);
  }

  #ok(code: number): void {
    if (code !== Z_OK) this.#fail(code);
  }

  #fail(code: number): never {
    if (code === Z_MEM_ERROR) throw new CofaError('environment', 'zlib: out of memory');
    const message = this.#stream.view.getBigUint64(48, HOST_LITTLE);
    const reason = message === 0n ? `zlib answers ${code}` : koffi.decode.string(message);
    throw new CofaError('integrity', `corrupt gzip data (${reason})`);
  }
}

/** 'gzip' expects a member's header first, 'raw' bare deflate data. */
type Format = 'gzip' | 'raw';

export type Mark =
  /** In a code that began `back` bits before; `written` bytes of what it stands for are out. */
  | { kind: 'code'; back: number; written: number }
  /** In a stored block with `left` bytes to come. */
  | { kind: 'stored'; left: number };

const STREAM_SIZE = 112;
const WINDOW_BITS = { gzip: 31, raw: -15 };

const Z_OK = 0;
const Z_STREAM_END = 1;
const Z_MEM_ERROR = -4;
const Z_BUF_ERROR = -5;
const Z_NO_FLUSH = 0;
const Z_TREES = 6;
// z_stream.data_type after inflate()
const UNUSED_BITS = 63;
const IN_LAST_BLOCK = 64;
const AT_BLOCK = 128;
const BEHIND_HEADER = 256;

type Libz = {
  zlibVersion(): string;
  inflateInit2_(stream: bigint, windowBits: number, version: string, streamSize: number): number;
  inflate(stream: bigint, flush: number): number;
  inflateMark(stream: bigint): number | bigint;
  inflateReset2(stream: bigint, windowBits: number): number;
  inflatePrime(stream: bigint, bits: number, value: number): number;
  inflateSetDictionary(stream: bigint, dictionary: Uint8Array, length: number): number;
  inflateEnd(stream: bigint): number;
};

let bound: Libz | undefined;

function libz(): Libz {
  bound ??= bindLibrary<Libz>({
    file: 'libz.so.1',
    debianPackage: 'zlib1g',
    prototypes: {
      zlibVersion: 'const char *zlibVersion()',
      inflateInit2_: 'int inflateInit2_(void *stream, int windowBits, const char *version, int streamSize)',
      inflate: 'int inflate(void *stream, int flush)',
      inflateMark: 'long inflateMark(void *stream)',
      inflateReset2: 'int inflateReset2(void *stream, int windowBits)',
      inflatePrime: 'int inflatePrime(void *stream, int bits, int value)',
      inflateSetDictionary:
        'int inflateSetDictionary(void *stream, const void *dictionary, unsigned int length)',
      inflateEnd: 'int inflateEnd(void *stream)',
    },
  });
  return bound;
}
