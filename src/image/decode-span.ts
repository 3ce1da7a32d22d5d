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
 * The bytes that `onBlock` gets belong to it. The next block is decoded when its promise has settled. With a `batch` of more than
 * one it gets as many neighbouring blocks at once, the first one's number and the bytes of all, and the decoder overwrites these
 * bytes once the call has returned or its promise settled; what is verified when an error ends the run is handed out before.
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
  batch = 1,
): Promise<void> {
  const blocks = new BlockReader(table, first, count, batch);
  let isTaking = false;
  try {
    signal?.throwIfAborted();
    for await (const chunk of body) {
      for (let at = 0; at < chunk.length && !blocks.ended; ) {
        at += blocks.input(chunk, at);
        for (let block = blocks.next(); block !== undefined; block = blocks.next()) {
          if (blocks.isFull) {
            isTaking = true;
            const taken = onBlock(...blocks.take());
            if (taken !== undefined) await taken;
            isTaking = false;
          }
          if (block % BLOCKS_BEFORE_PAUSE === 0) await pause();
          signal?.throwIfAborted();
        }
      }
      if (blocks.ended) break;
      signal?.throwIfAborted();
    }
    blocks.checkEnd();
  } catch (error) {
    if (blocks.isAny && !isTaking) await onBlock(...blocks.take());
    throw error;
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
  readonly #batch: number;
  /** Blocks that are verified and not handed out, from the target's beginning on. */
  #ready = 0;
  /** Raw bytes before the first block that are still to be skipped. */
  #skip: number;
  /** The blocks that are ready, and the one that is being filled. */
  #target: NativeBuffer;
  #filled = 0;

  constructor(table: SpanTable, first: number, count: number, batch: number) {
    const from = table.span(first);
    const last = table.span(first + count - 1);
    if (last.index < from.index) throw new RangeError(`${count} spans`);
    this.#table = table;
    this.#inStart = from.inStart;
    this.#inEnd = last.inEnd;
    this.#block = from.firstBlock;
    this.#endBlock = last.firstBlock + last.blockCount;
    this.#skip = from.firstBlock * table.blockSize - from.out;
    this.#batch = Math.min(batch, this.#endBlock - this.#block);
    this.#target = new NativeBuffer(this.#batch * table.blockSize, false);
    this.#decoder = this.#named(() => openDecoder(table, first));
  }

  get ended(): boolean {
    return this.#block === this.#endBlock;
  }

  get isAny(): boolean {
    return this.#ready > 0;
  }

  /** Whether what is verified has to be handed out, to make room or because it is all. */
  get isFull(): boolean {
    return this.#ready === this.#batch || (this.ended && this.isAny);
  }

  /** The blocks that are verified, as the number of the first one and the bytes of all. */
  take(): [block: number, bytes: Buffer] {
    const last = this.#block - 1;
    const size = (this.#ready - 1) * this.#table.blockSize + this.#table.blockLength(last);
    const bytes = this.#target.bytes.subarray(0, size);
    const first = this.#block - this.#ready;
    this.#ready = 0;
    if (this.#batch === 1 && !this.ended) this.#target = new NativeBuffer(this.#table.blockSize, false);
    return [first, bytes];
  }

  /**
   * Takes bytes of the chunk from `at` on; the decoder has used all before. Returns the number of bytes that it used.
   */
  input(chunk: Uint8Array, at: number): number {
    const room = Math.min(INPUT_SIZE, this.#inEnd - this.#inStart - this.#taken);
    if (room === 0) return chunk.length - at;
    const part = chunk.subarray(at, at + room);
    this.#taken += part.length;
    if (this.#decoder instanceof PlainDecoder) {
      this.#decoder.inputBytes(part);
      return part.length;
    }
    this.#in.bytes.set(part);
    this.#decoder.input(this.#in, 0, part.length);
    return part.length;
  }

  /** Decodes and verifies the next block, if the input so far suffices for it. Returns its number. */
  next(): number | undefined {
    const decoder = this.#decoder;
    while (!this.ended) {
      const skipping = this.#skip > 0;
      const base = this.#ready * this.#table.blockSize;
      const size = this.#table.blockLength(this.#block);
      const start = skipping ? 0 : base + this.#filled;
      const end = skipping ? Math.min(this.#skip, this.#table.blockSize) : base + size;
      const before = decoder.consumed;
      const written = this.#named(() => decoder.run(this.#target, start, end));
      if (written === 0 && decoder.consumed === before) return undefined;
      if (skipping) {
        this.#skip -= written;
        continue;
      }
      this.#filled += written;
      if (this.#filled === size) return this.#verify(base, size);
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

  #verify(base: number, size: number): number {
    const block = this.#block;
    if (!this.#table.verify(block, this.#target.bytes.subarray(base, base + size))) this.#fail('wrong bytes');
    this.#block += 1;
    this.#ready += 1;
    this.#filled = 0;
    return block;
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
