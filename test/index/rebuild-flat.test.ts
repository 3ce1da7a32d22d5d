/** A flat image built again from the layers: byte for byte what the indexer made of the same image, or no answer. */
import { createHash } from 'node:crypto';
import { ftruncateSync, openSync, closeSync, readFileSync, writeSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type IndexedImage, indexImage } from '../../src/index/index-image.ts';
import { rebuildFlat, type RebuildOrder } from '../../src/index/rebuild-flat.ts';
import { RegistryClient } from '../../src/registry/client.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { Layout } from '../../src/store/layout.ts';
import { rebuild } from '../../src/supervisor/images/rebuild.ts';
import { noise } from '../images/nasty.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';
import { pushSmallImage, type SmallImage } from './small-image.ts';

const cleanup = new Cleanup();
let registry: RegistryServer;
let client: RegistryClient;
let directory = '';
let image: SmallImage;
let indexed: IndexedImage;
let order: RebuildOrder;
let count = 0;

beforeAll(async () => {
  directory = await cleanup.tempDir('rebuild');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  client = new RegistryClient({});
  cleanup.defer(() => client.close());
  image = await pushSmallImage(join(directory, 'image'), registry.host, 'again', [
    { compression: 'gzip', files: { 'bin/tool': noise(70_000, 1), 'app/data': noise(300_000, 2) } },
    // Nothing of this one is in the image but a folder.
    { compression: 'zstd', files: { 'app/later': noise(50_000, 3) } },
    { compression: 'none', files: { 'app/later': noise(60_000, 4), 'bin/tool': noise(10, 5) } },
  ]);
  const resolved = await client.resolve(parseReference(image.ref));
  indexed = await indexImage({ image: resolved });
  order = {
    source: { registry: resolved.reference.registry, repository: resolved.reference.repository },
    layers: resolved.layers.map(({ diffId, blob }) => ({ diffId, blob: blob.digest, blobSize: blob.size })),
    local: indexed.layers.map(({ diffId, root, rawSize }) => ({ diffId, layer: root, size: rawSize })),
    known: indexed.layers.map(({ diffId, rawSize, blobDigest, root, spans }) => ({
      diffId,
      size: rawSize,
      spans: blobDigest,
      root,
      table: digestOf(spans),
    })),
    cached: false,
  };
});
afterAll(() => cleanup.run());

/** A store that has the devices of all layers. */
async function store(): Promise<Layout> {
  const layout = new Layout(join(directory, `root-${count++}`));
  for (const [at, { layer }] of order.local.entries()) {
    await mkdir(dirname(layout.device(layer)), { recursive: true });
    await writeFile(layout.device(layer), image.tars[at] as Buffer);
  }
  return layout;
}
const digestOf = (bytes: Buffer) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
const run = (layout: Layout, change: Partial<RebuildOrder> = {}) =>
  rebuildFlat({ ...order, ...change }, { layout, registry: client });

describe('a flat image that is built again', () => {
  test('is the one that the indexer made: from devices, from the registry, from tables of contents', async () => {
    const layout = await store();
    const expected = indexed.devices.map((at) => order.known[at]);
    const changes: Array<Partial<RebuildOrder>> = [
      {},
      { cached: true },
      { local: order.local.slice(1) },
      { local: [] },
      // Its tables of contents are here, its span tables are not.
      { cached: true, known: [] },
    ];
    for (const change of changes) {
      const { metadata, devices } = await run(layout, change);
      expect(metadata.equals(indexed.flat)).toBe(true);
      // The block root is the same, whichever way it was found.
      expect(devices).toEqual(expected);
    }
  });

  test('is none where a device has lost a block, as when the cache evicts while it is read', async () => {
    const layout = await store();
    const device = openSync(layout.device(order.local[0]?.layer as string), 'r+');
    writeSync(device, Buffer.alloc(65_536), 0, 65_536, 131_072);
    await expect(run(layout)).rejects.toMatchObject({ code: 'integrity' });
    ftruncateSync(device, 1_000);
    closeSync(device);
    await expect(run(layout)).rejects.toMatchObject({ code: 'integrity' });
    // Nothing of that is kept for the next one.
    await expect(run(layout, { cached: true })).rejects.toMatchObject({ code: 'integrity' });
  });

  test('is none where the registry gives other bytes', async () => {
    const layout = await store();
    const [first, ...others] = order.layers;
    const layers = [{ ...first, blob: others[0]?.blob, blobSize: others[0]?.blobSize }, ...others];
    await expect(run(layout, { layers: layers as RebuildOrder['layers'], local: [] })).rejects.toMatchObject({
      code: 'integrity',
    });
    expect(() => readFileSync(layout.toc(order.layers[0]?.diffId as string))).toThrow('ENOENT');
  });

  test('comes out of a process of its own as well, which compares it with the one that is in use', async () => {
    const layout = await store();
    await mkdir(layout.in('run'), { recursive: true });
    await writeFile(layout.in('run/engine.json'), JSON.stringify({ registry: {} }));
    const manifest = `sha256:${'ab'.repeat(32)}`;
    const expected = digestOf(indexed.flat);
    expect(await rebuild(layout, manifest, order, { expected })).toMatchObject({
      flat: expected,
      difference: undefined,
    });
    await mkdir(dirname(layout.flat(manifest)), { recursive: true });
    const other = Buffer.from(indexed.flat);
    other[7] = (other[7] as number) ^ 1;
    await writeFile(layout.flat(manifest), other);
    const { flat, difference } = await rebuild(layout, manifest, order, { expected: digestOf(other) });
    expect([flat, difference]).toEqual([expected, 'first other byte at 7']);
  });
});
