/** What the benchmark says of its goals. */
import { expect, test } from 'vitest';
import { fileGoals, fuseGoals, startGoals } from '../../ops/bench/goals.ts';

const FIGURES = {
  added: { containerd: 6_000, 'cofa, unprepared': 2_000, 'cofa, no pack': 1_000, 'cofa, pack': 250 },
  fetched: { 'cofa, pack': 11_000_000 },
  warm: { overlayfs: 200, cofa: 250 },
  imageBytes: 125_000_000,
  sidecarBytes: 1_500_000,
  packBytes: 10_000_000,
  link: { bitsPerSecond: 1e9, rttMs: 5 },
};
const judged = (goals: Array<{ id: string; measured: string; met: boolean }>) =>
  goals.map(({ id, measured, met }) => `${id} ${measured} ${met ? 'met' : 'missed'}`);

test('starts are judged by their added delay, and the link alone is bytes at its rate and three round trips', () => {
  // 11.5 MB take 92 ms, the image itself 1,000 ms.
  expect(judged(startGoals(FIGURES))).toEqual([
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

test('a peer that was not there is no goal; one that was is', () => {
  const added = { ...FIGURES.added, 'eStargz, unoptimized': 1_900 };
  expect(judged(startGoals(FIGURES)).some((line) => line.startsWith('P4'))).toBe(false);
  expect(judged(startGoals({ ...FIGURES, added }))).toContain('P4 1.9x missed');
});

test('a link without a rate costs its round trips', () => {
  const link = { bitsPerSecond: undefined, rttMs: 50 };
  expect(judged(startGoals({ ...FIGURES, link }))).toContain('P3 1.67x met');
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
