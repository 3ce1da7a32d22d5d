/** The front end's own fetcher: a thread that is started with its first job and ends when it was idle for a while. */
import { Worker } from 'node:worker_threads';
import type { Logger } from 'pino';
import type { FetchThreadData } from './fetch-thread.ts';
import type { Completion, Job, JobWord } from '../../schemas/fetch.ts';

/** An idle thread is kept this long, ms: it costs some 40 MB. */
const IDLE_MS = 30_000;
/** Old generation of the thread's heap, MB; what it decodes lies outside. */
const HEAP_MB = 256;

export class LocalFetcher {
  readonly #options: LocalFetcherOptions;
  #thread: Worker | undefined;
  #idle: NodeJS.Timeout | undefined;
  readonly #running = new Set<number>();

  constructor(options: LocalFetcherOptions) {
    this.#options = options;
  }

  send(job: Job | JobWord): void {
    if (job.kind === 'stop' || job.kind === 'hold') {
      this.#thread?.postMessage(job, []);
      return;
    }
    clearTimeout(this.#idle);
    this.#thread ??= this.#start();
    // A job that was held comes a second time when it may go on.
    this.#running.add(job.job);
    this.#thread.postMessage(job, []);
  }

  close(): void {
    clearTimeout(this.#idle);
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
    if (this.#running.size === 0) this.#idle = setTimeout(() => this.close(), IDLE_MS).unref();
  }
}

export interface LocalFetcherOptions {
  root: string;
  /** Its name among the fetchers. */
  name: string;
  log: Logger;
  onCompletion(completion: Completion): void;
  /** The thread ended by itself, with all it ran. */
  onLost(): void;
}
