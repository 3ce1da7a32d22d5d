/** Hints of a sidecar that no one vouches for, on a node that indexes the image by itself. */
import { readFile } from 'node:fs/promises';
import { afterAll, beforeEach, expect, test } from 'vitest';
import { encodeHints } from '../../src/image/hints/hints.ts';
import type { SidecarHandle } from '../../src/registry/sidecars.ts';
import { Layout } from '../../src/store/layout.ts';
import { hintsFor, keepPlan } from '../../src/supervisor/images/hints.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

const digest = (digit: string) => `sha256:${digit.repeat(64)}`;
const [image, layer, other] = [digest('1'), digest('2'), digest('3')];
let layout: Layout;
let failures: string[];
beforeEach(async () => {
  layout = new Layout(await cleanup.tempDir('hints'));
  await layout.prepare();
  failures = [];
});

const plan = (hints: () => Promise<Buffer | undefined>) =>
  ({ descriptor: { digest: digest('4') }, hints }) as unknown as SidecarHandle;
const keep = (hints: () => Promise<Buffer | undefined>, signal = new AbortController().signal) =>
  keepPlan(layout, image, plan(hints), { signal, onFailed: (why) => failures.push(why) });
const sound = async () =>
  encodeHints({
    devices: [layer, other],
    sections: [
      {
        program: '',
        isAlways: true,
        runs: [
          [0, 3, 2],
          [1, 0, 9],
          [0, 0, 1],
        ],
      },
    ],
  });
const start = () =>
  hintsFor(layout, image, {
    start: 'default',
    program: undefined,
    layers: [{ diffId: layer, blob: digest('5'), layer: digest('6') }],
  });

test('are kept, and order blocks of the image’s own layers alone', async () => {
  await keep(sound);
  const found = await start();
  expect(found?.runs).toEqual([
    [0, 3, 2],
    [0, 0, 1],
  ]);
  expect(found?.devices[0]).toBe(digest('6'));
});

test('forged beyond their bounds, or away: none are kept, and nothing else happens', async () => {
  await keep(async () => Buffer.from('COFAHINT, as it were'));
  await keep(async () => await Promise.reject(new Error('the registry is away')));
  await keep(async () => undefined);
  expect(await start()).toBeUndefined();
  expect(failures).toHaveLength(2);
});

test('of an image that is removed meanwhile leave no file', async () => {
  const removal = new AbortController();
  await keep(async () => {
    removal.abort();
    return await sound();
  }, removal.signal);
  await expect(readFile(layout.hints(image))).rejects.toMatchObject({ code: 'ENOENT' });
});
