/** Startup packs on a real NATS: shared between connections, bounded, and never more than a cache. */
import { randomBytes } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { headers, type NatsConnection } from '@nats-io/nats-core';
import { Objm } from '@nats-io/obj';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { PACK_BUCKET } from '../../schemas/subjects.ts';
import { connectBus, encode } from '../../src/bus/connection.ts';
import { DEFAULT_START, PackStore } from '../../src/pack/pack-store.ts';
import { readObject } from '../../src/pack/stored-object.ts';
import { type NatsServer, startNats } from '../support/services.ts';

let server: NatsServer;
let bus: NatsConnection;
const manifest = () => `sha256:${randomBytes(32).toString('hex')}`;
const zeros = async function* (bytes: number) {
  for (let left = bytes; left > 0; left -= 1 << 20) yield Buffer.alloc(1 << 20);
};
const rollup = () => {
  const said = headers();
  said.set('Nats-Rollup', 'sub');
  return said;
};
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
      node: 'one',
      set: { devices: ['sha256:aa'], runs: [[0, i, 1]] as Array<[number, number, number]> },
    }));
    await store.remember(image, 'abc', starts);
    expect(await store.recordings(image, 'abc')).toEqual(starts.slice(3));
    // As an earlier cofa wrote them: they are of no node in particular.
    const unnamed = starts.slice(0, 2).map(({ set }) => set);
    const name = `${image.slice(7)}.abc.starts`;
    await (await new Objm(bus).open(PACK_BUCKET)).putBlob({ name }, encode({ v: 1, starts: unnamed }));
    expect(await store.recordings(image, 'abc')).toEqual(unnamed.map((set) => ({ node: '', set })));
    const raw = await new Objm(bus).open('cofa-packs');
    await raw.putBlob({ name: `${image.slice(7)}.abc.starts` }, randomBytes(100));
    expect(await store.recordings(image, 'abc')).toEqual([]);
  });

  test('takes no more of a pack than its reader uses, however large it is', async () => {
    const image = manifest();
    const store = new PackStore(async () => bus);
    const size = 64 << 20;
    await store.put(image, DEFAULT_START, zeros(size));
    const found = await store.find(image, DEFAULT_START);
    const pieces = store.read(found?.name ?? '');
    await pieces.next();
    const before = process.memoryUsage().arrayBuffers;
    await setTimeout(1_000);
    // A window of JetStream's flow control begins with 2 MiB (server/consumer.go).
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(16 << 20);
    await pieces.return();
  });

  test('gives up an object that goes on behind the size that its name says', async () => {
    const image = manifest();
    const store = new PackStore(async () => bus);
    await store.put(image, DEFAULT_START, zeros(4 << 20));
    const subject = `$O.${PACK_BUCKET}.M.${Buffer.from(`${image.slice(7)}.default.pack`).toString('base64url')}`;
    const found = await store.find(image, DEFAULT_START);
    const manager = await jetstreamManager(bus);
    const pad = subject + '='.repeat(-(subject.length - subject.lastIndexOf('.') - 1) & 3);
    const said = (
      await manager.streams.getMessage(`OBJ_${PACK_BUCKET}`, { last_by_subj: pad })
    )?.json<object>();
    for (const size of [1000, 2 ** 40]) {
      await jetstream(bus).publish(pad, JSON.stringify({ ...said, size }), { headers: rollup() });
      let taken = 0;
      const reading = (async () => {
        for await (const piece of store.read(found?.name ?? '')) taken += piece.length;
      })();
      await expect(reading).rejects.toMatchObject({ code: 'integrity' });
      expect(taken).toBe(0);
    }
  });

  test('says so when what a reader has begun to read is replaced by another node', async () => {
    const image = manifest();
    const store = new PackStore(async () => bus);
    const { name } = await store.put(image, DEFAULT_START, zeros(16 << 20));
    const objects = await new Objm(bus).create(PACK_BUCKET);
    const info = await objects.info(name);
    if (info === null) throw new Error('it was put');
    const begun = readObject(bus, info, 1 << 30, 500);
    await begun.next();
    await store.put(image, DEFAULT_START, zeros(1 << 20));
    await expect(bytesOf(begun)).rejects.toMatchObject({ code: 'unavailable' });
    // Its name was looked up before, and its pieces are asked for now.
    const late = bytesOf(readObject(bus, info, 1 << 30, 500));
    await expect(late).rejects.toMatchObject({ code: 'unavailable' });
  }, 10_000);

  test('takes no recording of a run that goes on without end', async () => {
    const image = manifest();
    const store = new PackStore(async () => bus);
    const raw = await new Objm(bus).open(PACK_BUCKET);
    const starts = [{ devices: [image], runs: [[0, 0, 2 ** 50]] }];
    await raw.putBlob({ name: `${image.slice(7)}.abc.starts` }, encode({ v: 1, starts }));
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
