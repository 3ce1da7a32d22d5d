/**
 * Scrubs of a node, in the supervisor: which layers, how fast, and what becomes of bad blocks. The front end compares a
 * few megabytes at a time (scrubber.ts), so that it may die, be upgraded or have better things to do in between.
 *
 *     compare → bad? → taken out → (repair) fetched again → compared again → layer.scrubbed
 *                 └ the kernel reads the device itself: it is taken back first
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { NatsConnection } from '@nats-io/nats-core';
import type { Logger } from 'pino';
import { type BlockRun, blockRuns, blocksOf, sizeOf, within } from '../../../actors/ranges.ts';
import type { Progress, ScrubReply as Report } from '../../../schemas/api.ts';
import { CofaError, toErrorRecord } from '../../../schemas/errors.ts';
import type {
  FrontCall,
  FrontReply,
  FrontRequest,
  FrontStatus,
  FrontSubject,
  Refetch,
  Scrub,
  Scrubbed,
  ScrubReply,
} from '../../../schemas/front.ts';
import type { Subjects } from '../../../schemas/subjects.ts';
import type { Devices, LayerDemand } from './devices.ts';
import { askFrontOnce } from './front-calls.ts';
import type { Image } from '../images/image.ts';
import type { Images } from '../images/images.ts';

export interface ScrubsOptions {
  bus: NatsConnection;
  names: Subjects;
  log: Logger;
  images: Images;
  devices: Devices;
  /** Where the files of a layer's blocks have pages in the page cache, they go. */
  dropPages: (diffId: string, ranges: ReadonlyArray<readonly [number, number]>) => Promise<void>;
}

export interface ScrubOrder {
  /** Only these layers; undefined: all. */
  layers: readonly string[] | undefined;
  repair: boolean;
  /** Bytes; 0: no limit. */
  bytesPerSecond: number;
}

type LayerReport = Report['layers'][number];

/** Blocks that are compared at once: 16 MiB, or what the rate gives in a second, but for a span at least. */
const BATCH = 256;
const SMALL_BATCH = 16;
/** Who it is to the devices. */
const USER = 'scrub';
/** A front end that does not answer for so long is asked again, ms; one that has not for so long is given up. */
const ANSWER_MS = 30_000;
const PATIENCE_MS = 300_000;
const PAUSE_MS = 200;
/** Bad blocks that a read or the kernel has are tried again so often. */
const TRIES = 25;
/** Whoever waits hears something this often at least, ms. */
const SIGN_MS = 2_000;

export class Scrubs {
  readonly #options: ScrubsOptions;
  #stop: AbortController | undefined;
  #isClosed = false;

  constructor(options: ScrubsOptions) {
    this.#options = options;
  }

  /** What is to be compared: the layers of an image, one layer by its first digits, or all (undefined). Error `not-found`. */
  async choose(what: { image: Image | undefined; layer: string | undefined }): Promise<string[] | undefined> {
    const { image, layer } = what;
    const ofImage = image?.prepared?.devices.map(({ diffId }) => diffId) ?? [];
    if (layer === undefined) return image === undefined ? undefined : ofImage;
    const prefix = `sha256:${layer.replace(/^sha256:/, '')}`;
    const known = image === undefined ? (await this.#layers()).map(({ diffId }) => diffId) : ofImage;
    const found = known.filter((diffId) => diffId.startsWith(prefix));
    if (found.length === 0)
      throw new CofaError('not-found', `this node has no layer ${layer}`, {
        hint: 'cofa status --layers lists them',
      });
    return found;
  }

  /** Error `busy` while another one runs. */
  async run(order: ScrubOrder, onProgress: (progress: Progress) => void): Promise<Report> {
    if (this.#stop !== undefined)
      throw new CofaError('busy', 'a scrub is running', { hint: 'wait for its end, or: cofa scrub --stop' });
    const stop = new AbortController();
    this.#stop = stop;
    const started = performance.now();
    const isWanted = (diffId: string) => order.layers === undefined || order.layers.includes(diffId);
    const layers: LayerReport[] = [];
    try {
      const pace = new Pace(order.bytesPerSecond, stop.signal);
      for (const { diffId, blocks, bytes } of await this.#layers()) {
        if (stop.signal.aborted) break;
        if (blocks.present === 0 || !isWanted(diffId)) continue;
        const say = (done: number) =>
          onProgress({ phase: 'scrub', item: diffId, done, total: Math.max(bytes.present, done) });
        layers.push(await this.#scrubLayer(diffId, order, pace, stop.signal, say));
      }
    } finally {
      this.#stop = undefined;
    }
    const sum = (pick: (layer: LayerReport) => number) => layers.reduce((n, layer) => n + pick(layer), 0);
    return {
      layers,
      blocks: sum((layer) => layer.blocks),
      bytes: sum((layer) => layer.bytes),
      bad: sum((layer) => layer.bad),
      repaired: sum((layer) => layer.repaired),
      kept: sum((layer) => layer.kept),
      stopped: stop.signal.aborted,
      ms: Math.round(performance.now() - started),
    };
  }

  /** Whether one was running. */
  stop(): boolean {
    this.#stop?.abort();
    return this.#stop !== undefined;
  }

  /** The engine ends. */
  close(): void {
    this.#isClosed = true;
    this.stop();
  }

  // ── One layer ──

  async #scrubLayer(
    diffId: string,
    order: ScrubOrder,
    pace: Pace,
    stop: AbortSignal,
    say: (doneBytes: number) => void,
  ): Promise<LayerReport> {
    const report: LayerReport = {
      diffId,
      refs: this.#imagesOf(diffId).map(({ resolved }) => resolved.ref),
      blocks: 0,
      bytes: 0,
      bad: 0,
      repaired: 0,
      kept: 0,
      whole: false,
    };
    const since = Date.now();
    const beat = setInterval(() => say(report.bytes), SIGN_MS);
    let isOver = false;
    let isWhole = true;
    say(0);
    try {
      const perSecond = order.bytesPerSecond / BLOCK_BYTES || BATCH;
      const count = Math.round(Math.max(SMALL_BATCH, Math.min(BATCH, perSecond)));
      for (let from = 0; !stop.aborted && !isOver; ) {
        const batch = await this.#compare({ diffId, from, count });
        report.blocks += batch.blocks;
        report.bytes += batch.blocks * BLOCK_BYTES;
        isWhole &&= batch.whole;
        if (batch.bad.length > 0) await this.#handleBad(batch, order.repair, report);
        say(report.bytes);
        if (batch.next === undefined) isOver = true;
        else from = batch.next;
        await pace.spent(batch.blocks * BLOCK_BYTES);
      }
    } catch (error) {
      report.failure = toErrorRecord(error).message;
      this.#options.log.error({ layer: diffId, error }, 'a layer was not compared to its end');
    } finally {
      clearInterval(beat);
    }
    if (report.blocks > 0) await this.#record(report, since, isOver);
    report.whole = isOver && isWhole && report.bad === report.repaired;
    return report;
  }

  async #record(report: LayerReport, since: number, isOver: boolean): Promise<void> {
    const { diffId, blocks, bad, repaired, kept } = report;
    const scope = isOver ? {} : { scope: 'part' as const };
    const fact: Scrubbed = { diffId, since, blocks, bad, repaired, kept, ...scope };
    try {
      report.bad = await this.#ask(this.#options.names.front('scrubbed'), fact);
    } catch (error) {
      report.failure ??= `not in the log: ${toErrorRecord(error).message}`;
      this.#options.log.error({ layer: diffId, error }, 'the log was not told of a scrub');
    }
  }

  async #handleBad(first: ScrubReply, repair: boolean, report: LayerReport): Promise<void> {
    const { diffId } = report;
    report.bad += sizeOf(first.bad);
    let { kept, direct } = first;
    for (let tries = 0; kept.length > 0 && tries < TRIES; tries++) {
      if (direct) await this.#options.devices.takeBack(diffId);
      else await sleep(PAUSE_MS);
      ({ kept, direct } = await this.#compare({ diffId, from: 0, count: 0, ranges: kept }));
    }
    await this.#options
      .dropPages(diffId, first.bad)
      .catch((error: unknown) =>
        this.#options.log.warn({ layer: diffId, error }, 'pages stay in the page cache'),
      );
    report.kept += sizeOf(kept);
    if (!repair) return;
    const stayed = new Set(blocksOf(blockRuns(kept)));
    const gone = within(blockRuns(first.bad), (block) => !stayed.has(block));
    if (gone.length === 0) return;
    await this.#refetch(gone, report).catch((error: unknown) => {
      report.failure = `not repaired: ${toErrorRecord(error).message}`;
    });
  }

  /** Fetches blocks again, and looks whether the disk has them now. */
  async #refetch(ranges: readonly BlockRun[], report: LayerReport): Promise<void> {
    const { devices, names } = this.#options;
    const { diffId } = report;
    const demand = this.#demandFor(diffId);
    if (demand === undefined) throw new CofaError('not-found', 'no image says where the layer comes from');
    // A layer that nothing mounts is opened for as long as this takes.
    await devices.acquire(demand, USER, 0);
    try {
      const order: Refetch = { diffId, ranges };
      const { failure } = await this.#ask(names.front('refetch'), order);
      const again = await this.#compare({ diffId, from: 0, count: 0, ranges });
      report.repaired += again.blocks - sizeOf(again.bad);
      if (failure !== undefined) throw new CofaError(failure.code, failure.message);
      if (again.bad.length > 0) throw new CofaError('integrity', 'what was written is damaged again');
    } finally {
      await devices.release(diffId, USER);
    }
  }

  #imagesOf(diffId: string): Image[] {
    return [...this.#options.images.all()].filter(
      (image) => image.prepared?.devices.some((device) => device.diffId === diffId) === true,
    );
  }

  #demandFor(diffId: string): LayerDemand | undefined {
    for (const { prepared, resolved } of this.#imagesOf(diffId)) {
      const device = prepared?.devices.find((one) => one.diffId === diffId);
      const layer = resolved.layers.find(({ blob }) => blob === device?.spans);
      if (device === undefined || layer === undefined) continue;
      const { registry, repository } = resolved;
      const source = { registry, repository, digest: device.spans, size: layer.blobSize };
      return { diffId, size: device.size, source, built: false };
    }
    return undefined;
  }

  /** Asked anew when a front end has just died: what it told last may be old, or nothing at all. */
  async #layers(): Promise<FrontStatus['layers']> {
    return (await this.#ask(this.#options.names.front('status'), {})).layers;
  }

  #compare(order: Scrub): Promise<ScrubReply> {
    return this.#ask(this.#options.names.front('scrub'), order);
  }

  /** Every question may be put twice: a front end that dies leaves it to the next one. */
  async #ask<Call extends FrontCall>(
    subject: FrontSubject<Call>,
    request: FrontRequest<Call>,
  ): Promise<FrontReply<Call>> {
    for (const end = performance.now() + PATIENCE_MS; ; ) {
      try {
        return await askFrontOnce(this.#options.bus, subject, request, ANSWER_MS);
      } catch (error) {
        if (toErrorRecord(error).code !== 'unavailable' || performance.now() > end || this.#isClosed)
          throw error;
        await sleep(PAUSE_MS);
      }
    }
  }
}

const BLOCK_BYTES = 65_536;

/** Holds back who is faster than a rate. */
class Pace {
  readonly #bytesPerSecond: number;
  readonly #stop: AbortSignal;
  readonly #started = performance.now();
  #spent = 0;

  constructor(bytesPerSecond: number, stop: AbortSignal) {
    this.#bytesPerSecond = bytesPerSecond;
    this.#stop = stop;
  }

  async spent(bytes: number): Promise<void> {
    this.#spent += bytes;
    if (this.#bytesPerSecond === 0) return;
    const due = this.#started + (this.#spent / this.#bytesPerSecond) * 1000;
    const wait = due - performance.now();
    if (wait > 0) await sleep(wait, undefined, { signal: this.#stop }).catch(() => {});
  }
}
