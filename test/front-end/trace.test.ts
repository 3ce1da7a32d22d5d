import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, test } from 'vitest';
import { EventRecord, type TracedJob, type TracedRead } from '../../schemas/events.ts';
import { Trace, TRACE_ENTRIES } from '../../src/front-end/trace.ts';
import { pushImage, readPieces, twoLayers } from '../faults/fault-image.ts';
import { type Engine, eventually, mountImage, startEngine } from '../support/engine.ts';
import { startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';
import { blockRun, spanRun } from '../../actors/ranges.ts';

describe('the trace of one layer', () => {
  const clock = { now: () => 5, epochMs: () => 1_000 };
  const timing = {
    class: 'demand',
    fetcher: 'w',
    queuedAt: 1,
    sentAt: 2,
    endedAt: 4,
    times: undefined,
  } as const;
  const job = (number: number) => ({ job: number, runs: [spanRun(0, 1)], bytes: 1 });

  test('a read names the job that had its span when it came, and the one that brought it', () => {
    const trace = new Trace(4, clock);
    trace.fetching(7, [spanRun(1, 2)]);
    trace.readStarted(1, blockRun(20, 1));
    trace.readMissed(1, [1]);
    trace.readQueued(1);
    trace.fetching(8, [spanRun(1, 1)]);
    trace.readEnded(1, 0);
    expect(trace.take()?.reads).toMatchObject([{ block: 20, errno: 0, jobs: [7, 8] }]);
    expect(trace.take()).toBeUndefined();
  });

  test('a batch is bounded, and what found no room is counted, also after the log refused it', () => {
    const trace = new Trace(1, clock);
    for (let i = 0; i < TRACE_ENTRIES + 10; i++) trace.jobEnded(job(i), timing, undefined);
    const first = trace.take();
    expect(first).toMatchObject({ dropped: 10 });
    expect(first?.jobs).toHaveLength(TRACE_ENTRIES);
    for (let i = 0; i < 3; i++) trace.jobEnded(job(1_000 + i), timing, 'timeout: x'.repeat(100));
    if (first !== undefined) trace.putBack(first);
    const second = trace.take();
    expect(second?.jobs).toHaveLength(TRACE_ENTRIES);
    expect(second?.jobs.at(-1)?.job).toBe(1_002);
    expect(second?.jobs.at(-1)?.error?.length).toBeLessThanOrEqual(200);
    expect(second?.dropped).toBe(13);
  });

  test('of thousands that wait at once a bounded number is followed', () => {
    const trace = new Trace(1, clock, 10);
    for (let id = 0; id < 50; id++) trace.readStarted(id, blockRun(0, 1));
    for (let id = 0; id < 50; id++) trace.readEnded(id, 5);
    expect(trace.take()).toMatchObject({ dropped: 40, reads: { length: 10 } });
  });
});

describe('the trace in the log', () => {
  const cleanup = new Cleanup();
  let engine: Engine;
  beforeAll(async () => {
    engine = await startEngine({ workers: 1 });
    cleanup.defer(() => engine.stop());
  });
  afterAll(() => cleanup.run());

  it('says of each cold read what it waited for, and of each fetch where its time went', async () => {
    const directory = await cleanup.tempDir('trace');
    const registry = await startRegistry();
    cleanup.defer(() => registry.stop());
    const image = await pushImage(join(directory, 'image'), registry.host, 'trace', twoLayers(90_000));
    expect((await engine.cli(['index', image.ref])).code).toBe(0);
    const dir = join(directory, 'mnt');
    await mountImage(engine, image.ref, dir);
    const content = image.files.get('lib/prose') as Buffer;
    expect(new Set(await readPieces(join(dir, 'lib/prose'), content))).toEqual(new Set(['ok']));

    const { reads, jobs } = await eventually('the trace of every read and fetch', async () => {
      const found = { reads: [] as TracedRead[], jobs: [] as TracedJob[] };
      for await (const event of engine.client.events({ from: 'start', follow: false })) {
        if (event.type !== 'layer.trace') continue;
        const { seq: _, time, subject: __, type, data } = event;
        expect(EventRecord.safeParse({ v: 1, at: Date.parse(time), type, ...data }).success).toBe(true);
        found.reads.push(...(data.reads as TracedRead[]));
        found.jobs.push(...(data.jobs as TracedJob[]));
      }
      // 3 MB in spans of 1 MiB.
      return found.jobs.length >= 3 && found.reads.length > 0 && found;
    });
    for (const read of reads) {
      expect(read.jobs.length).toBeGreaterThan(0);
      for (const number of read.jobs) {
        const job = jobs.find((one) => one.job === number);
        expect(job).toMatchObject({ class: 'demand', worker: 'fetcher-0' });
        expect(job?.error).toBeUndefined();
      }
    }
    for (const job of jobs) {
      expect(job.bytes).toBeGreaterThan(0);
      expect(job.firstByteUs).toBeGreaterThan(0);
      expect(job.fetchUs).toBeGreaterThanOrEqual(job.firstByteUs);
      expect(job.decodeUs).toBeGreaterThan(0);
      expect(job.writeUs).toBeGreaterThan(0);
      expect(job.totalUs).toBeGreaterThanOrEqual(job.fetchUs + job.decodeUs + job.writeUs);
      expect(job.totalUs).toBeGreaterThanOrEqual(job.sentUs);
    }
    expect((await engine.cli(['unmount', dir])).code).toBe(0);
  });
});
