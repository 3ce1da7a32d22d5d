/** What a fetcher says of a startup pack while it brings it. */
import { readdirSync } from 'node:fs';
import { afterAll, expect, it } from 'vitest';
import { rehearsalLayer } from '../../src/process/rehearsal/layer.ts';
import { SpanTables } from '../../src/fetch/fetch-job.ts';
import { runPack } from '../../src/fetch/pack-job.ts';
import { bringPack } from '../../src/fetch/start-jobs.ts';
import { encodePack } from '../../src/pack/format.ts';
import type { RegistryClient } from '../../src/registry/client.ts';
import { openDevice } from '../../src/store/device.ts';
import { Layout, writeWhole } from '../../src/store/layout.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

const BLOCKS = 256;

it('tells of the first blocks at once, also where all of the pack is there already', async () => {
  const { bytes, digest, table } = rehearsalLayer(BLOCKS);
  const layout = new Layout(await cleanup.tempDir('bring-pack'));
  await layout.prepare();
  await writeWhole(layout.spans(digest), table.encode());
  const { file } = await openDevice(layout.device(digest), bytes.length);
  cleanup.defer(() => file.close());
  const runs = [[0, 0, BLOCKS]] as const;
  const header = {
    manifest: digest,
    blockSize: table.blockSize,
    devices: [digest],
    sizes: [bytes.length],
    runs,
  };
  const pieces: Buffer[] = [];
  const read = (_: number, block: number, length: number) =>
    bytes.subarray(block * table.blockSize, block * table.blockSize + length);
  for await (const piece of encodePack(header, read)) pieces.push(piece);
  const pack = Buffer.concat(pieces);
  const source = { registry: 'registry.test', repository: 'app', digest, size: pack.length };
  const registry = {
    async *blobRange() {
      yield pack;
    },
    right() {},
  } as unknown as RegistryClient;
  const told: number[] = [];
  await bringPack(
    {
      v: 1,
      kind: 'pack',
      front: '',
      job: 1,
      layer: '',
      manifest: digest,
      layers: [{ diffId: digest, blob: digest }],
      pack: { kind: 'registry', ...source },
    },
    {
      layout,
      packs: () => Promise.reject(new Error('it lies in a registry')),
      registry,
      tables: new SpanTables(layout),
      signal: new AbortController().signal,
    },
    {
      runs: () => {},
      blocks: (found) => told.push(found.reduce((sum, [, , count]) => sum + count, 0)),
    },
  );
  expect(told[0]).toBe(8);
  expect(told.reduce((sum, count) => sum + count, 0)).toBe(BLOCKS);
  // A message for each would cost more than it says.
  expect(told.length).toBeLessThanOrEqual(BLOCKS / 8);
  expect(bytes.compare(await file.readFile())).toBe(0);
});

it('holds no descriptor of a layer that the pack names again and again', async () => {
  const { bytes, digest, table } = rehearsalLayer(1);
  const layout = new Layout(await cleanup.tempDir('pack-descriptors'));
  const { file } = await openDevice(layout.device(digest), bytes.length);
  cleanup.defer(() => file.close());
  const names = 999;
  const header = {
    manifest: digest,
    blockSize: table.blockSize,
    devices: Array<string>(names).fill(digest),
    sizes: Array<number>(names).fill(bytes.length),
    runs: [[0, 0, 1]] as const,
  };
  const descriptors = () => readdirSync('/proc/self/fd').length;
  const before = descriptors();
  const context = {
    layout,
    layers: new Map([[digest, { id: digest, table }]]),
    signal: new AbortController().signal,
    onHeader: () => {},
    onBlocks: () => {},
  };
  await expect(
    runPack(
      encodePack(header, () => bytes),
      context,
    ),
  ).rejects.toMatchObject({ code: 'integrity' });
  expect(descriptors()).toBe(before);
});
