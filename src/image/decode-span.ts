import { setImmediate as pause } from 'node:timers/promises';
import { CofaError } from '../../schemas/errors.ts';
import { GzipDecoder } from './gzip.ts';
import type { LayerDecoder } from './layer-decoder.ts';
import { NativeBuffer } from './native.ts';
import { PlainDecoder } from './plain.ts';
import type { SpanTable } from './span-table.ts';
import { ZstdDecoder } from './zstd.ts';

/**
 * Decodes `count` neighbouring spans from the blob's bytes [span(first).inStart, span(first + count - 1).inEnd) and
 * hands out their blocks in order, each verified against the table. It stops reading `body` after the last block and
 * ignores bytes behind it. Blocks that it handed out before an error are verified and stay valid.
 *
 * The bytes that `onBlock` gets belong to it. The next block is decoded when its promise has settled.
 *
 * Errors: CofaError('integrity') names the block; 'unsupported' for zstd windows above 128 MiB; the reason of `signal`;
 * what `body` and `onBlock` throw; RangeError for spans that the table does not have.
 */
export async function decodeSpans(
  table: SpanTable,
  first: number,
  count: number,
  body: AsyncIterable<Uint8Array>,
  onBlock: (block: number, bytes: Buffer) => void | Promise<void>,
  signal?: AbortSignal,
): Promise<void> {
  const blocks = new BlockReader(table, first, count);
  try {
    signal?.throwIfAborted();
    for await (const chunk of body) {
      for (let at = 0; at < chunk.length && !blocks.ended; ) {
        at += blocks.input(chunk, at);
        for (let ready = blocks.next(); ready !== undefined; ready = blocks.next()) {
          const taken = onBlock(ready.block, ready.bytes);
          if (taken !== undefined) await taken;
          if (ready.block % BLOCKS_BEFORE_PAUSE === 0) await pause();
          signal?.throwIfAborted();
        }
      }
      if (blocks.ended) break;
      signal?.throwIfAborted();
    }
    blocks.checkEnd();
  } finally {
    blocks.close();
  }
}

/** The event loop gets a turn after so many blocks: a millisecond or two. */
const BLOCKS_BEFORE_PAUSE = 4;
const INPUT_SIZE = 65_536;

class BlockReader {
  readonly #table: SpanTable;
  readonly #decoder: LayerDecoder;
  readonly #in = new NativeBuffer(INPUT_SIZE, false);
  readonly #inStart: number;
  readonly #inEnd: number;
  readonly #endBlock: number;
  /** Compressed bytes taken from the body. */
  #taken = 0;
  #block: number;
  /** Raw bytes before the first block that are still to be skipped. */
  #skip: number;
  /** The block that is being filled. */
  #target: NativeBuffer;
  #filled = 0;

  constructor(table: SpanTable, first: number, count: number) {
    const from = table.span(first);
    const last = table.span(first + count - 1);
    if (last.index < from.index) throw new RangeError(`${count} spans`);
    this.#table = table;
    this.#inStart = from.inStart;
    this.#inEnd = last.inEnd;
    this.#block = from.firstBlock;
    this.#endBlock = last.firstBlock + last.blockCount;
    this.#skip = from.firstBlock * table.blockSize - from.out;
    this.#target = new NativeBuffer(table.blockSize, false);
    this.#decoder = this.#named(() => openDecoder(table, first));
  }

  get ended(): boolean {
    return this.#block === this.#endBlock;
  }

  /**
   * Takes bytes of the chunk from `at` on; the decoder has used all before. Returns the number of bytes that it used.
   */
  input(chunk: Uint8Array, at: number): number {
    const room = Math.min(INPUT_SIZE, this.#inEnd - this.#inStart - this.#taken);
    if (room === 0) return chunk.length - at;
    const part = chunk.subarray(at, at + room);
    this.#in.bytes.set(part);
    this.#taken += part.length;
    this.#decoder.input(this.#in, 0, part.length);
    return part.length;
  }

  /** The next block that the input so far suffices for. */
  next(): { block: number; bytes: Buffer } | undefined {
    const decoder = this.#decoder;
    while (!this.ended) {
      const skipping = this.#skip > 0;
      const start = skipping ? 0 : this.#filled;
      const size = this.#table.blockLength(this.#block);
      const end = skipping ? Math.min(this.#skip, this.#table.blockSize) : size;
      const before = decoder.consumed;
      const written = this.#named(() => decoder.run(this.#target, start, end));
      if (written === 0 && decoder.consumed === before) return undefined;
      if (skipping) {
        this.#skip -= written;
        continue;
      }
      this.#filled += written;
      if (this.#filled === size) return this.#take(size);
    }
    return undefined;
  }

  checkEnd(): void {
    if (this.ended) return;
    const expected = this.#inEnd - this.#inStart;
    this.#fail(
      this.#taken < expected
        ? `its compressed bytes end after ${this.#taken} of ${expected}`
        : `${expected} compressed bytes do not hold it`,
    );
  }

  close(): void {
    this.#decoder.close();
  }

  #take(size: number): { block: number; bytes: Buffer } {
    const block = this.#block;
    const bytes = this.#target.bytes.subarray(0, size);
    if (!this.#table.verify(block, bytes)) this.#fail('wrong bytes');
    this.#block += 1;
    this.#filled = 0;
    if (!this.ended) this.#target = new NativeBuffer(this.#table.blockSize, false);
    return { block, bytes };
  }

  #named<T>(action: () => T): T {
    try {
      return action();
    } catch (error) {
      if (error instanceof CofaError) this.#fail(error.message, error);
      throw error;
    }
  }

  #fail(message: string, cause?: CofaError): never {
    const code = cause?.code ?? 'integrity';
    throw new CofaError(code, `layer ${this.#table.diffId}: block ${this.#block}: ${message}`, {
      cause,
      ...(cause?.hint !== undefined && { hint: cause.hint }),
    });
  }
}

function openDecoder(table: SpanTable, first: number): LayerDecoder {
  switch (table.compression) {
    case 'gzip':
      return new GzipDecoder({ from: table.checkpoint(first) });
    case 'zstd':
      return new ZstdDecoder();
    case 'none':
      return new PlainDecoder();
  }
}
