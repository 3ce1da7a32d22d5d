/**
 * The block states of one layer device, with the counts that follow from them: blocks by state, and what each span
 * lacks. This class alone writes the states, so the counts are kept up to date block by block and never recounted.
 */
import { type BlockEvent, BlockState, step } from './block.ts';
import { type BlockRun, blockRun, type SpanRun } from './ranges.ts';

/** Which blocks a span has; src/image/span-table.ts fits. Spans are in order, without gaps, none empty. */
export interface LayerGeometry {
  readonly blockCount: number;
  readonly spanCount: number;
  spanOfBlock(block: number): number;
  span(index: number): { firstBlock: number; blockCount: number };
}

export class BlockMap {
  readonly blockCount: number;
  readonly spanCount: number;
  readonly #geometry: LayerGeometry;
  readonly #states: Uint8Array;
  /** First block of each span, and the block count at the end. */
  readonly #starts: Uint32Array;
  /** Blocks of each span that are not present. */
  readonly #missing: Uint32Array;
  /** Blocks by state. */
  readonly #counts = new Uint32Array(3);

  /** Throws an Error where the states are not one zeroed byte a block, or the spans do not cover the blocks. */
  constructor(geometry: LayerGeometry, states: Uint8Array) {
    if (states.length !== geometry.blockCount) throw new Error('one state byte a block is needed');
    if (states.some((state) => state !== BlockState.absent))
      throw new Error('the block states are not zeroed');
    this.blockCount = geometry.blockCount;
    this.spanCount = geometry.spanCount;
    this.#geometry = geometry;
    this.#states = states;
    this.#counts[BlockState.absent] = geometry.blockCount;
    this.#starts = new Uint32Array(geometry.spanCount + 1);
    this.#missing = new Uint32Array(geometry.spanCount);
    let next = 0;
    for (let span = 0; span < geometry.spanCount; span++) {
      const { firstBlock, blockCount } = geometry.span(span);
      if (firstBlock !== next || blockCount < 1)
        throw new Error(`span ${span} does not follow the one before it`);
      this.#starts[span] = firstBlock;
      this.#missing[span] = blockCount;
      next += blockCount;
    }
    if (next !== geometry.blockCount) throw new Error('the spans do not cover the blocks');
    this.#starts[geometry.spanCount] = next;
  }

  /** Blocks by state. */
  get counts(): { absent: number; fetching: number; present: number } {
    const [absent = 0, fetching = 0, present = 0] = this.#counts;
    return { absent, fetching, present };
  }

  get isFull(): boolean {
    return this.#counts[BlockState.present] === this.blockCount;
  }

  spanOf(block: number): number {
    return this.#geometry.spanOfBlock(block);
  }

  /** First block of the span; `spanCount` is allowed and gives the block count. */
  start(span: number): number {
    return this.#starts[span] ?? this.blockCount;
  }

  /** The block after the span's last. */
  end(span: number): number {
    return this.start(span + 1);
  }

  /** Blocks of the span. */
  size(span: number): number {
    return this.end(span) - this.start(span);
  }

  blocksOf([first, count]: SpanRun): BlockRun {
    const start = this.start(first);
    return blockRun(start, this.start(first + count) - start);
  }

  isPresent(block: number): boolean {
    return this.#states[block] === BlockState.present;
  }

  /** Whether the span is present as a whole. */
  isComplete(span: number): boolean {
    return this.#missing[span] === 0;
  }

  /** Lets the event happen to a block of the span; false where the machine does not allow it. */
  step(span: number, block: number, event: BlockEvent): boolean {
    const from = this.#states[block] as BlockState;
    if (!step(this.#states, block, event)) return false;
    const to = this.#states[block] as BlockState;
    this.#counts[from] = (this.#counts[from] ?? 0) - 1;
    this.#counts[to] = (this.#counts[to] ?? 0) + 1;
    if (to === BlockState.present) this.#missing[span] = (this.#missing[span] ?? 0) - 1;
    else if (from === BlockState.present) this.#missing[span] = (this.#missing[span] ?? 0) + 1;
    return true;
  }

  /** For checks: what a recount finds wrong. */
  *audit(): IterableIterator<string> {
    const counts = [0, 0, 0];
    for (let span = 0; span < this.spanCount; span++) {
      let missing = 0;
      for (let block = this.start(span); block < this.end(span); block++) {
        const state = this.#states[block] as BlockState;
        counts[state] = (counts[state] ?? 0) + 1;
        if (state !== BlockState.present) missing += 1;
      }
      if (missing !== this.#missing[span])
        yield `span ${span} lacks ${missing} blocks, not ${this.#missing[span]}`;
    }
    if (counts.join() !== this.#counts.join()) yield `blocks by state are ${counts}, not ${this.#counts}`;
  }
}
