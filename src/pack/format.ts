/**
 * A startup pack: the blocks that an image reads while it starts, in reading order, as one zstd stream. One request
 * brings all that a start needs, and a reader uses each block as soon as it has arrived.
 *
 * Uncompressed, little-endian:
 *
 *     0  char magic[8] "COFAPACK"
 *     8  u32  version = 1
 *     12 u32  length of the header, bytes
 *     16      header: msgpack {manifest, blockSize, devices: [[diffID, raw bytes]…], runs: [[device, first, count]…]}
 *     …       the blocks of the runs, each with its raw length: blockSize, but for the last block of a device
 *
 * The header comes first, and is flushed, so that a reader knows what to expect before the first block arrives. A pack
 * proves nothing: each block is verified against the layer's span table before it is used.
 */
import type { Transform } from 'node:stream';
import { constants, createZstdCompress } from 'node:zlib';
import { z } from 'zod';
import { DIGEST } from '../../schemas/digest.ts';
import type { StartSet } from '../../actors/start-set.ts';
import { CofaError } from '../../schemas/errors.ts';
import { decodeIfSound, encode } from '../bus/connection.ts';
import { Unzstd } from '../image/libzstd.ts';
import { addressOf, NativeBuffer } from '../image/native.ts';

/** Raw bytes of all blocks of a pack at most. A start that reads more is better served by fetching the layers. */
export const MAX_PACK_BYTES = 1 << 30;
const MAX_HEADER = 16 << 20;
/** Bytes of a pack as it is stored: zstd adds three bytes to each 128 KiB that it cannot compress, and a frame's header. */
export const MAX_PACKED_BYTES: number = MAX_PACK_BYTES + MAX_HEADER + (1 << 20);
/** Of its window, which the decoder takes at once: level 6 has one of 2 MiB. */
const MAX_WINDOW_LOG = 23;
/** One for each block of a pack that a node makes would be 16,384. */
const MAX_RUNS = 1 << 18;
const MAGIC = Buffer.from('COFAPACK');
const VERSION = 1;
const PREFIX = 16;
/**
 * Level 6. Of the demo image's start set, level 3 makes a pack 4 % larger, and level 12 saves 2 % for five times the
 * work. The node that records has a container to run.
 */
const LEVEL = 6;

const digest = z.string().regex(DIGEST);
const count = z.int().min(0);
const Header = z.object({
  manifest: digest,
  blockSize: z
    .int()
    .min(4096)
    .max(1 << 24),
  devices: z.array(z.tuple([digest, count])).max(1024),
  runs: z.array(z.tuple([count, count, z.int().min(1)])).max(MAX_RUNS),
});

export interface PackHeader extends StartSet {
  /** Of the image that was recorded. */
  manifest: string;
  blockSize: number;
  /** Raw bytes of each device. */
  sizes: readonly number[];
}

/** One block of a pack. Its bytes are valid until the next one is asked for. */
export interface PackedBlock {
  device: number;
  block: number;
  bytes: Buffer;
}

/** Raw bytes of all blocks. */
export function packedBytes(header: PackHeader): number {
  let sum = 0;
  for (const [device, first, count] of header.runs) {
    const size = header.sizes[device] ?? 0;
    sum += Math.min((first + count) * header.blockSize, size) - first * header.blockSize;
  }
  return sum;
}

/**
 * Packs the blocks of a start. `read` returns a block's raw bytes. Yields the compressed stream in pieces. What `read`
 * throws is thrown here.
 */
export async function* encodePack(
  header: PackHeader,
  read: (device: number, block: number, length: number) => Promise<Buffer> | Buffer,
): AsyncGenerator<Buffer, void, undefined> {
  const body = encode({
    manifest: header.manifest,
    blockSize: header.blockSize,
    devices: header.devices.map((diffId, device) => [diffId, header.sizes[device] ?? 0]),
    runs: header.runs,
  });
  const prefix = Buffer.alloc(PREFIX);
  MAGIC.copy(prefix);
  prefix.writeUInt32LE(VERSION, 8);
  prefix.writeUInt32LE(body.length, 12);
  const zstd = createZstdCompress({ params: { [constants.ZSTD_c_compressionLevel]: LEVEL } });
  const feed = async () => {
    await write(zstd, prefix);
    await write(zstd, body);
    await new Promise<void>((resolve) => zstd.flush(() => resolve()));
    for (const { device, block, length } of blocksOf(header))
      await write(zstd, await read(device, block, length));
    zstd.end();
  };
  feed().catch((error: unknown) => zstd.destroy(error instanceof Error ? error : new Error(String(error))));
  yield* zstd as AsyncIterable<Buffer>;
}

/**
 * Decodes a pack as it arrives. Calls `onHeader` once, before the first block, and `onBlock` with each block in order.
 * Errors: `integrity` for bytes that `encodePack` would not have written, also for a pack that ends early; what the
 * callbacks and the body throw.
 */
export async function decodePack(
  body: AsyncIterable<Uint8Array>,
  onHeader: (header: PackHeader) => void | Promise<void>,
  onBlock: (block: PackedBlock) => void | Promise<void>,
): Promise<void> {
  const source = new PackStream(body);
  try {
    const prefix = await source.take(PREFIX);
    if (!prefix.subarray(0, 8).equals(MAGIC)) throw bad('it is none');
    if (prefix.readUInt32LE(8) !== VERSION) throw bad(`its version ${prefix.readUInt32LE(8)} is unknown`);
    const length = prefix.readUInt32LE(12);
    if (length > MAX_HEADER) throw bad(`its header has ${length} bytes`);
    const header = parseHeader(await source.take(length));
    await onHeader(header);
    for (const { device, block, length } of blocksOf(header)) {
      await onBlock({ device, block, bytes: await source.take(length) });
    }
    if (!(await source.isAtEnd())) throw bad('something follows its last block');
  } finally {
    await source.close();
  }
}

function parseHeader(bytes: Buffer): PackHeader {
  let fields: z.output<typeof Header>;
  try {
    fields = Header.parse(decodeIfSound(bytes));
  } catch (cause) {
    throw bad('its header is malformed', cause);
  }
  const { manifest, blockSize, runs } = fields;
  const header = {
    manifest,
    blockSize,
    devices: fields.devices.map(([diffId]) => diffId),
    sizes: fields.devices.map(([, size]) => size),
    runs,
  };
  if (new Set(header.devices).size < header.devices.length) throw bad('it names a layer twice');
  // No block is worth reading twice.
  const most = Math.min(
    MAX_PACK_BYTES,
    sum(header.sizes.map((size) => Math.ceil(size / blockSize) * blockSize)),
  );
  let total = 0;
  for (const [device, first, blocks] of runs) {
    const size = header.sizes[device];
    if (size === undefined || (first + blocks - 1) * blockSize >= size)
      throw bad('it has blocks outside of its layers');
    total += blocks * blockSize;
    if (total > most) throw bad(`it has more than ${most} bytes`);
  }
  return header;
}

const sum = (numbers: readonly number[]): number => numbers.reduce((total, number) => total + number, 0);

function* blocksOf({ blockSize, sizes, runs }: PackHeader) {
  for (const [device, first, count] of runs) {
    for (let block = first; block < first + count; block++) {
      const length = Math.min(blockSize, (sizes[device] ?? 0) - block * blockSize);
      yield { device, block, length };
    }
  }
}

/**
 * Takes exact numbers of raw bytes from the compressed pieces of a body. It decodes each block into the buffer that it
 * hands out: node:zlib makes a new buffer for each part of its output, and collecting those took as long as decoding.
 */
class PackStream {
  readonly #pieces: AsyncIterator<Uint8Array>;
  readonly #zstd = new Unzstd({ maxWindowLog: MAX_WINDOW_LOG });
  #piece: Uint8Array = new Uint8Array(0);
  #at = 0;
  #target = new NativeBuffer(PREFIX, false);
  #frameEnded = false;

  constructor(body: AsyncIterable<Uint8Array>) {
    this.#pieces = body[Symbol.asyncIterator]();
  }

  /** The next `length` bytes; valid until the next call. */
  async take(length: number): Promise<Buffer> {
    if (this.#target.bytes.length < length) this.#target = new NativeBuffer(length, false);
    for (let filled = 0; filled < length; ) filled += await this.#decode(filled, length);
    return this.#target.bytes.subarray(0, length);
  }

  /** Whether the pack is at its end: the body has no further piece and the decoder no further byte. */
  async isAtEnd(): Promise<boolean> {
    while (!this.#frameEnded) if ((await this.#decode(0, 1)) > 0) return false;
    return this.#at === this.#piece.length && !(await this.#next());
  }

  async close(): Promise<void> {
    this.#zstd.close();
    await this.#pieces.return?.();
  }

  /** Decodes into [start, end) of the target; returns the number of bytes, fewer when the piece ends. */
  async #decode(start: number, end: number): Promise<number> {
    if (this.#frameEnded) throw bad('it ends early');
    const { address } = this.#target;
    const source = addressOf(this.#piece) + BigInt(this.#at);
    let wanted: number;
    try {
      const left = this.#piece.length - this.#at;
      wanted = this.#zstd.run(source, left, address + BigInt(start), end - start);
    } catch (error) {
      if (error instanceof CofaError && error.code !== 'environment')
        throw bad('it is not valid zstd', error);
      throw error;
    }
    const { consumed, written } = this.#zstd;
    this.#at += consumed;
    this.#frameEnded = wanted === 0;
    if (wanted > 0 && consumed === 0 && written === 0 && !(await this.#next())) throw bad('it ends early');
    return written;
  }

  /** Moves to the next piece that is not empty. */
  async #next(): Promise<boolean> {
    for (;;) {
      const { done, value } = await this.#pieces.next();
      if (done === true) return false;
      this.#piece = value;
      this.#at = 0;
      if (value.length > 0) return true;
    }
  }
}

/** Writes to a stream and waits while it is full; rejects when it was destroyed. */
function write(stream: Transform, bytes: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    if (stream.destroyed) {
      reject(new Error('the stream was given up'));
      return;
    }
    stream.write(bytes, (error) => (error == null ? resolve() : reject(error)));
  });
}

function bad(why: string, cause?: unknown): CofaError {
  return new CofaError('integrity', `the startup pack is not usable: ${why}`, { cause });
}
