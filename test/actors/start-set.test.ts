/** How recordings of starts become the set of blocks that a startup pack holds. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { firstBlocks, mergeStarts, type StartSet } from '../../actors/start-set.ts';

const A = `sha256:${'a'.repeat(64)}`;
const B = `sha256:${'b'.repeat(64)}`;
const blocksOf = ({ devices, runs }: StartSet) =>
  runs.flatMap(([device, first, count]) =>
    Array.from({ length: count }, (_, i) => `${devices[device]?.slice(7, 8)}${first + i}`),
  );
const start = (devices: string[], ...runs: Array<[number, number, number]>): StartSet => ({ devices, runs });

/** Of recordings that count the same. */
const merge = (starts: StartSet[]) => mergeStarts(starts.map((set) => ({ set, weight: 1 })));

const anyStart = fc
  .uniqueArray(fc.tuple(fc.nat(1), fc.nat(40)), { selector: ([d, b]) => `${d}/${b}` })
  .map((blocks) => start([A, B], ...blocks.map(([d, b]): [number, number, number] => [d, b, 1])));

describe('recordings of starts', () => {
  test('a single one is the set, in its order, neighbours joined', () => {
    const set = merge([start([B, A], [1, 5, 1], [1, 6, 2], [0, 1, 1], [1, 4, 1])]);
    expect(blocksOf(set)).toEqual(['a5', 'a6', 'a7', 'b1', 'a4']);
    expect(set.runs.length).toBe(3);
  });

  test('of several, what less than half of them read is left out', () => {
    const set = merge([
      start([A], [0, 0, 3]),
      start([A], [0, 0, 2], [0, 9, 1]),
      start([A], [0, 0, 2], [0, 7, 1]),
    ]);
    expect(blocksOf(set)).toEqual(['a0', 'a1']);
  });

  test('the place of a block is the mean of its places', () => {
    const set = merge([
      start([A], [0, 1, 1], [0, 2, 1], [0, 3, 1], [0, 8, 1]),
      start([A], [0, 8, 1], [0, 2, 1], [0, 1, 1], [0, 3, 1]),
    ]);
    expect(blocksOf(set)).toEqual(['a1', 'a2', 'a8', 'a3']);
  });

  test('one that counts as much as two others outvotes them', () => {
    const set = mergeStarts([
      { set: start([A], [0, 1, 1], [0, 2, 1]), weight: 2 },
      { set: start([A], [0, 2, 1], [0, 3, 1]), weight: 0.9 },
      { set: start([A], [0, 3, 1]), weight: 0.9 },
    ]);
    expect(blocksOf(set)).toEqual(['a1', 'a2']);
  });

  test('empty ones do not count', () => {
    expect(blocksOf(merge([start([A], [0, 1, 1]), start([])]))).toEqual(['a1']);
    expect(merge([])).toEqual({ devices: [], runs: [] });
  });

  test('whatever they are: no block twice, none invented, and the same again', () => {
    fc.assert(
      fc.property(fc.array(anyStart, { maxLength: 6 }), (starts) => {
        const set = merge(starts);
        const blocks = blocksOf(set);
        expect(new Set(blocks).size).toBe(blocks.length);
        const known = new Set(starts.flatMap(blocksOf));
        expect(blocks.every((block) => known.has(block))).toBe(true);
        expect(merge(starts)).toEqual(set);
        expect(blocksOf(merge([set]))).toEqual(blocks);
      }),
    );
  });

  test('a limit keeps the blocks that are read first', () => {
    const set = start([A, B], [0, 0, 3], [1, 0, 3]);
    expect(blocksOf(firstBlocks(set, 4))).toEqual(['a0', 'a1', 'a2', 'b0']);
    expect(blocksOf(firstBlocks(set, 0))).toEqual([]);
    expect(firstBlocks(set, 100).runs).toEqual(set.runs);
  });
});
