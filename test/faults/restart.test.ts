/** A clean restart: everything is as it was, and nothing that was here is fetched again. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startRelay } from '../../ops/bench/relay.ts';
import type { Status } from '../../schemas/api.ts';
import { eventually, mountImage, startEngine } from '../support/engine.ts';
import { readInParallel } from '../support/readers.ts';
import { startRegistry } from '../support/registry-server.ts';
import { Cleanup, mountsBelow } from '../support/temp.ts';
import { type FaultImage, pushImage, readPieces, spanTableOf, twoLayers } from './fault-image.ts';
import { RangeLog } from './range-log.ts';

const cleanup = new Cleanup();
const ranges = new RangeLog();
let directory = '';
let root = '';
let image: FaultImage;

beforeAll(async () => {
  directory = await cleanup.tempDir('restart');
  root = await cleanup.tempDir('restart-root');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const relay = await startRelay({
    to: { host: '127.0.0.1', port: registry.port },
    onRequestBytes: ranges.seen,
  });
  cleanup.defer(() => relay.stop());
  image = await pushImage(directory, relay.host, 'app', twoLayers(4000));
});
afterAll(() => cleanup.run());

/** What a restart must not change. */
const lasting = (status: Status) => ({
  mounts: status.mounts,
  images: status.images.map(({ ref, manifest, state, origin, blocks, bytes, layers }) => ({
    ref,
    manifest,
    state,
    origin,
    blocks,
    bytes: { total: bytes.total, present: bytes.present },
    layers: layers.map((layer) => ({
      diffId: layer.diffId,
      state: layer.state,
      blocks: layer.blocks,
      present: layer.bytes.present,
    })),
  })),
});

describe('down and up', () => {
  it('mounts, blocks and bytes are the same afterwards; no span is asked for twice', async () => {
    const first = await startEngine({ root });
    cleanup.defer(() => first.stop());
    expect((await first.cli(['index', image.ref])).code).toBe(0);
    const [one, two] = [join(directory, 'one'), join(directory, 'two')];
    await mountImage(first, image.ref, one);
    await mountImage(first, image.ref, two);
    ranges.clear();
    // Half of the image: the rest stays absent, since nothing is fetched ahead.
    const halves = ['app/noise', 'lib/prose'] as const;
    for (const name of halves) {
      const content = image.files.get(name) as Buffer;
      const outcomes = await readPieces(join(one, name), content);
      expect(outcomes.filter((outcome) => outcome !== 'ok')).toEqual([]);
    }
    // The kernel may read on for a moment.
    const before = await eventually('nothing is on its way', async () => {
      const status = await first.status();
      return status.images[0]?.blocks.fetching === 0 && status;
    });
    expect(before.images[0]?.blocks.absent).toBeGreaterThan(20);
    expect((await first.cli(['down'])).code).toBe(0);
    await first.ended;
    expect(mountsBelow(directory)).toEqual([]);

    const second = await startEngine({ root });
    cleanup.defer(() => second.stop());
    expect(lasting(await second.status())).toEqual(lasting(before));
    expect(mountsBelow(directory).sort()).toEqual([one, two]);
    const asked = ranges.all().length;
    for (const name of halves) {
      const content = image.files.get(name) as Buffer;
      // The page cache went with the mount: these reads reach the devices.
      expect(new Set(await readPieces(join(two, name), content, { exact: true }))).toEqual(new Set(['ok']));
    }
    expect(ranges.all().slice(asked)).toEqual([]);
    expect(await readInParallel({ root: one, expected: image.expected, readers: 16 })).toMatchObject({
      failures: [],
    });
    for (const { digest } of image.blobs) {
      const times = ranges.timesAsked(digest, await spanTableOf(root, digest));
      expect(times).toEqual(times.map(() => 1));
    }
    for (const dir of [one, two]) expect((await second.cli(['unmount', dir])).code).toBe(0);
    expect((await second.cli(['down'])).code).toBe(0);
  });
});
