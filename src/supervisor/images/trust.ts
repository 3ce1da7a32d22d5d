/**
 * Proves flat images that came from a registry: when every layer of an image is whole on this node, the flat metadata
 * are built again from the layers (rebuild.ts, a process of its own at the lowest priority) and compared byte for byte.
 *
 *     equal                          event image.verified
 *     other, by our own revision     image.refuted: an alarm in `status`, and mounts that would use it are refused
 *     other, by another revision     nothing is proven either way: new mounts use what this node has built
 *
 * One image at a time. A rebuild that fails (a device that is not its layer, a registry that is away while a layer
 * without a device is needed, a process that dies) says nothing about the sidecar; it is tried again later. The cache goes
 * before: what it evicts while a rebuild reads lets that fail, for each layer's bytes are hashed on the way.
 */
import { rm } from 'node:fs/promises';
import type { Logger } from 'pino';
import { pauseAfterFailures, proofStep, verdict } from '../../../actors/trust.ts';
import { SIDECAR_REVISION } from '../../registry/sidecars.ts';
import type { CompleteLayers } from '../../index/rebuild-flat.ts';
import type { Layout } from '../../store/layout.ts';
import type { Conditions } from '../../process/conditions.ts';
import type { Image } from './image.ts';
import type { Images } from './images.ts';
import { localOf } from './preparation.ts';
import { type Rebuilt, rebuiltPath } from '../../index/orders.ts';
import { rebuild } from './rebuild.ts';

export interface TrustOptions {
  layout: Layout;
  log: Logger;
  images: Images;
  conditions: Conditions;
  /** Layers of which a device is whole and proven. */
  completeLayers: () => Promise<CompleteLayers>;
  now: () => number;
}

/** Several layers become complete at about the same time, ms. */
const SETTLE_MS = 200;

export class Trust {
  readonly #options: TrustOptions;
  readonly #stop = new AbortController();
  readonly #failures = new WeakMap<Image, { count: number; until: number }>();
  /** Conditions that were set here. */
  #alarms = new Set<string>();
  #timer: NodeJS.Timeout | undefined;
  #timerAt = Number.POSITIVE_INFINITY;
  #running: Promise<void> | undefined;
  #again = false;

  constructor(options: TrustOptions) {
    this.#options = options;
  }

  /** Something has changed: a layer became complete, an image was mounted. Looks soon. */
  poke(): void {
    this.#alarm();
    this.#lookIn(SETTLE_MS);
  }

  /** Ends a rebuild that runs. */
  async close(): Promise<void> {
    this.#stop.abort(new Error('the engine stops'));
    clearTimeout(this.#timer);
    await this.#running;
  }

  #lookIn(ms: number): void {
    const at = this.#options.now() + ms;
    if (this.#stop.signal.aborted || at >= this.#timerAt) return;
    clearTimeout(this.#timer);
    this.#timerAt = at;
    this.#timer = setTimeout(() => {
      this.#timerAt = Number.POSITIVE_INFINITY;
      if (this.#running !== undefined) {
        this.#again = true;
        return;
      }
      this.#running = this.#look().finally(() => {
        this.#running = undefined;
        if (this.#again) this.#lookIn(SETTLE_MS);
        this.#again = false;
      });
    }, ms);
    this.#timer.unref();
  }

  async #look(): Promise<void> {
    const { images, log, now, completeLayers } = this.#options;
    let asked: ReturnType<typeof completeLayers> | undefined;
    const complete = () => (asked ??= completeLayers());
    for (const image of Array.from(images.all()).flatMap((latest) => Array.from(latest.generations()))) {
      if (this.#isStopped) return;
      if (!isOpen(image)) continue;
      const failure = this.#failures.get(image);
      if (failure !== undefined && failure.until > now()) {
        this.#lookIn(failure.until - now());
        continue;
      }
      try {
        if (await this.#prove(image, complete)) asked = undefined;
        this.#failures.delete(image);
      } catch (error) {
        asked = undefined;
        if (this.#isStopped) return;
        if (!isOpen(image)) continue;
        const count = (failure?.count ?? 0) + 1;
        const pause = pauseAfterFailures(count);
        this.#failures.set(image, { count, until: now() + pause });
        log.warn({ image: image.resolved.ref, error }, 'the flat image could not be proven yet');
        this.#lookIn(pause);
      }
    }
    this.#alarm();
  }

  /** Returns whether that took a while. `complete`: the layers that are whole. */
  async #prove(image: Image, complete: TrustOptions['completeLayers']): Promise<boolean> {
    const { images, now } = this.#options;
    const { prepared } = image;
    if (prepared === undefined) return false;
    const step = proofStep({
      flat: prepared.flat,
      known: images.provenFlat(image),
      isOurs: isOurs(image),
      isSucceeded: image.successor !== undefined,
    });
    if (step === 'proven') await images.prove(image);
    if (step === 'refuted') await this.#refute(image, 'they are not those that this node has built');
    if (step !== 'rebuild' || !isComplete(image, await complete())) return false;
    const from = now();
    try {
      const built = await this.#rebuild(image);
      if (built !== undefined && isOpen(image)) await this.#judge(image, prepared.flat, built, now() - from);
    } finally {
      await rm(rebuiltPath(this.#options.layout, image.manifest, true), { force: true });
    }
    return true;
  }

  /** `ms`: how long the rebuild took. */
  async #judge(image: Image, flat: string, built: Rebuilt, ms: number): Promise<void> {
    const { images, log } = this.#options;
    const facts = { image: image.resolved.ref, flat, ms: Math.round(ms) };
    const { difference = '' } = built;
    const found = verdict(built.difference === undefined, isOurs(image));
    if (found === 'proven') {
      await images.prove(image);
      log.info(facts, 'the flat image is what the layers give');
      return;
    }
    if (found === 'refuted') await this.#refute(image, difference);
    await images.replace(image, built);
    if (found === 'replaced')
      log.info(facts, 'the flat image is of another builder: new mounts use that of this node');
  }

  async #refute(image: Image, message: string): Promise<void> {
    const signal = AbortSignal.any([this.#stop.signal, image.removal]);
    const told = this.#options.images.refute(image, message, signal);
    this.#alarm();
    await told;
  }

  /** Undefined: blocks of its layers were evicted meanwhile, and it is tried again when they are whole. */
  async #rebuild(image: Image): Promise<Rebuilt | undefined> {
    image.isProving = true;
    try {
      const built = await this.#rebuildOnce(image, true);
      if (built.difference === undefined) return built;
      // Before anybody is accused: a table of contents in the store may be older than the builder, or rotten.
      return await this.#rebuildOnce(image, false);
    } catch (error) {
      const isGone = this.#isStopped || image.removal.aborted;
      if (isGone || isComplete(image, await this.#options.completeLayers())) throw error;
      this.#options.log.info(
        { image: image.resolved.ref, error },
        'a proof is put off: the cache needs room',
      );
      return undefined;
    } finally {
      image.isProving = false;
    }
  }

  async #rebuildOnce(image: Image, cached: boolean): Promise<Rebuilt> {
    const { layers, registry, repository } = image.resolved;
    const expected = image.prepared?.flat ?? '';
    const local = localOf(layers, await this.#options.completeLayers());
    const known = this.#options.images.knownDevices();
    const order = { source: { registry, repository }, layers, local, known, cached };
    const signal = AbortSignal.any([this.#stop.signal, image.removal]);
    return await rebuild(this.#options.layout, image.manifest, order, { expected, signal });
  }

  get #isStopped(): boolean {
    return this.#stop.signal.aborted;
  }

  /** The alarm holds as long as the registry offers what was refuted. */
  #alarm(): void {
    const { images, conditions } = this.#options;
    const before = this.#alarms;
    this.#alarms = new Set();
    for (const { manifest, resolved, refuted } of images.all()) {
      if (refuted === undefined) continue;
      const key = `refuted:${manifest}`;
      this.#alarms.add(key);
      conditions.set(
        key,
        `the sidecar ${refuted.sidecar ?? ''} of ${resolved.ref} is not the image's (${refuted.message}): it is not used any more, and mounts made with it should be made again`,
      );
    }
    for (const key of before) if (!this.#alarms.has(key)) conditions.clear(key);
  }
}

const isOurs = ({ prepared }: Image): boolean => (prepared?.revision ?? 1) === SIDECAR_REVISION;

const isComplete = ({ prepared }: Image, complete: CompleteLayers): boolean =>
  prepared?.devices.every(({ diffId }) => complete.has(diffId)) === true;

/** Whether nothing is known of its flat image yet, and somebody may want to. */
const isOpen = (image: Image): boolean =>
  image.proof === 'unproven' && !image.removed && !image.removal.aborted;
