/** What the front end says of layers, fetchers and cache. */
import { isWhole } from '../../../actors/layer-life.ts';
import { isFrontReply } from '../../../schemas/check-front.ts';
import { toErrorRecord } from '../../../schemas/errors.ts';
import type { CompleteLayers } from '../../index/rebuild-flat.ts';
import type { FrontStatus } from '../../../schemas/front.ts';
import { askLocal } from '../../bus/local-socket.ts';
import type { Layout } from '../../store/layout.ts';
import { NO_CACHE } from '../layers/cache-keeper.ts';
import type { FrontCaller } from '../layers/front-caller.ts';

/** The front end has this long to answer, ms. */
const ANSWER_MS = 4_000;

export class FrontFigures {
  readonly #front: FrontCaller;
  readonly #layout: Layout;
  #last: FrontStatus = {
    layers: [],
    workers: [],
    queued: { demand: 0, prefetch: 0 },
    cache: NO_CACHE,
    degraded: [],
  };

  constructor(options: { front: FrontCaller; layout: Layout }) {
    this.#front = options.front;
    this.#layout = options.layout;
  }

  /** By its socket, since NATS may be away; a front end that is just being started has none. Error `unavailable`. */
  async now(): Promise<FrontStatus> {
    try {
      return await askLocal(this.#layout.socket('front-end'), 'status', ANSWER_MS, isFrontReply('status'));
    } catch {
      return await this.#front.once('status', {}, ANSWER_MS);
    }
  }

  /** While no front end answers: what one said last. */
  async lately(): Promise<FrontStatus> {
    try {
      this.#last = await this.now();
      return this.#last;
    } catch (error) {
      if (toErrorRecord(error).code !== 'unavailable') throw error;
      const degraded = ['the front end does not answer at the moment: its figures are old'];
      return { ...this.#last, workers: [], degraded };
    }
  }

  /** Layers of which a device is whole and proven, by diffID. Error `unavailable`. */
  async completeLayers(): Promise<CompleteLayers> {
    const { layers } = await this.now();
    const whole = layers.filter(({ state }) => isWhole(state));
    return new Map(
      whole.map(({ diffId: layer, content = layer, bytes }) => [content, { layer, size: bytes.total }]),
    );
  }
}
