/** Span tables that the node makes where those of a layer's images lead nowhere: of which blob, for whom, and how often. */
import { pino } from 'pino';
import { beforeEach, expect, test } from 'vitest';
import { type ImageDevice, withTable } from '../../actors/device.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { Image } from '../../src/supervisor/images/image.ts';
import { NewTables } from '../../src/supervisor/images/new-tables.ts';
import { eventually } from '../support/engine.ts';

const device = { diffId: 'd', size: 1, spans: 'genuine', root: 'r', table: 'pushed' };
let now: number;
let images: Image[];
let asked: string[];
let proven: string[];
let givenUp: number;
/** The root that the layer has. */
let root: string;
let tables: NewTables;

/** Attached; its layer is over this blob. */
function image(blob: string, standing: 'proven' | 'unproven' = 'unproven'): Image {
  const made = {
    attached: {},
    standing,
    resolved: { ref: blob, layers: [{ diffId: 'd', blob, blobSize: 1 }] },
    prepared: { devices: [{ ...device, spans: blob }] },
    generations: () => [made],
    retable: async (table: ImageDevice) => {
      const mended = withTable(made.prepared, table);
      made.prepared = (mended as typeof made.prepared | undefined) ?? made.prepared;
      return mended !== undefined;
    },
  };
  return made as unknown as Image;
}
const tableOf = (one: Image | undefined) => one?.prepared?.devices[0]?.table;

beforeEach(() => {
  [now, images, asked, proven, givenUp, root] = [0, [], [], [], 0, 'r'];
  tables = new NewTables({
    makeTable: async ({ layer: { blob } }) => {
      asked.push(blob);
      if (blob !== 'genuine') throw new CofaError('integrity', 'the blob is another layer');
      return { ...device, root, table: 'made' };
    },
    log: pino({ level: 'silent' }),
    images: { all: () => images.values() as IterableIterator<Image> },
    roots: { prove: (_, found) => void proven.push(found) },
    front: {
      ask: async () => {
        givenUp += 1;
        return undefined as never;
      },
    },
    now: () => now,
  });
});

test('every image with that blob goes by the new table, and the root is proven', async () => {
  images = [image('genuine'), image('genuine')];
  tables.make('r');
  tables.make('r');
  await eventually('made', () => tableOf(images[1]) === 'made');
  expect([tableOf(images[0]), asked, proven, givenUp]).toEqual(['made', ['genuine'], ['r'], 0]);
});

test('an image that gives the diffID to a blob of its own costs a try: those that are proven come first', async () => {
  images = [image('his'), image('hers'), image('genuine', 'proven')];
  tables.make('r');
  await eventually('made', () => tableOf(images[2]) === 'made');
  expect([asked, tableOf(images[0])]).toEqual([['genuine'], 'pushed']);
});

test('where none can be made reads fail at once, and the blob is read again after a pause', async () => {
  images = [image('his')];
  tables.make('r');
  await eventually('given up', () => givenUp === 1);
  tables.make('r');
  await eventually('given up', () => givenUp === 2);
  expect(asked).toEqual(['his']);
  now += 30_000;
  tables.make('r');
  await eventually('given up', () => givenUp === 3);
  expect(asked).toEqual(['his', 'his']);
});

test('a table that fails though it is the node’s own is not made over and over', async () => {
  images = [image('genuine')];
  tables.make('r');
  await eventually('made', () => tableOf(images[0]) === 'made');
  tables.make('r');
  await eventually('given up', () => givenUp === 1);
  tables.make('r');
  await eventually('given up', () => givenUp === 2);
  expect(asked).toHaveLength(2);
});

test('of a device whose root is forged the layer’s own is proven, and nothing changes for its readers', async () => {
  images = [image('genuine')];
  root = 'the layer’s';
  tables.make('r');
  await eventually('given up', () => givenUp === 1);
  expect([proven, tableOf(images[0])]).toEqual([['the layer’s'], 'pushed']);
});
