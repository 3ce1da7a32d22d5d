/** A layer whose blocks come by no table that its images name: who hears of it, and how long reads wait. */
import { expect, test } from 'vitest';
import { Astray } from '../../src/front-end/astray.ts';

function astray() {
  let told = 0;
  const layer = new Astray(() => void told++);
  return { layer, told: () => told };
}

test('the supervisor is told once, and reads wait until it answers', () => {
  const { layer, told } = astray();
  expect([layer.failed(0), layer.failed(1_000), layer.failed(60_000)]).toEqual([true, true, true]);
  expect(told()).toBe(1);
  layer.supplied();
  expect(layer.failed(70_000)).toBe(true);
  expect(told()).toBe(2);
});

test('where no table can be made reads fail at once, for a while; then it is asked again', () => {
  const { layer, told } = astray();
  layer.failed(0);
  layer.givenUp(1_000);
  expect([layer.failed(2_000), layer.failed(30_000)]).toEqual([false, false]);
  expect(told()).toBe(1);
  expect(layer.failed(31_000)).toBe(true);
  expect(told()).toBe(2);
});

test('a question that was lost is put again', () => {
  const { layer, told } = astray();
  layer.failed(0);
  layer.failed(120_000);
  expect(told()).toBe(2);
});
