/**
 * Proves flat images that came from a registry: when every layer of an image is whole on this node, the flat metadata
 * are built again from the layers (rebuild.ts, a process of its own at the lowest priority) and compared byte for byte.
 *
 *     equal                          event image.verified
 *     other, by our own revision     image.refuted: an alarm in `status`, and mounts that would use it are refused
 *     other, by another revision     nothing is proven either way: new mounts use what this node has built
 *
 * One image at a time. A rebuild that fails (a device that is not its layer, a registry that is away while a layer
 * without a device is needed) says nothing about the sidecar; it is tried again later.
 */
import type { Logger } from 'pino';
import { SIDECAR_REVISION } from '../registry/sidecars.ts';
import type { Layout } from '../store/layout.ts';
import type { Conditions } from './conditions.ts';
import { type Image, type Images, localOf } from './images.ts';
import { rebuild, type Rebuilt } from './rebuild.ts';

export interface TrustOptions {
  layout: Layout;
  log: Logger;
  images: Images;
  conditions: Conditions;
  /** Layers whose device is whole and proven, with the bytes of their tar. */
  completeLayers: () => Promise<Map<string, number>>;
  now: () => number;
}

/** Several layers become complete at about the same time, ms. */
const SETTLE_MS = 200;
/** Pause after a rebuild that failed; doubled at each further one up to the longest, ms. */
const RETRY_MS = 30_000;
const RETRY_MAX_MS = 3_600_000;

export class Trust {
  readonly #options: TrustOptions;
  readonly #stop = new AbortController();
  readonly #failures = new Map<string, { count: number; until: number }>();
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
    const { images, log } = this.#options;
    for (const image of Array.from(images.all())) {
      if (this.#stop.signal.aborted) return;
      if (image.proof !== 'unproven') continue;
      const failure = this.#failures.get(image.manifest);
      if (failure !== undefined && failure.until > this.#options.now()) continue;
      try {
        await this.#prove(image);
        this.#failures.delete(image.manifest);
      } catch (error) {
        if (this.#stop.signal.aborted) return;
        const count = (failure?.count ?? 0) + 1;
        const pause = Math.min(RETRY_MS * 2 ** (count - 1), RETRY_MAX_MS);
        this.#failures.set(image.manifest, { count, until: this.#options.now() + pause });
        log.warn({ image: image.resolved.ref, error }, 'the flat image could not be proven yet');
        this.#lookIn(pause);
      }
    }
    this.#alarm();
  }

  async #prove(image: Image): Promise<void> {
    const { images, log, completeLayers } = this.#options;
    const { prepared, resolved } = image;
    if (prepared === undefined) return;
    const complete = await completeLayers();
    if (!prepared.devices.every(({ diffId }) => complete.has(diffId))) return;
    const from = this.#options.now();
    let built = await this.#rebuild(image, complete, true);
    // Before anybody is accused: a table of contents in the store may be older than the builder, or rotten.
    if (built.difference !== undefined) built = await this.#rebuild(image, complete, false);
    const facts = { image: resolved.ref, flat: prepared.flat, ms: Math.round(this.#options.now() - from) };
    // Proven or replaced meanwhile.
    if (image.proof !== 'unproven' || image.successor !== undefined) return;
    if (built.difference === undefined) {
      await images.prove(image);
      log.info(facts, 'the flat image is what the layers give');
      return;
    }
    const ours = (prepared.revision ?? 1) === SIDECAR_REVISION;
    await images.replace(image, built, ours ? built.difference : undefined);
    if (!ours) log.info(facts, 'the flat image is of another builder: new mounts use that of this node');
  }

  #rebuild(image: Image, complete: Map<string, number>, cached: boolean): Promise<Rebuilt> {
    const { layers, registry, repository } = image.resolved;
    const order = { source: { registry, repository }, layers, local: localOf(layers, complete), cached };
    const signal = this.#stop.signal;
    return rebuild(this.#options.layout, image.manifest, order, { background: true, signal });
  }

  /** The alarm holds as long as the registry offers what was refuted. */
  #alarm(): void {
    const { images, conditions } = this.#options;
    for (const { manifest, resolved, refuted } of images.all()) {
      const key = `refuted:${manifest}`;
      if (refuted === undefined) conditions.clear(key);
      else {
        conditions.set(
          key,
          `the sidecar ${refuted.sidecar ?? ''} of ${resolved.ref} is not the image's (${refuted.message}): it is not used any more, and mounts made with it should be made again`,
        );
      }
    }
  }
}
