/** When a recorded start becomes a pack, and when the one that lies beside the image is as good. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { NatsConnection } from '@nats-io/nats-core';
import type { RecordJob } from '../../schemas/fetch.ts';
import { connectBus } from '../../src/bus/connection.ts';
import { SpanTables } from '../../src/fetch/fetch-job.ts';
import { recordStart, type StartContext } from '../../src/fetch/start-jobs.ts';
import { PackStore } from '../../src/pack/pack-store.ts';
import { RegistryClient } from '../../src/registry/client.ts';
import { Layout } from '../../src/store/layout.ts';
import { startNats } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
let bus: NatsConnection;
let context: StartContext;

beforeAll(async () => {
  const nats = await startNats();
  cleanup.defer(() => nats.stop());
  bus = await connectBus({ url: nats.url }, { name: 'test' });
  cleanup.defer(() => bus.close());
  const layout = new Layout(await cleanup.tempDir('start-jobs'));
  const registry = new RegistryClient();
  cleanup.defer(() => registry.close());
  const signal = new AbortController().signal;
  context = { layout, packs: async () => bus, registry, tables: new SpanTables(layout), signal };
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
  expect(await store.recordings(manifest, 'default')).toEqual([{ devices: [layer], runs: [[0, 0, 100]] }]);
});

test('one that reads much else needs a pack of its own', async () => {
  const manifest = `sha256:${'b'.repeat(64)}`;
  const set = { devices: [layer], runs: [[0, 0, 100]] as const };
  const brought = { devices: [layer], runs: [[0, 50, 100]] as const };
  // It is made of the layer's device, which is not here.
  await expect(recordStart(job({ manifest, set, brought }), context)).rejects.toThrow(/span table/);
});
