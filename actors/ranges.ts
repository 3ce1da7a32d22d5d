/**
 * Runs: blocks, or spans, in a row, as `[first, count]`. Blocks of a layer device and spans of its table are both counted from 0,
 * so their runs have types of their own: a run of spans does not pass for one of blocks. The types are all there is; at run time a
 * run is a plain pair.
 *
 * Messages and the log hold plain pairs. Who reads one brands it (`blockRuns`); who writes a log record copies it (`pairsOf`). A half-open
 * interval is never a pair: it is a run, or two numbers with names.
 */
declare const unit: unique symbol;

type Run<Unit extends string> = readonly [first: number, count: number] & { readonly [unit]: Unit };

export type BlockRun = Run<'block'>;
export type SpanRun = Run<'span'>;

type Pair = readonly [first: number, count: number];

export const blockRun = (first: number, count: number): BlockRun => [first, count] as Pair as BlockRun;
export const spanRun = (first: number, count: number): SpanRun => [first, count] as Pair as SpanRun;

/** Runs of blocks from a message or a record; a pair that is no run (not whole, negative or empty) is left out. */
export function blockRuns(pairs: ReadonlyArray<Pair>): BlockRun[] {
  return pairs.filter(isRun) as BlockRun[];
}

const isRun = ([first, count]: Pair): boolean =>
  Number.isSafeInteger(first) && Number.isSafeInteger(count) && first >= 0 && count > 0;

/** Copies for a message or a log record, which owns its pairs. */
export const pairsOf = (runs: ReadonlyArray<Pair>): Array<[first: number, count: number]> =>
  runs.map(([first, count]) => [first, count]);

/** Blocks, or spans, of all runs together. */
export const sizeOf = (runs: ReadonlyArray<Pair>): number => runs.reduce((sum, [, count]) => sum + count, 0);

/** The numbers of the blocks, in the order of the runs. */
export const blocksOf = (runs: Iterable<BlockRun>): IterableIterator<number> => numbersIn(runs);

/** The numbers of the spans, in the order of the runs. */
export const spansOf = (runs: Iterable<SpanRun>): IterableIterator<number> => numbersIn(runs);

function* numbersIn(runs: Iterable<Pair>): IterableIterator<number> {
  for (const [first, count] of runs) for (let number = first; number < first + count; number++) yield number;
}

/** The blocks of the runs that hold, in order. */
export function within(runs: readonly BlockRun[], holds: (block: number) => boolean): BlockRun[] {
  const chosen: BlockRun[] = [];
  for (const block of blocksOf(runs)) if (holds(block)) addBlock(chosen, block);
  return chosen;
}

/** The part of the run that lies in a layer of so many blocks; undefined: none, or its numbers are not whole. */
export function cut([first, count]: BlockRun, blockCount: number): BlockRun | undefined {
  if (!Number.isSafeInteger(first) || !Number.isSafeInteger(count)) return undefined;
  const from = Math.max(first, 0);
  const end = Math.min(first + count, blockCount);
  return end > from ? blockRun(from, end - from) : undefined;
}

/** The parts of the runs that lie in a layer of so many blocks. */
export const cutAll = (runs: readonly BlockRun[], blockCount: number): BlockRun[] =>
  runs.map((run) => cut(run, blockCount)).filter((run) => run !== undefined);

/** Adds a block that comes after all that are there. The list belongs to the caller, its last run too. */
export const addBlock = (runs: BlockRun[], block: number): void => extend(runs, block, 1);

/** Adds blocks in a row that come after all that are there. */
export const addBlocks = (runs: BlockRun[], first: number, count: number): void => extend(runs, first, count);

/** Runs of spans in ascending order; neighbours become one. */
export function joined(runs: readonly SpanRun[]): SpanRun[] {
  const sorted = [...runs].sort(([a], [b]) => a - b);
  const list: SpanRun[] = [];
  for (const [first, count] of sorted) extend(list, first, count);
  return list;
}

function extend(runs: Pair[], first: number, count: number): void {
  const last = runs.at(-1) as [number, number] | undefined;
  if (last !== undefined && last[0] + last[1] === first) last[1] += count;
  else runs.push([first, count]);
}
