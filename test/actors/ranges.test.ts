import { expect, test } from 'vitest';
import {
  addBlock,
  type BlockRun,
  blockRun,
  blockRuns,
  blocksOf,
  cut,
  joined,
  pairsOf,
  sizeOf,
  spanRun,
  within,
} from '../../actors/ranges.ts';

test('a run from outside is believed only where it is one', () => {
  const pairs = [
    [0, 2],
    [3, 0],
    [-1, 2],
    [1.5, 2],
    [Number.NaN, 1],
    [7, Number.POSITIVE_INFINITY],
    [9, 1],
  ] as const;
  expect(blockRuns(pairs)).toEqual([
    [0, 2],
    [9, 1],
  ]);
});

test('a run is cut to its layer; what lies outside of it is no run', () => {
  expect(cut(blockRun(-2, 5), 10)).toEqual([0, 3]);
  expect(cut(blockRun(8, 99), 10)).toEqual([8, 2]);
  expect(cut(blockRun(10, 1), 10)).toBeUndefined();
  expect(cut(blockRun(3, 0), 10)).toBeUndefined();
  expect(cut(blockRun(3, Number.NaN), 10)).toBeUndefined();
});

test('spans are put in order, and neighbours become one run', () => {
  const given = [spanRun(4, 2), spanRun(0, 1), spanRun(6, 1), spanRun(1, 1)];
  expect(joined(given)).toEqual([
    [0, 2],
    [4, 3],
  ]);
  // The runs that were given are as they were.
  expect(given[1]).toEqual([0, 1]);
});

test('blocks are counted, listed, chosen and collected by their runs', () => {
  const runs = [blockRun(1, 3), blockRun(8, 2)];
  expect(sizeOf(runs)).toBe(5);
  expect([...blocksOf(runs)]).toEqual([1, 2, 3, 8, 9]);
  const odd = within(runs, (block) => block !== 2);
  expect(odd).toEqual([
    [1, 1],
    [3, 1],
    [8, 2],
  ]);
  addBlock(odd, 10);
  expect(odd.at(-1)).toEqual([8, 3]);
});

test('a log record has pairs of its own', () => {
  const runs = [blockRun(1, 1)];
  const pairs = pairsOf(runs);
  addBlock(runs, 2);
  expect(pairs).toEqual([[1, 1]]);
});

test('runs of spans do not pass for runs of blocks, nor does a pair that was not checked', () => {
  const take = (run: BlockRun) => run.length;
  // @ts-expect-error -- spans
  take(spanRun(0, 1));
  // @ts-expect-error -- from whom?
  take([0, 1]);
  expect(take(blockRun(0, 1))).toBe(2);
});
