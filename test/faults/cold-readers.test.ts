/** Cold mounts under many readers: what the registry is asked for, with a sidecar and without. */
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { startRelay, type Relay } from '../../ops/bench/relay.ts';
import { prose } from '../images/nasty.ts';
import { type Engine, imageOf, mountImage, startEngine } from '../support/engine.ts';
import { readInParallel } from '../support/readers.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';
import { pushImage, spanTableOf, twoLayers } from './fault-image.ts';
import { RangeLog } from './range-log.ts';

const cleanup = new Cleanup();
const ranges = new RangeLog();
let directory = '';
let registry: RegistryServer;
let relay: Relay;

beforeAll(async () => {
  directory = await cleanup.tempDir('cold');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  relay = await startRelay({
    to: { host: '127.0.0.1', port: registry.port },
    rate: 200e6,
    rttMs: 2,
    onRequestBytes: ranges.seen,
  });
  cleanup.defer(() => relay.stop());
});
beforeEach(() => ranges.clear());
afterAll(() => cleanup.run());

async function freshEngine(options: Parameters<typeof startEngine>[0] = {}): Promise<Engine> {
  const engine = await startEngine(options);
  cleanup.defer(() => engine.stop());
  return engine;
}

describe('one flight a span', () => {
  it.each([
    ['kernel', false],
    ['kernel', true],
    ['fuse-native', false],
  ] as const)('32 readers in random order, transport %s, prefetch %s', async (transport, prefetch) => {
    const engine = await freshEngine({ transport, workers: 3 });
    const name = `flight-${transport}-${prefetch}`;
    const image = await pushImage(join(directory, name), relay.host, name, twoLayers(5000));
    expect((await engine.cli(['index', image.ref])).code).toBe(0);
    ranges.clear();
    const dir = join(directory, `mnt-${name}`);
    await mountImage(engine, image.ref, dir, { prefetch });
    const read = await readInParallel({ root: dir, expected: image.expected, readers: 32, copies: 3 });
    expect(read.failures).toEqual([]);
    for (const { digest } of image.blobs) {
      const times = ranges.timesAsked(digest, await spanTableOf(engine.root, digest));
      expect(times).toEqual(times.map(() => 1));
    }
    expect((await imageOf(engine, image.ref)).reads.errors).toBe(0);
    expect((await engine.cli(['unmount', dir])).code).toBe(0);
    await engine.stop();
  });
});

describe('an image without a sidecar', () => {
  it('mounts by itself, says so, pushes nothing; a second image that shares a layer works beside it', async () => {
    const engine = await freshEngine({ workers: 1 });
    const [lower, upper] = twoLayers(6000);
    if (lower === undefined || upper === undefined) throw new Error('two layers');
    const first = await pushImage(join(directory, 'plain'), relay.host, 'plain', [lower, upper]);
    const other = { 'opt/file': prose(700_000, 6100) };
    const second = await pushImage(join(directory, 'sharing'), relay.host, 'sharing', [lower, other]);
    const before = registry.requests().length;
    const dirs = [join(directory, 'mnt-plain'), join(directory, 'mnt-sharing')] as const;
    for (const [i, image] of [first, second].entries()) {
      const dir = dirs[i] as string;
      expect(await mountImage(engine, image.ref, dir)).toMatchObject({ origin: 'node', state: 'mounted' });
      expect(
        await readInParallel({ root: dir, expected: image.expected, readers: 16, copies: 1 }),
      ).toMatchObject({ failures: [] });
      const status = await imageOf(engine, image.ref);
      expect(status).toMatchObject({ origin: 'node', state: 'ready', blocks: { absent: 0, fetching: 0 } });
      expect(status.reads.errors).toBe(0);
    }
    // The first mount is as it was.
    expect(
      await readInParallel({ root: dirs[0], expected: first.expected, readers: 16, copies: 1 }),
    ).toMatchObject({ failures: [] });
    const writes = registry
      .requests()
      .slice(before)
      .filter(({ method }) => method !== 'GET' && method !== 'HEAD');
    expect(writes).toEqual([]);
    for (const name of ['plain', 'sharing']) {
      const reply = await fetch(`http://${registry.host}/v2/${name}/tags/list`);
      expect(await reply.json()).toEqual({ name, tags: ['1'] });
    }
    for (const dir of dirs) expect((await engine.cli(['unmount', dir])).code).toBe(0);
  });

  it('shares a half-fetched layer of an image that has a sidecar', async () => {
    const engine = await freshEngine({ workers: 1 });
    const [lower, upper] = twoLayers(7000);
    if (lower === undefined || upper === undefined) throw new Error('two layers');
    const prepared = await pushImage(join(directory, 'half'), relay.host, 'half', [lower, upper]);
    expect((await engine.cli(['index', prepared.ref])).code).toBe(0);
    const lazy = join(directory, 'mnt-half');
    await mountImage(engine, prepared.ref, lazy);
    const some = {
      ...prepared.expected,
      nodes: prepared.expected.nodes.filter((node) => node.path.toString() === 'app/prose'),
    };
    expect(await readInParallel({ root: lazy, expected: some, readers: 4 })).toMatchObject({ failures: [] });
    expect((await imageOf(engine, prepared.ref)).blocks.absent).toBeGreaterThan(0);

    const plain = await pushImage(join(directory, 'half-plain'), relay.host, 'half-plain', [
      lower,
      { 'opt/file': prose(500_000, 7100) },
    ]);
    const dir = join(directory, 'mnt-half-plain');
    expect(await mountImage(engine, plain.ref, dir)).toMatchObject({ origin: 'node' });
    for (const [root, image] of [
      [dir, plain],
      [lazy, prepared],
    ] as const) {
      expect(await readInParallel({ root, expected: image.expected, readers: 16, copies: 1 })).toMatchObject({
        failures: [],
      });
    }
    for (const one of [dir, lazy]) expect((await engine.cli(['unmount', one])).code).toBe(0);
  });
});
