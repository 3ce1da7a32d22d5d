import { crc32, deflateRawSync } from 'node:zlib';
import { CofaError } from '../../schemas/errors.ts';
import { Inflate } from './libz.ts';
import { bindLibrary, HOST_LITTLE, NativeBuffer } from './native.ts';

/**
 * ISA-L's inflate (Debian's libisal2), which takes 0.6 of zlib's processor time, where the machine has the library.
 * It knows no checkpoints, so the gzip decoder uses it between these and zlib around them (gzip.ts). That asks one
 * thing more of it than its documentation has: to stop before a deflate block, and to say at which bit.
 *
 * ISA-L stops by itself behind the last block only. So `run` with `stop` tells it that the block it decodes is the
 * last (`bfinal`). It decodes up to 32 KiB ahead into a buffer of its own; while that holds bytes that it has not
 * handed out, it keeps the bits it has read and not used. The last byte is therefore left there, and copied by hand.
 *
 * Raw deflate data only. struct inflate_state is part of ISA-L's public header (igzip_lib.h), the same since 2.30:
 *
 *      0 next_out | 8 avail_out u32 | 12 total_out u32 | 16 next_in | 24 read_in u64 | 32 avail_in u32
 *     36 read_in_length i32 | 40 Huffman tables | 21160 block_state u32 | 21168 bfinal u32
 *     21208 tmp_out_valid i32 | 21212 tmp_out_processed i32 | 21216 tmp_in_buffer | 21544 tmp_out_buffer
 */
export class IsalInflate {
  /** After run(): the stream is complete; input() continues with what follows it. */
  ended = false;
  /** After run(): it stands before the first bit of a block, and has written all bytes before it. */
  atBlock = false;

  readonly #state = new NativeBuffer(STATE_SIZE);
  readonly #isal: Libisal;
  /** The block's flag was set by `run`: its end is not the stream's. */
  #armed = false;
  /** The block has ended at which `run` was to stop; bytes before it may still be in the buffer. */
  #found = false;

  /** Undefined where the machine has no such library, or one that does not keep its state where this looks for it. */
  static create(): IsalInflate | undefined {
    const isal = libisal();
    return isal && new IsalInflate(isal);
  }

  /** For the self-test; others call `create`. */
  constructor(isal: Libisal) {
    this.#isal = isal;
  }

  /** Begins before a block: `window` are the bytes before it, `bits` (at most 7) with `value` precede the input. */
  begin(window: Uint8Array, bits: number, value: number): void {
    const { address, view } = this.#state;
    this.#isal.isal_inflate_init(address);
    this.#isal.isal_inflate_set_dict(address, window, window.length);
    view.setBigUint64(24, BigInt(value), HOST_LITTLE);
    view.setInt32(36, bits, HOST_LITTLE);
    this.ended = this.atBlock = this.#armed = this.#found = false;
  }

  /** Compressed bytes that `input` got and that are not read yet; may be more after the end than `input` got. */
  get available(): number {
    return this.#state.view.getUint32(32, HOST_LITTLE);
  }

  /** Bits that have been read of the input and are not used; whole bytes of them, too. */
  get bits(): number {
    return this.#state.view.getInt32(36, HOST_LITTLE);
  }

  /** As that of Inflate. */
  input(address: bigint, length: number): void {
    this.#state.view.setBigUint64(16, address, HOST_LITTLE);
    this.#state.view.setUint32(32, length, HOST_LITTLE);
  }

  /**
   * Inflates into the target's bytes [start, end); with `stop` it looks for the next block's begin and stops there,
   * until `begin`. Returns the bytes written, which may be none although there is more: then it has read some of the
   * input. Throws CofaError('integrity').
   */
  run(target: NativeBuffer, start: number, end: number, stop: boolean): number {
    if (this.#found) return this.#drain(target, start, end);
    if (!stop && !this.#armed) return this.#call(target.address + BigInt(start), end - start);
    if (this.#pending <= 1) this.#call(target.address, 0);
    if (this.#armed && this.#blockState === INPUT_DONE) {
      this.#found = true;
      return this.#drain(target, start, end);
    }
    // It ends by itself, or has no byte to leave behind.
    if (this.#pending === 0 || this.#blockState === INPUT_DONE)
      return this.#call(target.address + BigInt(start), this.#pending === 0 ? 0 : end - start);
    this.#arm();
    const length = Math.min(end - start, this.#pending - 1);
    return length === 0 ? 0 : this.#call(target.address + BigInt(start), length);
  }

  /** CRC-32 as gzip has it, of the bytes behind those that `value` is of: ten times as fast as zlib's. */
  crc32(bytes: Uint8Array, value: number): number {
    return this.#isal.crc32_gzip_refl(value, bytes, bytes.length);
  }

  get #blockState(): number {
    return this.#state.view.getUint32(21_160, HOST_LITTLE);
  }

  /** Bytes that are decoded and not handed out. */
  get #pending(): number {
    const { view } = this.#state;
    return view.getInt32(21_208, HOST_LITTLE) - view.getInt32(21_212, HOST_LITTLE);
  }

  #arm(): void {
    const { view } = this.#state;
    const inBlock = this.#blockState === CODED || this.#blockState === STORED;
    if (this.#armed || !inBlock || view.getUint32(21_168, HOST_LITTLE) !== 0) return;
    view.setUint32(21_168, 1, HOST_LITTLE);
    this.#armed = true;
  }

  #drain(target: NativeBuffer, start: number, end: number): number {
    const { view, bytes } = this.#state;
    const from = OUT_BUFFER + view.getInt32(21_212, HOST_LITTLE);
    const length = Math.min(end - start, this.#pending);
    target.bytes.set(bytes.subarray(from, from + length), start);
    view.setInt32(21_212, from - OUT_BUFFER + length, HOST_LITTLE);
    this.atBlock = this.#pending === 0;
    return length;
  }

  #call(address: bigint, length: number): number {
    const { view } = this.#state;
    view.setBigUint64(0, address, HOST_LITTLE);
    view.setUint32(8, length, HOST_LITTLE);
    const code = this.#isal.isal_inflate(this.#state.address);
    if (code < 0)
      throw new CofaError('integrity', `corrupt gzip data (${REASONS[code] ?? `isal answers ${code}`})`);
    this.ended = this.#blockState === FINISH;
    return length - view.getUint32(8, HOST_LITTLE);
  }
}

const OUT_BUFFER = 21_544;
const STATE_SIZE = OUT_BUFFER + 2 * 32_768 + 288 + 64;

// enum isal_block_state
const STORED = 2;
const CODED = 3;
const INPUT_DONE = 4;
const FINISH = 5;

/** In zlib's words. */
const REASONS: Partial<Record<number, string>> = {
  [-1]: 'invalid block type',
  [-2]: 'invalid literal/length code',
  [-3]: 'invalid distance too far back',
};

type Libisal = {
  crc32_gzip_refl(value: number, bytes: Uint8Array, length: number): number;
  isal_inflate_init(state: bigint): void;
  isal_inflate_set_dict(state: bigint, dictionary: Uint8Array, length: number): number;
  isal_inflate(state: bigint): number;
};

/** null: there is none that can be used. */
let bound: Libisal | null | undefined;

function libisal(): Libisal | undefined {
  bound ??= open();
  return bound ?? undefined;
}

function open(): Libisal | null {
  try {
    const isal = bindLibrary<Libisal>({
      file: 'libisal.so.2',
      debianPackage: 'libisal2',
      prototypes: {
        crc32_gzip_refl: 'uint32_t crc32_gzip_refl(uint32_t value, const void *bytes, uint64_t length)',
        isal_inflate_init: 'void isal_inflate_init(void *state)',
        isal_inflate_set_dict:
          'int isal_inflate_set_dict(void *state, const void *dictionary, unsigned int length)',
        isal_inflate: 'int isal_inflate(void *state)',
      },
    });
    return stopsAtBlocks(new IsalInflate(isal)) ? isal : null;
  } catch {
    return null;
  }
}

/** Whether it stops before a block, with all bytes before that, at a bit at which zlib can go on. */
function stopsAtBlocks(isal: IsalInflate): boolean {
  const plain = Buffer.alloc(SAMPLE);
  for (let at = 0, seed = 1; at < SAMPLE; at++) {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
    plain[at] = (seed >>> 16) & 0x3f;
  }
  const packed = deflateRawSync(plain, { level: 1 });
  const source = new NativeBuffer(packed.length);
  packed.copy(source.bytes);
  const target = new NativeBuffer(SAMPLE);
  isal.begin(plain.subarray(0, 0), 0, 0);
  isal.input(source.address, packed.length);
  let written = 0;
  for (let calls = 0; calls < 64 && !isal.atBlock && !isal.ended; calls++)
    written += isal.run(target, written, SAMPLE, true);
  const bit = (packed.length - isal.available) * 8 - isal.bits;
  if (!isal.atBlock || written === 0 || bit <= 0) return false;
  const zlib = new Inflate('raw');
  try {
    zlib.dictionary(plain.subarray(Math.max(0, written - 32_768), written));
    const at = bit >>> 3;
    if (bit % 8 > 0) zlib.prime(8 - (bit % 8), (source.bytes[at] as number) >> (bit % 8));
    const next = Math.ceil(bit / 8);
    zlib.input(source.address + BigInt(next), packed.length - next);
    written += zlib.run(target.address + BigInt(written), SAMPLE - written, false);
  } finally {
    zlib.close();
  }
  const sum = isal.crc32(plain.subarray(1000), isal.crc32(plain.subarray(0, 1000), 0));
  return written === SAMPLE && target.bytes.equals(plain) && sum === crc32(plain);
}

/** Bytes in which zlib's level 1 makes several blocks. */
const SAMPLE = 131_072;
