/**
 * A startup pack: the blocks that an image reads while it starts, in reading order, as one zstd stream, so that one request
 * brings all that a start needs and each block can be used as soon as it has come.
 *
 * Uncompressed, little-endian:
 *
 *     0  char magic[8] "COFAPACK"
 *     8  u32  version = 1
 *     12 u32  length of the header, bytes
 *     16      header: msgpack {manifest, blockSize, devices: [[diffID, raw bytes]…], runs: [[device, first, count]…]}
 *     …       the blocks of the runs, each with its raw length: blockSize, but for the last block of a device
 *
 * The header comes first, and is flushed, so that a reader knows what to expect before the first block is there. A pack
 * proves nothing: each block is checked against the layer's span table before it is used.
 */
import type { Transform } from 'node:stream';
import { constants, createZstdCompress, createZstdDecompress } from 'node:zlib';
import { z } from 'zod';
import type { StartSet } from '../../actors/start-set.ts';
import { CofaError } from '../../schemas/errors.ts';
import { pack, unpack } from '../bus/connection.ts';

/** Raw bytes of all blocks of a pack at most. A start that reads more is better served by fetching the layers. */
export const MAX_PACK_BYTES = 1 << 30;
const MAX_HEADER = 16 << 20;
const MAX_RUNS = 1 << 20;
const MAGIC = Buffer.from('COFAPACK');
const VERSION = 1;
const PREFIX = 16;
/**
 * Level 6: of the demo image's start set, 3 makes it 4 % larger and 12 saves 2 % for five times the work; and whoever
 * records has a container to run.
 */
const LEVEL = 6;

const digest = z.string().regex(/^sha256:[0-9a-f]{64}$/);
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

/** One block as it comes out of a pack. The bytes are valid until the next one is asked for. */
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
  const body = pack({
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
 * Reads a pack as it arrives. `onHeader` is called once, before the first block; `onBlock` with each block in order.
 * Errors: `integrity` for whatever `encodePack` would not have written, a pack that ends early among it; what the
 * callbacks and the body throw.
 */
export async function decodePack(
  body: AsyncIterable<Uint8Array>,
  onHeader: (header: PackHeader) => void | Promise<void>,
  onBlock: (block: PackedBlock) => void | Promise<void>,
): Promise<void> {
  const zstd = createZstdDecompress({ params: { [constants.ZSTD_d_windowLogMax]: 27 }, chunkSize: 1 << 18 });
  const fed = (async () => {
    for await (const chunk of body) await write(zstd, chunk);
    zstd.end();
  })();
  // Its error is the stream's from here on.
  fed.catch((error: unknown) => zstd.destroy(error instanceof Error ? error : new Error(String(error))));
  const source = new ByteReader(zstd as AsyncIterable<Buffer>);
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
  } catch (error) {
    if (/^Z(?:STD)?_/.test((error as NodeJS.ErrnoException).code ?? ''))
      throw bad('it is not valid zstd', error);
    throw error;
  } finally {
    zstd.destroy();
  }
}

function parseHeader(bytes: Buffer): PackHeader {
  let fields: z.output<typeof Header>;
  try {
    fields = Header.parse(unpack(bytes));
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
  let total = 0;
  for (const [device, first, blocks] of runs) {
    const size = header.sizes[device];
    if (size === undefined || (first + blocks - 1) * blockSize >= size)
      throw bad('it has blocks outside of its layers');
    total += blocks * blockSize;
    if (total > MAX_PACK_BYTES) throw bad(`it has more than ${MAX_PACK_BYTES} bytes`);
  }
  return header;
}

function* blocksOf({ blockSize, sizes, runs }: PackHeader) {
  for (const [device, first, count] of runs) {
    for (let block = first; block < first + count; block++) {
      const length = Math.min(blockSize, (sizes[device] ?? 0) - block * blockSize);
      yield { device, block, length };
    }
  }
}

/** Takes exact numbers of bytes from a stream of pieces. */
class ByteReader {
  readonly #pieces: AsyncIterator<Buffer>;
  #piece: Buffer = Buffer.alloc(0);
  #room: Buffer = Buffer.alloc(0);

  constructor(source: AsyncIterable<Buffer>) {
    this.#pieces = source[Symbol.asyncIterator]();
  }

  /** The next `length` bytes; valid until the next call. */
  async take(length: number): Promise<Buffer> {
    if (this.#piece.length >= length) return this.#cut(length);
    if (this.#room.length < length) this.#room = Buffer.allocUnsafe(length);
    const whole = this.#room.subarray(0, length);
    for (let at = 0; at < length; ) {
      if (this.#piece.length === 0 && !(await this.#next())) throw bad(`it ends early`);
      const part = this.#cut(Math.min(length - at, this.#piece.length));
      part.copy(whole, at);
      at += part.length;
    }
    return whole;
  }

  async isAtEnd(): Promise<boolean> {
    while (this.#piece.length === 0) if (!(await this.#next())) return true;
    return false;
  }

  #cut(length: number): Buffer {
    const part = this.#piece.subarray(0, length);
    this.#piece = this.#piece.subarray(length);
    return part;
  }

  async #next(): Promise<boolean> {
    const { done, value } = await this.#pieces.next();
    if (done === true) return false;
    this.#piece = value;
    return true;
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
