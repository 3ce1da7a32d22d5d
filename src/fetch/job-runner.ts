/**
 * Runs the jobs of one fetcher, side by side, wherever it lives: in a process of its own (src/fetcher/main.ts) or in a thread of
 * the front end (fetch-thread.ts). Jobs come by messages that may be lost and sent again: what runs is not begun twice,
 * and what has ended lately is answered as before.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { NatsConnection } from '@nats-io/nats-core';
import type { Logger } from 'pino';
import type { BlockRun } from '../../actors/ranges.ts';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import type {
  Completion,
  CompletionHead,
  EndCompletion,
  FetchJob,
  FetchTimes,
  Job,
  JobWord,
  PackJob,
  RecordJob,
  ScrubJob,
  VerifyJob,
} from '../../schemas/fetch.ts';
import type { RegistryClient } from '../registry/client.ts';
import { readUntilRight } from '../registry/wrong-bytes.ts';
import { hashDevice } from '../store/device.ts';
import type { Layout } from '../store/layout.ts';
import { noTimes, runFetch, SpanTables } from './fetch-job.ts';
import { Gate } from './gate.ts';
import { checkBlocks } from './scrub-job.ts';

/** Errors after which the same job may succeed. */
const RETRYABLE = new Set(['unavailable', 'timeout', 'no-space', 'unauthorized', 'internal']);
/** Ended jobs that are remembered. */
const MOST_RECENT = 256;

export interface JobRunnerOptions {
  /** The fetcher's. */
  name: string;
  /** This node, as others know it. */
  node: string;
  /** Gives so many random bytes, as hexadecimal digits. */
  random: { hex(bytes: number): string };
  layout: Layout;
  registry: RegistryClient;
  log: Logger;
  /** Gives a connection to where startup packs of the nodes lie. */
  packs: () => Promise<NatsConnection>;
  complete: (completion: Completion) => void;
}

interface Running {
  done: Promise<void>;
  stop: AbortController;
  gate: Gate;
  /** A held job may go on: it has come again. */
  release: (job: PackJob) => void;
}

interface Control {
  signal: AbortSignal;
  gate: Gate;
}

export class JobRunner {
  readonly #options: JobRunnerOptions;
  readonly #tables: SpanTables;
  readonly #running = new Map<string, Running>();
  /** By job, oldest first. */
  readonly #recent = new Map<string, EndCompletion>();
  readonly #stopping = new AbortController();

  constructor(options: JobRunnerOptions) {
    this.#options = options;
    this.#tables = new SpanTables(options.layout);
  }

  get running(): number {
    return this.#running.size;
  }

  take(job: Job | JobWord): void {
    const key = `${job.front}/${job.job}`;
    const running = this.#running.get(key);
    if (job.kind === 'stop') {
      running?.stop.abort(new CofaError('unavailable', 'the job was stopped'));
      return;
    }
    if (job.kind === 'hold') {
      running?.gate.hold(job.ms);
      return;
    }
    if (running !== undefined && job.kind === 'pack' && job.held !== true) running.release(job);
    if (running !== undefined || this.#stopping.signal.aborted) return;
    const ended = this.#recent.get(key);
    // A job is sent to the same fetcher again only where its end was lost, or after a failure.
    if (ended?.kind === 'done') return this.#options.complete(ended);
    const stop = new AbortController();
    const signal = AbortSignal.any([this.#stopping.signal, stop.signal]);
    const { promise: released, resolve: release } = Promise.withResolvers<PackJob>();
    const gate = new Gate();
    signal.addEventListener('abort', () => gate.hold(0), { once: true });
    const done = this.#run(job, key, { signal, gate }, released).finally(() => this.#running.delete(key));
    this.#running.set(key, { done, stop, gate, release });
  }

  /** Aborts what runs and waits for it, at most so long, ms. */
  async stop(graceMs: number): Promise<void> {
    this.#stopping.abort(new Error('the fetcher stops'));
    const ends = [...this.#running.values()].map(({ done }) => done);
    await Promise.race([Promise.allSettled(ends), sleep(graceMs, undefined, { ref: false })]);
  }

  async #run(job: Job, key: string, { signal, gate }: Control, released: Promise<PackJob>): Promise<void> {
    const { name, log } = this.#options;
    const head: CompletionHead = { v: 1, front: job.front, worker: name, job: job.job, layer: job.layer };
    const times = noTimes();
    const spent = job.kind === 'fetch' ? { times } : {};
    try {
      if (job.kind === 'scrub') {
        const bad = await this.#scrub(job, { signal, gate });
        this.#end(key, { ...head, kind: 'done', bytes: 0, bad });
        return;
      }
      const bytes =
        job.kind === 'fetch'
          ? await this.#fetch(job, head, times, { signal, gate })
          : await this.#runOther(job, head, { signal, gate }, released);
      this.#end(key, { ...head, ...spent, kind: 'done', bytes });
    } catch (error) {
      const record = toErrorRecord(error);
      log.warn({ job: job.job, layer: job.layer, kind: job.kind, error: record }, 'job failed');
      const retryable = RETRYABLE.has(record.code);
      this.#end(key, { ...head, ...spent, kind: 'failed', bytes: 0, error: record, retryable });
    }
  }

  #end(key: string, completion: EndCompletion): void {
    this.#recent.delete(key);
    this.#recent.set(key, completion);
    if (this.#recent.size > MOST_RECENT) this.#recent.delete(this.#recent.keys().next().value as string);
    this.#options.complete(completion);
  }

  /** Wrong bytes may have been spoilt on their way, or by mirrors: they are read again before the reader hears of them. */
  async #fetch(
    job: FetchJob,
    head: CompletionHead,
    times: FetchTimes,
    { signal, gate }: Control,
  ): Promise<number> {
    const { layout, registry, complete } = this.#options;
    const once = () =>
      runFetch(job, {
        layout,
        registry,
        tables: this.#tables,
        signal,
        gate,
        times,
        onBlocks: (firstBlock, count, bytes) =>
          complete({ ...head, kind: 'blocks', firstBlock, count, bytes }),
      });
    const doubt = () => registry.doubt(job.source, job.source);
    const { value, reads } = await readUntilRight(once, doubt, 1);
    if (reads > 1) registry.settle(job.source);
    return value;
  }

  async #runOther(
    job: VerifyJob | PackJob | RecordJob,
    head: CompletionHead,
    { signal, gate }: Control,
    released: Promise<PackJob>,
  ): Promise<number> {
    if (job.kind === 'verify') return await this.#verify(job, { signal, gate });
    const { layout, registry, packs, complete, node, random } = this.#options;
    const context = { layout, packs, registry, tables: this.#tables, signal };
    const { bringPack, recordStart } = await import('./start-jobs.ts');
    if (job.kind === 'record') {
      const chance = () => Number.parseInt(random.hex(6), 16) / 2 ** 48;
      await recordStart(job, { ...context, node, random: chance });
      return 0;
    }
    return await bringPack(
      job,
      { ...context, released },
      {
        runs: (devices, runs) => complete({ ...head, kind: 'pack', devices, runs }),
        blocks: ([[layer, firstBlock, count], ...more], bytes) =>
          complete({ ...head, kind: 'blocks', layer, firstBlock, count, bytes, more }),
      },
    );
  }

  async #scrub(job: ScrubJob, control: Control): Promise<BlockRun[]> {
    return await checkBlocks(job, { layout: this.#options.layout, tables: this.#tables, ...control });
  }

  async #verify(job: VerifyJob, { signal, gate }: Control): Promise<number> {
    const { layer, size, diffId = layer } = job;
    const found = await hashDevice(this.#options.layout.device(layer), size, {
      signal,
      turn: () => gate.opening,
    });
    if (found !== diffId) throw new CofaError('integrity', `layer ${diffId} hashes to ${found}`);
    return 0;
  }
}
