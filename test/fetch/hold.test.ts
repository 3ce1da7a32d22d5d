/** A fetch that pauses because a reader waits for another one. */
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Completion, FetchJob } from '../../schemas/fetch.ts';
import { createLog } from '../../src/process/log.ts';
import type { RehearsalImage } from '../../src/process/rehearsal/image.ts';
import { JobRunner } from '../../src/fetch/job-runner.ts';
import type { RegistryClient } from '../../src/registry/client.ts';
import type { Layout } from '../../src/store/layout.ts';
import { rehearsalLayer } from '../support/rehearsal-layer.ts';
import { Cleanup } from '../support/temp.ts';
import { realPorts } from '../../src/process/ports.ts';

/** Longer than any machine needs for all of this, ms. */
const LONG_MS = 600_000;

const cleanup = new Cleanup();
let image: RehearsalImage;
let layout: Layout;
beforeAll(async () => {
  ({ layout, image } = await rehearsalLayer(cleanup, 'hold'));
});
afterAll(() => cleanup.run());

/** A fetcher, what it has said, when the first bytes have come to it, and when it has said that a job is over. */
function fetcher() {
  const said: Completion[] = [];
  const ends = new Map<number, PromiseWithResolvers<Completion>>();
  const ended = (job: number) => {
    const end = ends.get(job) ?? Promise.withResolvers<Completion>();
    ends.set(job, end);
    return end;
  };
  const came = Promise.withResolvers<void>();
  const registry = {
    async *blobRanges(...args: Parameters<RegistryClient['blobRanges']>) {
      for await (const chunk of image.client.blobRanges(...args)) {
        came.resolve();
        yield chunk;
      }
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
    packs: () => Promise.reject(new Error('no startup pack is asked for')),
    complete: (completion) => {
      said.push(completion);
      if (completion.kind === 'done' || completion.kind === 'failed')
        ended(completion.job).resolve(completion);
    },
  });
  return {
    runner,
    came: came.promise,
    said: (job: number) => said.filter((one) => one.job === job),
    ended: (job: number) => ended(job).promise,
  };
}

const fetchJob = (job: number): FetchJob => ({
  v: 1,
  kind: 'fetch',
  class: 'prefetch',
  front: 'f',
  job,
  layer: image.layerDigest,
  runs: [[0, image.table.blockCount]],
  source: {
    registry: image.registry,
    repository: image.repository,
    digest: image.layerDigest,
    size: image.layer.length,
  },
});
const hold = (job: number, ms: number) => ({ v: 1, kind: 'hold', front: 'f', layer: '', job, ms }) as const;

it('rests while others are done, and goes on when it is told to', async () => {
  const { runner, said, ended } = fetcher();
  runner.take(fetchJob(1));
  runner.take(hold(1, LONG_MS));
  for (const other of [2, 3]) {
    runner.take(fetchJob(other));
    expect(await ended(other)).toMatchObject({ kind: 'done' });
  }
  expect(said(1)).toEqual([]);
  runner.take(hold(1, 0));
  expect(await ended(1)).toMatchObject({ kind: 'done' });
  expect((await readFile(layout.device(image.layerDigest))).subarray(0, image.layer.length)).toEqual(
    image.layer,
  );
});

it('says of each byte once that it came', async () => {
  const { runner, said, ended } = fetcher();
  runner.take(fetchJob(1));
  await ended(1);
  const { inStart } = image.table.span(0);
  const { inEnd } = image.table.span(image.table.spanCount - 1);
  const bytes = said(1).reduce((sum, one) => sum + ('bytes' in one ? one.bytes : 0), 0);
  expect(bytes).toBe(inEnd - inStart);
});

it('goes on by itself where the word that it may gets lost', async () => {
  const { runner, ended } = fetcher();
  runner.take(fetchJob(1));
  runner.take(hold(1, LONG_MS));
  // A later word counts.
  runner.take(hold(1, 20));
  expect(await ended(1)).toMatchObject({ kind: 'done' });
});

it('ends when it is stopped meanwhile', async () => {
  const { runner, said, ended, came } = fetcher();
  runner.take(fetchJob(1));
  runner.take(hold(1, LONG_MS));
  await came;
  runner.take({ v: 1, kind: 'stop', front: 'f', layer: '', job: 1 });
  expect(await ended(1)).toMatchObject({ kind: 'failed', error: { message: 'the job was stopped' } });
  expect(said(1)).toHaveLength(1);
  await expect.poll(() => runner.running).toBe(0);
});

it('is no job of its own: who holds what has ended, or never was, does nothing', async () => {
  const { runner, said, ended } = fetcher();
  runner.take(hold(1, LONG_MS));
  runner.take(fetchJob(1));
  expect(await ended(1)).toMatchObject({ kind: 'done' });
  runner.take(hold(1, LONG_MS));
  expect(said(1).filter(({ kind }) => kind !== 'blocks')).toHaveLength(1);
  await expect.poll(() => runner.running).toBe(0);
});
