/** When the descriptor of a file that is out of service may be closed. Threads are numbers, time is the test's. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Retired } from '../../src/fuse/retired.ts';

let turns: number[];
let closed: number[];
let retired: Retired;
beforeEach(() => {
  vi.useFakeTimers();
  [turns, closed] = [[0, 0], []];
  retired = new Retired({ turns: () => [...turns], close: (fd) => void closed.push(fd) });
});
afterEach(() => vi.useRealTimers());

test('a descriptor is closed when each thread that worked has begun another request, or none', () => {
  turns = [4, 7];
  retired.add(10, () => {});
  vi.advanceTimersByTime(1_000);
  expect(closed).toEqual([]);
  turns = [5, 9];
  vi.advanceTimersByTime(1_000);
  expect(closed).toEqual([10]);
});

test('a thread that begins a request just before the table changes keeps the descriptor open', () => {
  retired.add(10, () => {
    // It has looked at the table, and is about to read the file.
    turns = [1, 0];
  });
  vi.advanceTimersByTime(1_000);
  expect(closed).toEqual([]);
  turns = [2, 0];
  vi.advanceTimersByTime(1_000);
  expect(closed).toEqual([10]);
});

test('all are closed when the threads have ended, once', () => {
  turns = [1, 1];
  for (const fd of [10, 11]) retired.add(fd, () => {});
  retired.closeAll();
  vi.advanceTimersByTime(1_000);
  expect(closed).toEqual([10, 11]);
});
