/**
 * A cache that is too small for what is read: real images over FUSE, loops and EROFS, readers that compare every byte,
 * while spans are evicted and fetched.
 */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { emptyNode, foldEvent, idOf, type NodeState } from '../../actors/node-state.ts';
import type { PruneReply } from '../../schemas/api.ts';
import type { CofaEvent } from '../../schemas/events.ts';
import { type FaultImage, pushImage, readPieces, twoLayers } from '../faults/fault-image.ts';
import { noise } from '../images/nasty.ts';
import { rootOf } from '../support/roots.ts';
import { type Engine, errorOf, eventually, imageOf, mountImage, startEngine } from '../support/engine.ts';
import { readInParallel } from '../support/readers.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';

const MIB = 1 << 20;
const cleanup = new Cleanup();
let directory = '';
let registry: RegistryServer;
let images: FaultImage[];

beforeAll(async () => {
  directory = await cleanup.tempDir('cache');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  images = [];
  for (const [at, seed] of [9100, 9200, 9300].entries())
    images.push(
      await pushImage(join(directory, `image-${at}`), registry.host, `image-${at}`, twoLayers(seed)),
    );
});
afterAll(() => cleanup.run());

/** What the layer devices take on the disk, bytes. */
async function deviceBytes(root: string): Promise<number> {
  let bytes = 0;
  for (const name of await readdir(join(root, 'layers')).catch(() => []))
    bytes += await stat(join(root, 'layers', name, 'device')).then(
      ({ blocks }) => blocks * 512,
      () => 0,
    );
  return bytes;
}

const readAll = (dir: string, image: FaultImage, seed = 1, copies = 1) =>
  readInParallel({ root: dir, expected: image.expected, readers: 4, copies, seed, pieceSize: 64 * 1024 });

const LARGE = ['app/prose', 'app/noise', 'lib/prose', 'lib/noise'];

/** Reads the large files of an image past the page cache, side by side; what went wrong. */
async function readPastCache(dir: string, image: FaultImage): Promise<string[]> {
  const outcomes = await Promise.all(
    LARGE.map((name) => readPieces(join(dir, name), image.files.get(name) as Buffer, { pieceSize: 65_536 })),
  );
  return outcomes.flat().filter((outcome) => outcome !== 'ok');
}

/** Reads a file past the page cache, again and again until told to stop; what went wrong. */
function keepReading(path: string, content: Buffer): { stop(): Promise<string[]> } {
  let isOver = false;
  const wrong: string[] = [];
  const done = (async () => {
    while (!isOver)
      wrong.push(...(await readPieces(path, content, { pieceSize: 65_536 })).filter((one) => one !== 'ok'));
  })();
  return {
    stop: async () => {
      isOver = true;
      await done;
      return wrong;
    },
  };
}

/** The fold of the engine's log. */
async function fold(engine: Engine): Promise<NodeState> {
  const state = emptyNode();
  for await (const { subject, time, type, data } of engine.client.events({ from: 'start', follow: false }))
    foldEvent(state, idOf(subject), { v: 1, at: Date.parse(time), type, ...data } as CofaEvent);
  return state;
}

describe('a cache of a tenth of what is read', () => {
  it('readers of three images get every byte right; the disk holds the limit and what is on its way', {
    timeout: 300_000,
  }, async () => {
    const limit = 4 * MIB;
    const engine = await startEngine({ args: ['--cache-limit', '4MiB'] });
    cleanup.defer(() => engine.stop());
    const dirs = await mountAll(engine, 'small');
    let isReading = true;
    let most = 0;
    const watched = (async () => {
      for (; isReading; await sleep(50)) most = Math.max(most, await deviceBytes(engine.root));
    })();
    const results = await Promise.all(
      dirs.map((dir, at) => readAll(dir, images[at] as FaultImage, at + 1, 2)),
    ).finally(() => (isReading = false));
    await watched;
    for (const result of results) expect(result.failures).toEqual([]);
    const { cache } = await engine.status();
    expect(cache.evictedBytes).toBeGreaterThan(20 * MIB);
    expect(cache.limitBytes).toBe(limit);
    console.log(`at most ${(most / MIB).toFixed(1)} MiB on the disk, limit ${limit / MIB} MiB`);
    // The slack, and what is on its way: on a machine that is busy otherwise, that is most of it.
    expect(most).toBeLessThan(40 * MIB);
    await eventually('it is below its limit', async () => (await engine.status()).cache.usedBytes <= limit);

    // In the middle of it all the front end dies. What is left of an eviction then is in the log, or never happened.
    const rounds = Number(process.env.COFA_CACHE_ROUNDS ?? 2);
    for (let round = 0; round < rounds; round++) {
      const again = Promise.all(dirs.map((dir, at) => readPastCache(dir, images[at] as FaultImage)));
      await sleep(700);
      process.kill((await engine.pids())['front-end'] as number, 'SIGKILL');
      expect((await again).flat()).toEqual([]);
      await eventually('another front end', async () => (await engine.status()).ready);
      expect(
        (await Promise.all(dirs.map((dir, at) => readPastCache(dir, images[at] as FaultImage)))).flat(),
      ).toEqual([]);
      await eventually('room was made', async () => (await engine.status()).cache.evictedBytes > 8 * MIB);
      // What has come is in the log a moment later.
      await eventually('the log has some of it', async () => (await expectLogAndDataAgree(engine)) > 0);
    }

    // And the whole engine, while spans are fetched and evicted.
    const doomed = keepReading(
      join(dirs[0] as string, 'app/noise'),
      images[0]?.files.get('app/noise') as Buffer,
    );
    await sleep(500);
    process.kill(engine.pid, 'SIGKILL');
    await engine.ended;
    expect(
      (await doomed.stop()).filter((outcome) => outcome !== 'EIO' && !outcome.startsWith('errno')),
    ).toEqual([]);
    await engine.client.close().catch(() => {});
    const second = await startEngine({ root: engine.root, args: ['--cache-limit', '4MiB'] });
    cleanup.defer(() => second.stop());
    await expectLogAndDataAgree(second);
    for (const [at, dir] of dirs.entries())
      expect(await readPastCache(dir, images[at] as FaultImage)).toEqual([]);
    for (const dir of dirs) expect((await second.cli(['unmount', dir])).code).toBe(0);
    await second.stop();
  });
});

describe('a file that is larger than the cache', () => {
  it('comes in windows ahead of who reads it in order, and goes behind him', {
    timeout: 300_000,
  }, async () => {
    const limit = 64 * MIB;
    const content = noise(128 * MIB, 9_400);
    const where = join(directory, 'large');
    const { ref } = await pushImage(where, registry.host, 'large', [{ model: content }], 'plain');
    const engine = await startEngine({ args: ['--cache-limit', '64MiB'] });
    cleanup.defer(() => engine.stop());
    expect((await engine.cli(['index', ref])).code).toBe(0);
    const dir = join(directory, 'in-order');
    await mountImage(engine, ref, dir, { prefetch: true });
    await eventually('prefetch has filled what it may', async () => {
      const { cache } = await engine.status();
      return !cache.prefetch && cache.usedBytes > limit / 2;
    });
    const absent = (await imageOf(engine, ref)).layers.reduce((sum, { blocks }) => sum + blocks.absent, 0);
    const before = registry.requests().length;
    let most = 0;
    let isReading = true;
    const watched = (async () => {
      for (; isReading; await sleep(50)) most = Math.max(most, await deviceBytes(engine.root));
    })();
    const found = await readFile(join(dir, 'model')).finally(() => (isReading = false));
    await watched;
    expect(found.equals(content)).toBe(true);
    const requests = registry.requests().length - before;
    console.log(`${requests} requests for ${absent / 16} spans, at most ${(most / MIB).toFixed(1)} MiB`);
    // Span by span there were as many requests as spans.
    expect(requests).toBeLessThan((absent / 16) * 0.9);
    // An eviction is counted when it has ended.
    await eventually(
      'what lies behind the reader has gone',
      async () => (await engine.status()).cache.evictedBytes > 48 * MIB,
    );
    expect(most).toBeLessThan(limit + 40 * MIB);
  });
});

describe('a device that the kernel reads', () => {
  it('is taken back under readers, loses its blocks, and is handed over again when they have come back', {
    timeout: 300_000,
  }, async () => {
    const engine = await startEngine();
    cleanup.defer(() => engine.stop());
    const [image] = images as [FaultImage];
    expect((await engine.cli(['index', image.ref])).code).toBe(0);
    const dir = join(directory, 'mnt-direct');
    await mountImage(engine, image.ref, dir, { prefetch: true });
    const isDirect = async () =>
      (await imageOf(engine, image.ref)).layers.every(({ state }) => state === 'handed-over');
    // A start that reads something is over sooner than one that is waited for.
    await readPieces(join(dir, 'lib/small-0'), image.files.get('lib/small-0') as Buffer);
    await eventually('the kernel reads the devices', isDirect, 60_000);
    const readers = ['app/noise', 'lib/noise'].map((name) =>
      keepReading(join(dir, name), image.files.get(name) as Buffer),
    );
    await sleep(300);
    const before = await deviceBytes(engine.root);
    const pruned = await engine.cli(['prune', '--all', '--json']);
    expect(pruned.code, pruned.stdout).toBe(0);
    expect((JSON.parse(pruned.stdout) as { freedBytes: number }).freedBytes).toBeGreaterThan(4 * MIB);
    expect(before).toBeGreaterThan(13 * MIB);
    for (const reader of readers) expect(await reader.stop()).toEqual([]);
    for (const [name, content] of image.files)
      expect(new Set(await readPieces(join(dir, name), content, { pieceSize: 65_536 }))).toEqual(
        new Set(['ok']),
      );
    await eventually('the kernel reads them again', isDirect, 60_000);
    const types: string[] = [];
    for await (const { type } of engine.client.events({ from: 'start', follow: false }))
      if (type.startsWith('layer.') && type !== 'layer.trace' && type !== 'layer.blocks') types.push(type);
    expect(types.indexOf('layer.taken-back')).toBeGreaterThan(types.indexOf('layer.handed-over'));
    expect(types.indexOf('layer.evicted')).toBeGreaterThan(types.indexOf('layer.taken-back'));
    expect(types.lastIndexOf('layer.handed-over')).toBeGreaterThan(types.indexOf('layer.evicted'));
    await expectLogAndDataAgree(engine);
    expect((await engine.cli(['unmount', dir])).code).toBe(0);
    await engine.stop();
  });
});

describe('what no mount needs', () => {
  it('is removed by prune and rmi, mounted images stay; the next start removes what a crash left', {
    timeout: 300_000,
  }, async () => {
    const root = await cleanup.tempDir('cache-root');
    const engine = await startEngine({ root });
    cleanup.defer(() => engine.stop());
    const [kept, unused, third] = images as [FaultImage, FaultImage, FaultImage];
    const dirs = await mountAll(engine, 'prune');
    for (const [at, dir] of dirs.entries())
      expect((await readAll(dir, images[at] as FaultImage)).failures).toEqual([]);
    const busy = await engine.cli(['rmi', '--json', kept.ref]);
    expect([errorOf(busy).code, busy.code]).toEqual(['busy', 7]);
    const unknown = await engine.cli(['rmi', '--json', 'localhost:1/none:1']);
    expect(errorOf(unknown).code).toBe('not-found');
    for (const at of [1, 2]) expect((await engine.cli(['unmount', dirs[at] as string])).code).toBe(0);

    const reader = keepReading(join(dirs[0] as string, 'app/noise'), kept.files.get('app/noise') as Buffer);
    const before = await deviceBytes(root);
    const dry = JSON.parse((await engine.cli(['prune', '--dry-run', '--json'])).stdout) as PruneReply;
    expect(dry.images.map(({ ref }) => ref).sort()).toEqual([unused.ref, third.ref].sort());
    expect(await deviceBytes(root)).toBe(before);
    const gone = await engine.cli(['rmi', third.ref]);
    expect(gone.code, gone.stderr).toBe(0);
    const pruned = JSON.parse((await engine.cli(['prune', '--json'])).stdout) as PruneReply;
    expect(pruned.images.map(({ ref }) => ref)).toEqual([unused.ref]);
    expect(pruned.layers).toBe(2);
    expect(Math.abs(dry.freedBytes / 2 - pruned.freedBytes)).toBeLessThan(MIB);
    const ids = kept.layout.manifest.digest.slice(7);
    expect(await readdir(join(root, 'images'))).toEqual([ids]);
    expect(await readdir(join(root, 'layers'))).toHaveLength(2);
    // While an image is being proven its tables may be needed; on a busy machine that takes a while.
    const tables = () => readdir(join(root, 'spans'));
    await eventually('tables of no image are gone', async () => (await tables()).length === 2, 60_000);
    const state = await fold(engine);
    expect([state.images.size, state.layers.size]).toEqual([1, 2]);
    const list = JSON.parse((await engine.cli(['images', '--json'])).stdout) as Array<{
      ref: string;
      mounts: number;
    }>;
    expect(list).toMatchObject([{ ref: kept.ref, mounts: 1 }]);
    expect(await reader.stop()).toEqual([]);

    // An image that went comes again as if it were new.
    await mountImage(engine, unused.ref, dirs[1] as string);
    expect((await readAll(dirs[1] as string, unused)).failures).toEqual([]);
    expect((await engine.cli(['down', '--force'])).code).toBe(0);
    await engine.ended;
    const stray = 'f'.repeat(64);
    mkdirSync(join(root, 'layers', stray));
    writeFileSync(join(root, 'layers', stray, 'device'), 'half');
    const [used] = await readdir(join(root, 'layers'));
    writeFileSync(join(root, 'layers', used as string, 'device.0123456789ab.draft'), 'half');
    writeFileSync(join(root, 'spans', stray), 'nobody');
    const second = await startEngine({ root });
    cleanup.defer(() => second.stop());
    const strays = [`layers/${stray}`, `layers/${used}/device.0123456789ab.draft`, `spans/${stray}`];
    await eventually('strays are gone', () => strays.every((path) => !existsSync(join(root, path))));
    for (const [at, dir] of dirs.slice(0, 2).entries())
      expect((await readAll(dir, images[at] as FaultImage)).failures).toEqual([]);
    for (const dir of dirs.slice(0, 2)) expect((await second.cli(['unmount', dir])).code).toBe(0);
    await second.stop();
  });
});

/** Indexes and mounts every image. */
async function mountAll(engine: Engine, name: string): Promise<string[]> {
  const dirs: string[] = [];
  for (const [at, image] of images.entries()) {
    expect((await engine.cli(['index', image.ref])).code).toBe(0);
    const dir = join(directory, `${name}-${at}`);
    await mountImage(engine, image.ref, dir);
    dirs.push(dir);
  }
  return dirs;
}

/** Every block that the log calls present lies in its device, and is right. Returns how many there are. */
async function expectLogAndDataAgree(engine: Engine): Promise<number> {
  const tars = new Map<string, Buffer>();
  for (const image of images) for (const tar of image.tars) tars.set(rootOf(tar), tar);
  const before = await fold(engine);
  const devices = new Map<string, Buffer>();
  for (const diffId of before.layers.keys())
    devices.set(diffId, await readFile(join(engine.root, 'layers', diffId.slice(7), 'device')));
  // No reader runs, but the engine may evict: blocks evicted meanwhile prove nothing.
  const after = await fold(engine);
  let present = 0;
  const wrong: string[] = [];
  for (const [diffId, layer] of before.layers) {
    const [tar, device] = [tars.get(diffId) as Buffer, devices.get(diffId) as Buffer];
    for (const [block, is] of layer.present.entries()) {
      if (is !== 1 || after.layers.get(diffId)?.present[block] !== 1) continue;
      present += 1;
      const [from, to] = [block * layer.blockSize, Math.min((block + 1) * layer.blockSize, layer.size)];
      if (device.compare(tar, from, to, from, to) !== 0) wrong.push(`${diffId.slice(7, 19)} ${block}`);
    }
  }
  expect(wrong).toEqual([]);
  return present;
}
