/** Hints of an image in a real registry: its files are read out of its layers, whatever they were compressed with. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { FlatFiles } from '../../src/image/flat-files.ts';
import { decodeHints } from '../../src/image/hints/hints.ts';
import { SpanTable } from '../../src/image/span-table.ts';
import { commandOf, findHints } from '../../src/index/image-hints.ts';
import { type IndexedImage, indexImage } from '../../src/index/index-image.ts';
import { SpanFiles } from '../../src/index/span-files.ts';
import { RegistryClient, type ResolvedImage } from '../../src/registry/client.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { elf } from '../image/hints/elf-writer.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';
import { halfRandom, pushSmallImage } from './small-image.ts';

const cleanup = new Cleanup();
let registry: RegistryServer;
let client: RegistryClient;
let image: ResolvedImage;
let indexed: IndexedImage;

const large = halfRandom(7 << 20);
const zstd = halfRandom(6 << 20);
const contents: Record<string, Buffer> = {
  '/data/large': large,
  '/data/zstd': zstd,
  '/data/plain': halfRandom(2 << 20),
  '/data/small': Buffer.from('small\n'),
};

beforeAll(async () => {
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  client = new RegistryClient({});
  cleanup.defer(() => client.close());
  const { ref } = await pushSmallImage(
    await cleanup.tempDir('hints'),
    registry.host,
    'hints',
    [
      {
        compression: 'gzip',
        files: { 'data/large': large, 'lib/libneeded.so': elf({ body: halfRandom(200_000) }) },
      },
      { compression: 'zstd', files: { 'data/zstd': zstd } },
      {
        compression: 'none',
        files: {
          'data/plain': contents['/data/plain'] as Buffer,
          'data/small': 'small\n',
          'bin/entry': '#!/bin/tool\n',
          'bin/tool': elf({ interpreter: '/lib/ld.so', needed: ['libneeded.so'] }),
        },
      },
    ],
    { Entrypoint: ['/bin/entry'], Cmd: ['x'] },
  );
  image = await client.resolve(parseReference(ref));
  indexed = await indexImage({ image });
});
afterAll(() => cleanup.run());

function filesOf(fetched: Array<[number, number]> = []): SpanFiles {
  const layers = indexed.devices
    .map((device) => indexed.layers[device])
    .filter((layer) => layer !== undefined);
  return new SpanFiles(
    indexed.flat,
    layers.map(({ spans }) => SpanTable.decode(spans)),
    (device, start, end) => {
      fetched.push([start, end]);
      const layer = layers[device];
      if (layer === undefined) throw new Error('no such device');
      return client.blobRange(
        image.reference,
        { digest: layer.blobDigest, size: layer.blobSize },
        start,
        end,
      );
    },
  );
}

describe('files of an image that was indexed', () => {
  test('are read byte for byte, from any place to any other', async () => {
    const files = filesOf();
    for (const [path, bytes] of Object.entries(contents)) {
      if (path === '/data/zstd') continue;
      const file = files.find(path);
      if (file === undefined) throw new Error(path);
      expect((await files.read(file, 0, bytes.length + 5)).equals(bytes), path).toBe(true);
      for (const [at, length] of [
        [1, 2],
        [65_535, 70_000],
        [bytes.length - 1, 10],
        [bytes.length, 10],
      ] as const)
        expect(
          (await files.read(file, at, length)).equals(bytes.subarray(at, at + length)),
          `${path} ${at}`,
        ).toBe(true);
    }
  });

  test('cost the spans that they lie in, once while they are used', async () => {
    const fetched: Array<[number, number]> = [];
    const files = filesOf(fetched);
    const file = files.find('/data/large');
    if (file === undefined) throw new Error('not found');
    for (let at = 0; at < 100; at++) await files.read(file, 3 << 20, 10);
    expect(fetched).toHaveLength(1);
  });

  test('in a layer that cannot be entered in its middle are not read', async () => {
    const fetched: Array<[number, number]> = [];
    const files = filesOf(fetched);
    const file = files.find('/data/zstd');
    if (file === undefined) throw new Error('not found');
    expect(await files.read(file, 0, 10)).toHaveLength(0);
    expect(fetched).toEqual([]);
  });
});

test('the hints are the blocks of what the command needs', async () => {
  const failures: string[] = [];
  const bytes = await findHints(client, image, indexed, { onFailed: (why) => failures.push(why) });
  expect(failures).toEqual([]);
  const { devices, sections } = decodeHints(bytes ?? Buffer.alloc(0));
  expect(sections.map(({ program, isAlways }) => [program, isAlways])).toEqual([['/bin/entry', true]]);
  const hinted = new Set(
    sections.flatMap(({ runs }) =>
      runs.flatMap(([device, first, count]) =>
        Array.from({ length: count }, (_, i) => `${devices[device]} ${first + i}`),
      ),
    ),
  );
  const flat = new FlatFiles(indexed.flat);
  for (const path of ['/bin/entry', '/bin/tool', '/lib/libneeded.so']) {
    const file = flat.find(path);
    if (file === undefined) throw new Error(path);
    for (const { device, from, length } of flat.extents(file))
      for (let block = Math.floor(from / 65_536); block * 65_536 < from + length; block++)
        expect(hinted, path).toContain(`${flat.devices[device as number]} ${block}`);
  }
  expect(hinted.size).toBeLessThan(12);
});

test('an image whose registry is away by then is indexed without hints, and says so', async () => {
  const away = new RegistryClient({ retry: { attempts: 1 } });
  const failures: string[] = [];
  const reference = { ...image.reference, registry: '127.0.0.1:1' };
  const found = await findHints(away, { ...image, reference }, indexed, {
    onFailed: (why) => failures.push(why),
  });
  expect(found).toBeUndefined();
  expect(failures).toHaveLength(1);
  await away.close();
});

test('a configuration of any form gives a command', () => {
  const command = (config: unknown) => commandOf(Buffer.from(JSON.stringify({ config })));
  expect(command({ Entrypoint: ['é'], Cmd: 'x', Env: [1, 'A=b'], WorkingDir: 3 })).toEqual({
    entrypoint: [Buffer.from('é').toString('latin1')],
    cmd: [],
    env: ['A=b'],
    folder: '/',
  });
  expect(commandOf(Buffer.from('no json')).cmd).toEqual([]);
  expect(command(null).cmd).toEqual([]);
});
