import { createHash } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { mkdir, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Progress } from '../../schemas/api.ts';
import { checkFlat } from '../../src/image/erofs-check.ts';
import { SpanTable } from '../../src/image/span-table.ts';
import { decodeToc } from '../../src/image/toc-codec.ts';
import { type IndexedImage, indexImage } from '../../src/index/index-image.ts';
import type { IndexedLayer } from '../../src/index/layer-job.ts';
import { rawBudget } from '../../src/index/raw-budget.ts';
import { RegistryClient, type ResolvedImage } from '../../src/registry/client.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { deviceSize } from '../../src/store/device.ts';
import { Layout } from '../../src/store/layout.ts';
import { startFaultRegistry } from '../support/fault-registry.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';
import { describeLayer, pushLayout, writeLayout } from '../../ops/images/layout.ts';
import { END, header } from '../image/tar-writer.ts';
import { halfRandom, pushSmallImage, type SmallImage } from './small-image.ts';

const cleanup = new Cleanup();
let directory = '';
let registry: RegistryServer;
let client: RegistryClient;
let small: SmallImage;
let image: ResolvedImage;

beforeAll(async () => {
  directory = await cleanup.tempDir('index');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  client = new RegistryClient({});
  cleanup.defer(() => client.close());
  small = await pushSmallImage(directory, registry.host, 'small', [
    { compression: 'gzip', files: { 'etc/one': 'one\n', 'data/large': halfRandom(6 << 20) } },
    { compression: 'zstd', files: { 'data/more': halfRandom(2 << 20), 'data/.wh.none': '' } },
    { compression: 'none', files: { 'data/plain': halfRandom(1 << 20), 'etc/one': 'changed\n' } },
    { compression: 'gzip', files: {} },
  ]);
  image = await client.resolve(parseReference(small.ref));
});
afterAll(() => cleanup.run());

const devices = () => {
  const store = join(directory, `devices-${Math.random().toString(36).slice(2)}`);
  return { store, folder: join(store, 'layers'), deviceOf: new Layout(store).device };
};
const rootsOf = ({ layers }: IndexedImage) => new Map(layers.map(({ diffId, root }) => [diffId, root]));
const padded = (tar: Buffer) => Buffer.concat([tar, Buffer.alloc(deviceSize(tar.length) - tar.length)]);

describe('indexing an image', () => {
  it('says once that every thread is at work, and not before its first bytes were used', async () => {
    for (const threads of [1, 4]) {
      const used = new Set<string>();
      const seen: number[] = [];
      await indexImage({
        image,
        threads,
        onBegun: () => seen.push(used.size),
        onProgress: ({ item = '', done = 0 }) => done > 0 && used.add(item),
      });
      // The layer whose bytes were used just now is not counted yet.
      expect(seen).toEqual([Math.min(threads, new Set(small.layers.map(({ digest }) => digest)).size) - 1]);
    }
  });

  it('gives tables for every layer, a flat image that passes the check, and progress to the end', async () => {
    const seen: Progress[] = [];
    const indexed = await indexImage({ image, onProgress: (progress) => seen.push(progress) });
    for (const [at, layer] of indexed.layers.entries()) {
      expect(layer).toMatchObject({
        diffId: small.layers[at]?.diffId,
        blobDigest: small.layers[at]?.digest,
        blobSize: small.layers[at]?.size,
        rawSize: small.tars[at]?.length,
        compression: small.layers[at]?.compression,
        built: false,
      });
      expect(SpanTable.decode(layer.spans).spanCount).toBe(layer.spanCount);
      expect(decodeToc(layer.toc).entries.length).toBeGreaterThan(0);
    }
    const checked = checkFlat(indexed.flat);
    expect(checked.devices.map((device) => device.diffId)).toEqual(
      indexed.devices.map((at) => indexed.layers[at]?.diffId),
    );
    for (const { digest, size } of small.layers) {
      const own = seen.filter((one) => one.item === digest);
      expect(own.at(-1)).toEqual({ phase: 'index', item: digest, done: size, total: size });
      const steps = own.map((one) => one.done ?? 0);
      expect(steps).toEqual([...steps].sort((a, b) => a - b));
    }
    expect(seen.at(-1)?.phase).toBe('flatten');
  });

  it('makes the same bytes again, by one thread or four', async () => {
    const first = await indexImage({ image, threads: 1 });
    const second = await indexImage({ image, threads: 4 });
    expect(second.flat.equals(first.flat)).toBe(true);
    for (const [at, layer] of second.layers.entries()) {
      expect(layer.toc.equals(first.layers[at]?.toc as Buffer)).toBe(true);
      expect(layer.spans.equals(first.layers[at]?.spans as Buffer)).toBe(true);
    }
  });

  it('fetches every blob once', async () => {
    const before = registry.requests().length;
    await indexImage({ image });
    const blobs = registry
      .requests()
      .slice(before)
      .filter((line) => line.method === 'GET' && line.path.includes('/blobs/'));
    expect(blobs.map((line) => line.path.split('/').at(-1)).sort()).toEqual(
      [...new Set(small.layers.map((layer) => layer.digest))].sort(),
    );
  });

  it('writes the layer devices byte for byte, padded to sectors, and nothing else', async () => {
    const { store, folder, deviceOf } = devices();
    const complete: string[] = [];
    const onLayer = async ({ diffId, root, built }: IndexedLayer) => {
      // It is there, with all its bytes, when its caller hears of it.
      if (built) complete.push(`${diffId} ${(await stat(deviceOf(root))).size}`);
    };
    const indexed = await indexImage({ image, store, onLayer });
    expect(complete.sort()).toEqual(
      indexed.layers.map(({ diffId, rawSize }) => `${diffId} ${deviceSize(rawSize)}`).sort(),
    );
    expect(indexed.layers.every((layer) => layer.built)).toBe(true);
    for (const [at, tar] of small.tars.entries()) {
      const root = rootsOf(indexed).get(small.layers[at]?.diffId as string) as string;
      expect((await readFile(deviceOf(root))).equals(padded(tar))).toBe(true);
      expect(readdirSync(join(folder, root.slice(7)))).toEqual(['device']);
    }
    expect(readdirSync(folder)).toHaveLength(new Set(rootsOf(indexed).values()).size);
  });

  it('completes a device of which another image has some, in the same file', async () => {
    const { store, deviceOf } = devices();
    const [{ diffId } = { diffId: '' }] = small.layers;
    const tar = small.tars[0] as Buffer;
    const path = deviceOf(rootsOf(await indexImage({ image })).get(diffId) as string);
    await mkdir(join(path, '..'), { recursive: true });
    await writeFile(path, tar.subarray(0, 65_536));
    await truncate(path, deviceSize(tar.length));
    const { open } = await import('node:fs/promises');
    const held = await open(path, 'r');
    try {
      await indexImage({ image, store });
      const bytes = Buffer.alloc(deviceSize(tar.length));
      await held.read(bytes, 0, bytes.length, 0);
      expect(bytes.equals(padded(tar))).toBe(true);
    } finally {
      await held.close();
    }
  });
});

describe('mirrors that send other bytes', () => {
  const lying = async (layer: number) => {
    const mirror = await startFaultRegistry();
    cleanup.defer(() => mirror.stop());
    const { digest, file } = small.layers[layer] as SmallImage['layers'][number];
    const bytes = await readFile(file);
    const middle = bytes.length >> 1;
    bytes[middle] = (bytes[middle] as number) ^ 1;
    mirror.blobs.set(digest, bytes);
    return mirror;
  };

  it('the next host is asked, and the last one is the registry; what they sent takes no room', async () => {
    const mirrors = [await lying(2), await lying(2)];
    const hostDir = join(directory, 'hosts');
    await mkdir(join(hostDir, registry.host), { recursive: true });
    const toml = mirrors.map(({ origin }) => `[host."${origin}"]\n`).join('');
    await writeFile(join(hostDir, registry.host, 'hosts.toml'), toml);
    const { store, deviceOf } = devices();
    const most = small.tars.reduce((sum, { length }) => sum + length, 0);
    const indexed = await indexImage({
      image,
      store,
      registry: { hostDirs: [hostDir] },
      budget: rawBudget(most, 0),
    });
    const plain = indexed.layers[2] as IndexedLayer;
    expect((await readFile(deviceOf(plain.root))).equals(padded(small.tars[2] as Buffer))).toBe(true);
    const asked = mirrors.map(({ requests }) => requests.filter(({ url }) => url.includes(plain.blobDigest)));
    expect(asked.map(({ length }) => length)).toEqual([1, 1]);
  });
});

const withLayer = (
  change: (layer: ResolvedImage['layers'][number]) => ResolvedImage['layers'][number],
): ResolvedImage => ({
  ...image,
  layers: image.layers.map((layer, at) => (at === 0 ? change(layer) : layer)),
});

describe('indexing that fails', () => {
  it('layers that no flat image can be made of: the reason, not that the others were stopped', async () => {
    const layers = await Promise.all(
      [
        // What it links to is in no layer.
        Buffer.concat([header({ name: 'b', type: '1', link: 'a' }), END]),
        Buffer.concat([header({ name: 'large', size: 4 << 20 }), halfRandom(4 << 20), END]),
      ].map(async (tar, at) => {
        const file = join(directory, `broken-${at}.tar`);
        await writeFile(file, tar);
        const diffId = `sha256:${createHash('sha256').update(tar).digest('hex')}`;
        return await describeLayer(file, 'none', diffId, `layer ${at}`);
      }),
    );
    const created = '2026-01-01T00:00:00Z';
    const layout = await writeLayout(join(directory, 'broken'), { kind: 'oci', layers, config: {}, created });
    await pushLayout(layout, registry.host, 'broken', 'latest');
    const broken = await client.resolve(parseReference(`${registry.host}/broken:latest`));
    const { store, folder } = devices();
    await expect(indexImage({ image: broken, store })).rejects.toMatchObject({
      code: 'integrity',
      message: expect.stringContaining('layer 1 cannot be unpacked'),
    });
    expect(readdirSync(folder).filter((name) => name.endsWith('.draft'))).toEqual([]);
  });

  it('what its caller makes of a layer fails: that error', async () => {
    const error = new Error('no room for it');
    const failing = indexImage({ image, onLayer: () => Promise.reject(error) });
    await expect(failing).rejects.toBe(error);
  });

  it('a layer whose tar has another diffID is refused, and no device bears its name', async () => {
    const { store, folder } = devices();
    const wrong = `sha256:${createHash('sha256').update('other').digest('hex')}`;
    const failing = indexImage({ image: withLayer((layer) => ({ ...layer, diffId: wrong })), store });
    await expect(failing).rejects.toMatchObject({ code: 'integrity' });
    // The other layers may be whole before that.
    const right = rootsOf(await indexImage({ image }));
    right.delete(small.layers[0]?.diffId as string);
    const names = [...right.values()].map((root) => root.slice(7));
    expect(readdirSync(folder).filter((name) => !names.includes(name))).toEqual([]);
  });

  it('a blob that is not there: not-found', async () => {
    const digest = `sha256:${'ab'.repeat(32)}`;
    const failing = indexImage({
      image: withLayer((layer) => ({ ...layer, blob: { ...layer.blob, digest } })),
    });
    await expect(failing).rejects.toMatchObject({ code: 'not-found' });
  });

  it('stops with the signal’s reason, at once and in the middle', async () => {
    const reason = new Error('enough');
    await expect(indexImage({ image, signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    const control = new AbortController();
    const { store, folder } = devices();
    const running = indexImage({
      image,
      store,
      threads: 1,
      signal: control.signal,
      onProgress: ({ done = 0 }) => {
        if (done > 0) control.abort(reason);
      },
    });
    await expect(running).rejects.toBe(reason);
    expect(readdirSync(folder).filter((name) => name.endsWith('.draft'))).toEqual([]);
  });
});
