/** Files of the store that belong to nothing: which are removed, and when a sweep breaks off. */
import { readdirSync } from 'node:fs';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Layout } from '../../src/store/layout.ts';
import type { Image } from '../../src/supervisor/images/image.ts';
import type { FrontCaller } from '../../src/supervisor/layers/front-caller.ts';
import { Sweeper } from '../../src/supervisor/layers/sweeper.ts';
import { Cleanup } from '../support/temp.ts';

const [image, blob, layer, logged, stray] = ['a', 'b', 'c', 'd', 'e'].map((digit) => digit.repeat(64));
const known = {
  manifest: `sha256:${image}`,
  isPreparing: false,
  prepared: { devices: [{ diffId: `sha256:${layer}`, spans: `sha256:${blob}` }] },
  resolved: { layers: [] },
  generations: () => [known],
};

let cleanup: Cleanup;
let layout: Layout;
let images: Array<typeof known>;
let sweeper: Sweeper;
/** How often all images were looked at. */
let looks: number;
let onLook: () => void;

beforeEach(async () => {
  cleanup = new Cleanup();
  layout = new Layout(await cleanup.tempDir('sweep'));
  images = [known];
  looks = 0;
  onLook = () => {};
  const front = { once: async () => [{ diffId: `sha256:${logged}` }] } as unknown as FrontCaller;
  sweeper = new Sweeper({
    front,
    layout,
    log: pino({ level: 'silent' }),
    images: {
      all: () => {
        looks += 1;
        onLook();
        return (images as unknown as Image[]).values();
      },
    },
  });
  for (const [folder, names] of [
    ['images', [image, stray]],
    ['spans', [blob, stray, `${stray}.1.2.draft`]],
    ['tocs', [layer, `${stray}.going`, 'notes']],
    ['layers', [layer, logged, stray]],
  ] as const) {
    for (const name of names) await mkdir(layout.in(folder, name as string), { recursive: true });
  }
  await writeFile(layout.in('layers', layer as string, 'device.1.2.draft'), '');
  await writeFile(layout.in('layers', layer as string, 'device'), '');
});
afterEach(() => cleanup.run());

const names = async (folder: string) => (await readdir(layout.in(folder))).sort();

test('images, tables and layers that nothing has are removed; what the log has, and other files, stay', async () => {
  expect(await sweeper.sweep()).toBe(true);
  expect(await names('images')).toEqual([image]);
  expect(await names('spans')).toEqual([blob]);
  expect(await names('tocs')).toEqual([layer, 'notes'].sort());
  expect(await names('layers')).toEqual([layer, logged]);
  expect(await names(join('layers', layer as string))).toEqual(['device']);
});

test('while an image is being prepared nothing is removed', async () => {
  images.push({ ...known, isPreparing: true });
  expect(await sweeper.sweep()).toBe(false);
  expect(await names('images')).toEqual([image, stray]);
});

test('when the engine ends nothing is removed', async () => {
  sweeper.stop();
  expect(await sweeper.sweep()).toBe(false);
  expect(await names('layers')).toEqual([layer, logged, stray]);
});

test('a store of many images is swept in a few looks at them, however many of its files go', async () => {
  const many = Array.from({ length: 200 }, (_, n) => n.toString(16).padStart(64, '0'));
  for (const name of many) {
    images.push({ ...known, manifest: `sha256:${name}` });
    await mkdir(layout.in('images', name));
  }
  const strays = Array.from({ length: 150 }, (_, n) => n.toString(16).padStart(64, 'f'));
  for (const name of strays) await mkdir(layout.in('spans', name));
  expect(await sweeper.sweep()).toBe(true);
  expect(await names('images')).toEqual([image, ...many].sort());
  expect(await names('spans')).toEqual([blob]);
  expect(looks).toBeLessThan(25);
});

test('an image that comes while files are removed keeps those that are its own', async () => {
  const strays = Array.from({ length: 200 }, (_, n) => n.toString(16).padStart(64, 'f'));
  for (const name of strays) await mkdir(layout.in('images', name));
  const left = () => readdirSync(layout.in('images')).filter((name) => strays.includes(name));
  onLook = () => {
    if (left().length > 150 || images.length > 1) return;
    for (const name of left()) images.push({ ...known, manifest: `sha256:${name}` });
  };
  expect(await sweeper.sweep()).toBe(true);
  expect(images.length).toBeGreaterThan(50);
  expect(left()).toEqual(images.slice(1).map(({ manifest }) => manifest.slice('sha256:'.length)));
});
