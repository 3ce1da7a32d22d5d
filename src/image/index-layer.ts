import { setImmediate as pause } from 'node:timers/promises';
import { Digest } from '../digest/digest.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { LayerFile } from '../../schemas/events.ts';
import { BlockStates } from './block-states.ts';
import { tocOfFile } from './file-toc.ts';
import { GzipDecoder } from './gzip.ts';
import { detectCompression, type LayerDecoder, MAGIC_SIZE } from './layer-decoder.ts';
import { PlainDecoder } from './plain.ts';
import { SpanScanner } from './span-scan.ts';
import { type Compression, SPAN_SIZE, SpanTable } from './span-table.ts';
import { TocBuilder } from './toc-builder.ts';
import type { Toc, TocEntry } from './toc.ts';
import { ZstdDecoder } from './zstd.ts';

/**
 * Reads a layer's blob once, from its first byte to its last. Returns its table of contents and its span table, which
 * are all that a node needs to load it lazily. Memory does not grow with the layer, apart from these two (about 40
 * bytes for each 64 KiB, and some KB for each MiB of gzip).
 *
 * Errors: CofaError('integrity') where the blob is cut short, corrupt or not what `expect` says; 'unsupported' for
 * other compressions, zstd windows above 128 MiB and a tar of more than `mostRaw` bytes or `mostMembersIn` members; what TocBuilder and `onRaw` throw; the reason of `signal`.
 */
export async function indexLayer(
  blob: AsyncIterable<Uint8Array>,
  options: IndexOptions = {},
): Promise<LayerIndex> {
  const scan = new LayerScan(options);
  try {
    for await (const chunk of blob) await scan.push(chunk);
    return await scan.finish();
  } catch (error) {
    throw scan.name(error);
  } finally {
    scan.close();
  }
}

export interface LayerIndex {
  /** Digest of the uncompressed tar. */
  diffId: string;
  /** Bytes of the uncompressed tar. */
  rawSize: number;
  compression: Compression;
  blobDigest: string;
  /** Bytes. */
  blobSize: number;
  /** Without entries where `onEntry` got them. */
  toc: Toc;
  spans: SpanTable;
}

export interface IndexOptions {
  /** What the manifest and the image config say about the layer; a difference is CofaError('integrity'). */
  expect?: { digest?: string; size?: number; diffId?: string };
  /** The layer is this file, as it is; by default it is a tar, compressed or not. */
  file?: LayerFile | undefined;
  /**
   * Gets every raw byte in order. The indexer overwrites the bytes once the call has returned or its promise settled.
   */
  onRaw?: (offset: number, bytes: Buffer) => void | Promise<void>;
  /** Gets the entries of the table of contents in order; a table of 50,000 takes 35 MB. */
  onEntry?: (entry: TocEntry) => void;
  /** Called with each chunk of the blob: bytes read so far. */
  onProgress?: (compressedBytes: number) => void;
  /** Hashes the raw bytes elsewhere while the next ones are decoded; this thread does by default. */
  hashBeside?: BesideHash | undefined;
  signal?: AbortSignal;
}

/** BlockStates in another thread. It gets bytes in shared memory, each when `update` of those before has been called. */
export interface BesideHash {
  /** Settles when the bytes have been hashed. */
  update(bytes: Buffer): Promise<void>;
  /** Call once, after the last bytes. */
  finish(): Promise<{ diffId: string; states: Buffer }>;
}

/**
 * Bytes that a layer's tar has at most. gzip makes at best one byte of 1032, so no layer of gzip has more than this. One
 * of zstd may (a byte of 32,768), and would fill a disk with the zeros of a few KB.
 */
export const mostRaw = (blobSize: number): number => ALWAYS_RAW + LARGEST_RATIO * blobSize;

/**
 * Members that it has at most: names that differ take more than a byte each, however well they compress. Half a million times the
 * same header is 27 KB of zstd, and its entries some 300 MB of memory.
 */
export const mostMembersIn = (blobSize: number): number => ALWAYS_MEMBERS + blobSize;

const ALWAYS_MEMBERS = 1 << 16;

/** Segments of 256 KiB that may wait for their hash: what is decoded between two turns of the event loop. */
const BESIDE_SEGMENTS = 16;

/** Of gzip: 258 bytes in two bits (zlib's technical details, "Maximum Compression Factor"). */
const LARGEST_RATIO = 1032;
const ALWAYS_RAW = 256 << 20;

class LayerScan {
  readonly #options: IndexOptions;
  /** Of the blob; not used for a plain tar, whose digest is its diffID. */
  readonly #hash = new Digest();
  readonly #states: BlockStates | BesideHash;
  /** Undefined: the layer is one file. */
  readonly #toc: TocBuilder | undefined;
  #compression: Compression = 'none';
  #scanner: SpanScanner | undefined;
  /** The first bytes, until there are enough to see the compression. */
  #head = Buffer.alloc(0);
  #blobSize = 0;
  #rawSize = 0;
  readonly #mostRaw: number;

  constructor(options: IndexOptions) {
    this.#options = options;
    this.#states = options.hashBeside ?? new BlockStates();
    const blobSize = options.expect?.size ?? Number.POSITIVE_INFINITY;
    this.#mostRaw = mostRaw(blobSize);
    this.#toc =
      options.file === undefined ? new TocBuilder(mostMembersIn(blobSize), options.onEntry) : undefined;
  }

  async push(chunk: Uint8Array): Promise<void> {
    const { expect, onProgress, signal } = this.#options;
    signal?.throwIfAborted();
    this.#blobSize += chunk.length;
    if (expect?.size !== undefined && this.#blobSize > expect.size) {
      throw new CofaError('integrity', `the blob goes on after its ${expect.size} bytes`);
    }
    if (this.#scanner !== undefined) {
      await this.#scan(this.#scanner, chunk);
    } else {
      this.#head = Buffer.concat([this.#head, chunk]);
      if (this.#head.length >= MAGIC_SIZE) await this.#begin();
    }
    onProgress?.(this.#blobSize);
  }

  async finish(): Promise<LayerIndex> {
    const { expect } = this.#options;
    const scanner = this.#scanner ?? (await this.#begin());
    if (expect?.size !== undefined && this.#blobSize < expect.size) {
      throw new CofaError('integrity', `the blob ends after ${this.#blobSize} of ${expect.size} bytes`);
    }
    const spans = await scanner.finish();
    const { diffId, states } = await this.#states.finish();
    const compression = this.#compression;
    const blobDigest = compression === 'none' ? diffId : this.#hash.end();
    if (expect?.digest !== undefined && blobDigest !== expect.digest) {
      throw new CofaError('integrity', `the blob's digest is ${blobDigest}, expected ${expect.digest}`);
    }
    if (expect?.diffId !== undefined && diffId !== expect.diffId) {
      throw new CofaError(
        'integrity',
        `the tar's digest is ${diffId}; the image config says ${expect.diffId}`,
      );
    }
    const layer = { diffId, blobDigest, blobSize: this.#blobSize, rawSize: this.#rawSize, compression };
    return { ...layer, toc: this.#contents(), spans: SpanTable.build({ ...layer, spans, states }) };
  }

  #contents(): Toc {
    const { file, onEntry } = this.#options;
    if (file === undefined) return (this.#toc as TocBuilder).finish();
    const toc = tocOfFile(file, this.#rawSize);
    if (onEntry === undefined) return toc;
    for (const entry of toc.entries) onEntry(entry);
    return { entries: [] };
  }

  close(): void {
    this.#scanner?.close();
  }

  /** Adds to an error which layer it is about. */
  name(error: unknown): unknown {
    const { expect } = this.#options;
    const layer = expect?.digest ?? expect?.diffId;
    if (!(error instanceof CofaError) || layer === undefined) return error;
    return new CofaError(error.code, `layer ${layer}: ${error.message}`, {
      cause: error,
      ...(error.hint !== undefined && { hint: error.hint }),
    });
  }

  async #begin(): Promise<SpanScanner> {
    const head = this.#head;
    this.#head = Buffer.alloc(0);
    this.#compression = this.#options.file === undefined ? detectCompression(head) : 'none';
    this.#scanner = new SpanScanner(openDecoder(this.#compression), {
      onRaw: (bytes) => this.#takeRaw(bytes),
      ...(this.#options.hashBeside !== undefined && { ahead: BESIDE_SEGMENTS }),
      pause: async () => {
        await pause();
        this.#options.signal?.throwIfAborted();
      },
    });
    await this.#scan(this.#scanner, head);
    return this.#scanner;
  }

  #scan(scanner: SpanScanner, chunk: Uint8Array): Promise<void> {
    if (this.#compression !== 'none') this.#hash.update(chunk);
    return scanner.push(chunk);
  }

  #tooLarge(): CofaError {
    return new CofaError(
      'unsupported',
      `it unpacks to more than ${this.#mostRaw} bytes, from ${this.#options.expect?.size}`,
      { hint: 'push the layer with gzip, which keeps so much emptiness in more bytes' },
    );
  }

  #takeRaw(bytes: Buffer): void | Promise<void> {
    const offset = this.#rawSize;
    this.#rawSize += bytes.length;
    if (this.#rawSize > this.#mostRaw) throw this.#tooLarge();
    const hashed = this.#states.update(bytes);
    this.#toc?.push(bytes);
    const taken = this.#options.onRaw?.(offset, bytes);
    if (hashed === undefined || taken === undefined) return hashed ?? taken;
    return Promise.all([hashed, taken]).then(() => {});
  }
}

function openDecoder(compression: Compression): LayerDecoder {
  switch (compression) {
    case 'gzip':
      return new GzipDecoder({ track: true, marks: SPAN_SIZE });
    case 'zstd':
      return new ZstdDecoder();
    case 'none':
      return new PlainDecoder();
  }
}
