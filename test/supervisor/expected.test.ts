import { expect, test } from 'vitest';
import { Expected } from '../../src/supervisor/images/expected.ts';

function scene() {
  let asked = 0;
  const clock = Promise.withResolvers<void>();
  const expected = new Expected<number>(() => clock.promise);
  const ask = async () => (asked += 1);
  return { expected, ask, clock, times: () => asked };
}

test('an answer is one taker’s, and asked for once', async () => {
  const { expected, ask, times } = scene();
  expected.ask('a', 1, ask);
  expected.ask('a', 1, ask);
  expect(expected.take('b')).toBeUndefined();
  expect(await expected.take('a')).toBe(1);
  expect([expected.take('a'), times()]).toEqual([undefined, 1]);
});

test('one that no caller takes in time is not given any more', async () => {
  const { expected, ask, clock } = scene();
  expected.ask('a', 1, ask);
  clock.resolve();
  await new Promise(setImmediate);
  expect(expected.take('a')).toBeUndefined();
});

test('one that was taken and asked for again is not taken away by the time of the first', async () => {
  const clocks = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  let at = 0;
  const expected = new Expected<number>(() => (clocks[at++] as PromiseWithResolvers<void>).promise);
  expected.ask('a', 1, async () => 1);
  void expected.take('a');
  expected.ask('a', 1, async () => 2);
  clocks[0]?.resolve();
  await new Promise(setImmediate);
  expect(await expected.take('a')).toBe(2);
});

test('only the caller that takes it sees an error', async () => {
  const { expected } = scene();
  expected.ask('a', 1, async () => {
    throw new Error('away');
  });
  await new Promise(setImmediate);
  await expect(expected.take('a')).rejects.toThrow('away');
});

test('of many that no caller takes, some are not requested', async () => {
  const { expected, ask, times } = scene();
  for (let image = 0; image < 100; image++) expected.ask(`image ${image}`, 1, ask);
  expect(times()).toBe(64);
  await expected.take('image 0');
  expected.ask('image 99', 1, ask);
  expect(await expected.take('image 99')).toBe(65);
});
