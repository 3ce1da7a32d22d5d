/**
 * The shape of layers: which blocks each span has, and how many compressed bytes. It is in the span tables of a store and not in
 * the log; an export takes it along, so that `cofa replay what-if` can run a start again anywhere.
 */
import { readFileSync } from 'node:fs';
import { constants, zstdCompressSync } from 'node:zlib';
import { z } from 'zod';
import type { LayerGeometry } from '../../actors/block-map.ts';
import type { StartSet } from '../../actors/start-set.ts';
import { CofaError } from '../../schemas/errors.ts';
import { decodeHints, startOf } from '../image/hints/hints.ts';
import { SpanTable } from '../image/span-table.ts';
import { Layout } from '../store/layout.ts';
import { decodeRecord, type RawRecord } from './record.ts';
import type { Beginning } from './replay-log.ts';

/** Spans of one table, and of all tables of a file: 10 GB of layers have 10,000. */
const MOST_SPANS = 1 << 20;
const MOST_TABLES = 4_096;

const count = z.int().min(0);

/** A layer by its span table. */
const TableShape = z.object({
  blockSize: count.min(512).max(1 << 24),
  /** Uncompressed bytes of the layer. */
  rawSize: count,
  /** Bytes of the table as a sidecar has it, about. */
  packedBytes: count,
  /** [blocks, compressed bytes] of each span, one after the other. */
  spans: z
    .array(count)
    .min(2)
    .max(2 * MOST_SPANS)
    .refine((spans) => spans.length % 2 === 0 && spans.every((one, at) => at % 2 === 1 || one > 0)),
});

export type TableShape = z.output<typeof TableShape>;

const ShapesRecord = z.object({
  tables: z.record(z.string(), TableShape),
  /** By manifest: bytes of the flat metadata as a sidecar has them, about. */
  flats: z.record(z.string(), count),
  /** By manifest: what the sidecar's hints say of the image's own command; layers by diffID. */
  hints: z.record(
    z.string(),
    z.object({
      devices: z.array(z.string()).max(1_024),
      runs: z.array(z.tuple([count, count, count])).max(1 << 17),
    }),
  ),
});

export type ShapesRecord = z.output<typeof ShapesRecord>;

/** Where the shapes of a log's layers are found. */
export interface Shapes {
  /** By the name of the table in the store: its digest, or its blob's. */
  table(name: string): TableShape | undefined;
  /** Bytes of an image's flat metadata, as a sidecar has them, by its manifest. */
  flatBytes(manifest: string): number | undefined;
  /** What the image's hints say of its own command; layers by diffID. */
  hints(manifest: string): StartSet | undefined;
}

export const NO_SHAPES: Shapes = {
  table: () => undefined,
  flatBytes: () => undefined,
  hints: () => undefined,
};

/** The shapes in the store of a root; what cannot be read has none. */
export function shapesOfRoot(root: string): Shapes {
  const layout = new Layout(root);
  return {
    table: (name) => orNone(() => shapeOf(readFileSync(layout.spans(name)))),
    flatBytes: (manifest) => orNone(() => packedBytesOf(readFileSync(layout.flat(manifest)))),
    hints: (manifest) =>
      orNone(() => {
        const hints = decodeHints(readFileSync(layout.hints(manifest)));
        return startOf(hints, 'default', new Set(hints.devices));
      }),
  };
}

/** As an export stored them. Error `integrity` where they are none. */
export function shapesOfRecord(value: unknown): Shapes {
  const { data, error } = ShapesRecord.safeParse(value);
  if (data === undefined)
    throw new CofaError('integrity', 'the shapes of layers in the file are damaged', { cause: error });
  return {
    table: (name) => (Object.hasOwn(data.tables, name) ? data.tables[name] : undefined),
    flatBytes: (manifest) => (Object.hasOwn(data.flats, manifest) ? data.flats[manifest] : undefined),
    hints: (manifest) => (Object.hasOwn(data.hints, manifest) ? data.hints[manifest] : undefined),
  };
}

/** Learns from events which shapes an export is to take along. */
export class ShapeCollector {
  readonly #shapes: Shapes;
  readonly #tables = new Set<string>();
  readonly #manifests = new Set<string>();

  constructor(shapes: Shapes) {
    this.#shapes = shapes;
  }

  learnBeginning({ state }: Beginning): void {
    for (const { table, blob } of state.layers.values()) this.#tables.add(table ?? blob);
  }

  learn(raw: RawRecord, { type, record }: ReturnType<typeof decodeRecord>): void {
    const { table, blob } = record;
    if (type === 'layer.opened') this.#tables.add(typeof table === 'string' ? table : String(blob));
    if (type === 'image.prepared')
      this.#manifests.add(`sha256:${raw.subject.slice(raw.subject.lastIndexOf('.') + 1)}`);
  }

  /** Those that are at hand, up to a bound. */
  collect(): ShapesRecord {
    const found: ShapesRecord = { tables: {}, flats: {}, hints: {} };
    let left = MOST_SPANS;
    for (const name of [...this.#tables].slice(0, MOST_TABLES)) {
      const shape = this.#shapes.table(name);
      if (shape === undefined || shape.spans.length / 2 > left) continue;
      left -= shape.spans.length / 2;
      found.tables[name] = shape;
    }
    for (const manifest of [...this.#manifests].slice(0, MOST_TABLES)) {
      const bytes = this.#shapes.flatBytes(manifest);
      if (bytes !== undefined) found.flats[manifest] = bytes;
      const hints = this.#shapes.hints(manifest);
      if (hints !== undefined)
        found.hints[manifest] = { devices: [...hints.devices], runs: hints.runs.map(([...run]) => run) };
    }
    return found;
  }
}

/** A layer as its actor sees it, with the compressed bytes of each span. */
export class LayerShape implements LayerGeometry {
  readonly blockSize: number;
  readonly blockCount: number;
  readonly spanCount: number;
  readonly rawSize: number;
  readonly #starts: number[];
  readonly #bytes: number[];

  /** `spans`: blocks and compressed bytes of each. */
  constructor(
    { blockSize, rawSize }: { blockSize: number; rawSize: number },
    spans: ReadonlyArray<readonly [blocks: number, bytes: number]>,
  ) {
    this.blockSize = blockSize;
    this.rawSize = rawSize;
    this.spanCount = spans.length;
    this.#starts = [];
    this.#bytes = [];
    let next = 0;
    for (const [blocks, bytes] of spans) {
      this.#starts.push(next);
      this.#bytes.push(bytes);
      next += blocks;
    }
    this.blockCount = next;
    this.#starts.push(next);
  }

  static of({ blockSize, rawSize, spans }: TableShape): LayerShape {
    const pairs: Array<[number, number]> = [];
    for (let at = 0; at + 1 < spans.length; at += 2) pairs.push([spans[at] ?? 0, spans[at + 1] ?? 0]);
    return new LayerShape({ blockSize, rawSize }, pairs);
  }

  /** A layer of which only the sizes are known: spans of 16 blocks that are alike. */
  static guessed(blockSize: number, rawSize: number, blobSize: number): LayerShape {
    const blockCount = Math.max(1, Math.ceil(rawSize / blockSize));
    const spans: Array<[number, number]> = [];
    for (let first = 0; first < blockCount; first += 16) {
      const blocks = Math.min(16, blockCount - first);
      spans.push([blocks, Math.ceil((blobSize * blocks) / blockCount)]);
    }
    return new LayerShape({ blockSize, rawSize }, spans);
  }

  /** Compressed bytes of all spans. */
  get bytes(): number {
    return this.#bytes.reduce((sum, one) => sum + one, 0);
  }

  span(index: number): { firstBlock: number; blockCount: number } {
    const firstBlock = this.#starts[index] ?? 0;
    return { firstBlock, blockCount: (this.#starts[index + 1] ?? firstBlock) - firstBlock };
  }

  /** Compressed bytes of a span. */
  bytesOf(span: number): number {
    return this.#bytes[span] ?? 0;
  }

  spanOfBlock(block: number): number {
    let low = 0;
    let high = this.spanCount - 1;
    while (low < high) {
      const middle = (low + high + 1) >>> 1;
      if ((this.#starts[middle] ?? 0) <= block) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** The same bytes in blocks of another size. A span that holds no whole block joins the one before it. */
  withBlocks(blockSize: number): LayerShape {
    if (blockSize === this.blockSize) return this;
    const blockCount = Math.max(1, Math.ceil(this.rawSize / blockSize));
    const spans: Array<[number, number]> = [];
    let from = 0;
    let bytes = 0;
    for (let span = 0; span < this.spanCount; span++) {
      bytes += this.bytesOf(span);
      const end =
        span + 1 === this.spanCount
          ? blockCount
          : Math.min(blockCount, Math.floor(((this.#starts[span + 1] ?? 0) * this.blockSize) / blockSize));
      if (end <= from) continue;
      spans.push([end - from, bytes]);
      from = end;
      bytes = 0;
    }
    const last = spans.at(-1);
    if (last !== undefined) last[1] += bytes;
    return new LayerShape({ blockSize, rawSize: this.rawSize }, spans);
  }
}

function orNone<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}

function shapeOf(stored: Buffer): TableShape {
  const table = SpanTable.decode(stored);
  const spans: number[] = [];
  for (let index = 0; index < table.spanCount; index++) {
    const { blockCount, inStart, inEnd } = table.span(index);
    spans.push(blockCount, inEnd - inStart);
  }
  const { blockSize, rawSize } = table;
  return { blockSize, rawSize, packedBytes: packedBytesOf(stored), spans };
}

/** Parts of a sidecar travel as zstd. */
const packedBytesOf = (stored: Buffer): number =>
  zstdCompressSync(stored, { params: { [constants.ZSTD_c_compressionLevel]: 3 } }).length;
