/** A startup pack that is asked for before its layers are there: nothing of it is used until it is released. */
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Completion, PackJob } from '../../schemas/fetch.ts';
import { createLog } from '../../src/process/log.ts';
import { type RehearsalImage, serveRehearsalImage } from '../../src/process/rehearsal/image.ts';
import { JobRunner } from '../../src/fetch/job-runner.ts';
import type { RegistryClient } from '../../src/registry/client.ts';
import { openDevice } from '../../src/store/device.ts';
import { Layout, writeWhole } from '../../src/store/layout.ts';
import { Cleanup } from '../support/temp.ts';
import { realPorts } from '../../src/process/ports.ts';

const cleanup = new Cleanup();
let image: RehearsalImage;
let layout: Layout;
beforeAll(async () => {
  layout = new Layout(await cleanup.tempDir('held'));
  await layout.prepare();
  image = await serveRehearsalImage(layout);
  cleanup.defer(() => image.close());
});
afterAll(() => cleanup.run());

/** A fetcher, and when it has got all of a blob. */
function fetcher() {
  const completions: Completion[] = [];
  const came = Promise.withResolvers<void>();
  const ended = Promise.withResolvers<Completion>();
  const registry = {
    async *blobRange(...args: Parameters<RegistryClient['blobRange']>) {
      yield* image.client.blobRange(...args);
      came.resolve();
    },
    right: (...args: Parameters<RegistryClient['right']>) => image.client.right(...args),
  } as Partial<RegistryClient> as RegistryClient;
  const runner = new JobRunner({
    name: 'test',
    node: 'here',
    random: realPorts().random,
    layout,
    registry,
    log: createLog('test', 'silent'),
    packs: () => Promise.reject(new Error('it lies in the registry')),
    complete: (completion) => {
      completions.push(completion);
      if (completion.kind === 'done' || completion.kind === 'failed') ended.resolve(completion);
    },
  });
  return { runner, completions, came: came.promise, ended: ended.promise };
}

const job = (): PackJob => ({
  v: 1,
  kind: 'pack',
  front: 'f',
  job: 1,
  layer: '',
  manifest: image.layerDigest,
  layers: [],
  pack: { kind: 'registry', registry: image.registry, repository: image.repository, ...image.pack },
  held: true,
});

it('comes meanwhile, and is written when the layers are open', async () => {
  const { runner, completions, came, ended } = fetcher();
  runner.take(job());
  await came;
  expect(completions).toEqual([]);
  const { layerDigest, layer, table } = image;
  const { file } = await openDevice(layout.device(layerDigest), layer.length);
  await file.close();
  await writeWhole(layout.spans(layerDigest), table.encode());
  const { held: _, ...released } = { ...job(), layers: [{ diffId: layerDigest, blob: layerDigest }] };
  runner.take(released);
  // Also where the message comes twice.
  runner.take(released);
  expect(await ended).toMatchObject({ kind: 'done' });
  expect(completions.map(({ kind }) => kind)).toEqual(['pack', 'blocks', 'done']);
  expect((await readFile(layout.device(layerDigest))).subarray(0, layer.length)).toEqual(layer);
});

it('ends when it is stopped, without a word of what came', async () => {
  const { runner, completions, came, ended } = fetcher();
  runner.take(job());
  await came;
  runner.take({ v: 1, kind: 'stop', front: 'f', job: 1, layer: '' });
  expect(await ended).toMatchObject({ kind: 'failed', error: { message: 'the job was stopped' } });
  expect(completions).toHaveLength(1);
  await expect.poll(() => runner.running).toBe(0);
});
