/**
 * Scrubs of a node, in the supervisor: which layers, how fast, and what becomes of bad blocks. The front end compares a
 * few megabytes at a time (scrubber.ts), so that it may die, be upgraded or have better things to do in between.
 *
 *     compare → bad? → taken out → (repair) fetched again → compared again → layer.scrubbed
 *                 └ the kernel reads the device itself: it is taken back first
 */
import type { Logger } from 'pino';
import type { Progress, ScrubReply as Report } from '../../../schemas/api.ts';
import { CofaError, toErrorRecord } from '../../../schemas/errors.ts';
import type { FrontCall, FrontReply, FrontRequest, FrontStatus } from '../../../schemas/front.ts';
import type { Clock } from '../../process/ports.ts';
import { layerIdOf } from '../../../actors/device.ts';
import { type Devices, type LayerDemand, layerDemand } from './devices.ts';
import type { FrontCaller } from './front-caller.ts';
import type { Image } from '../images/image.ts';
import type { Images } from '../images/images.ts';
import { type LayerReport, LayerScrub, type LayerScrubOptions } from './layer-scrub.ts';
import { Pace } from './pace.ts';

export interface ScrubsOptions {
  front: FrontCaller;
  log: Logger;
  images: Images;
  devices: Devices;
  ports: { clock: Clock };
  /** Takes the pages of a layer's blocks out of the page cache. */
  dropPages: (diffId: string, ranges: ReadonlyArray<readonly [number, number]>) => Promise<void>;
}

export interface ScrubOrder {
  /** Only these layers; undefined: all. */
  layers: readonly string[] | undefined;
  repair: boolean;
  /** Bytes; 0: no limit. */
  bytesPerSecond: number;
}

/** A front end that does not answer for so long is asked again, ms; one that has not for so long is given up. */
const ANSWER_MS = 30_000;
const PATIENCE_MS = 300_000;
const PAUSE_MS = 200;

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
    const ofImage = image?.prepared?.devices.map(layerIdOf) ?? [];
    if (layer === undefined) return image === undefined ? undefined : ofImage;
    const prefix = `sha256:${layer.replace(/^sha256:/, '')}`;
    const layers = await this.#layers();
    const known = image === undefined ? layers : layers.filter(({ diffId }) => ofImage.includes(diffId));
    const found = known
      .filter(({ diffId, content }) => (content ?? diffId).startsWith(prefix) || diffId.startsWith(prefix))
      .map(({ diffId }) => diffId);
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
    const { clock } = this.#options.ports;
    const started = clock.now();
    const layers: Report['layers'] = [];
    try {
      const pace = new Pace(order.bytesPerSecond, stop.signal, clock);
      for (const layer of await this.#layers()) {
        if (stop.signal.aborted) break;
        const isWanted = order.layers === undefined || order.layers.includes(layer.diffId);
        if (layer.blocks.present === 0 || !isWanted) continue;
        const report = await this.#scrubLayer(layer, { ...order, pace, stop: stop.signal }, onProgress);
        layers.push(named(report, layer.content));
      }
    } finally {
      this.#stop = undefined;
    }
    return { ...sumOf(layers), stopped: stop.signal.aborted, ms: Math.round(clock.now() - started) };
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

  #scrubLayer(
    { diffId, content = diffId, bytes }: FrontStatus['layers'][number],
    order: Pick<ScrubOrder, 'repair' | 'bytesPerSecond'> & { pace: Pace; stop: AbortSignal },
    onProgress: (progress: Progress) => void,
  ): Promise<LayerReport> {
    const refs = this.#imagesOf(diffId).map(({ resolved }) => resolved.ref);
    const demand = () => this.#demandFor(diffId);
    const ask: LayerScrubOptions['ask'] = (call, request) => this.#ask(call, request);
    const scrub = new LayerScrub({ diffId, refs, demand }, { ...this.#options, ...order, ask });
    return scrub.run((done) =>
      onProgress({ phase: 'scrub', item: content, done, total: Math.max(bytes.present, done) }),
    );
  }

  #imagesOf(diffId: string): Image[] {
    return [...this.#options.images.all()].filter(
      (image) => image.prepared?.devices.some((device) => layerIdOf(device) === diffId) === true,
    );
  }

  #demandFor(diffId: string): LayerDemand | undefined {
    for (const { prepared, resolved } of this.#imagesOf(diffId)) {
      const device = prepared?.devices.find((one) => layerIdOf(one) === diffId);
      if (device !== undefined) return layerDemand(resolved, device);
    }
    return undefined;
  }

  /** Asked anew when a front end has just died: what it told last may be old, or nothing at all. */
  async #layers(): Promise<FrontStatus['layers']> {
    return (await this.#ask('status', {})).layers;
  }

  /** Every question may be put twice: a front end that dies leaves it to the next one. */
  async #ask<Call extends FrontCall>(call: Call, request: FrontRequest<Call>): Promise<FrontReply<Call>> {
    const { front, ports } = this.#options;
    for (const end = ports.clock.now() + PATIENCE_MS; ; ) {
      try {
        return await front.once(call, request, ANSWER_MS);
      } catch (error) {
        if (toErrorRecord(error).code !== 'unavailable' || ports.clock.now() > end || this.#isClosed)
          throw error;
        await ports.clock.sleep(PAUSE_MS);
      }
    }
  }
}

/** As users see it. `content`: the layer's diffID, where a block root is its id. */
const named = (report: LayerReport, content: string | undefined): Report['layers'][number] =>
  content === undefined ? report : { ...report, diffId: content, root: report.diffId };

function sumOf(layers: Report['layers']): Omit<Report, 'stopped' | 'ms'> {
  const sum = (pick: (layer: Report['layers'][number]) => number) =>
    layers.reduce((n, layer) => n + pick(layer), 0);
  return {
    layers,
    blocks: sum((layer) => layer.blocks),
    bytes: sum((layer) => layer.bytes),
    bad: sum((layer) => layer.bad),
    repaired: sum((layer) => layer.repaired),
    kept: sum((layer) => layer.kept),
  };
}
