/** The front end's own fetcher: a thread that is started with its first job and ends when it was idle for a while. */
import { Worker } from 'node:worker_threads';
import type { Logger } from 'pino';
import type { FetchThreadData } from './fetch-thread.ts';
import type { Completion, Job, JobWord } from '../../schemas/fetch.ts';
import type { Clock, Timer } from '../process/ports.ts';

/** An idle thread is kept this long, ms: it costs some 40 MB. */
const IDLE_MS = 30_000;
/** Old generation of the thread's heap, MB; what it decodes lies outside. */
const HEAP_MB = 256;

/** A fetcher that the front end has for itself. */
export interface OwnFetcher {
  send(job: Job | JobWord): void;
  /** Ends it with all that it runs; `onLost` is not called. */
  close(): void;
}

export type MakeOwnFetcher = (options: OwnFetcherOptions) => OwnFetcher;

export class LocalFetcher implements OwnFetcher {
  readonly #options: OwnFetcherOptions;
  #thread: Worker | undefined;
  #idle: Timer | undefined;
  readonly #running = new Set<number>();

  constructor(options: OwnFetcherOptions) {
    this.#options = options;
  }

  send(job: Job | JobWord): void {
    if (job.kind === 'stop' || job.kind === 'hold') {
      this.#thread?.postMessage(job, []);
      return;
    }
    this.#idle?.cancel();
    this.#thread ??= this.#start();
    // A job that was held comes a second time when it may go on.
    this.#running.add(job.job);
    this.#thread.postMessage(job, []);
  }

  close(): void {
    this.#idle?.cancel();
    const thread = this.#thread;
    this.#thread = undefined;
    void thread?.terminate();
  }

  #start(): Worker {
    const { root, name, log, onCompletion, onLost } = this.#options;
    log.info('the front end fetches by itself');
    const thread = new Worker(new URL('./fetch-thread.ts', import.meta.url), {
      name,
      workerData: { root, name } satisfies FetchThreadData,
      execArgv: [],
      resourceLimits: { maxOldGenerationSizeMb: HEAP_MB },
    });
    this.#running.clear();
    thread.on('message', (completion: Completion) => {
      if (completion.kind === 'done' || completion.kind === 'failed') this.#ended(completion.job);
      onCompletion(completion);
    });
    thread.on('error', (error) => log.error({ error }, "the front end's own fetcher failed"));
    thread.on('exit', () => {
      if (this.#thread !== thread) return;
      this.#thread = undefined;
      this.#running.clear();
      onLost();
    });
    thread.unref();
    return thread;
  }

  #ended(job: number): void {
    this.#running.delete(job);
    if (this.#running.size > 0) return;
    this.#idle?.cancel();
    this.#idle = this.#options.clock.after(IDLE_MS, () => this.close()).unref();
  }
}

export interface OwnFetcherOptions {
  root: string;
  /** Its name among the fetchers. */
  name: string;
  clock: Clock;
  log: Logger;
  onCompletion(completion: Completion): void;
  /** The thread ended by itself, with all it ran. */
  onLost(): void;
}
