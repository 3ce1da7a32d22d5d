/**
 * A fetcher process: takes jobs from front ends over NATS and answers with completions. It keeps no state that matters:
 * killed at any moment, its jobs are given to another.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { giveHeapRoom, Tidying } from '../process/heap.ts';
import { createLog } from '../process/log.ts';
import type { Job, JobWord, FetcherHello } from '../../schemas/fetch.ts';
import { subjects } from '../../schemas/subjects.ts';
import { busOnDemand, connectBus, decode, encode } from '../bus/connection.ts';
import { watchBus } from '../bus/health.ts';
import { linkToParent } from '../process/parent-link.ts';
import { busOf, readSettings, registryOptions } from '../process/settings.ts';
import { RegistryClient } from '../registry/client.ts';
import { Layout } from '../store/layout.ts';
import { JobRunner } from '../fetch/job-runner.ts';

/** Sent this often, ms; a front end takes a fetcher for lost after several that did not come. */
const HELLO_MS = 1_000;
/** What runs has this long to end when the fetcher is told to, ms. */
const STOP_MS = 1_000;

giveHeapRoom();
const tidying = new Tidying();
const link = linkToParent({ onOrphaned: () => process.exit(1) });

const [root, worker] = process.argv.slice(2);
if (root === undefined || worker === undefined) throw new Error('usage: fetcher/main.ts ROOT NAME');
const settings = await readSettings(root);
const log = createLog(worker, settings.logLevel);
const names = subjects(settings.node, settings.epoch);
const bus = await connectBus(busOf(settings, 'fetcher'), { name: worker });
const packs = busOnDemand(busOf(settings, 'packs'), `${worker}-packs`);
const runner = new JobRunner({
  name: worker,
  layout: new Layout(root),
  registry: new RegistryClient({ ...registryOptions(settings), log }),
  log,
  packs,
  complete: (completion) => {
    tidying.worked();
    bus.publish(names.completion, encode(completion));
  },
});
/** There has been work. */
const working = new AbortController();
let rehearsed: Promise<void> | undefined;
bus.subscribe(names.job(worker), {
  callback: (error, message) => {
    if (error !== null) return;
    working.abort();
    tidying.worked();
    runner.take(decode<Job | JobWord>(message.data));
  },
});

function hello(more: Pick<FetcherHello, 'leaving' | 'back'> = {}): void {
  const message: FetcherHello = { v: 1, worker: worker as string, pid: process.pid, slots: settings.slots };
  bus.publish(names.hello, encode({ ...message, ...more }));
}

hello();
const beat = setInterval(() => hello(), HELLO_MS);
watchBus(bus, { onAway: () => {}, onBack: () => hello({ back: true }) });
// Front ends that start, or have lost NATS for a while, ask who is there.
bus.subscribe(names.whoIsThere, { callback: () => hello() });

async function stop(): Promise<void> {
  clearInterval(beat);
  working.abort();
  hello({ leaving: true });
  await Promise.all([runner.stop(STOP_MS), Promise.race([rehearsed, sleep(STOP_MS)])]);
  // A NATS that is away is not waited for.
  const timer = setTimeout(() => process.exit(0), STOP_MS);
  await bus.drain().catch(() => {});
  clearTimeout(timer);
  process.exit(0);
}
process.once('SIGTERM', () => void stop());
process.once('SIGINT', () => void stop());
await link.begin();
link.ready();
log.info({ pid: process.pid, slots: settings.slots }, 'fetcher ready');
void packs().catch(() => {});
if (settings.rehearses !== false) rehearsed = rehearse();

/** A start that has a pack should not wait for code, nor, as above, for a connection. */
async function rehearse(): Promise<void> {
  try {
    const [{ rehearseFetch }] = await Promise.all([
      import('./rehearse.ts'),
      import('../fetch/start-jobs.ts'),
    ]);
    await rehearseFetch({ root: root as string, name: worker as string, signal: working.signal });
    if (!working.signal.aborted) tidying.now();
  } catch (error) {
    log.warn({ error }, 'the first fetches will be slower: their rehearsal failed');
  }
}
