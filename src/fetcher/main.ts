/**
 * A fetcher process: takes jobs from front ends over NATS and answers with completions. It keeps no state that matters:
 * killed at any moment, its jobs are given to another.
 *
 *     link ─▶ settings ─▶ bus ─▶ jobs ─▶ presence ─▶ begin ─▶ ready ─▶ rehearsal
 */
import type { NatsConnection } from '@nats-io/nats-core';
import type { Logger } from 'pino';
import { isJob } from '../../schemas/check-fetch.ts';
import type { Job, JobWord } from '../../schemas/fetch.ts';
import { subjects } from '../../schemas/subjects.ts';
import { busOnDemand, connectBus, decodeIfSound, encode } from '../bus/connection.ts';
import { JobRunner } from '../fetch/job-runner.ts';
import { countsFor, registryWatch } from '../process/counted.ts';
import { giveHeapRoom, giveStreamRoom, Tidying } from '../process/heap.ts';
import { createLog } from '../process/log.ts';
import { linkToParent } from '../process/parent-link.ts';
import { type Ports, realPorts } from '../process/ports.ts';
import { IdleRehearsal, type RunRehearsal } from '../process/rehearsal/idle.ts';
import { type ChildSelf, realChildSelf } from '../process/self.ts';
import { busOf, readSettings, registryOptions } from '../process/settings.ts';
import { RegistryClient } from '../registry/client.ts';
import { Layout } from '../store/layout.ts';
import { Presence } from './presence.ts';

export interface FetcherPorts extends Ports {
  self: ChildSelf;
  /** Collects garbage in the pauses of the process. */
  tidying: Pick<Tidying, 'worked' | 'now'>;
  /** An image streams through from now on. */
  giveStreamRoom: () => void;
  /** Goes through jobs when there is nothing to do; absent: no rehearsal. */
  rehearse?: RunRehearsal;
}

export interface Fetcher {
  /** Gives up what runs and leaves. The process stays. */
  stop(): Promise<void>;
}

/** What runs has this long to end when the fetcher is told to, ms; then so have its connections. */
const STOP_MS = 1_000;

/** Starts the fetcher `name` of the engine in `root`; it takes jobs when this resolves. Errors: `unavailable` without NATS. */
export async function runFetcher(
  [root, name]: readonly [root: string, name: string],
  ports: FetcherPorts,
): Promise<Fetcher> {
  const { clock, self, tidying } = ports;
  const hushed = new AbortController();
  const link = linkToParent(self.parent, {
    onOrphaned: () => self.exit(1),
    onWork: () => hushed.abort(),
  });

  const settings = await readSettings(root);
  const log = createLog(name, settings.logLevel);
  const names = subjects(settings.node, settings.epoch);
  const bus = await connectBus(busOf(settings, 'fetcher'), { name });

  const packs = busOnDemand(busOf(settings, 'packs'), `${name}-packs`);
  const counts = countsFor(link);
  const registry = new RegistryClient({ ...registryOptions(settings), log, watch: registryWatch(counts) });
  link.degradedBy(() => registry.leftOut());
  const rehearsal = new IdleRehearsal({
    clock,
    tidying,
    log,
    slower: 'the first fetches',
    hushed: hushed.signal,
  });
  const runner = new JobRunner({
    name,
    node: settings.node,
    random: ports.random,
    layout: new Layout(root),
    registry,
    log,
    packs,
    complete: (completion) => {
      tidying.worked();
      bus.publish(names.completion, encode(completion));
    },
  });
  takeJobs(bus, names.job(name), log, (job) => {
    rehearsal.workCame();
    tidying.worked();
    if (isLong(job)) ports.giveStreamRoom();
    runner.take(job);
  });
  const { slots } = settings;
  const presence = new Presence({ bus, names, clock, name, pid: self.pid, slots });

  const stop = once(async () => {
    presence.leave();
    await Promise.all([runner.stop(STOP_MS), rehearsal.stop(STOP_MS)]);
    const closed = [registry.close(), bus.drain(), packs().then((connection) => connection.close())];
    // A NATS that is away is not waited for.
    await Promise.race([Promise.allSettled(closed), clock.sleep(STOP_MS)]);
  });
  self.onSignal(() => void stop().finally(() => self.exit(0)));

  await link.begin();
  link.ready();
  log.info({ pid: self.pid, slots }, 'fetcher ready');
  // A start that has a pack should not wait for a connection.
  void packs().catch(() => {});
  if (settings.rehearses !== false && ports.rehearse !== undefined)
    void rehearsal.begin({ root, name }, ports.rehearse);
  return { stop };
}

function takeJobs(
  bus: NatsConnection,
  subject: string,
  log: Logger,
  take: (job: Job | JobWord) => void,
): void {
  bus.subscribe(subject, {
    callback: (error, message) => {
      if (error !== null) return;
      const job = decodeIfSound(message.data);
      if (isJob(job)) take(job);
      else log.warn({ bytes: message.data.length }, 'a message that is no job was passed over');
    },
  });
}

/** Blocks of a fetch that is more than a reader waits for at once. */
const LONG_BLOCKS = 32;

const isLong = (job: Job | JobWord): boolean =>
  job.kind === 'fetch' && job.runs.reduce((sum, [, count]) => sum + count, 0) >= LONG_BLOCKS;

function once<T>(run: () => Promise<T>): () => Promise<T> {
  let running: Promise<T> | undefined;
  return () => (running ??= run());
}

if (import.meta.main) {
  const [, , root, worker] = process.argv;
  if (root === undefined || worker === undefined) throw new Error('usage: fetcher/main.ts ROOT NAME');
  giveHeapRoom();
  const rehearse: RunRehearsal = async (rehearsal) => {
    const [{ rehearseFetch }] = await Promise.all([
      import('./rehearse.ts'),
      import('../fetch/start-jobs.ts'),
    ]);
    await rehearseFetch(rehearsal);
  };
  await runFetcher([root, worker], {
    self: realChildSelf(),
    ...realPorts(),
    tidying: new Tidying(),
    giveStreamRoom,
    rehearse,
  });
}
