/**
 * The supervisor's part of the cache: tells the front end which layers are needed, removes images, and has files swept up
 * that belong to nothing (sweeper.ts). What is in use is never touched: an image is removed only while no mount has it, a
 * layer only while the front end has it closed.
 */
import type { Logger } from 'pino';
import { planPrune } from '../../../actors/prune.ts';
import type { CacheStatus, PruneReply } from '../../../schemas/api.ts';
import { CofaError } from '../../../schemas/errors.ts';
import type { CacheNeeds, Collect, CollectReply, Shrink } from '../../../schemas/front.ts';
import type { FrontCaller } from './front-caller.ts';
import { parseReference } from '../../registry/reference.ts';
import type { Clock, Timer } from '../../process/ports.ts';
import type { Layout } from '../../store/layout.ts';
import type { Image } from '../images/image.ts';
import type { Images } from '../images/images.ts';
import type { Mounts } from '../mounts/mounts.ts';
import { layersOf, Sweeper } from './sweeper.ts';

export interface CacheKeeperOptions {
  front: FrontCaller;
  layout: Layout;
  log: Logger;
  images: Images;
  mounts: Mounts;
  status: () => Promise<CacheStatus>;
  ports: { clock: Clock };
}

export interface PruneOrder {
  all: boolean;
  dryRun: boolean;
  /** Bytes that may stay. */
  keepBytes: number;
}

const NEEDS_MS = 1_000;
/** The front end is told again now and then: another one may have taken its place. */
const NEEDS_AGAIN = 5;
const SWEEP_MS = 60_000;
/** What could not be swept for want of an answer, or because an image was being prepared, is tried again after this, ms. */
const SWEEP_AGAIN_MS = 5_000;
const SWEEP_TRIES = 25;
const SWEEP_PAUSE_MS = 200;
/** An eviction of everything takes a while. */
const SHRINK_MS = 120_000;

export class CacheKeeper {
  readonly #options: CacheKeeperOptions;
  readonly #sweeper: Sweeper;
  readonly #timers: Timer[] = [];
  /** What the front end was told last is made of this. */
  #said: readonly unknown[] = [];
  #repeats = 0;
  #isStopped = false;
  #again: Timer | undefined;

  constructor(options: CacheKeeperOptions) {
    this.#options = options;
    this.#sweeper = new Sweeper(options);
  }

  /** Every image and mount that the log knows is known here. */
  async begin(): Promise<void> {
    const { clock } = this.#options.ports;
    this.#timers.push(clock.every(NEEDS_MS, () => void this.#sayNeeds()).unref());
    this.#timers.push(clock.every(SWEEP_MS, () => void this.#tidy()).unref());
    await this.#sayNeeds();
    await this.#tidy();
  }

  stop(): void {
    this.#isStopped = true;
    this.#sweeper.stop();
    this.#again?.cancel();
    for (const timer of this.#timers) timer.cancel();
  }

  /** Removes what no mount needs, see docs/cli.md. */
  async prune(order: PruneOrder): Promise<PruneReply> {
    const { images, front } = this.#options;
    const before = (await this.#options.status()).usedBytes;
    const uses = await front.once('uses', {});
    const mounted = this.#mounted();
    const all = [...images.all()];
    const gone = planPrune(
      all.map((image) => ({
        id: image.manifest,
        inUse: image.isInUse || mounted.has(image.manifest),
        layers: layersOf(image),
      })),
      new Map(uses.map(({ diffId, bytes, idleMs }) => [diffId, { bytes, idleMs }])),
      { used: before, keep: order.keepBytes },
    );
    const removed: PruneReply['images'] = [];
    for (const manifest of gone) {
      const image = images.get(manifest);
      if (image === undefined) continue;
      const { ref } = image.resolved;
      if (!order.dryRun && !(await this.#removeImage(image))) continue;
      removed.push({ ref, manifest });
    }
    const going = new Set(removed.map(({ manifest }) => manifest));
    // As of now: an image may have come while others were removed.
    const left = [...images.all()].filter(({ manifest }) => !going.has(manifest));
    const collected = await this.#collect(left, order.dryRun);
    let freed = collected.bytes;
    if (!order.dryRun) await this.#sweepNow();
    if (order.all) {
      const shrink: Shrink = { keep: Math.max(order.keepBytes, 0), dryRun: order.dryRun };
      // What has been collected only for show is still counted.
      if (order.dryRun) shrink.keep += collected.bytes;
      freed += await front.once('shrink', shrink, SHRINK_MS);
    }
    const after = order.dryRun ? before - freed : (await this.#options.status()).usedBytes;
    return {
      images: removed,
      layers: collected.layers.length,
      freedBytes: Math.max(order.dryRun ? freed : before - after, 0),
      usedBytes: Math.max(after, 0),
    };
  }

  /** Removes one image, by reference or digest, and its layers that no other image has. Errors: `not-found`, `busy`. */
  async remove(text: string): Promise<PruneReply> {
    const image = this.find(text);
    if (image.isInUse || this.#mounted().has(image.manifest)) {
      throw new CofaError('busy', `${image.resolved.ref} is mounted`, { hint: 'cofa ps lists the mounts' });
    }
    const before = (await this.#options.status()).usedBytes;
    await this.#options.images.remove(image.manifest);
    const collected = await this.#collect([...this.#options.images.all()], false);
    await this.#sweepNow();
    const { usedBytes } = await this.#options.status();
    return {
      images: [{ ref: image.resolved.ref, manifest: image.manifest }],
      layers: collected.layers.length,
      freedBytes: Math.max(before - usedBytes, 0),
      usedBytes,
    };
  }

  /** The image of a reference, or of the first digits of a digest. Error `not-found`. */
  find(text: string): Image {
    const images = [...this.#options.images.all()];
    const byId = images.filter(({ manifest }) => manifest === text || manifest.startsWith(`sha256:${text}`));
    if (/^(sha256:)?[0-9a-f]{6,64}$/.test(text) && byId.length === 1) return byId[0] as Image;
    const reference = parseReference(text);
    const found =
      reference.digest === undefined
        ? images.findLast(({ resolved }) => resolved.ref === reference.text)
        : this.#options.images.get(reference.digest);
    if (found === undefined) {
      throw new CofaError('not-found', `this node knows no image ${text}`, {
        hint: 'cofa images lists them',
      });
    }
    return found;
  }

  /** False where a mount was faster. */
  async #removeImage(image: Image): Promise<boolean> {
    if (image.isInUse || this.#mounted().has(image.manifest)) return false;
    await this.#options.images.remove(image.manifest);
    return true;
  }

  #mounted(): Set<string> {
    return new Set(this.#options.mounts.list().map(({ manifest }) => manifest));
  }

  async #collect(images: readonly Image[], dryRun: boolean): Promise<CollectReply> {
    const { front } = this.#options;
    const order: Collect = { needed: images.flatMap(layersOf), dryRun };
    return await front.once('collect', order, SHRINK_MS);
  }

  /** Each second, so it compares what the needs are made of, and makes them only to be sent. */
  async #sayNeeds(): Promise<void> {
    const mounted = this.#mounted();
    const images = Array.from(this.#options.images.all(), (image) => ({
      image,
      prepared: image.prepared,
      isMounted: image.isInUse || mounted.has(image.manifest),
    }));
    const now = images.flatMap(({ image, prepared, isMounted }) => [image, prepared, isMounted]);
    this.#repeats += 1;
    if (isSame(now, this.#said) && this.#repeats < NEEDS_AGAIN) return;
    this.#repeats = 0;
    const needs: CacheNeeds = { mounts: [], images: [] };
    for (const { image, isMounted } of images) {
      const list = isMounted ? needs.mounts : needs.images;
      list.push(...layersOf(image));
    }
    const { front, log } = this.#options;
    await front.once('needs', needs, NEEDS_MS).then(
      () => (this.#said = now),
      (error: unknown) => log.debug({ error }, 'the front end was not told what is needed'),
    );
  }

  /** Layers without an image, and files without either. */
  async #tidy(): Promise<void> {
    if (this.#isStopped) return;
    try {
      await this.#collect([...this.#options.images.all()], false);
      if (await this.#sweeper.sweep()) return;
    } catch (error) {
      this.#options.log.warn({ error }, 'the store was not tidied');
    }
    this.#tidySoon();
  }

  #tidySoon(): void {
    this.#again?.cancel();
    if (this.#isStopped) return;
    this.#again = this.#options.ports.clock.after(SWEEP_AGAIN_MS, () => void this.#tidy()).unref();
  }

  /** For a caller who waits: an image that is being prepared or proven just now is waited for, some seconds. */
  async #sweepNow(): Promise<void> {
    for (let tries = 0; tries < SWEEP_TRIES; tries++) {
      if (await this.#sweeper.sweep()) return;
      await this.#options.ports.clock.sleep(SWEEP_PAUSE_MS);
    }
    this.#tidySoon();
  }
}

const isSame = (now: readonly unknown[], before: readonly unknown[]): boolean =>
  now.length === before.length && now.every((one, at) => one === before[at]);

/** Of a front end that has not been asked yet. */
export const NO_CACHE: CacheStatus = {
  usedBytes: 0,
  metadataBytes: 0,
  limitBytes: null,
  freeBytes: 0,
  reserveBytes: 0,
  evictedBytes: 0,
  prefetch: true,
};
