/** What the benchmark says of its goals. */
import { expect, test } from 'vitest';
import { fileGoals, fuseGoals, sorted, startGoals, waitGoals, wholeGoals } from '../../ops/bench/goals.ts';
import type { Starts } from '../../ops/bench/starts.ts';

const LINK = { bitsPerSecond: 1e9, rttMs: 5 };
const start = (totalMs: number, bytes = 0) => ({ firstOutputMs: totalMs, totalMs, bytes });
const way = (name: string, cold: number[], warm: number[] = [], bytes = 0) => ({
  name,
  cold: cold.map((ms) => start(ms, bytes)),
  warm: warm.map((ms) => start(ms)),
});
/** A warm start on overlayfs takes 200 ms. */
const STARTS: Starts = {
  image: 'demo',
  imageBytes: 125_000_000,
  sidecarBytes: 1_500_000,
  packBytes: 10_000_000,
  // Beside what the background brings, which is in the bytes of the ways.
  startBytes: 11_000_000,
  ways: [
    way('containerd', [6_200, 9_000, 6_100], [200, 190, 210]),
    way('cofa, unprepared', [2_200]),
    way('cofa, no pack', [1_200]),
    way('cofa, pack', [450], [250], 99_000_000),
  ],
};
const judged = (goals: Array<{ id: string; measured: string; met: boolean }>) =>
  goals.map(({ id, measured, met }) => `${id} ${measured} ${met ? 'met' : 'missed'}`);

test('starts are judged by their added delay, and the link alone is bytes at its rate and three round trips', () => {
  // 11.5 MB take 92 ms, the image itself 1,000 ms.
  expect(judged(startGoals(STARTS, LINK))).toEqual([
    'P1 24.0x met',
    'P3 2.34x missed',
    'P5 3.0x met',
    'P5 1.97x missed',
    'P5b 1.25x missed',
    'P8 1.10x met',
    'P9 1.2 % met',
    'P9 9.2 % met',
  ]);
});

test('a peer that was not there is no goal', () => {
  expect(judged(startGoals(STARTS, LINK)).filter((line) => /^P[24] /.test(line))).toEqual([]);
});

test('of several peers the fastest of each kind counts', () => {
  const peers = [
    { ...way('eStargz, unoptimized', [2_100]), peer: 'unoptimized' as const },
    { ...way('other, unoptimized', [4_000]), peer: 'unoptimized' as const },
    { ...way('eStargz, optimized', [1_500]), peer: 'optimized' as const },
    { ...way('other, optimized', [1_200]), peer: 'optimized' as const },
  ];
  const goals = startGoals({ ...STARTS, ways: [...STARTS.ways, ...peers] }, LINK);
  expect(judged(goals)).toContain('P2 4.0x met');
  expect(goals.find(({ id }) => id === 'P2')?.measure).toContain('other, optimized');
  expect(judged(goals)).toContain('P4 1.9x missed');
  expect(goals.find(({ id }) => id === 'P4')?.measure).toContain('eStargz, unoptimized');
});

test('a link without a rate costs its round trips', () => {
  expect(judged(startGoals(STARTS, { bitsPerSecond: undefined, rttMs: 50 }))).toContain('P3 1.67x met');
});

test('what was not started has no goals of starts', () => {
  expect(judged(startGoals({ ...STARTS, startBytes: 0, ways: [] }, LINK))).toEqual([
    'P9 1.2 % met',
    'P9 9.2 % met',
  ]);
});

test('all of an image: each way of cofa beside containerd, medians', () => {
  const ways = [
    { name: 'containerd', startMs: [1], totalMs: [4_000, 5_000, 90_000], bytes: [1] },
    { name: 'cofa, unprepared', startMs: [1], totalMs: [6_000], bytes: [1] },
    { name: 'cofa, pack', startMs: [1], totalMs: [5_000], bytes: [1] },
  ];
  expect(judged(wholeGoals([{ rate: '24M', ways, read: 1 }]))).toEqual(['P6 1.20x missed', 'P6 1.00x met']);
});

test('waits are judged where there are enough of them', () => {
  const alone = Array.from({ length: 100 }, (_, n) => 10 + n / 10);
  const prefetch = alone.map((ms) => ms * (ms > 18 ? 2 : 1));
  expect(judged(waitGoals({ alone, prefetch }))).toEqual([' 1.00x met', ' 2.00x missed']);
  expect(waitGoals({ alone, prefetch: prefetch.slice(0, 5) })).toEqual([]);
});

test('goals stand in the order of their numbers, those without one last', () => {
  const ids = ['', 'P10', 'P5b', 'P1', '', 'P5', 'P12'];
  expect(sorted(ids.map((id) => ({ id }))).map(({ id }) => id)).toEqual([
    'P1',
    'P5b',
    'P5',
    'P10',
    'P12',
    '',
    '',
  ]);
});

test('files: each cache by itself, faster is more', () => {
  const times = [{ task: 'find', cofa: { cold: 100, warm: 50 }, overlayfs: { cold: 150, warm: 40 } }];
  expect(judged(fileGoals(times))).toEqual(['P7 1.50x met', 'P7 0.80x missed']);
});

test('FUSE: the slowest reads count for small ones alone', () => {
  const cofa = { rate: 70, p99Us: 300 };
  const bindfs = { rate: 100, p99Us: 100 };
  expect(judged(fuseGoals([{ job: '4 KiB random', cofa, bindfs }]))).toEqual([
    'P12 0.70x met',
    'P12 3.00x missed',
  ]);
  expect(judged(fuseGoals([{ job: '128 KiB in order', cofa, bindfs }]))).toEqual(['P12 0.70x met']);
});
