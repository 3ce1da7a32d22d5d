/** The figures of layers, added up to those of images. */
import { describe, expect, test } from 'vitest';
import { imageStatus, type LayerFigures, type ShownImage } from '../../src/supervisor/status/image-status.ts';

const digest = (digit: string) => `sha256:${digit.repeat(64)}`;

const layer = (digit: string, n: number): LayerFigures => ({
  diffId: digest(digit),
  state: 'lazy',
  blocks: { absent: n, fetching: 2 * n, present: 3 * n },
  bytes: { total: 10 * n, present: 20 * n, fetched: 30 * n },
  hits: 100 * n,
  misses: 200 * n,
  errors: 300 * n,
});

const image = (state: string, prepared?: ShownImage['prepared']): ShownImage => ({
  manifest: digest('f'),
  resolved: { ref: 'debian:12' },
  prepared,
  standing: 'unproven',
  host: { state },
});

const prepared = (...digits: string[]): NonNullable<ShownImage['prepared']> => ({
  origin: 'sidecar',
  devices: digits.map((digit) => ({ diffId: digest(digit) })),
});

describe('an image in status', () => {
  test('has the sums of its own layers, in their order', () => {
    const layers = [layer('a', 1), layer('b', 1000), layer('c', 10)];
    const [status] = imageStatus([image('attached', prepared('c', 'a'))], layers);
    expect(status).toMatchObject({
      ref: 'debian:12',
      state: 'ready',
      origin: 'sidecar',
      trust: 'unproven',
      blocks: { absent: 11, fetching: 22, present: 33 },
      bytes: { total: 110, present: 220, fetched: 330 },
      reads: { hits: 1100, misses: 2200, errors: 3300 },
    });
    expect(status?.layers).toEqual([
      { diffId: digest('c'), state: 'lazy', blocks: layers[2]?.blocks, bytes: layers[2]?.bytes },
      { diffId: digest('a'), state: 'lazy', blocks: layers[0]?.blocks, bytes: layers[0]?.bytes },
    ]);
  });

  test('that shares a layer with another one counts it as well', () => {
    const both = imageStatus([image('ready', prepared('a')), image('ready', prepared('a'))], [layer('a', 1)]);
    expect(both.map(({ blocks }) => blocks.present)).toEqual([3, 3]);
  });

  test('is not counted where the front end has no such layer', () => {
    const [status] = imageStatus([image('ready', prepared('a', 'b'))], [layer('a', 1)]);
    expect(status).toMatchObject({ blocks: { present: 3 }, layers: [{ diffId: digest('a') }] });
  });

  test.each([
    ['known', undefined, 'unprepared'],
    ['preparing', undefined, 'indexing'],
    ['attached', prepared('a'), 'ready'],
    ['failed', prepared('a'), 'failed'],
  ])('of state %s, prepared or not, is called as it is', (state, what, shown) => {
    expect(imageStatus([image(state, what)], [])[0]?.state).toBe(shown);
  });

  test('says nothing of origin and trust before it is prepared, and names sidecars that were passed over', () => {
    expect(imageStatus([image('known')], [])[0]).not.toHaveProperty('origin');
    const passed = [{ sidecar: digest('e'), reason: 'it is not in the list' }];
    const [status] = imageStatus([image('ready', { ...prepared('a'), passed })], []);
    expect(status?.passed).toEqual(passed);
  });
});
