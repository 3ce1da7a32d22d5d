/** Work that is held back to a rate. */
import { expect, test } from 'vitest';
import { Pace } from '../../src/supervisor/layers/pace.ts';
import { HandClock } from '../support/hand-clock.ts';

async function isOver(work: Promise<void>): Promise<boolean> {
  let over = false;
  void work.then(() => (over = true));
  await new Promise((resolve) => setImmediate(resolve));
  return over;
}

test('waits until what was done is within the rate, with what was saved before', async () => {
  const clock = new HandClock();
  const pace = new Pace(1_000, new AbortController().signal, clock);
  clock.turn(500);
  expect(await isOver(pace.spent(500))).toBe(true);
  const work = pace.spent(1_000);
  clock.turn(999);
  expect(await isOver(work)).toBe(false);
  clock.turn(1);
  expect(await isOver(work)).toBe(true);
  expect(clock.alarms).toBe(0);
});

test('no limit: nothing waits', async () => {
  const clock = new HandClock();
  expect(await isOver(new Pace(0, new AbortController().signal, clock).spent(1e12))).toBe(true);
});

test('when it is stopped, nothing waits any more', async () => {
  const clock = new HandClock();
  const stop = new AbortController();
  const pace = new Pace(1, stop.signal, clock);
  const work = pace.spent(1e6);
  expect(await isOver(work)).toBe(false);
  stop.abort();
  expect(await isOver(work)).toBe(true);
  expect(await isOver(pace.spent(1e6))).toBe(true);
  expect(clock.alarms).toBe(0);
});
