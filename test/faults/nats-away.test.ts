/** NATS cut off, stuck or killed, and no fetcher alive: reads go on, status says why, and all is reconciled. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startRelay, type Relay } from '../../ops/bench/relay.ts';
import { emptyNode, foldEvent } from '../../actors/node-state.ts';
import { readLog } from '../../src/store/event-log.ts';
import { connectBus } from '../../src/bus/connection.ts';
import { subjects } from '../../schemas/subjects.ts';
import { type Engine, errorOf, eventually, imageOf, mountImage, startEngine } from '../support/engine.ts';
import { readInParallel } from '../support/readers.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { type NatsServer, startNats } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';
import { type FaultImage, pushImage, readPieces, twoLayers } from './fault-image.ts';

const cleanup = new Cleanup();
let directory = '';
let registry: RegistryServer;
let nats: NatsServer;
let relay: Relay;
let engine: Engine;

beforeAll(async () => {
  directory = await cleanup.tempDir('nats-away');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  nats = await startNats();
  cleanup.defer(() => nats.stop());
  relay = await startRelay({ to: { host: '127.0.0.1', port: Number(new URL(nats.url).port) } });
  cleanup.defer(() => relay.stop());
  engine = await startEngine({ workers: 2, args: ['--nats', `nats://${relay.host}`, '--node', 'away'] });
  cleanup.defer(() => engine.stop());
});
afterAll(() => cleanup.run());

async function mountFresh(seed: number): Promise<{ image: FaultImage; dir: string }> {
  const name = `image-${seed}`;
  const image = await pushImage(join(directory, name), registry.host, name, twoLayers(seed));
  expect((await engine.cli(['index', image.ref])).code).toBe(0);
  const dir = join(directory, `mnt-${seed}`);
  await mountImage(engine, image.ref, dir);
  return { image, dir };
}

const readAll = (dir: string, image: FaultImage) =>
  readInParallel({ root: dir, expected: image.expected, readers: 16, copies: 1 });

const readsOf = async (dir: string, image: FaultImage, name: string) =>
  new Set(await readPieces(join(dir, name), image.files.get(name) as Buffer));

/** Blocks that the log calls present, of the layers of one image. */
async function loggedBlocks(image: FaultImage): Promise<number> {
  const bus = await connectBus({ url: nats.url }, { name: 'test' });
  try {
    const state = emptyNode();
    const log = readLog(bus, subjects('away').allEvents, { from: 'start', follow: false });
    for await (const { subject, event } of log) {
      foldEvent(state, subject.slice(subject.lastIndexOf('.') + 1), event);
    }
    const blobs = new Set(image.blobs.map(({ digest }) => digest));
    return [...state.layers.values()]
      .filter(({ blob }) => blobs.has(blob))
      .reduce((sum, { presentCount }) => sum + presentCount, 0);
  } finally {
    await bus.close();
  }
}

const equalToLog = (image: FaultImage) =>
  eventually('the log says what is present', async () => {
    const { blocks } = await imageOf(engine, image.ref);
    return blocks.fetching === 0 && (await loggedBlocks(image)) === blocks.present;
  });

describe('NATS away', () => {
  it('cut off: every read is served, status says why, nothing is forgotten when it is back', async () => {
    const { image, dir } = await mountFresh(41_000);
    expect(await readsOf(dir, image, 'lib/prose')).toEqual(new Set(['ok']));
    relay.fail({ kind: 'reset' });
    try {
      await eventually('status says so', async () => {
        const { code, stdout } = await engine.cli(['status', '--json']);
        return code === 0 && stdout.includes('is away: reads go on');
      });
      // Present blocks need no process, absent ones are fetched without NATS.
      expect(await readsOf(dir, image, 'lib/prose')).toEqual(new Set(['ok']));
      expect(await readAll(dir, image)).toMatchObject({ failures: [] });
      const refused = await engine.cli(['unmount', '--json', dir]);
      expect(errorOf(refused)).toMatchObject({ code: 'unavailable' });
      expect(errorOf(refused).message).toMatch(/NATS .* reads go on/);
      expect((await engine.cli(['status'])).stdout).toMatch(/degraded .*is away/);
    } finally {
      relay.heal();
    }
    await equalToLog(image);
    await eventually('the layers that became whole meanwhile are handed over', async () => {
      const { layers } = await imageOf(engine, image.ref);
      return layers.every(({ state }) => state === 'handed-over');
    });
    await eventually('all is well again', async () => (await engine.status()).degraded.length === 0);
    const status = await imageOf(engine, image.ref);
    expect(status.blocks.absent).toBe(0);
    expect(status.reads.errors).toBe(0);
    // Fetchers are there again, and mounts work.
    const other = await mountFresh(41_100);
    expect(await readAll(other.dir, other.image)).toMatchObject({ failures: [] });
    for (const one of [dir, other.dir]) expect((await engine.cli(['unmount', one])).code).toBe(0);
  });

  it('stuck, connections open: reads go on after some seconds, and all is reconciled', async () => {
    const { image, dir } = await mountFresh(42_000);
    relay.fail({ kind: 'stall' });
    try {
      expect(await readAll(dir, image)).toMatchObject({ failures: [] });
      await eventually('status says so', async () =>
        (await engine.cli(['status', '--json'])).stdout.includes('is away: reads go on'),
      );
    } finally {
      relay.heal();
    }
    await equalToLog(image);
    expect((await imageOf(engine, image.ref)).reads.errors).toBe(0);
    await eventually('it can be unmounted', async () => (await engine.cli(['unmount', dir])).code === 0);
  });

  it('resets now and again under readers: no read fails, the log is whole', async () => {
    const { image, dir } = await mountFresh(43_000);
    const reading = readAll(dir, image);
    for (let round = 0; round < 5; round++) {
      await sleep(150);
      relay.fail({ kind: 'reset' });
      await sleep(50);
      relay.heal();
    }
    expect(await reading).toMatchObject({ failures: [] });
    await equalToLog(image);
    expect((await imageOf(engine, image.ref)).reads.errors).toBe(0);
    await eventually('it can be unmounted', async () => (await engine.cli(['unmount', dir])).code === 0);
  });
});

describe('no fetcher alive', () => {
  it('stopped ones: the front end fetches by itself and says so, until they go on', async () => {
    const { image, dir } = await mountFresh(44_000);
    const fetchers = (await engine.status()).processes.filter(({ role }) => role === 'fetcher');
    for (const { pid } of fetchers) process.kill(pid, 'SIGSTOP');
    try {
      expect(await readAll(dir, image)).toMatchObject({ failures: [] });
      await eventually('status says so, and nothing else', async () => {
        expect((await engine.status()).degraded).toEqual([expect.stringContaining('no fetcher is running')]);
        return true;
      });
    } finally {
      for (const { pid } of fetchers) process.kill(pid, 'SIGCONT');
    }
    await eventually('they are back', async () => (await engine.status()).degraded.length === 0);
    expect((await imageOf(engine, image.ref)).reads.errors).toBe(0);
    expect((await engine.cli(['unmount', dir])).code).toBe(0);
  });
});
