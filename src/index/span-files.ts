/**
 * Reads files of an image that was just indexed, out of its layers in the registry. It finds the spans by the flat
 * image's metadata and the span tables, and fetches one span at a time.
 */
import { decodeSpans } from '../image/decode-span.ts';
import { FlatFiles, type FoundFile } from '../image/flat-files.ts';
import { EnoughHints, type ImageFiles } from '../image/hints/image-files.ts';
import { LARGEST_SPAN, type SpanTable } from '../image/span-table.ts';

/** Bytes [start, end) of the blob of a device, as they are in the registry. */
export type FetchRange = (device: number, start: number, end: number) => AsyncIterable<Uint8Array>;

/** Decoded spans that are kept: files that import each other lie side by side. */
const KEPT = 24;
/** Spans that are fetched, at most; then the search has enough. */
const MOST_SPANS = 1_024;

export class SpanFiles implements ImageFiles {
  readonly flat: FlatFiles;
  readonly #image: Buffer;
  readonly #tables: readonly SpanTable[];
  readonly #fetch: FetchRange;
  readonly #signal: AbortSignal | undefined;
  /** Blocks of decoded spans, the most recently used at the end. */
  readonly #spans = new Map<string, Promise<Buffer[]>>();
  #fetched = 0;

  /** `tables`: of the flat image's devices, in their order. */
  constructor(image: Buffer, tables: readonly SpanTable[], fetch: FetchRange, signal?: AbortSignal) {
    this.flat = new FlatFiles(image);
    this.#image = image;
    this.#tables = tables;
    this.#fetch = fetch;
    this.#signal = signal;
  }

  find(path: string): FoundFile | undefined {
    return this.flat.find(path);
  }

  list(path: string): string[] {
    return this.flat.list(path);
  }

  paths(): Iterable<string> {
    return this.flat.paths();
  }

  /** Zeros where the file has holes. Errors: those of the registry, `integrity`; EnoughHints. */
  async read(file: FoundFile, at: number, length: number): Promise<Buffer> {
    const bytes = Buffer.alloc(Math.max(0, Math.min(length, file.size - at)));
    for (const extent of this.flat.extents(file)) {
      const from = Math.max(at, extent.at);
      const to = Math.min(at + bytes.length, extent.at + extent.length);
      if (from >= to) continue;
      const place = extent.from + from - extent.at;
      const target = bytes.subarray(from - at, to - at);
      if (extent.device === undefined) this.#image.copy(target, 0, place, place + target.length);
      else if (!(await this.#readDevice(extent.device, place, target))) return Buffer.alloc(0);
    }
    return bytes;
  }

  /** False: the layer cannot be read from its middle. */
  async #readDevice(device: number, from: number, target: Buffer): Promise<boolean> {
    const table = this.#tables[device];
    if (table === undefined) return false;
    for (let done = 0; done < target.length; ) {
      const block = Math.floor((from + done) / table.blockSize);
      if (block >= table.blockCount) return false;
      const { index, firstBlock, blockCount } = table.span(table.spanOfBlock(block));
      // A layer without checkpoints in its middle has such spans: none of it is read.
      if (blockCount * table.blockSize > LARGEST_SPAN) return false;
      const blocks = await this.#span(device, table, index);
      const source = blocks[block - firstBlock];
      if (source === undefined) return false;
      const count = source.copy(target, done, from + done - block * table.blockSize);
      // The tar has no bytes behind its last one.
      if (count === 0) return false;
      done += count;
    }
    return true;
  }

  #span(device: number, table: SpanTable, index: number): Promise<Buffer[]> {
    const key = `${device}/${index}`;
    let span = this.#spans.get(key);
    this.#spans.delete(key);
    if (span === undefined) {
      if (++this.#fetched > MOST_SPANS) throw new EnoughHints();
      span = this.#decode(device, table, index);
    }
    this.#spans.set(key, span);
    if (this.#spans.size > KEPT) this.#spans.delete(this.#spans.keys().next().value as string);
    return span;
  }

  async #decode(device: number, table: SpanTable, index: number): Promise<Buffer[]> {
    const { inStart, inEnd } = table.span(index);
    const blocks: Buffer[] = [];
    const take = (_: number, bytes: Buffer) => void blocks.push(bytes);
    await decodeSpans(table, index, 1, this.#fetch(device, inStart, inEnd), take, this.#signal);
    return blocks;
  }
}
