/** How recordings of many nodes become one set. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  addRecording,
  FLEET_STARTS,
  isWorth,
  mergeNodes,
  type NodeRecording,
} from '../../actors/start-fleet.ts';
import type { StartSet } from '../../actors/start-set.ts';

const A = `sha256:${'a'.repeat(64)}`;
const reads = (...blocks: number[]): StartSet => ({
  devices: [A],
  runs: blocks.map((block): [number, number, number] => [0, block, 1]),
});
const of = (node: string, ...blocks: number[]): NodeRecording => ({ node, set: reads(...blocks) });
const blocksOf = ({ runs }: StartSet) =>
  runs.flatMap(([, first, count]) => Array.from({ length: count }, (_, at) => first + at));

describe('recordings of a fleet', () => {
  test('each node counts the same, however often it has recorded', () => {
    const busy = Array.from({ length: 9 }, () => of('busy', 1, 100));
    const rest = ['two', 'three', 'four'].map((node) => of(node, 1, 2));
    expect(blocksOf(mergeNodes([...busy, ...rest]))).toEqual([1, 2]);
  });

  test('less than half of the nodes, liars too, add no block and take none away', () => {
    const honest = Array.from({ length: 11 }, (_, at) => of(`node-${at}`, 5, 6, 7));
    const liars = Array.from({ length: 10 }, (_, at) => of(`liar-${at}`, 900, 901));
    expect(blocksOf(mergeNodes([...liars, ...honest]))).toEqual([5, 6, 7]);
  });

  test('of one node the newest recording counts most', () => {
    const recordings = [of('one', 1, 9), of('one', 1, 2), of('two', 1, 2), of('two', 1, 9)];
    expect(blocksOf(mergeNodes(recordings)).sort()).toEqual([1, 2, 9]);
    expect(blocksOf(mergeNodes([of('one', 3), of('one', 4), of('one', 4, 5)]))).toEqual([4, 5]);
  });

  test('the newest recordings of so many nodes are kept, and so many of one', () => {
    let kept: NodeRecording[] = [];
    for (let at = 0; at < 100; at++)
      for (const block of [1, 2, 3]) kept = addRecording(kept, of(`node-${at}`, block));
    expect(kept.length).toBe(FLEET_STARTS.nodes * FLEET_STARTS.perNode);
    expect(kept.at(-1)).toEqual(of('node-99', 3));
    expect(kept[0]).toEqual(of('node-76', 2));
  });

  test('a thousand nodes that record the same write a few times; one that differs always does', () => {
    let seed = 1;
    const random = () => (seed = (seed * 16_807) % 2_147_483_647) / 2_147_483_647;
    let kept: NodeRecording[] = [];
    let written = 0;
    for (let at = 0; at < 1_000; at++) {
      const mine = of(`node-${at}`, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10);
      if (!isWorth(kept, mine, random)) continue;
      kept = addRecording(kept, mine);
      written += 1;
    }
    expect(written).toBeGreaterThan(FLEET_STARTS.few);
    expect(written).toBeLessThan(100);
    expect(isWorth(kept, of('odd', 1, 2, 3, 4, 5, 6, 7, 20, 21, 22), () => 0.99)).toBe(true);
  });

  test('the same recordings of nodes in another order are the same set', () => {
    const recordings = fc.uniqueArray(
      fc.record({ node: fc.stringMatching(/^[a-h]$/), blocks: fc.uniqueArray(fc.nat(30), { minLength: 1 }) }),
      { selector: ({ node }) => node, maxLength: 8 },
    );
    fc.assert(
      fc.property(recordings, (all) => {
        const there = all.map(({ node, blocks }) => of(node, ...blocks));
        expect(new Set(blocksOf(mergeNodes(there.toReversed())))).toEqual(
          new Set(blocksOf(mergeNodes(there))),
        );
      }),
    );
  });
});
