/** The scrub of one layer: its present blocks are compared, a few megabytes at a time, and bad ones are dealt with. */
import type { Logger } from 'pino';
import { type BlockRun, blockRuns, blocksOf, sizeOf, within } from '../../../actors/ranges.ts';
import type { ScrubReply as Report } from '../../../schemas/api.ts';
import { CofaError, toErrorRecord } from '../../../schemas/errors.ts';
import type { FrontCall, FrontReply, FrontRequest, Scrubbed, ScrubReply } from '../../../schemas/front.ts';
import type { Clock } from '../../process/ports.ts';
import type { Devices, LayerDemand } from './devices.ts';
import type { Pace } from './pace.ts';

export type LayerReport = Report['layers'][number];

export interface LayerScrubOptions {
  log: Logger;
  devices: Devices;
  ports: { clock: Clock };
  /** Asks a front end; one that dies leaves the question to the next one. */
  ask: <Call extends FrontCall>(call: Call, request: FrontRequest<Call>) => Promise<FrontReply<Call>>;
  /** Takes the pages of a layer's blocks out of the page cache. */
  dropPages: (diffId: string, ranges: ReadonlyArray<readonly [number, number]>) => Promise<void>;
  /** Fetch bad blocks again. */
  repair: boolean;
  /** Bytes; 0: no limit. */
  bytesPerSecond: number;
  pace: Pace;
  stop: AbortSignal;
}

const BLOCK_BYTES = 65_536;
/** Blocks that are compared at once: 16 MiB, or what the rate gives in a second, but for a span at least. */
const BATCH = 256;
const SMALL_BATCH = 16;
/** Its name among the users of a device. */
const USER = 'scrub';
const PAUSE_MS = 200;
/** Bad blocks that a read or the kernel has are tried again so often. */
const TRIES = 25;
/** A caller hears something this often at least, ms. */
const SIGN_MS = 2_000;

export class LayerScrub {
  readonly #options: LayerScrubOptions;
  readonly #report: LayerReport;
  readonly #demand: () => LayerDemand | undefined;

  /** `refs`: images that have the layer; `demand`: where its blob comes from, undefined when no image says so. */
  constructor(
    layer: { diffId: string; refs: string[]; demand: () => LayerDemand | undefined },
    options: LayerScrubOptions,
  ) {
    const { diffId, refs, demand } = layer;
    this.#options = options;
    this.#demand = demand;
    this.#report = { diffId, refs, blocks: 0, bytes: 0, bad: 0, repaired: 0, kept: 0, whole: false };
  }

  /** `say`: how many bytes have been compared. What goes wrong is in the report. */
  async run(say: (doneBytes: number) => void): Promise<LayerReport> {
    const report = this.#report;
    const { log, ports } = this.#options;
    const since = ports.clock.wallMs();
    const signs = ports.clock.every(SIGN_MS, () => say(report.bytes));
    let done = { isOver: false, isWhole: false };
    say(0);
    try {
      done = await this.#compareAll(say);
    } catch (error) {
      report.failure = toErrorRecord(error).message;
      log.error({ layer: report.diffId, error }, 'a layer was not compared to its end');
    } finally {
      signs.cancel();
    }
    if (report.blocks > 0) await this.#record(since, done.isOver);
    report.whole = done.isOver && done.isWhole && report.bad === report.repaired;
    return report;
  }

  /** `isOver`: to its end, not stopped before. `isWhole`: every block of the layer is there. */
  async #compareAll(say: (doneBytes: number) => void): Promise<{ isOver: boolean; isWhole: boolean }> {
    const report = this.#report;
    const { bytesPerSecond, pace, stop } = this.#options;
    const perSecond = bytesPerSecond / BLOCK_BYTES || BATCH;
    const count = Math.round(Math.max(SMALL_BATCH, Math.min(BATCH, perSecond)));
    let isWhole = true;
    for (let from = 0; !stop.aborted; ) {
      const batch = await this.#options.ask('scrub', { diffId: report.diffId, from, count });
      report.blocks += batch.blocks;
      report.bytes += batch.blocks * BLOCK_BYTES;
      isWhole &&= batch.whole;
      if (batch.bad.length > 0) await this.#handleBad(batch);
      say(report.bytes);
      await pace.spent(batch.blocks * BLOCK_BYTES);
      if (batch.next === undefined) return { isOver: true, isWhole };
      from = batch.next;
    }
    return { isOver: false, isWhole };
  }

  async #handleBad(first: ScrubReply): Promise<void> {
    const report = this.#report;
    report.bad += sizeOf(first.bad);
    const kept = await this.#takeOut(first);
    report.kept += sizeOf(kept);
    if (!this.#options.repair) return;
    const stayed = new Set(blocksOf(blockRuns(kept)));
    const gone = within(blockRuns(first.bad), (block) => !stayed.has(block));
    if (gone.length === 0) return;
    await this.#refetch(gone).catch((error: unknown) => {
      report.failure = `not repaired: ${toErrorRecord(error).message}`;
    });
  }

  /** Bad blocks leave the device, and the page cache. Returns those that stay: a read or the kernel has them for too long. */
  async #takeOut(first: ScrubReply): Promise<ScrubReply['kept']> {
    const { devices, dropPages, log, ports } = this.#options;
    const { diffId } = this.#report;
    let { kept, direct } = first;
    for (let tries = 0; kept.length > 0 && tries < TRIES; tries++) {
      if (direct) await devices.takeBack(diffId);
      else await ports.clock.sleep(PAUSE_MS);
      ({ kept, direct } = await this.#compareAgain(kept));
    }
    await dropPages(diffId, first.bad).catch((error: unknown) =>
      log.warn({ layer: diffId, error }, 'pages stay in the page cache'),
    );
    return kept;
  }

  /** Fetches blocks again, and looks whether the disk has them now. */
  async #refetch(ranges: readonly BlockRun[]): Promise<void> {
    const { devices, ask } = this.#options;
    const { diffId } = this.#report;
    const demand = this.#demand();
    if (demand === undefined) throw new CofaError('not-found', 'no image says where the layer comes from');
    // A layer that nothing mounts is opened for as long as this takes.
    await devices.acquire(demand, USER, 0);
    try {
      const { failure } = await ask('refetch', { diffId, ranges });
      const again = await this.#compareAgain(ranges);
      this.#report.repaired += again.blocks - sizeOf(again.bad);
      if (failure !== undefined) throw new CofaError(failure.code, failure.message);
      if (again.bad.length > 0) throw new CofaError('integrity', 'what was written is damaged again');
    } finally {
      await devices.release(diffId, USER);
    }
  }

  #compareAgain(ranges: ScrubReply['kept']): Promise<ScrubReply> {
    return this.#options.ask('scrub', { diffId: this.#report.diffId, from: 0, count: 0, ranges });
  }

  /** The log takes what came of it. The front end knows of bad blocks also where the one before it died without telling. */
  async #record(since: number, isOver: boolean): Promise<void> {
    const report = this.#report;
    const { diffId, blocks, bad, repaired, kept } = report;
    const scope = isOver ? {} : { scope: 'part' as const };
    const fact: Scrubbed = { diffId, since, blocks, bad, repaired, kept, ...scope };
    try {
      report.bad = await this.#options.ask('scrubbed', fact);
    } catch (error) {
      report.failure ??= `not in the log: ${toErrorRecord(error).message}`;
      this.#options.log.error({ layer: diffId, error }, 'the log was not told of a scrub');
    }
  }
}
