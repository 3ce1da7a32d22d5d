/** The threads of layer-thread.ts: one job each at a time, started when first needed. */
import { Worker } from 'node:worker_threads';
import { CofaError, fromErrorRecord } from '../../schemas/errors.ts';
import type {
  FlattenJob,
  FlattenResult,
  FromThread,
  IndexedLayer,
  LayerJob,
  RegistrySettings,
} from './layer-job.ts';

interface Pending {
  resolve: (result: IndexedLayer | FlattenResult) => void;
  reject: (error: unknown) => void;
  onProgress: ((done: number) => void) | undefined;
}

interface Thread {
  worker: Worker;
  pending: Pending | undefined;
}

export class ThreadPool {
  readonly #limit: number;
  readonly #registry: RegistrySettings;
  readonly #idle: Thread[] = [];
  readonly #all = new Set<Thread>();
  readonly #queue: Array<(thread: Thread | undefined) => void> = [];
  #closed = false;
  #next = 0;

  constructor(limit: number, registry: RegistrySettings) {
    this.#limit = Math.max(1, limit);
    this.#registry = registry;
  }

  /** Runs a job on the next free thread. `onProgress`: compressed bytes so far. Rejects with the signal's reason. */
  run(
    job: LayerJob,
    o?: { onProgress?: (done: number) => void; signal?: AbortSignal | undefined },
  ): Promise<IndexedLayer>;
  run(job: FlattenJob, o?: { signal?: AbortSignal | undefined }): Promise<FlattenResult>;
  async run(
    job: LayerJob | FlattenJob,
    o: { onProgress?: (done: number) => void; signal?: AbortSignal | undefined } = {},
  ): Promise<IndexedLayer | FlattenResult> {
    o.signal?.throwIfAborted();
    const thread = await this.#take();
    const id = ++this.#next;
    const abort = () => thread.worker.postMessage({ id, abort: true }, []);
    try {
      o.signal?.throwIfAborted();
      o.signal?.addEventListener('abort', abort, { once: true });
      return await new Promise((resolve, reject) => {
        thread.pending = { resolve, reject, onProgress: o.onProgress };
        thread.worker.postMessage({ id, job }, []);
      });
    } catch (error) {
      o.signal?.throwIfAborted();
      throw error;
    } finally {
      o.signal?.removeEventListener('abort', abort);
      thread.pending = undefined;
      this.#give(thread);
    }
  }

  /** Ends the threads; jobs that run are rejected. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const waiting of this.#queue.splice(0)) waiting(undefined);
    await Promise.all([...this.#all].map((thread) => thread.worker.terminate()));
  }

  async #take(): Promise<Thread> {
    if (this.#closed) throw closed();
    const idle = this.#idle.pop();
    if (idle !== undefined) return idle;
    if (this.#all.size < this.#limit) return this.#start();
    const thread = await new Promise<Thread | undefined>((resolve) => this.#queue.push(resolve));
    if (thread === undefined) throw closed();
    return thread;
  }

  #give(thread: Thread): void {
    // One that died is replaced, so that those in the queue do not wait for it.
    const next =
      this.#all.has(thread) || this.#closed ? thread : this.#queue.length > 0 ? this.#start() : undefined;
    if (next === undefined || this.#closed) return;
    const waiting = this.#queue.shift();
    if (waiting === undefined) this.#idle.push(next);
    else waiting(next);
  }

  #start(): Thread {
    const worker = new Worker(new URL('./layer-thread.ts', import.meta.url), { workerData: this.#registry });
    const thread: Thread = { worker, pending: undefined };
    this.#all.add(thread);
    const died = (cause: unknown) => {
      this.#all.delete(thread);
      const idle = this.#idle.indexOf(thread);
      if (idle >= 0) this.#idle.splice(idle, 1);
      const text = cause instanceof Error ? `: ${cause.message}` : '';
      thread.pending?.reject(new CofaError('internal', `a thread that indexes ended${text}`, { cause }));
    };
    worker.on('error', died);
    worker.on('exit', () => died(undefined));
    worker.on('message', (message: FromThread) => {
      const { pending } = thread;
      if (pending === undefined) return;
      if (message.kind === 'progress') pending.onProgress?.(message.done);
      else if (message.kind === 'failed') pending.reject(fromErrorRecord(message.error));
      else pending.resolve(asBuffers(message.result));
    });
    return thread;
  }
}

/** Buffers arrive from another thread as plain Uint8Arrays. */
function asBuffers(result: IndexedLayer | FlattenResult): IndexedLayer | FlattenResult {
  if ('metadata' in result) return { ...result, metadata: asBuffer(result.metadata) };
  return { ...result, toc: asBuffer(result.toc), spans: asBuffer(result.spans) };
}

const asBuffer = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const closed = () => new CofaError('internal', 'the pool of indexing threads is closed');
