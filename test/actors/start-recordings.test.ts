/** How recordings of many nodes become one set. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  isWorth,
  mergeNodes,
  newestRecordings,
  type NodeRecording,
  START_LIMITS,
} from '../../actors/start-recordings.ts';
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

  test('of one node each recording counts the same, the newest eight', () => {
    const old = Array.from({ length: 20 }, () => of('one', 0));
    const recent = [
      ...Array.from({ length: 4 }, () => of('one', 5, 6)),
      ...Array.from({ length: 4 }, () => of('one', 5)),
    ];
    const kept = newestRecordings([...old, ...recent]);
    expect(kept).toEqual(recent);
    expect(blocksOf(mergeNodes(kept))).toEqual([5, 6]);
    expect(blocksOf(mergeNodes([...kept.slice(1), of('one', 5)]))).toEqual([5]);
  });

  test('of many nodes fewer of each are kept, the newest ones of the newest nodes', () => {
    let kept: NodeRecording[] = [];
    for (let at = 0; at < 100; at++)
      for (const block of [1, 2, 3]) kept = newestRecordings([...kept, of(`node-${at}`, block)]);
    expect(kept.length).toBe(START_LIMITS.nodes * START_LIMITS.least);
    expect(kept.at(-1)).toEqual(of('node-99', 3));
    expect(kept[0]).toEqual(of('node-76', 2));
    const ten = Array.from({ length: 100 }, (_, at) => of(`node-${at % 10}`, at));
    expect(newestRecordings(ten)).toEqual(ten.slice(-40));
  });

  test('all of them together have no more blocks than a merge can go through', () => {
    const large = (node: string): NodeRecording => ({ node, set: { devices: [A], runs: [[0, 0, 1 << 16]] } });
    const many = Array.from({ length: 40 }, (_, at) => large(`node-${at % 20}`));
    expect(newestRecordings(many)).toEqual(many.slice(-8));
    const endless: NodeRecording = { node: 'one', set: { devices: [A], runs: [[0, 0, 1 << 20]] } };
    expect(newestRecordings([large('two'), endless])).toEqual([endless]);
  });

  test('a thousand nodes that record the same write a few times; one that differs always does', () => {
    let seed = 1;
    const random = () => (seed = (seed * 16_807) % 2_147_483_647) / 2_147_483_647;
    let kept: NodeRecording[] = [];
    let written = 0;
    for (let at = 0; at < 1_000; at++) {
      const mine = of(`node-${at}`, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10);
      if (!isWorth(kept, mine, random)) continue;
      kept = newestRecordings([...kept, mine]);
      written += 1;
    }
    expect(written).toBeGreaterThan(START_LIMITS.few);
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
