/** Has tar-split files made of layers that are whole, one after the other, in a process of its own that gives way to all others. */
import type { Logger } from 'pino';
import { toErrorRecord } from '../../../schemas/errors.ts';
import { SPLITTING, type ToSplitter } from '../../index/orders.ts';
import { runForked } from '../../process/forked.ts';

/** The names of a layer's members, and a megabyte of its headers. */
const HEAP_MIB = 2_048;
const MEMORY_MIB = 3_072;
const SILENCE_MS = 900_000;
const NICE = 19;

export type Split = (order: ToSplitter, signal: AbortSignal) => Promise<void>;

export const splitInProcess: Split = async (order, signal) => {
  await runForked(SPLITTING, order, {
    program: new URL('../../indexer/tar-splitter.ts', import.meta.url),
    what: `the tar-split file of ${order.diffId}`,
    heapMiB: HEAP_MIB,
    memoryMiB: MEMORY_MIB,
    silenceMs: SILENCE_MS,
    nice: NICE,
    ownSession: true,
    signal,
  });
};

export interface SplitsOptions {
  /** Layers that are whole and have no file yet. */
  due: () => Promise<ToSplitter[]>;
  made: (diffId: string) => Promise<void>;
  split: Split;
  log: Logger;
}

export class Splits {
  readonly #options: SplitsOptions;
  readonly #stop = new AbortController();
  /** diffIDs whose devices were not what they should be: a scrub finds out why. */
  readonly #failed = new Set<string>();
  #running: Promise<void> | undefined;
  #again = false;

  constructor(options: SplitsOptions) {
    this.#options = options;
  }

  /** An image was added: what failed before is tried again. */
  retry(): void {
    this.#failed.clear();
    this.poke();
  }

  /** A layer may have become whole. */
  poke(): void {
    this.#again = true;
    if (this.#running !== undefined) return;
    this.#running = this.#run()
      .catch((error: unknown) => this.#options.log.warn({ error }, 'what podman can save is not known'))
      .finally(() => {
        this.#running = undefined;
        if (this.#again && !this.#stop.signal.aborted) this.poke();
      });
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { due, made, split, log } = this.#options;
    const { signal } = this.#stop;
    while (this.#again && !signal.aborted) {
      this.#again = false;
      for (const order of await due()) {
        if (signal.aborted || this.#failed.has(order.diffId)) continue;
        try {
          await split(order, signal);
          await made(order.diffId);
        } catch (error) {
          if (signal.aborted) return;
          const record = toErrorRecord(error);
          // Evicted while it was read: it comes again when it is whole again.
          if (record.code !== 'integrity') this.#failed.add(order.diffId);
          log.warn({ diffId: order.diffId, error: record }, 'podman cannot save a layer');
        }
      }
    }
  }
}
