/**
 * A fetcher process: takes jobs from front ends over NATS and answers with completions. It keeps no state that matters:
 * killed at any moment, its jobs are given to another.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { createLog } from '../engine/log.ts';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import type {
  Completion,
  FetchJob,
  FetchTimes,
  Job,
  PackJob,
  RecordJob,
  StopJob,
  VerifyJob,
  WorkerHello,
} from '../../schemas/fetch.ts';
import { subjects } from '../../schemas/subjects.ts';
import { connectBus, pack, unpack } from '../bus/connection.ts';
import { readSettings } from '../engine/process-settings.ts';
import { RegistryClient } from '../registry/client.ts';
import { hashDevice } from '../store/device.ts';
import { Layout } from '../store/layout.ts';
import { noTimes, runFetch, SpanTables } from './fetch-job.ts';

/** Sent this often, ms; a front end takes a fetcher for lost after several that did not come. */
const HELLO_MS = 1_000;
/** Errors after which the same job may succeed. */
const RETRYABLE = new Set(['unavailable', 'timeout', 'no-space', 'unauthorized', 'internal']);

const [root, worker] = process.argv.slice(2);
if (root === undefined || worker === undefined) throw new Error('usage: worker.ts ROOT NAME');
const settings = await readSettings(root);
const log = createLog(worker, settings.logLevel);
const layout = new Layout(root);
const names = subjects(settings.node);
const registry = new RegistryClient({});
const tables = new SpanTables(layout);
const stopping = new AbortController();
const bus = await connectBus(settings.nats, { name: worker });

const running = new Map<string, { done: Promise<void>; stop: AbortController }>();
bus.subscribe(names.job(worker), {
  callback: (error, message) => {
    if (error !== null) return;
    const job = unpack<Job | StopJob>(message.data);
    const key = `${job.front}/${job.job}`;
    if (job.kind === 'stop') {
      running.get(key)?.stop.abort(new CofaError('unavailable', 'the job was stopped'));
      return;
    }
    // The front end asks again when it hears nothing; what runs already will answer.
    if (running.has(key) || stopping.signal.aborted) return;
    const stop = new AbortController();
    const done = run(job, AbortSignal.any([stopping.signal, stop.signal])).finally(() => running.delete(key));
    running.set(key, { done, stop });
  },
});

async function run(job: Job, signal: AbortSignal): Promise<void> {
  const base = { v: 1 as const, front: job.front, worker: worker as string, job: job.job, layer: job.layer };
  const times = noTimes();
  const spent = job.kind === 'fetch' ? { times } : {};
  try {
    const bytes =
      job.kind === 'fetch' ? await fetchTwice(job, base, times, signal) : await runOther(job, base, signal);
    complete({ ...base, ...spent, kind: 'done', bytes });
  } catch (error) {
    const record = toErrorRecord(error);
    log.warn({ job: job.job, layer: job.layer, kind: job.kind, error: record }, 'job failed');
    const retryable = RETRYABLE.has(record.code);
    complete({ ...base, ...spent, kind: 'failed', bytes: 0, error: record, retryable });
  }
}

/** Wrong bytes may have been spoilt on their way: they get one more try before the reader hears of them. */
async function fetchTwice(
  job: FetchJob,
  base: Omit<Completion, 'kind' | 'bytes'>,
  times: FetchTimes,
  signal: AbortSignal,
): Promise<number> {
  const once = () =>
    runFetch(job, {
      layout,
      registry,
      tables,
      signal,
      times,
      onBlocks: (firstBlock, count, bytes) =>
        complete({ ...base, kind: 'blocks', firstBlock, count, bytes } as Completion),
    });
  try {
    return await once();
  } catch (error) {
    if (toErrorRecord(error).code !== 'integrity') throw error;
    return await once();
  }
}

async function runOther(
  job: VerifyJob | PackJob | RecordJob,
  base: Omit<Completion, 'kind' | 'bytes'>,
  signal: AbortSignal,
): Promise<number> {
  if (job.kind === 'verify') return await verify(job, signal);
  const context = { layout, bus, registry, tables, signal };
  const { bringPack, recordStart } = await import('./start-jobs.ts');
  if (job.kind === 'record') {
    await recordStart(job, context);
    return 0;
  }
  return await bringPack(job, context, {
    runs: (devices, runs) => complete({ ...base, kind: 'pack', devices, runs } as Completion),
    blocks: (layer, firstBlock, count, bytes) =>
      complete({ ...base, kind: 'blocks', layer, firstBlock, count, bytes } as Completion),
  });
}

async function verify(job: VerifyJob, signal: AbortSignal): Promise<number> {
  const found = await hashDevice(layout.device(job.layer), job.size, signal);
  if (found !== job.layer) {
    throw new CofaError('integrity', `layer ${job.layer} hashes to ${found}`);
  }
  return 0;
}

function complete(completion: Completion): void {
  bus.publish(names.completion, pack(completion));
}

function hello(leaving = false): void {
  const message: WorkerHello = { v: 1, worker: worker as string, pid: process.pid, slots: settings.slots };
  bus.publish(names.hello, pack(leaving ? { ...message, leaving } : message));
}

hello();
const beat = setInterval(hello, HELLO_MS);
// Front ends that start ask who is there.
bus.subscribe(names.whoIsThere, { callback: () => hello() });

async function stop(): Promise<void> {
  clearInterval(beat);
  hello(true);
  stopping.abort(new Error('the fetcher stops'));
  await Promise.race([Promise.allSettled([...running.values()].map(({ done }) => done)), sleep(1_000)]);
  await bus.drain();
  process.exit(0);
}
process.once('SIGTERM', () => void stop());
process.once('SIGINT', () => void stop());
log.info({ pid: process.pid, slots: settings.slots }, 'fetcher ready');
// A start that has a pack should not wait for code.
void import('./start-jobs.ts');
