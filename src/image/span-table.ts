import { CofaError } from '../../schemas/errors.ts';
import { Digest } from '../digest/digest.ts';
import { type GzipState, MAX_HEADER } from './gzip-restart.ts';
import type { Header as BlockHeader } from './layer-decoder.ts';
import { INITIAL_STATE, Sha256, STATE_SIZE } from './sha256.ts';
import { MAX_PACKED_WINDOW, unpackWindow } from './window.ts';

/**
 * The seek table of one layer blob: which compressed bytes to fetch for a block, how to begin decoding there, and how
 * to tell that the block came out right.
 *
 * A *block* is 64 KiB of the uncompressed tar (the last one is shorter). A *span* is the smallest run of blocks that
 * can be decoded on its own: it begins at a checkpoint, where the decoder's state is known. There is one for every 16
 * blocks. Where an image's hints say which of them a start reads, the indexer may cut such a span into several
 * (src/index/cut-spans.ts); so two tables of one layer may differ in their spans, but not in their blocks.
 *
 * A gzip checkpoint lies at the code that makes the span's first byte. Decoding starts at most 257 bytes before that
 * byte (raw offset `out`), and the decoder drops the bytes in front of it; gzip.ts tells how. A zstd checkpoint is the
 * start of a frame: the last one that is not behind the span's first byte. A span without a frame start of its own
 * joins the span before it; a layer of a single frame is one span, whose blocks come out one by one.
 *
 * **How a block is verified.** SHA-256 works through its input in 64-byte steps and carries a 32-byte state. The table
 * keeps the state of the layer's own SHA-256 (the one that ends in the diffID) after each block. A block is right if it
 * leads from the state before it to the state after it. In the layer's own table that is as strong as the diffID:
 * another block between the same two states would make another tar with the same diffID. It has two advantages over a
 * digest for each block. Indexing hashes the raw bytes once, not twice. And the chain starts at SHA-256's fixed state
 * and ends in the diffID, so a layer whose blocks are all present and right is the layer.
 *
 * **What it does not prove.** The states come with the table. In a forged one they fit forged blocks, all but the last. So
 * a block is as right as the table's *root* (`root`), which stands for all its states: who vouches for it, or what has proven
 * it, is docs/trust.md's business. A layer that was once whole and hashed to its diffID has proven its root for ever.
 *
 * Layout, little-endian, no padding:
 *
 *     header                       128 bytes, below
 *     span records                 spanCount × 40 bytes
 *     states after each block      (blockCount - 1) × 32 bytes; the last block's is the diffID
 *     checkpoints                  checkpointBytes bytes: of each span that has one, the header of the deflate block
 *                                  that the checkpoint lies in, then its packed window (window.ts)
 *
 *     header   0 char magic[8] "COFASPAN" | 8 u32 version | 12 u8 compression | 13 u8 log2(block size) | 14 u16 0
 *             16 u64 blobSize | 24 u64 rawSize | 32 u8 diffId[32] | 64 u8 blobDigest[32]
 *             96 u32 blockCount | 100 u32 spanCount | 104 u32 checkpointBytes | 108 u8 zero[20]
 *     version  1: each span begins at a multiple of 16 blocks; 2: some do not
 *     record   0 u64 inStart | 8 u64 inEnd | 16 u64 out | 24 u32 firstBlock | 28 u32 offset in checkpoints, 0 if it has
 *              nothing there | 32 u16 bytes of the window | 34 u16 bits of the header | 36 u8 bits | 37 u8 zero[3]
 */
export class SpanTable {
  /** Digest of the uncompressed tar. */
  readonly diffId: string;
  /** Digest of the blob as it lies in the registry. */
  readonly blobDigest: string;
  /** Bytes of the blob. */
  readonly blobSize: number;
  /** Bytes of the uncompressed tar. */
  readonly rawSize: number;
  readonly compression: Compression;
  /** Bytes. */
  readonly blockSize: number;
  readonly blockCount: number;
  readonly spanCount: number;
  readonly #bytes: Buffer;
  readonly #records: number;
  readonly #states: number;
  readonly #checkpoints: number;
  #root: string | undefined;

  private constructor(bytes: Buffer, header: Header) {
    this.diffId = header.diffId;
    this.blobDigest = header.blobDigest;
    this.blobSize = header.blobSize;
    this.rawSize = header.rawSize;
    this.compression = header.compression;
    this.blockSize = header.blockSize;
    this.blockCount = header.blockCount;
    this.spanCount = header.spanCount;
    this.#bytes = bytes;
    this.#records = HEADER_SIZE;
    this.#states = this.#records + header.spanCount * RECORD_SIZE;
    this.#checkpoints = this.#states + stateCount(header.blockCount) * STATE_SIZE;
  }

  /**
   * The layer's block root: one digest over the list of its block states. It takes its diffID and its size in, and depends on
   * neither spans nor compression, so every honest table of a layer has the same one. `sha256:…` of `COFAROOT`, u64 rawSize,
   * u32 block size, u32 0 (little-endian), the states, the diffID.
   */
  get root(): string {
    this.#root ??= this.#hashStates();
    return this.#root;
  }

  /** Throws a RangeError outside 0 ≤ index < spanCount. */
  span(index: number): Span {
    checkIndex(index, this.spanCount, 'span');
    const at = this.#records + index * RECORD_SIZE;
    const firstBlock = this.#bytes.readUInt32LE(at + 24);
    return {
      index,
      firstBlock,
      blockCount: this.#endBlock(index) - firstBlock,
      inStart: readU64(this.#bytes, at),
      inEnd: readU64(this.#bytes, at + 8),
      out: readU64(this.#bytes, at + 16),
      bits: this.#bytes.readUInt8(at + 36),
    };
  }

  /** The one span that a block belongs to. Throws a RangeError outside 0 ≤ block < blockCount. */
  spanOfBlock(block: number): number {
    checkIndex(block, this.blockCount, 'block');
    let low = 0;
    let high = this.spanCount - 1;
    while (low < high) {
      const middle = (low + high + 1) >>> 1;
      if (this.#firstBlock(middle) <= block) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** Raw bytes of a block: blockSize, but for the last. */
  blockLength(block: number): number {
    checkIndex(block, this.blockCount, 'block');
    return Math.min(this.blockSize, this.rawSize - block * this.blockSize);
  }

  /** Whether these are the raw bytes of the block (the last block unpadded). */
  verify(block: number, bytes: Uint8Array): boolean {
    if (bytes.length !== this.blockLength(block)) return false;
    const states = this.#states + (block - 1) * STATE_SIZE;
    shared.reset(
      block === 0 ? INITIAL_STATE : this.#bytes.subarray(states, states + STATE_SIZE),
      block * this.blockSize,
    );
    shared.update(bytes);
    if (block < this.blockCount - 1) return shared.stateIs(this.#bytes, states + STATE_SIZE);
    return shared.digest().equals(this.#bytes.subarray(DIFF_ID_AT, DIFF_ID_AT + STATE_SIZE));
  }

  /** What a gzip decoder needs to start at the span. Throws CofaError('integrity'). */
  checkpoint(span: number): GzipState {
    checkIndex(span, this.spanCount, 'span');
    const record = this.#record(span);
    const start = this.#checkpoints + record.offset;
    const windowStart = start + Math.ceil(record.headerBits / 8);
    const windowEnd = windowStart + record.windowLength;
    return {
      bits: record.bits,
      ...(record.headerBits > 0 && {
        header: { bytes: this.#bytes.subarray(start, windowStart), length: record.headerBits },
      }),
      ...(record.windowLength > 0 && { window: unpackWindow(this.#bytes.subarray(windowStart, windowEnd)) }),
    };
  }

  /** A span as `build` takes it. */
  part(index: number): SpanRecord {
    const { firstBlock, inStart, inEnd, out, bits } = this.span(index);
    const { offset, headerBits, windowLength } = this.#record(index);
    const header = this.#checkpoints + offset;
    const window = header + Math.ceil(headerBits / 8);
    return {
      firstBlock,
      inStart,
      inEnd,
      out,
      bits,
      ...(headerBits > 0 && { header: { bytes: this.#bytes.subarray(header, window), length: headerBits } }),
      ...(windowLength > 0 && { window: this.#bytes.subarray(window, window + windowLength) }),
    };
  }

  /** The same layer with other spans, which begin and end with its first and last block. */
  withSpans(spans: readonly SpanRecord[]): SpanTable {
    const { diffId, blobDigest, blobSize, rawSize, compression } = this;
    const states = this.#bytes.subarray(this.#states, this.#checkpoints);
    return SpanTable.build({ diffId, blobDigest, blobSize, rawSize, compression, spans, states });
  }

  /** The table as stored; do not change the bytes. */
  encode(): Buffer {
    return this.#bytes;
  }

  /** Strict: throws CofaError('integrity') for bytes that `build` would not have written. Keeps `bytes`. */
  static decode(bytes: Buffer): SpanTable {
    const header = readHeader(bytes);
    const table = new SpanTable(bytes, header);
    table.#check();
    return table;
  }

  /**
   * The table of this layer of an image, as the manifest and the config name it. Error `integrity` also where it says that it
   * is of another layer or blob.
   */
  static of(
    bytes: Buffer,
    { diffId, blob }: { diffId: string; blob: { digest: string; size: number } },
  ): SpanTable {
    const table = SpanTable.decode(bytes);
    const isOfLayer =
      table.diffId === diffId && table.blobDigest === blob.digest && table.blobSize === blob.size;
    if (!isOfLayer) throw new CofaError('integrity', `the span table of layer ${diffId} is another layer's`);
    return table;
  }

  static build(parts: SpanTableParts): SpanTable {
    const { spans } = parts;
    const blockCount = Math.ceil(parts.rawSize / BLOCK_SIZE);
    const checkpointBytes = spans.reduce(
      (sum, span) => sum + (span.header?.bytes.length ?? 0) + (span.window?.length ?? 0),
      0,
    );
    const states = HEADER_SIZE + spans.length * RECORD_SIZE;
    const checkpoints = states + stateCount(blockCount) * STATE_SIZE;
    const bytes = Buffer.alloc(checkpoints + checkpointBytes);
    bytes.write(MAGIC, 0, 'latin1');
    bytes.writeUInt32LE(spans.every(isRegular) ? REGULAR : CUT, 8);
    bytes.writeUInt8(COMPRESSIONS.indexOf(parts.compression), 12);
    bytes.writeUInt8(Math.log2(BLOCK_SIZE), 13);
    bytes.writeBigUInt64LE(BigInt(parts.blobSize), 16);
    bytes.writeBigUInt64LE(BigInt(parts.rawSize), 24);
    bytes.write(parts.diffId.slice('sha256:'.length), DIFF_ID_AT, 'hex');
    bytes.write(parts.blobDigest.slice('sha256:'.length), BLOB_DIGEST_AT, 'hex');
    bytes.writeUInt32LE(blockCount, 96);
    bytes.writeUInt32LE(spans.length, 100);
    bytes.writeUInt32LE(checkpointBytes, 104);
    let offset = 0;
    for (const [index, span] of spans.entries()) {
      const at = HEADER_SIZE + index * RECORD_SIZE;
      bytes.writeBigUInt64LE(BigInt(span.inStart), at);
      bytes.writeBigUInt64LE(BigInt(span.inEnd), at + 8);
      bytes.writeBigUInt64LE(BigInt(span.out), at + 16);
      bytes.writeUInt32LE(span.firstBlock, at + 24);
      const state = Buffer.concat([span.header?.bytes ?? NOTHING, span.window ?? NOTHING]);
      if (state.length > 0) bytes.writeUInt32LE(offset, at + 28);
      state.copy(bytes, checkpoints + offset);
      offset += state.length;
      bytes.writeUInt16LE(span.window?.length ?? 0, at + 32);
      bytes.writeUInt16LE(span.header?.length ?? 0, at + 34);
      bytes.writeUInt8(span.bits, at + 36);
    }
    parts.states.copy(bytes, states, 0, checkpoints - states);
    return SpanTable.decode(bytes);
  }

  #hashStates(): string {
    const head = Buffer.alloc(ROOT_HEAD_SIZE);
    head.write(ROOT_MAGIC, 0, 'latin1');
    head.writeBigUInt64LE(BigInt(this.rawSize), 8);
    head.writeUInt32LE(this.blockSize, 16);
    const hash = new Digest();
    hash.update(head);
    hash.update(this.#bytes.subarray(this.#states, this.#checkpoints));
    hash.update(this.#bytes.subarray(DIFF_ID_AT, DIFF_ID_AT + STATE_SIZE));
    return hash.end();
  }

  #firstBlock(span: number): number {
    return this.#bytes.readUInt32LE(this.#records + span * RECORD_SIZE + 24);
  }

  #record(span: number): { bits: number; headerBits: number; windowLength: number; offset: number } {
    const at = this.#records + span * RECORD_SIZE;
    return {
      offset: this.#bytes.readUInt32LE(at + 28),
      windowLength: this.#bytes.readUInt16LE(at + 32),
      headerBits: this.#bytes.readUInt16LE(at + 34),
      bits: this.#bytes.readUInt8(at + 36),
    };
  }

  #endBlock(span: number): number {
    return span + 1 < this.spanCount ? this.#firstBlock(span + 1) : this.blockCount;
  }

  #check(): void {
    const { blobSize, rawSize, compression } = this;
    if (this.spanCount > this.blockCount || (this.spanCount === 0) !== (this.blockCount === 0)) {
      corrupt(`${this.spanCount} spans for ${this.blockCount} blocks`);
    }
    if (compression === 'none' && (blobSize !== rawSize || this.blobDigest !== this.diffId)) {
      corrupt('a blob that is not compressed differs from its tar');
    }
    if (this.blockCount === 0 && this.diffId !== EMPTY_DIGEST) corrupt('an empty layer with bytes');
    let offset = 0;
    let before: Span | undefined;
    let regular = true;
    for (let index = 0; index < this.spanCount; index++) {
      const at = this.#records + index * RECORD_SIZE;
      const span = this.span(index);
      const where = `span ${index}`;
      const rawStart = span.firstBlock * this.blockSize;
      const rawEnd = Math.min(rawSize, this.#endBlock(index) * this.blockSize);
      if (span.blockCount < 1) corrupt(`${where}: blocks out of order`);
      regular &&= isRegular(span);
      if (span.inStart >= span.inEnd || span.inEnd > blobSize) corrupt(`${where}: outside of the blob`);
      if (span.out > rawStart) corrupt(`${where}: starts behind its first block`);
      if (before === undefined) {
        if (span.firstBlock !== 0 || span.out !== 0) corrupt(`${where}: not at the start of the layer`);
      } else if (span.inStart <= before.inStart || span.inEnd < before.inEnd || span.out <= before.out) {
        corrupt(`${where}: out of order`);
      }
      if (
        compression === 'none' &&
        (span.out !== rawStart || span.inStart !== rawStart || span.inEnd !== rawEnd)
      ) {
        corrupt(`${where}: differs from its place in the tar`);
      }
      const { bits, headerBits, windowLength, ...record } = this.#record(index);
      const stateLength = Math.ceil(headerBits / 8) + windowLength;
      if (record.offset !== (stateLength === 0 ? 0 : offset)) corrupt(`${where}: checkpoint out of order`);
      if (windowLength > MAX_PACKED_WINDOW || headerBits > MAX_HEADER * 8)
        corrupt(`${where}: checkpoint too large`);
      if (bits > 7 || (compression !== 'gzip' && (bits !== 0 || stateLength !== 0))) {
        corrupt(`${where}: state of another compression`);
      }
      if (span.out === 0 && windowLength !== 0) corrupt(`${where}: a window before the start of the layer`);
      if (!allZero(this.#bytes, at + 37, at + RECORD_SIZE)) corrupt(`${where}: unknown fields`);
      offset += stateLength;
      before = span;
    }
    if (this.#checkpoints + offset !== this.#bytes.length) corrupt('checkpoints of another length');
    if (regular !== (this.#bytes.readUInt32LE(8) === REGULAR)) corrupt('spans of another version');
  }
}

export type Compression = 'gzip' | 'zstd' | 'none';

export interface Span {
  index: number;
  firstBlock: number;
  /** ≥ 1. */
  blockCount: number;
  /** The blob's bytes [inStart, inEnd) decode to the span's blocks. Neighbours may overlap. */
  inStart: number;
  inEnd: number;
  /**
   * Raw offset where decoding starts, ≤ firstBlock × blockSize; the decoder drops what comes before the first block.
   */
  out: number;
  /** gzip: so many bits of the byte at inStart, the high ones, belong to the span; 0: all of them. */
  bits: number;
}

/** Bytes of a block, the unit of copy on first access. */
export const BLOCK_SIZE = 65_536;
/** Nominal blocks of a span. */
export const SPAN_BLOCKS = 16;
/** Nominal raw bytes of a span. */
export const SPAN_SIZE: number = BLOCK_SIZE * SPAN_BLOCKS;
/**
 * Bytes of the tar in a span between two checkpoints, at most; layers without checkpoints in their middle have longer
 * spans.
 */
export const LARGEST_SPAN: number = 4 * SPAN_SIZE;

export interface SpanRecord {
  firstBlock: number;
  inStart: number;
  inEnd: number;
  out: number;
  bits: number;
  /** Of the deflate block that the checkpoint lies in; absent: it lies before a block. */
  header?: BlockHeader;
  /** Packed, see window.ts; absent: the checkpoint needs none. */
  window?: Buffer;
}

export interface SpanTableParts {
  diffId: string;
  blobDigest: string;
  blobSize: number;
  rawSize: number;
  compression: Compression;
  spans: readonly SpanRecord[];
  /** SHA-256 states of the raw bytes after each whole block, 32 bytes each. */
  states: Buffer;
}

const MAGIC = 'COFASPAN';
const ROOT_MAGIC = 'COFAROOT';
const ROOT_HEAD_SIZE = 24;
/** Versions: by where spans begin. */
const REGULAR = 1;
const CUT = 2;
const COMPRESSIONS: readonly Compression[] = ['none', 'gzip', 'zstd'];
const HEADER_SIZE = 128;
const RECORD_SIZE = 40;
const DIFF_ID_AT = 32;
const BLOB_DIGEST_AT = 64;
const NOTHING = Buffer.alloc(0);
const EMPTY_DIGEST = 'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';

/** verify() runs to its end without a pause, so one hash serves all tables of a thread. */
const shared = new Sha256();

interface Header {
  diffId: string;
  blobDigest: string;
  blobSize: number;
  rawSize: number;
  compression: Compression;
  blockSize: number;
  blockCount: number;
  spanCount: number;
}

function readHeader(bytes: Buffer): Header {
  if (bytes.length < HEADER_SIZE || bytes.toString('latin1', 0, 8) !== MAGIC) corrupt('not a span table');
  const version = bytes.readUInt32LE(8);
  if (version !== REGULAR && version !== CUT) {
    throw new CofaError(
      'unsupported',
      `span table of version ${version}; this cofa reads versions ${REGULAR} and ${CUT}`,
      {
        hint: 'index the image again with this version of cofa',
      },
    );
  }
  const compression = COMPRESSIONS[bytes.readUInt8(12)];
  if (compression === undefined) corrupt(`compression ${bytes.readUInt8(12)}`);
  if (bytes.readUInt8(13) !== Math.log2(BLOCK_SIZE)) corrupt(`blocks of 2^${bytes.readUInt8(13)} bytes`);
  if (bytes.readUInt16LE(14) !== 0 || !allZero(bytes, 108, HEADER_SIZE)) corrupt('unknown header fields');
  const rawSize = readU64(bytes, 24);
  const blockCount = bytes.readUInt32LE(96);
  const spanCount = bytes.readUInt32LE(100);
  if (blockCount !== Math.ceil(rawSize / BLOCK_SIZE)) corrupt(`${blockCount} blocks for ${rawSize} bytes`);
  const length =
    HEADER_SIZE + spanCount * RECORD_SIZE + stateCount(blockCount) * STATE_SIZE + bytes.readUInt32LE(104);
  if (bytes.length !== length) corrupt(`${bytes.length} bytes where its header says ${length}`);
  return {
    diffId: digestText(bytes, DIFF_ID_AT),
    blobDigest: digestText(bytes, BLOB_DIGEST_AT),
    blobSize: readU64(bytes, 16),
    rawSize,
    compression,
    blockSize: BLOCK_SIZE,
    blockCount,
    spanCount,
  };
}

function isRegular({ firstBlock }: { firstBlock: number }): boolean {
  return firstBlock % SPAN_BLOCKS === 0;
}

function stateCount(blockCount: number): number {
  return Math.max(0, blockCount - 1);
}

function readU64(bytes: Buffer, at: number): number {
  const high = bytes.readUInt32LE(at + 4);
  if (high >= 1 << 21) corrupt('a size or offset above 2^53');
  return high * 2 ** 32 + bytes.readUInt32LE(at);
}

function digestText(bytes: Buffer, at: number): string {
  return `sha256:${bytes.toString('hex', at, at + STATE_SIZE)}`;
}

function allZero(bytes: Buffer, start: number, end: number): boolean {
  for (let at = start; at < end; at++) if (bytes[at] !== 0) return false;
  return true;
}

function checkIndex(index: number, count: number, what: string): void {
  if (!Number.isInteger(index) || index < 0 || index >= count) {
    throw new RangeError(`${what} ${index} of a table with ${count}`);
  }
}

function corrupt(message: string): never {
  throw new CofaError('integrity', `span table: ${message}`, { hint: 'index the image again' });
}
