/** Where the time of a fetch goes that brings nothing: to the wait for the first byte, as `cofa replay why` and the metrics say it. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { CofaError } from '../../schemas/errors.ts';
import { noTimes, runFetch, SpanTables } from '../../src/fetch/fetch-job.ts';
import { Gate } from '../../src/fetch/gate.ts';
import type { RehearsalImage } from '../../src/process/rehearsal/image.ts';
import type { RegistryClient } from '../../src/registry/client.ts';
import type { Layout } from '../../src/store/layout.ts';
import { rehearsalLayer } from '../support/rehearsal-layer.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
let image: RehearsalImage;
let layout: Layout;
beforeAll(async () => {
  ({ layout, image } = await rehearsalLayer(cleanup, 'times'));
});
afterAll(() => cleanup.run());

it('a registry that refuses costs the wait for its first byte, and no transfer', async () => {
  const registry = {
    async *blobRanges() {
      await sleep(30);
      if (image.layer.length > 0) throw new CofaError('unavailable', 'the registry refuses connections');
      yield Buffer.alloc(0);
    },
  } as Partial<RegistryClient> as RegistryClient;
  const {
    layerDigest: layer,
    repository,
    layer: { length: size },
  } = image;
  const source = { registry: image.registry, repository, digest: layer, size };
  const times = noTimes();
  const fetching = runFetch(
    { v: 1, kind: 'fetch', class: 'demand', front: 'f', job: 1, layer, runs: [[0, 1]], source },
    {
      layout,
      registry,
      tables: new SpanTables(layout),
      signal: new AbortController().signal,
      gate: new Gate(),
      onBlocks: () => {},
      times,
    },
  );
  await expect(fetching).rejects.toMatchObject({ code: 'unavailable' });
  expect(times.fetchUs).toBeGreaterThan(20_000);
  expect(times.firstByteUs).toBe(times.fetchUs);
  expect(times).toMatchObject({ decodeUs: 0, writeUs: 0 });
});
