/** Compares what hints name with what a start read: pure. */
import { Readahead } from '../../actors/readahead.ts';
import type { StartSet } from '../../actors/start-set.ts';
import { cutsOf } from '../../src/index/cut-spans.ts';
import type { SpanTable } from '../../src/image/span-table.ts';

export interface Block {
  diffId: string;
  block: number;
}

/** Blocks, and the bytes that they take in their layers, compressed: of each span their share. */
export interface Blocks {
  blocks: Block[];
  bytes: number;
}

export interface Counted {
  read: Blocks;
  named: Blocks;
  /** Named, and not read. */
  vain: Blocks;
  /** Read, and not named. */
  missed: Blocks;
  /** Blocks that no hint named and for which a reader waits, one a job, and what such jobs and those ahead of them bring. */
  asked: { blocks: Block[]; bytes: number };
  /** Of everything that the start fetches: spans are fetched as a whole, and cut where hints begin and end. */
  fetchedBytes: number;
}

export function countHints(named: StartSet, read: StartSet, tables: ReadonlyMap<string, SpanTable>): Counted {
  const layers = new Map(
    [...tables].map(([diffId, table]) => [diffId, new Layer(table, blocksIn(named, diffId))]),
  );
  const isRead = new Map([...tables.keys()].map((diffId) => [diffId, blocksIn(read, diffId)]));
  const all = (set: StartSet) =>
    set.runs
      .flatMap(([device, first, count]) =>
        Array.from(
          { length: count },
          (_, at): Block => ({ diffId: set.devices[device] as string, block: first + at }),
        ),
      )
      .filter(({ diffId }) => layers.has(diffId));
  const sized = (blocks: Block[]): Blocks => ({
    blocks,
    bytes: blocks.reduce((sum, { diffId, block }) => sum + (layers.get(diffId) as Layer).bytesOf(block), 0),
  });
  const [allRead, allNamed] = [all(read), all(named)];
  const asked: Counted['asked'] = { blocks: [], bytes: 0 };
  for (const { diffId, block } of allRead) {
    const bytes = (layers.get(diffId) as Layer).demand(block);
    if (bytes === 0) continue;
    asked.blocks.push({ diffId, block });
    asked.bytes += bytes;
  }
  return {
    read: sized(allRead),
    named: sized(allNamed),
    vain: sized(allNamed.filter(({ diffId, block }) => isRead.get(diffId)?.has(block) !== true)),
    missed: sized(allRead.filter(({ diffId, block }) => !(layers.get(diffId) as Layer).isNamed(block))),
    asked,
    fetchedBytes: [...layers.values()].reduce((sum, { hintedBytes }) => sum + hintedBytes, asked.bytes),
  };
}

function blocksIn({ devices, runs }: StartSet, diffId: string): Set<number> {
  const found = new Set<number>();
  for (const [device, first, count] of runs)
    if (devices[device] === diffId) for (let block = first; block < first + count; block++) found.add(block);
  return found;
}

/** The spans of a layer, cut for its hints, and which of them have come. */
class Layer {
  readonly hintedBytes: number;
  readonly #table: SpanTable;
  readonly #named: ReadonlySet<number>;
  /** First blocks of the spans, and their bytes. */
  readonly #firsts: number[] = [];
  readonly #bytes: number[] = [];
  readonly #come = new Set<number>();
  readonly #readahead: Readahead;

  constructor(table: SpanTable, named: ReadonlySet<number>) {
    this.#table = table;
    this.#named = named;
    const cuts = cutsOf(table, named);
    for (let index = 0; index < table.spanCount; index++) {
      const { firstBlock, blockCount, inStart, inEnd } = table.span(index);
      const parts = [firstBlock, ...(cuts.get(index) ?? [])];
      for (const [at, first] of parts.entries()) {
        this.#firsts.push(first);
        const blocks = (parts[at + 1] ?? firstBlock + blockCount) - first;
        this.#bytes.push(((inEnd - inStart) * blocks) / blockCount);
      }
    }
    this.#readahead = new Readahead(this.#firsts.length, (span) => this.#sizeOf(span));
    this.#readahead.turn(true);
    this.#readahead.isForetold = named.size > 0;
    this.#readahead.observe(2, 2);
    let hinted = 0;
    for (const block of named) hinted += this.#fetch(this.#spanOf(block));
    this.hintedBytes = hinted;
  }

  isNamed(block: number): boolean {
    return this.#named.has(block);
  }

  bytesOf(block: number): number {
    const { inStart, inEnd, blockCount } = this.#table.span(this.#table.spanOfBlock(block));
    return (inEnd - inStart) / blockCount;
  }

  /** Bytes that are fetched as a reader wants the block; 0 where it is there. */
  demand(block: number): number {
    const span = this.#spanOf(block);
    let bytes = this.#fetch(span);
    if (bytes === 0) return 0;
    this.#readahead.demanded(span);
    for (;;) {
      const run = this.#readahead.next(2, (other) => !this.#come.has(other));
      if (run === undefined) return bytes;
      const [first, count] = run;
      for (let other = first; other < first + count; other++) bytes += this.#fetch(other);
    }
  }

  #fetch(span: number): number {
    if (this.#come.has(span)) return 0;
    this.#come.add(span);
    return this.#bytes[span] as number;
  }

  #spanOf(block: number): number {
    let low = 0;
    let high = this.#firsts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >>> 1;
      if ((this.#firsts[middle] as number) <= block) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  #sizeOf(span: number): number {
    return (this.#firsts[span + 1] ?? this.#table.blockCount) - (this.#firsts[span] as number);
  }
}
