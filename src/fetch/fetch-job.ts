/**
 * One fetch: range → decode → verify → write. The second half of a cold read; the first is in src/engine/front-end.ts.
 */
import { closeSync, openSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { CofaError } from '../../schemas/errors.ts';
import type { FetchJob, FetchTimes } from '../../schemas/fetch.ts';
import { decodeSpans } from '../image/decode-span.ts';
import { SpanTable } from '../image/span-table.ts';
import type { RegistryClient } from '../registry/client.ts';
import { DiskRoom } from '../store/disk-room.ts';
import type { Layout } from '../store/layout.ts';
import type { Gate } from './gate.ts';

/** Blocks reported together, so that a reader of a long span's beginning does not wait for its end. */
const REPORT_BLOCKS = 16;

export interface FetchContext {
  layout: Layout;
  registry: RegistryClient;
  tables: SpanTables;
  signal: AbortSignal;
  /** While it is shut nothing is read from the registry and nothing decoded; what comes meanwhile waits in the connection. */
  gate: Gate;
  /** Blocks `[first, first + count)` are verified and written; `bytes` compressed bytes came since the last call. */
  onBlocks(first: number, count: number, bytes: number): void;
  /** Where the time goes is added here, whatever the outcome. */
  times: FetchTimes;
}

/**
 * Fetches the job's blocks into the layer device. Resolves with the compressed bytes that `onBlocks` has not reported.
 * Errors: `integrity` (bytes are not what the span table says), `no-space`, those of the registry client.
 */
export async function runFetch(job: FetchJob, context: FetchContext): Promise<number> {
  const table = await context.tables.get(job.source.digest);
  const end = job.firstBlock + job.blockCount;
  const first = table.span(table.spanOfBlock(job.firstBlock));
  const last = table.span(table.spanOfBlock(end - 1));
  const device = openSync(context.layout.device(job.layer), 'r+');
  const room = new DiskRoom(context.layout.root);
  let bytes = 0;
  let from = 0;
  let count = 0;
  const watch = new Stopwatch(context.times);
  const report = () => {
    if (count > 0) context.onBlocks(from, count, bytes);
    bytes = 0;
    count = 0;
  };
  async function* counted() {
    const { source } = job;
    const body = context.registry.blobRange(source, source, first.inStart, last.inEnd, context.signal);
    watch.turnTo('fetchUs');
    for await (const chunk of body) {
      bytes += chunk.length;
      if (context.gate.opening !== undefined) {
        watch.stop();
        await context.gate.opening;
        watch.goOn();
      }
      watch.turnTo('decodeUs');
      yield chunk;
      watch.turnTo('fetchUs');
    }
    watch.turnTo('decodeUs');
  }
  try {
    await decodeSpans(
      table,
      first.index,
      last.index - first.index + 1,
      counted(),
      (block, data) => {
        // The table has longer spans than the one that was asked by.
        if (block < job.firstBlock || block >= end) return;
        watch.turnTo('writeUs');
        room.write(device, data, block * table.blockSize);
        watch.turnTo('decodeUs');
        if (count === 0) from = block;
        count += 1;
        if (count === REPORT_BLOCKS) report();
      },
      context.signal,
    );
    return bytes;
  } finally {
    watch.stop();
    // What came before an error is verified and written: it stays.
    report();
    closeSync(device);
  }
}

export const noTimes = (): FetchTimes => ({ firstByteUs: 0, fetchUs: 0, decodeUs: 0, writeUs: 0 });

/** Adds up what one flow of work spends on each of its parts. */
class Stopwatch {
  readonly #times: FetchTimes;
  #part: 'fetchUs' | 'decodeUs' | 'writeUs' = 'fetchUs';
  #since = performance.now();

  constructor(times: FetchTimes) {
    this.#times = times;
  }

  turnTo(part: 'fetchUs' | 'decodeUs' | 'writeUs'): void {
    this.stop();
    if (this.#times.firstByteUs === 0 && part === 'decodeUs') this.#times.firstByteUs = this.#times.fetchUs;
    this.#part = part;
  }

  /** Behind a stop: what was between counts nowhere. */
  goOn(): void {
    this.#since = performance.now();
  }

  stop(): void {
    const now = performance.now();
    this.#times[this.#part] += Math.round((now - this.#since) * 1000);
    this.#since = now;
  }
}

/** The span tables of a store, read once and kept while they are in use lately. */
export class SpanTables {
  readonly #layout: Layout;
  readonly #limit: number;
  readonly #tables = new Map<string, Promise<SpanTable>>();

  constructor(layout: Layout, limit = 64) {
    this.#layout = layout;
    this.#limit = limit;
  }

  get(blob: string): Promise<SpanTable> {
    const known = this.#tables.get(blob);
    if (known !== undefined) {
      this.#tables.delete(blob);
      this.#tables.set(blob, known);
      return known;
    }
    const table = readFile(this.#layout.spans(blob)).then(
      (bytes) => SpanTable.decode(bytes),
      (cause: unknown) => {
        throw new CofaError('integrity', `the span table of ${blob} is not in the store`, { cause });
      },
    );
    this.#tables.set(blob, table);
    table.catch(() => this.#tables.delete(blob));
    if (this.#tables.size > this.#limit) {
      const oldest = this.#tables.keys().next().value;
      if (oldest !== undefined) this.#tables.delete(oldest);
    }
    return table;
  }
}
