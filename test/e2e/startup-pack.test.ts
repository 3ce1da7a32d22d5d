/**
 * What a start reads is learned by itself: the first start of an image on one node makes the next one, on a node that has
 * nothing, need a single request instead of hundreds. Over NATS without any right to push; or beside the image.
 */
import type { NatsConnection } from '@nats-io/nats-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { realImage } from '../../ops/images/debian.ts';
import { pushLayout } from '../../ops/images/layout.ts';
import { connectBus } from '../../src/bus/connection.ts';
import { PackStore } from '../../src/pack/pack-store.ts';
import { readInParallel } from '../support/readers.ts';
import { type NatsServer, startNats } from '../support/services.ts';
import { spoilPack } from '../support/spoilt-pack.ts';
import { Cleanup } from '../support/temp.ts';
import { readTree } from '../support/tree.ts';
import { keptTruth } from '../support/unpack.ts';
import { type Engine, startEngine, startWatchedRegistry, until, type WatchedRegistry } from './engine.ts';

const cleanup = new Cleanup();
const START = ['python3', '/app/hello.py'];
let registry: WatchedRegistry;
let nats: NatsServer;
let bus: NatsConnection;
let reference: string;

beforeAll(async () => {
  registry = await startWatchedRegistry(cleanup);
  nats = await startNats();
  cleanup.defer(() => nats.stop());
  bus = await connectBus({ url: nats.url }, { name: 'test' });
  cleanup.defer(() => bus.close());
  reference = `${registry.host}/demo:latest`;
  await pushLayout(await realImage('demo'), registry.host, 'demo', 'latest');
});
afterAll(() => cleanup.run());

/** Starts the container on an engine that has nothing. */
async function coldStart(engine: Engine): Promise<{ output: string; jobs: number; blocks: number }> {
  registry.takeBlobRequests();
  const output = await engine.cofa(['run', reference, ...START]);
  const lines = (await engine.cofa(['events', '--json', '--since-start', '--no-follow'])).trim().split('\n');
  const jobs = lines.flatMap((line) => {
    const event = JSON.parse(line) as { type: string; data: { jobs?: Array<{ class: string }> } };
    return event.type === 'layer.trace' ? (event.data.jobs ?? []) : [];
  });
  const status = await engine.status();
  return {
    output,
    jobs: jobs.filter((job) => job.class === 'demand').length,
    blocks: status.images.reduce((sum, image) => sum + image.blocks.present, 0),
  };
}

describe('a startup pack', () => {
  test('is learned from the first start, used by the next node, and pushed beside the image', async () => {
    const first = await startEngine(cleanup, ['--nats', nats.url, '--node', 'one']);
    await first.cofa(['index', reference]);
    const cold = await coldStart(first);
    expect(cold.jobs).toBeGreaterThan(10);
    const store = new PackStore(async () => bus);
    await until(
      async () => (await store.list()).length > 0,
      () => `no pack was made\n${first.logs()}`,
    );
    await first.down();

    const second = await startEngine(cleanup, ['--nats', nats.url, '--node', 'two']);
    const packed = await coldStart(second);
    expect(packed.output).toBe(cold.output);
    expect(packed.jobs, second.logs()).toBeLessThan(cold.jobs / 4);
    // Each node's recording has its name: they count by node.
    const [pack] = await store.list();
    let nodes: string[] = [];
    await until(
      async () => {
        nodes = (await store.recordings(pack?.manifest ?? '', pack?.start ?? '')).map(({ node }) => node);
        return nodes.length > 1;
      },
      () => second.logs(),
    );
    expect(nodes).toEqual(['one', 'two']);
    await second.cofa(['pack', 'push', reference, ...START]);
    await second.down();

    // A NATS of its own, which has never heard of the image.
    const third = await startEngine(cleanup, ['--node', 'three']);
    const alone = await coldStart(third);
    expect(alone.output).toBe(cold.output);
    expect(alone.jobs, third.logs()).toBeLessThan(cold.jobs / 4);

    // One with wrong bytes is given up at its first wrong block, and does not come a second time.
    const [kept] = await store.list();
    await spoilPack(store, kept as NonNullable<typeof kept>);
    const fourth = await startEngine(cleanup, ['--nats', nats.url, '--node', 'four']);
    expect((await coldStart(fourth)).output).toBe(cold.output);
    const isGone = async () => (await store.list()).every(({ size }) => size > (kept?.size ?? 0) / 4);
    await until(isGone, () => fourth.logs());
    expect(fourth.logs()).toContain('the startup pack has a wrong block');
    await fourth.down();

    // And every byte is right, those of the pack too.
    const truth = await readTree(await keptTruth(await realImage('demo'), reference), { content: false });
    const mount = await cleanup.tempDir('mnt');
    await third.cofa(['mount', reference, mount]);
    const read = await readInParallel({ root: mount, expected: truth, seed: 1 });
    expect(read.failures).toEqual([]);
    await third.cofa(['unmount', mount]);
    await third.down();
  }, 300_000);
});
