/**
 * When the spans of an open layer were used, for the cache: reads that the FUSE threads note block by block (DeviceFile.uses),
 * and arrivals. Startup spans are those that were read right after a mount, and those that a startup pack brings.
 */
import type { LayerGeometry } from '../../actors/layer.ts';
import type { BlockRun } from '../../actors/ranges.ts';

/** What is kept of a layer that is closed. */
export interface SpanMemory {
  /** First block of each span, and the block count at the end. */
  starts: Uint32Array;
  /** Ticks. */
  lastUse: Uint32Array;
  /** 1: read in a start. */
  startup: Uint8Array;
}

export class SpanUse {
  /** `DeviceFile.uses` */
  readonly shared: SharedArrayBuffer;
  readonly starts: Uint32Array;
  readonly startup: Uint8Array;
  readonly #uses: Uint32Array;
  readonly #arrivals: Uint32Array;
  readonly #geometry: LayerGeometry;

  /** `memory`: of the time before the layer was closed; left out where it is another table's. */
  constructor(geometry: LayerGeometry, memory?: SpanMemory) {
    const { blockCount, spanCount } = geometry;
    this.#geometry = geometry;
    this.shared = new SharedArrayBuffer(4 * (1 + blockCount));
    this.#uses = new Uint32Array(this.shared);
    this.#arrivals = new Uint32Array(spanCount);
    this.startup = new Uint8Array(spanCount);
    this.starts = new Uint32Array(spanCount + 1);
    for (let span = 0; span < spanCount; span++) this.starts[span] = geometry.span(span).firstBlock;
    this.starts[spanCount] = blockCount;
    if (memory === undefined || memory.starts.some((start, span) => start !== this.starts[span])) return;
    this.#arrivals.set(memory.lastUse.subarray(0, spanCount));
    this.startup.set(memory.startup.subarray(0, spanCount));
  }

  /** The time, in ticks, that reads are noted with from now on. */
  set time(tick: number) {
    this.#uses[0] = tick;
  }

  /** Blocks have come. */
  arrived([first, count]: BlockRun): void {
    const tick = this.#uses[0] as number;
    const last = Math.min(first + count, this.#geometry.blockCount) - 1;
    if (first < 0 || last < first) return;
    for (let span = this.#geometry.spanOfBlock(first); (this.starts[span] as number) <= last; span++)
      this.#arrivals[span] = tick;
  }

  /** These blocks are read in a start. */
  markStartup(ranges: Iterable<BlockRun>): void {
    for (const [first, count] of ranges) {
      const last = Math.min(first + count, this.#geometry.blockCount) - 1;
      if (first < 0 || last < first) continue;
      for (let span = this.#geometry.spanOfBlock(first); (this.starts[span] as number) <= last; span++)
        this.startup[span] = 1;
    }
  }

  /** What was read since the tick was read in a start. */
  markReadSince(tick: number): void {
    for (let span = 0; span < this.startup.length; span++)
      if (this.#lastRead(span) >= tick) this.startup[span] = 1;
  }

  lastUse(): Uint32Array {
    return Uint32Array.from(this.#arrivals, (arrival, span) => Math.max(arrival, this.#lastRead(span)));
  }

  memory(): SpanMemory {
    return { starts: this.starts, lastUse: this.lastUse(), startup: this.startup };
  }

  #lastRead(span: number): number {
    let last = 0;
    const end = this.starts[span + 1] as number;
    for (let block = this.starts[span] as number; block < end; block++)
      last = Math.max(last, this.#uses[1 + block] as number);
    return last;
  }
}

/** Spans for a layer of which nothing is known but its blocks. */
export function unknownSpans(blockCount: number): SpanMemory {
  const count = Math.ceil(blockCount / UNKNOWN_SPAN_BLOCKS);
  const starts = Uint32Array.from({ length: count + 1 }, (_, span) =>
    Math.min(span * UNKNOWN_SPAN_BLOCKS, blockCount),
  );
  return { starts, lastUse: new Uint32Array(count), startup: new Uint8Array(count) };
}

const UNKNOWN_SPAN_BLOCKS = 16;

/** Blocks of each span that are present; `isPresent` is a byte of the states. */
export function presentIn(starts: Uint32Array, states: Uint8Array, isPresent: number): Uint32Array {
  const present = new Uint32Array(starts.length - 1);
  for (let span = 0; span < present.length; span++) {
    const end = starts[span + 1] as number;
    let count = 0;
    for (let block = starts[span] as number; block < end; block++)
      if (states[block] === isPresent) count += 1;
    present[span] = count;
  }
  return present;
}
