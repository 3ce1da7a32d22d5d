/**
 * One fetch: range → decode → verify → write. The second half of a cold read; the first is in src/front-end/main.ts.
 */
import { closeSync, openSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { blockRuns } from '../../actors/ranges.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { FetchJob, FetchTimes } from '../../schemas/fetch.ts';
import { tableOfSupply } from '../../schemas/front.ts';
import { decodeSpans } from '../image/decode-span.ts';
import { SpanTable } from '../image/span-table.ts';
import type { RegistryClient } from '../registry/client.ts';
import { nameLookups } from '../registry/name-lookups.ts';
import { DiskRoom } from '../store/disk-room.ts';
import type { Layout } from '../store/layout.ts';
import type { Gate } from './gate.ts';

/** Blocks reported together, so that a reader of a long span's beginning does not wait for its end; and of a long job. */
const REPORT_BLOCKS = 16;
const LONG_REPORT_BLOCKS = 32;
/**
 * A job of more blocks is one of several ranges ahead of a reader in order. What it writes waits in a thread of libuv, so that a
 * file or a disk that is busy does not stop the other jobs of this process.
 */
const LONG_BLOCKS = 64;
/** Blocks written together. The page cache takes writes of 1 MiB in pages of that size, for which the kernel may have to look long. */
const WRITE_BLOCKS = 4;

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
  const table = await context.tables.of(tableOfSupply(job), job.layer);
  const device = openSync(context.layout.device(job.layer), 'r+');
  const room = new DiskRoom(context.layout.root);
  let bytes = 0;
  let from = 0;
  let count = 0;
  const isLong = blockRuns(job.runs).reduce((sum, [, blocks]) => sum + blocks, 0) > LONG_BLOCKS;
  const source = job.class === 'prefetch' ? { ...job.source, isPrefetch: true } : job.source;
  const reportBlocks = isLong ? LONG_REPORT_BLOCKS : REPORT_BLOCKS;
  const watch = new Stopwatch(context.times);
  const report = () => {
    if (count === 0) return;
    context.onBlocks(from, count, bytes);
    bytes = 0;
    count = 0;
  };
  async function* counted(runs: readonly Run[]) {
    const ranges = runs.map(({ inStart, inEnd }) => [inStart, inEnd] as const);
    const body = context.registry.blobRanges(source, source, ranges, context.signal);
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
    for (const runs of requestsFor(job, table)) {
      const body = counted(runs);
      try {
        for (const run of runs) {
          const part = new Part(body, run.inEnd - run.inStart);
          const written = (first: number, end: number) => {
            watch.turnTo('decodeUs');
            if (count > 0 && first !== from + count) report();
            if (count === 0) from = first;
            count += end - first;
            if (count >= reportBlocks) report();
          };
          const take = (block: number, data: Buffer) => {
            // The table has longer spans than the one that was asked by.
            const first = Math.max(block, run.firstBlock);
            const end = Math.min(block + Math.ceil(data.length / table.blockSize), run.endBlock);
            if (first >= end) return undefined;
            const wanted = data.subarray((first - block) * table.blockSize, (end - block) * table.blockSize);
            watch.turnTo('writeUs');
            const at = first * table.blockSize;
            if (isLong) return room.writeAside(device, wanted, at).then(() => written(first, end));
            room.write(device, wanted, at);
            return written(first, end);
          };
          const { firstSpan, spanCount } = run;
          await decodeSpans(table, firstSpan, spanCount, part, take, context.signal, WRITE_BLOCKS);
          await part.skipRest();
        }
        context.registry.right(
          source,
          source,
          runs.map(({ inStart, inEnd }) => [inStart, inEnd] as const),
        );
      } finally {
        await body.return();
      }
    }
  } finally {
    watch.end();
    // What came before an error is verified and written: it stays.
    report();
    closeSync(device);
  }
  return bytes;
}

/** A run of the job, as spans and as bytes of the blob. */
interface Run {
  firstBlock: number;
  endBlock: number;
  firstSpan: number;
  spanCount: number;
  inStart: number;
  inEnd: number;
}

/** The job's runs, as many in one request as can be: spans that begin in the middle of a frame share bytes with those before. */
function requestsFor(job: FetchJob, table: SpanTable): Run[][] {
  const requests: Run[][] = [];
  for (const [firstBlock, blockCount] of blockRuns(job.runs)) {
    const endBlock = firstBlock + blockCount;
    const first = table.span(table.spanOfBlock(firstBlock));
    const last = table.span(table.spanOfBlock(endBlock - 1));
    const spans = { firstSpan: first.index, spanCount: last.index - first.index + 1 };
    const run: Run = { firstBlock, endBlock, ...spans, inStart: first.inStart, inEnd: last.inEnd };
    const before = requests.at(-1)?.at(-1);
    if (before !== undefined && before.inEnd <= run.inStart) requests.at(-1)?.push(run);
    else requests.push([run]);
  }
  return requests;
}

/** So many bytes of a body that goes on behind them. */
class Part implements AsyncIterable<Buffer> {
  readonly #body: AsyncIterator<Buffer>;
  #left: number;

  constructor(body: AsyncIterator<Buffer>, bytes: number) {
    this.#body = body;
    this.#left = bytes;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer, void, undefined> {
    while (this.#left > 0) {
      const { value, done } = await this.#body.next();
      if (done === true) return;
      this.#left -= value.length;
      yield value;
    }
  }

  async skipRest(): Promise<void> {
    for await (const _ of this);
  }
}

export const noTimes = (): FetchTimes => ({ firstByteUs: 0, fetchUs: 0, decodeUs: 0, writeUs: 0 });

/** Adds up what one flow of work spends on each of its parts. */
class Stopwatch {
  readonly #times: FetchTimes;
  #part: 'fetchUs' | 'decodeUs' | 'writeUs' = 'fetchUs';
  readonly #begun = performance.now();
  #since = this.#begun;

  constructor(times: FetchTimes) {
    this.#times = times;
  }

  turnTo(part: 'fetchUs' | 'decodeUs' | 'writeUs'): void {
    this.stop();
    if (part === 'decodeUs') this.#came();
    this.#part = part;
  }

  /** At the end. Where nothing came, as from a registry that refuses, all of the fetch was the wait for its first byte. */
  end(): void {
    this.stop();
    this.#came();
  }

  #came(): void {
    if (this.#times.firstByteUs !== 0) return;
    this.#times.firstByteUs = this.#times.fetchUs;
    const lookupUs = Math.min(nameLookups.since(this.#begun), this.#times.firstByteUs);
    if (lookupUs > 0) this.#times.lookupUs = lookupUs;
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

/** Tables that are kept, and bytes of all of them; the one used last stays in any case. */
const MOST_TABLES = 64;
const MOST_TABLE_BYTES = 64 << 20;

/** The span tables of a store, read once and kept while they are in use lately. */
export class SpanTables {
  readonly #layout: Layout;
  readonly #mostBytes: number;
  /** The one used last at the end. `bytes`: 0 until it is here. */
  readonly #tables = new Map<string, { table: Promise<SpanTable>; bytes: number }>();

  constructor(layout: Layout, mostBytes = MOST_TABLE_BYTES) {
    this.#layout = layout;
    this.#mostBytes = mostBytes;
  }

  /** Bytes of the tables that are kept. */
  get bytes(): number {
    let sum = 0;
    for (const { bytes } of this.#tables.values()) sum += bytes;
    return sum;
  }

  /**
   * The table of this name in the store (its digest, or that of its blob), for the layer of this id: a block root, or a diffID.
   * Error `integrity` also where the table is another layer's.
   */
  async of(name: string, layer: string): Promise<SpanTable> {
    const table = await this.#get(name);
    if (table.root !== layer && table.diffId !== layer)
      throw new CofaError('integrity', `the span table ${name} is not that of layer ${layer}`);
    return table;
  }

  #get(name: string): Promise<SpanTable> {
    const known = this.#tables.get(name);
    if (known !== undefined) {
      this.#tables.delete(name);
      this.#tables.set(name, known);
      return known.table;
    }
    const stored = this.#read(name);
    const kept = { table: stored.then((bytes) => SpanTable.decode(bytes)), bytes: 0 };
    this.#tables.set(name, kept);
    Promise.all([stored, kept.table]).then(
      ([{ length }]) => {
        kept.bytes = length;
        this.#trim();
      },
      () => this.#tables.delete(name),
    );
    return kept.table;
  }

  async #read(name: string): Promise<Buffer> {
    return await readFile(this.#layout.spans(name)).catch((cause: unknown) => {
      throw new CofaError('integrity', `the span table ${name} is not in the store`, { cause });
    });
  }

  #trim(): void {
    for (const name of this.#tables.keys()) {
      const { size } = this.#tables;
      if (size === 1 || (size <= MOST_TABLES && this.bytes <= this.#mostBytes)) return;
      this.#tables.delete(name);
    }
  }
}
