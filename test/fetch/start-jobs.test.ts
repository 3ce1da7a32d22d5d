/** When a recorded start becomes a pack, and when the one that lies beside the image is as good. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { NatsConnection } from '@nats-io/nats-core';
import type { RecordJob } from '../../schemas/fetch.ts';
import { connectBus } from '../../src/bus/connection.ts';
import { SpanTables } from '../../src/fetch/fetch-job.ts';
import { recordStart, type RecordContext } from '../../src/fetch/start-jobs.ts';
import { mergeNodes } from '../../actors/start-recordings.ts';
import { PackStore } from '../../src/pack/pack-store.ts';
import { RegistryClient } from '../../src/registry/client.ts';
import { Layout } from '../../src/store/layout.ts';
import { startNats } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
let bus: NatsConnection;
let context: RecordContext;

beforeAll(async () => {
  const nats = await startNats();
  cleanup.defer(() => nats.stop());
  bus = await connectBus({ url: nats.url }, { name: 'test' });
  cleanup.defer(() => bus.close());
  const layout = new Layout(await cleanup.tempDir('start-jobs'));
  const registry = new RegistryClient();
  cleanup.defer(() => registry.close());
  const signal = new AbortController().signal;
  context = {
    layout,
    packs: async () => bus,
    registry,
    tables: new SpanTables(layout),
    signal,
    node: 'one',
    random: () => 0.99,
  };
});
afterAll(() => cleanup.run());

const layer = `sha256:${'1'.repeat(64)}`;
const blob = `sha256:${'2'.repeat(64)}`;
const job = (more: Pick<RecordJob, 'manifest' | 'set' | 'brought'>): RecordJob => ({
  v: 1,
  front: 'test',
  job: 1,
  kind: 'record',
  layer: '',
  start: 'default',
  repository: 'registry.test/app',
  layers: [{ diffId: layer, blob }],
  ...more,
});

test('a start that the pack beside the image fits is remembered, and no other pack is made', async () => {
  const manifest = `sha256:${'a'.repeat(64)}`;
  const set = { devices: [layer], runs: [[0, 0, 100]] as const };
  const brought = { devices: [layer], runs: [[0, 1, 100]] as const };
  await recordStart(job({ manifest, set, brought }), context);
  const store = new PackStore(async () => bus);
  expect(await store.find(manifest, 'default')).toBeUndefined();
  expect(await store.recordings(manifest, 'default')).toEqual([
    { node: 'one', set: { devices: [layer], runs: [[0, 0, 100]] } },
  ]);
});

test('nodes are merged as nodes: the one that starts each minute does not outvote two that start once', async () => {
  const manifest = `sha256:${'c'.repeat(64)}`;
  const read = (first: number, count: number) => ({ devices: [layer], runs: [[0, first, count]] as const });
  const start = (node: string, set: ReturnType<typeof read>, brought = read(0, 100)) =>
    recordStart(job({ manifest, set, brought }), { ...context, node });
  for (let at = 0; at < 6; at++) await start('busy', read(0, 104));
  await start('two', read(0, 100));
  // A third of the nodes have blocks 100 to 103, six recordings of eight.
  await start('three', read(0, 100));
  const recordings = await new PackStore(async () => bus).recordings(manifest, 'default');
  expect(recordings.map(({ node }) => node)).toEqual([
    ...Array.from({ length: 6 }, () => 'busy'),
    'two',
    'three',
  ]);
  expect(mergeNodes(recordings).runs).toEqual([[0, 0, 100]]);
});

test('where many nodes have recorded the same, one more writes nothing, and one that differs does', async () => {
  const manifest = `sha256:${'d'.repeat(64)}`;
  const set = { devices: [layer], runs: [[0, 0, 100]] as const };
  const store = new PackStore(async () => bus);
  const start = (node: string, more: object = {}) =>
    recordStart(job({ manifest, set, brought: set, ...more }), { ...context, node });
  const nodes = async () => (await store.recordings(manifest, 'default')).map(({ node }) => node);
  for (let at = 0; at < 12; at++) await start(`node-${at}`);
  expect(await nodes()).toHaveLength(8);
  await start('odd', { set: { devices: [layer], runs: [[0, 50, 100]] } });
  expect((await nodes()).at(-1)).toBe('odd');
});

test('one that reads much else needs a pack of its own', async () => {
  const manifest = `sha256:${'b'.repeat(64)}`;
  const set = { devices: [layer], runs: [[0, 0, 100]] as const };
  const brought = { devices: [layer], runs: [[0, 50, 100]] as const };
  // It is made of the layer's device, which is not here.
  await expect(recordStart(job({ manifest, set, brought }), context)).rejects.toThrow(/span table/);
});
