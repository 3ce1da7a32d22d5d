/** How often the loops of devices that the kernel reads are looked at. */
import { expect, test } from 'vitest';
import type { LayerHost } from '../../src/front-end/layer-host.ts';
import { LoopReads } from '../../src/front-end/loop-reads.ts';
import { Layout } from '../../src/store/layout.ts';

test('a look that takes long is seldom repeated, but made before something is evicted', async () => {
  let now = 0;
  let looks = 0;
  /** Each look at it takes 50 ms. */
  class Slow extends Map<string, LayerHost> {
    override [Symbol.iterator](): MapIterator<[string, LayerHost]> {
      now += 50;
      looks += 1;
      return super[Symbol.iterator]();
    }
  }
  const options = { layout: new Layout('/nowhere'), opened: new Slow(), clock: { now: () => now } };
  const loops = new LoopReads(options, () => 1);
  for (let second = 0; second < 30; second++, now += 1_000) await loops.look(false);
  expect(looks).toBe(3);
  await loops.look(true);
  expect(looks).toBe(4);
});

test('a short one is made each time', async () => {
  let looks = 0;
  const opened = new Map<string, LayerHost>();
  opened[Symbol.iterator] = () => {
    looks += 1;
    return new Map<string, LayerHost>().entries();
  };
  const loops = new LoopReads({ layout: new Layout('/nowhere'), opened, clock: { now: () => 0 } }, () => 1);
  for (let second = 0; second < 5; second++) await loops.look(false);
  expect(looks).toBe(5);
});
