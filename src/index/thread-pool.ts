/** The threads of layer-thread.ts: each reads one layer at a time, and may still write the one before to the disk. */
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads';
import { CofaError, fromErrorRecord } from '../../schemas/errors.ts';
import type { FromThread, IndexedLayer, LayerContents, LayerJob, ToThread } from './layer-job.ts';
import type { Piece, Pieces } from './pieces.ts';

export interface RunOptions {
  /** Compressed bytes that the thread has used so far. */
  onProgress?: (done: number) => void;
  /** Called once, when the layer has been read and verified; its device may still be on its way to the disk. */
  onContents?: (contents: LayerContents) => void;
  signal?: AbortSignal | undefined;
}

interface Pending extends RunOptions {
  source: Pieces;
  done: number;
  contents: LayerContents | undefined;
  resolve: (layer: IndexedLayer) => void;
  reject: (error: unknown) => void;
}

interface Thread {
  worker: Worker;
  pending: Map<number, Pending>;
}

export class ThreadPool {
  readonly #limit: number;
  readonly #idle: Thread[] = [];
  readonly #all = new Set<Thread>();
  readonly #queue: Array<(thread: Thread | undefined) => void> = [];
  #closed = false;
  #next = 0;

  /** Starts so many threads at once: they load their code while the first bytes come. */
  constructor(limit: number) {
    this.#limit = Math.max(1, limit);
    while (this.#all.size < this.#limit) this.#idle.push(this.#start());
  }

  /**
   * Indexes the layer whose compressed bytes are `source`, on the next free thread; `source` is closed at the end.
   * Errors: those of indexLayer, of the source and of the disk; the signal's reason.
   */
  async run(job: LayerJob, source: Pieces, options: RunOptions = {}): Promise<IndexedLayer> {
    const { signal } = options;
    const id = ++this.#next;
    let thread: Thread | undefined;
    const abort = () => thread?.worker.postMessage({ id, abort: true } satisfies ToThread, []);
    try {
      signal?.throwIfAborted();
      thread = await this.#take();
      const { worker, pending } = thread;
      signal?.throwIfAborted();
      signal?.addEventListener('abort', abort, { once: true });
      return await new Promise<IndexedLayer>((resolve, reject) => {
        pending.set(id, { ...options, source, done: 0, contents: undefined, resolve, reject });
        const beside = job.hashBeside === true ? this.#hashPort() : undefined;
        worker.postMessage({ id, job, beside } satisfies ToThread, beside === undefined ? [] : [beside]);
        feed(worker, id, source).catch((error: unknown) => {
          const job = pending.get(id);
          // The job has ended, and that closed its source.
          if (job === undefined) return;
          // The layer fails for this reason, not because the thread is stopped.
          job.reject = () => reject(error);
          abort();
        });
      });
    } catch (error) {
      signal?.throwIfAborted();
      throw error;
    } finally {
      signal?.removeEventListener('abort', abort);
      source.close();
      if (thread?.pending.get(id)?.contents === undefined && thread !== undefined) this.#give(thread);
      thread?.pending.delete(id);
    }
  }

  /** Ends the threads and rejects the jobs that run. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const waiting of this.#queue.splice(0)) waiting(undefined);
    await Promise.all([...this.#all].map((thread) => thread.worker.terminate()));
  }

  /** The way to an idle thread, which then hashes for another one; undefined where none is. It remains free for jobs. */
  #hashPort(): MessagePort | undefined {
    const idle = this.#idle.at(-1);
    if (idle === undefined) return undefined;
    const { port1, port2 } = new MessageChannel();
    idle.worker.postMessage({ hash: port2 } satisfies ToThread, [port2]);
    return port1;
  }

  async #take(): Promise<Thread> {
    if (this.#closed) throw closed();
    const thread =
      this.#idle.pop() ?? (await new Promise<Thread | undefined>((resolve) => this.#queue.push(resolve)));
    if (thread === undefined) throw closed();
    return thread;
  }

  #give(thread: Thread): void {
    if (this.#closed) return;
    // A thread that died is replaced, so that the queue does not wait for it.
    const next = this.#all.has(thread) ? thread : this.#start();
    const waiting = this.#queue.shift();
    if (waiting === undefined) this.#idle.push(next);
    else waiting(next);
  }

  #start(): Thread {
    const worker = new Worker(new URL('./layer-thread.ts', import.meta.url), {
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MIB },
    });
    const thread: Thread = { worker, pending: new Map() };
    this.#all.add(thread);
    const died = (cause: unknown) => {
      this.#all.delete(thread);
      const idle = this.#idle.indexOf(thread);
      if (idle >= 0) this.#idle.splice(idle, 1);
      const text = cause instanceof Error ? `: ${cause.message}` : '';
      const error = new CofaError('internal', `a thread that indexes ended${text}`, { cause });
      for (const { reject } of thread.pending.values()) reject(error);
    };
    worker.on('error', died);
    worker.on('exit', () => died(undefined));
    worker.on('message', (message: FromThread) => this.#hear(thread, message));
    return thread;
  }

  #hear(thread: Thread, message: FromThread): void {
    const pending = thread.pending.get(message.id);
    if (pending === undefined) return;
    switch (message.kind) {
      case 'taken':
        pending.done += message.bytes.length;
        pending.source.giveBack(message.bytes);
        pending.onProgress?.(pending.done);
        return;
      case 'contents': {
        const { rawSize, toc } = message.contents;
        pending.contents = { rawSize, toc: asBuffer(toc) };
        this.#give(thread);
        pending.onContents?.(pending.contents);
        return;
      }
      case 'failed':
        pending.reject(fromErrorRecord(message.error));
        return;
      case 'done': {
        const { rest } = message;
        pending.resolve({ ...(pending.contents as LayerContents), ...rest, spans: asBuffer(rest.spans) });
      }
    }
  }
}

/**
 * Young generation of a thread, MiB, as small as with NODE_FLAGS (src/process/node-flags.ts). V8 would let it grow to
 * 48, and a layer leaves little behind but garbage.
 */
const YOUNG_MIB = 6;

/** Sends the layer's bytes, as fast as the thread gives pieces back. */
async function feed(worker: Worker, id: number, source: Pieces): Promise<void> {
  for (let piece: Piece | undefined; (piece = await source.next()) !== undefined; ) {
    worker.postMessage({ id, bytes: piece } satisfies ToThread, []);
  }
  worker.postMessage({ id, end: true } satisfies ToThread, []);
}

/** Buffers arrive from another thread as plain Uint8Arrays. */
const asBuffer = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const closed = () => new CofaError('internal', 'the pool of indexing threads is closed');
