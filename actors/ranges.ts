/** Runs of blocks, as events, orders and answers name them; runs of spans look the same. */
export type Ranges = Array<[first: number, count: number]>;

/** Blocks, or spans, of all ranges together. */
export const sizeOf = (ranges: ReadonlyArray<readonly [number, number]>): number =>
  ranges.reduce((sum, [, count]) => sum + count, 0);

function* numbersIn(ranges: ReadonlyArray<readonly [number, number]>): IterableIterator<number> {
  for (const [first, count] of ranges)
    for (let number = first; number < first + count; number++) yield number;
}
export { numbersIn as blocksOf, numbersIn as spansOf };

/** The blocks of the ranges that hold, in order. */
export function within(
  ranges: ReadonlyArray<readonly [number, number]>,
  holds: (block: number) => boolean,
): Ranges {
  const chosen: Ranges = [];
  for (const block of numbersIn(ranges)) if (holds(block)) addBlock(chosen, block);
  return chosen;
}

/** Adds a block that comes after all that are there. */
export function addBlock(ranges: Ranges, block: number): void {
  const last = ranges.at(-1);
  if (last !== undefined && last[0] + last[1] === block) last[1] += 1;
  else ranges.push([block, 1]);
}
