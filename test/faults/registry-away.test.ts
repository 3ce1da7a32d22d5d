/** A registry that ends, comes back, or breaks its answers off in the middle. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { startRelay, type Relay } from '../../ops/bench/relay.ts';
import { type Engine, eventually, imageOf, mountImage, startEngine } from '../support/engine.ts';
import { readInParallel } from '../support/readers.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';
import type { Tree } from '../support/tree.ts';
import { type FaultImage, pushImage, readPieces, twoLayers } from './fault-image.ts';

const cleanup = new Cleanup();
let directory = '';
let registry: RegistryServer;
let relay: Relay;
/** Gives up a read after 6 s, which the link leaves to a slow machine; and after 30 s. */
let hasty: Engine;
let patient: Engine;
let image: FaultImage;
let dir = '';
let seed = 1000;

beforeAll(async () => {
  directory = await cleanup.tempDir('away');
  const first = await startRegistry({ storage: join(directory, 'storage') });
  cleanup.defer(() => first.stop());
  registry = first;
  // 40 Mbit/s: reads take long enough that something can happen in their midst.
  relay = await startRelay({ to: { host: '127.0.0.1', port: registry.port }, rate: 40e6, rttMs: 5 });
  cleanup.defer(() => relay.stop());
  hasty = await startEngine({ readDeadlineMs: 6_000, workers: 1 });
  cleanup.defer(() => hasty.stop());
  patient = await startEngine({ workers: 1, args: ['--node', 'patient'] });
  cleanup.defer(() => patient.stop());
});
beforeEach(() => relay.heal());
afterAll(() => cleanup.run());

const only = (...names: string[]): Tree => ({
  ...image.expected,
  nodes: image.expected.nodes.filter((node) => names.includes(node.path.toString())),
});
const readAll = (expected: Tree) =>
  readInParallel({ root: dir, expected, readers: 32, copies: 1, pieceSize: 256 * 1024, maxFailures: 10_000 });

/** A fresh image, prepared and mounted, of which nothing has come. */
async function mountFresh(engine: Engine): Promise<void> {
  seed += 50;
  const name = `image-${seed}`;
  image = await pushImage(join(directory, name), registry.host, name, twoLayers(seed));
  expect((await engine.cli(['index', image.ref])).code).toBe(0);
  image.ref = image.ref.replace(registry.host, relay.host);
  dir = join(directory, `mnt-${seed}`);
  await mountImage(engine, image.ref, dir);
}

async function startAgain(): Promise<void> {
  const again = await startRegistry({ storage: join(directory, 'storage'), port: registry.port });
  cleanup.defer(() => again.stop());
  registry = again;
}

describe('a registry that ends', () => {
  it('killed in the middle of reads: EIO for what is absent, never wrong bytes; what is here is served; back again, all works', async () => {
    await mountFresh(hasty);
    expect(await readAll(only('lib/prose'))).toMatchObject({ failures: [] });
    const before = await imageOf(hasty, image.ref);
    const reading = readAll(only('app/noise', 'app/prose', 'lib/noise'));
    await eventually('some of it has come', async () => {
      const { blocks } = await imageOf(hasty, image.ref);
      return blocks.present > before.blocks.present + 4;
    });
    registry.kill();
    const { failures, pieces } = await reading;
    expect(failures).not.toEqual([]);
    expect(failures.filter((text) => !text.includes('EIO'))).toEqual([]);
    expect(pieces).toBeGreaterThan(0);

    // Present blocks need no registry, and neither does the hasty.
    expect(await readAll(only('lib/prose'))).toMatchObject({ failures: [] });
    const away = await imageOf(hasty, image.ref);
    expect(away.reads.errors).toBeGreaterThan(0);
    expect(away.blocks.absent + away.blocks.fetching).toBeGreaterThan(0);
    expect(away.layers.map(({ state }) => state)).not.toContain('corrupt');

    await startAgain();
    await eventually('reads work again', async () => (await readAll(image.expected)).failures.length === 0);
    expect((await hasty.cli(['unmount', dir])).code).toBe(0);
  });

  it('cold, without a registry from the start: EIO by the deadline, and a mount of the same image still works', async () => {
    await mountFresh(hasty);
    registry.kill();
    const content = image.files.get('app/prose') as Buffer;
    const outcomes = await readPieces(join(dir, 'app/prose'), content, { count: 1, exact: true });
    expect(outcomes).toEqual(['EIO']);
    // The image was resolved before: its name means what it meant then.
    const again = join(directory, `mnt-again-${seed}`);
    await mountImage(hasty, image.ref, again);
    await startAgain();
    await eventually('both mounts read', async () => {
      const outcomes = await readPieces(join(again, 'app/prose'), content);
      return outcomes.every((one) => one === 'ok');
    });
    expect(await readAll(image.expected)).toMatchObject({ failures: [] });
    for (const one of [dir, again]) expect((await hasty.cli(['unmount', one])).code).toBe(0);
  });
});

describe('a registry that breaks off', () => {
  it('each connection cut in the middle of ranges: reads go on from there, none fails', async () => {
    await mountFresh(patient);
    relay.fail({ kind: 'cut', afterBytes: 200_000 });
    const opened = relay.counters().connections;
    expect(await readAll(image.expected)).toMatchObject({ failures: [] });
    // 9 MB or so in pieces of at most 200 kB each.
    expect(relay.counters().connections - opened).toBeGreaterThan(20);
    expect((await imageOf(patient, image.ref)).reads.errors).toBe(0);
    expect((await patient.cli(['unmount', dir])).code).toBe(0);
  });

  it('all connections reset now and again, and a pause without a byte: no read fails', async () => {
    await mountFresh(patient);
    const reading = readAll(image.expected);
    for (let round = 0; round < 3; round++) {
      await sleep(250);
      relay.fail({ kind: 'reset' });
      await sleep(100);
      relay.heal();
    }
    relay.fail({ kind: 'stall' });
    await sleep(600);
    relay.heal();
    expect(await reading).toMatchObject({ failures: [] });
    expect((await imageOf(patient, image.ref)).reads.errors).toBe(0);
    expect((await patient.cli(['unmount', dir])).code).toBe(0);
  });
});
