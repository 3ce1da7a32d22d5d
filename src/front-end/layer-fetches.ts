/** Jobs of one layer on their way: from the actor's `fetch` to the pool, and from the pool's answers to the actor. */
import type { Counts } from '../../actors/counts.ts';
import { fetchSteps } from '../../actors/fetch-steps.ts';
import type { LayerEffect } from '../../actors/layer.ts';
import { type BlockRun, blockRun, sizeOf, type SpanRun } from '../../actors/ranges.ts';
import type { ErrorRecord } from '../../schemas/errors.ts';
import type { Origin } from '../../schemas/events.ts';
import type { FetchOrder } from '../../schemas/fetch.ts';
import type { Supply } from '../../schemas/front.ts';
import { deviceSize } from '../store/device.ts';
import { Astray } from './astray.ts';
import type { JobListener } from './fetch-pool.ts';
import type { LayerCore } from './layer-core.ts';
import type { LayerWriter } from './layer-writer.ts';
import type { JobTiming, Trace } from './trace.ts';

interface Running {
  /** The actor's number, and the pool's. */
  job: number;
  pool: number;
  runs: readonly SpanRun[];
  /** Compressed bytes so far. */
  bytes: number;
  order: Omit<FetchOrder, 'source' | 'table'>;
  /** What it is fetched by. */
  supply: Supply;
  /** Supplies that were tried before. */
  tries: number;
  /** What its bytes count as. */
  counted: Origin;
}

export class LayerFetches {
  readonly #core: LayerCore;
  readonly #writer: LayerWriter;
  readonly #trace: Trace;
  readonly #astray: Astray;
  /** By the actor's number. */
  readonly #running = new Map<number, Running>();

  constructor(core: LayerCore, writer: LayerWriter, trace: Trace) {
    this.#core = core;
    this.#writer = writer;
    this.#trace = trace;
    const { on } = core.options;
    this.#astray = new Astray(() => on.notify({ kind: 'astray', diffId: core.diffId }));
  }

  /** Where blocks may come from by now. */
  supply(list: readonly [Supply, ...Supply[]]): void {
    if (this.#core.options.layer.supplies.replace(list)) this.#astray.supplied();
  }

  /** No table can be made that is better than those that failed. */
  givenUp(): void {
    this.#astray.givenUp(this.#core.now());
  }

  start({ job, runs, blocks, class: kind, soon, ahead }: LayerEffect & { type: 'fetch' }): void {
    const { diffId, supplies } = this.#core.options.layer;
    const order = { kind: 'fetch', class: kind, layer: diffId, runs: blocks } as const;
    const isRest = kind === 'prefetch' && soon !== true;
    const counted = kind === 'demand' ? kind : isRest ? 'rest' : 'hint';
    const supply = supplies.current;
    const running: Running = { job, pool: 0, runs, bytes: 0, order, supply, tries: 0, counted };
    // Before it is submitted: one that is refused ends within the call.
    this.#running.set(job, running);
    this.#trace.fetching(job, runs);
    this.#submit(running, isRest ? 'rest' : ahead === true ? 'ahead' : 'soon');
  }

  #submit(running: Running, use: 'rest' | 'ahead' | 'soon'): void {
    const { layer, pool } = this.#core.options;
    running.supply = layer.supplies.current;
    const { source, table } = running.supply;
    const order: FetchOrder = { ...running.order, source, ...(table === undefined ? {} : { table }) };
    const rest = deviceSize(layer.table.rawSize);
    const how = use === 'rest' ? { rest } : use === 'ahead' ? { ahead: true as const } : {};
    running.pool = pool.submit(order, this.#listenerOf(running), how);
  }

  /** A read waits for a job that was submitted as prefetch. */
  promote(number: number): void {
    const running = this.#running.get(number);
    if (running === undefined) return;
    running.counted = 'demand';
    // Where this supply fails, the order is submitted again by another one: then it is demand, too.
    running.order = { ...running.order, class: 'demand' };
    this.#core.options.pool.promote(running.pool);
  }

  cancel(number: number): void {
    const running = this.#running.get(number);
    if (running === undefined) return;
    this.#running.delete(number);
    const timing = this.#core.options.pool.cancel(running.pool);
    if (timing !== undefined)
      this.#trace.jobEnded({ ...running, blocks: running.order.runs }, timing, 'timeout: given up');
    this.#core.options.counts?.add('fetch_failures_total', 1, 'timeout');
    this.#writer.flushSoon();
  }

  /** Blocks are verified and written, of a job or of a startup pack. `bytes`: compressed ones that came for them. */
  arrived(job: number, blocks: BlockRun, bytes: number, as: Origin = 'pack'): void {
    this.#count(bytes, as);
    // A fetcher does not say so; what else does must not reach the states, which have no such blocks.
    if (blocks[0] + blocks[1] > this.#core.options.layer.table.blockCount) return;
    this.#core.options.cache.use.arrived(blocks);
    this.#trace.arrived(blocks, as);
    if (as === 'pack') this.#trace.packBrought(job, bytes);
    this.#core.send({ type: 'blocks.fetched', job, blocks, bytes, now: this.#core.now() });
    this.#writer.flushSoon();
  }

  #listenerOf(running: Running): JobListener {
    return {
      blocks: (first, count, bytes) => {
        running.bytes += bytes;
        this.arrived(running.job, blockRun(first, count), bytes, running.counted);
      },
      end: (bytes, failure, timing) => {
        running.bytes += bytes;
        this.#count(bytes, running.counted);
        this.#writer.flushSoon();
        if (failure !== undefined && this.#triesAnother(running, failure)) return;
        this.#running.delete(running.job);
        if (failure === undefined) this.#done(running, timing);
        else this.#failed(running, failure, timing);
      },
    };
  }

  /** What failed for good by one image's blob and table may come by another's. */
  #triesAnother(running: Running, { error, retryable }: { error: ErrorRecord; retryable: boolean }): boolean {
    const { layer, log } = this.#core.options;
    const { supplies } = layer;
    supplies.failed(running.supply);
    if (retryable || ++running.tries >= supplies.size || this.#core.isClosed) return false;
    if (this.#running.get(running.job) !== running) return false;
    const { code, message } = error;
    log.warn({ layer: this.#core.diffId, code, message }, 'fetched again by what another image names');
    this.#submit(running, 'soon');
    return true;
  }

  #done(running: Running, timing: JobTiming): void {
    this.#trace.jobEnded({ ...running, blocks: running.order.runs }, timing, undefined);
    const { times, queuedAt, endedAt } = timing;
    const { counts } = this.#core.options;
    counts?.observe('fetch_seconds', (endedAt - queuedAt) / 1000, running.counted);
    if (counts !== undefined && timing.class === 'demand') countSteps(counts, timing);
    const spent = times === undefined ? {} : { times };
    const isRest = running.counted === 'rest';
    if (times !== undefined) this.#core.options.on.fetched({ bytes: running.bytes, isRest, ...times });
    this.#core.send({ type: 'job.done', job: running.job, now: this.#core.now(), ...spent });
  }

  #failed(
    running: Running,
    { error, retryable }: { error: ErrorRecord; retryable: boolean },
    timing: JobTiming,
  ): void {
    const { cache, counts, log } = this.#core.options;
    const { code, message } = error;
    counts?.add('fetch_failures_total', 1, code);
    if (code === 'integrity') counts?.add('integrity_failures_total', 1, 'block');
    // Prefetch evicts nothing.
    if (timing.class === 'demand') cache.onFetch(code);
    this.#trace.jobEnded({ ...running, blocks: running.order.runs }, timing, `${code}: ${message}`);
    log.warn({ layer: this.#core.diffId, code, message }, 'fetch failed');
    const { job } = running;
    const now = this.#core.now();
    // Of several spans it is not known which one is bad: each is tried alone before.
    const isBad = code === 'integrity' && sizeOf(running.runs) === 1;
    const mayComeYet = retryable || (isBad && this.#astray.failed(now));
    this.#core.send({ type: 'job.failed', job, code, message, retryable: mayComeYet, now });
  }

  #count(bytes: number, as: Origin): void {
    const { cache, counts } = this.#core.options;
    const { fetched } = cache;
    if (bytes > 0) counts?.add('fetched_bytes_total', bytes, as);
    fetched.set(this.#core.diffId, (fetched.get(this.#core.diffId) ?? 0) + bytes);
  }
}

/** Of a fetch that a reader waited for, in the steps of `cofa replay why`. */
function countSteps(counts: Counts, { queuedAt, sentAt, endedAt, times }: JobTiming): void {
  const us = (from: number, to: number) => Math.max(0, (to - from) * 1_000);
  const steps = fetchSteps({
    sentUs: sentAt === undefined ? 0 : us(queuedAt, sentAt),
    lookupUs: times?.lookupUs ?? 0,
    firstByteUs: times?.firstByteUs ?? 0,
    fetchUs: times?.fetchUs ?? 0,
    decodeUs: times?.decodeUs ?? 0,
    writeUs: times?.writeUs ?? 0,
    totalUs: us(queuedAt, endedAt),
  });
  for (const [step, spent] of steps) counts.add('fetch_step_seconds_total', spent / 1e6, step);
}
