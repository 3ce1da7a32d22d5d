/** Startup packs on a real NATS: shared between connections, bounded, and never more than a cache. */
import { randomBytes } from 'node:crypto';
import type { NatsConnection } from '@nats-io/nats-core';
import { Objm } from '@nats-io/obj';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { connectBus } from '../../src/bus/connection.ts';
import { DEFAULT_START, PackStore } from '../../src/pack/pack-store.ts';
import { type NatsServer, startNats } from '../support/services.ts';

let server: NatsServer;
let bus: NatsConnection;
const manifest = () => `sha256:${randomBytes(32).toString('hex')}`;
const one = async function* (bytes: Buffer) {
  yield bytes;
};
const bytesOf = async (body: AsyncIterable<Uint8Array>) => {
  const pieces: Uint8Array[] = [];
  for await (const piece of body) pieces.push(piece);
  return Buffer.concat(pieces);
};

beforeAll(async () => {
  server = await startNats();
  bus = await connectBus({ url: server.url }, { name: 'test' });
});
afterAll(async () => {
  await bus?.close();
  await server?.stop();
});

describe('the store of startup packs', () => {
  test('gives to one node what another has put, of the same start or of the image’s own', async () => {
    const image = manifest();
    const writer = new PackStore(async () => bus);
    const reader = new PackStore(async () => bus);
    expect(await reader.find(image, DEFAULT_START)).toBeUndefined();
    const own = randomBytes(300_000);
    const other = randomBytes(10);
    await writer.put(image, DEFAULT_START, one(own));
    expect(await reader.find(image, 'abc')).toMatchObject({ size: own.length });
    await writer.put(image, 'abc', one(other));
    const found = await reader.find(image, 'abc');
    expect(found).toMatchObject({ size: other.length });
    expect(await bytesOf(reader.read(found?.name ?? ''))).toEqual(other);
    expect(await bytesOf(reader.read((await reader.find(image, DEFAULT_START))?.name ?? ''))).toEqual(own);
    await writer.remove(image, DEFAULT_START);
    await writer.remove(image, 'abc');
    expect(await reader.find(image, 'abc')).toBeUndefined();
    await expect(bytesOf(reader.read(found?.name ?? ''))).rejects.toMatchObject({ code: 'not-found' });
  });

  test('keeps the newest recordings and takes none that are malformed', async () => {
    const image = manifest();
    const store = new PackStore(async () => bus);
    expect(await store.recordings(image, 'abc')).toEqual([]);
    const starts = Array.from({ length: 11 }, (_, i) => ({
      devices: ['sha256:aa'],
      runs: [[0, i, 1]] as Array<[number, number, number]>,
    }));
    await store.remember(image, 'abc', starts);
    expect(await store.recordings(image, 'abc')).toEqual(starts.slice(3));
    const raw = await new Objm(bus).open('cofa-packs');
    await raw.putBlob({ name: `${image.slice(7)}.abc.starts` }, randomBytes(100));
    expect(await store.recordings(image, 'abc')).toEqual([]);
  });

  test('drops the oldest packs when there are too many bytes of them', async () => {
    const store = new PackStore(async () => bus, { maxBytes: 1_000_000 });
    const images = [manifest(), manifest(), manifest()];
    for (const image of images) await store.put(image, DEFAULT_START, one(randomBytes(400_000)));
    expect(await store.find(images[0] as string, DEFAULT_START)).toBeUndefined();
    expect(await store.find(images[2] as string, DEFAULT_START)).toBeDefined();
  });

  test('refuses keys that are none, and says so when NATS is away', async () => {
    await expect(new PackStore(async () => bus).find(manifest(), '../x')).rejects.toThrow(RangeError);
    const lonely = await startNats({ jetstream: false });
    const other = await connectBus({ url: lonely.url }, { name: 'test' });
    try {
      await expect(new PackStore(async () => other).find(manifest(), DEFAULT_START)).rejects.toMatchObject({
        code: 'unavailable',
      });
    } finally {
      await other.close();
      await lonely.stop();
    }
  });
});
