/**
 * Layers whose blocks do not come by any span table that their images name, though the registry answers: tables lead nowhere,
 * as those may that a client has pushed. The node reads such a layer once from the blob that the manifest names, and makes a
 * table of its own (rebuild.ts); the images that have the layer go by that from then on, also after a restart.
 *
 * The layer's bytes are compared with blob digest and diffID on the way, so this proves its block root. Where the root turns out
 * to be another one than that of the device, no table can help: the device is of a forged root.
 *
 *     front end ── astray ──▶ make ──▶ blob ──▶ table ──▶ image.prepared, front.open
 *                                        └─ none to be had ──▶ front.given-up: reads fail at once
 */
import type { Logger } from 'pino';
import { type ImageDevice, layerIdOf } from '../../../actors/device.ts';
import { pauseAfterFailures } from '../../../actors/trust.ts';
import type { TableOrder } from '../../index/orders.ts';
import type { FrontCaller } from '../layers/front-caller.ts';
import type { Image } from './image.ts';
import type { Images } from './images.ts';
import type { Roots } from './roots.ts';

export interface NewTablesOptions {
  /** Makes a table of a blob, and leaves it in the store: rebuild.ts. */
  makeTable: (order: Omit<TableOrder, 'root'>, signal: AbortSignal) => Promise<ImageDevice>;
  log: Logger;
  images: Pick<Images, 'all'>;
  roots: Pick<Roots, 'prove'>;
  front: Pick<FrontCaller, 'ask'>;
  now: () => number;
}

/** Layers that are read at once: each takes a process. */
const AT_ONCE = 2;
/** Blobs of one layer that are tried: images may give its diffID to others. */
const MOST_BLOBS = 4;
/** Layers whose failures are remembered. */
const MOST_FAILURES = 1_024;

export class NewTables {
  readonly #options: NewTablesOptions;
  readonly #stop = new AbortController();
  /** Layers that wait or are read. */
  readonly #making = new Set<string>();
  readonly #waiting: string[] = [];
  readonly #failures = new Map<string, { count: number; until: number }>();
  #running = 0;

  constructor(options: NewTablesOptions) {
    this.#options = options;
  }

  /** Makes one for the layer of this id, in turn. One that failed a moment ago is given up at once. */
  make(layer: string): void {
    if (this.#stop.signal.aborted || this.#making.has(layer)) return;
    if ((this.#failures.get(layer)?.until ?? 0) > this.#options.now()) return this.#giveUp(layer);
    this.#making.add(layer);
    this.#waiting.push(layer);
    this.#next();
  }

  close(): void {
    this.#stop.abort(new Error('the engine stops'));
  }

  #next(): void {
    if (this.#running >= AT_ONCE || this.#stop.signal.aborted) return;
    const layer = this.#waiting.shift();
    if (layer === undefined) return;
    this.#running += 1;
    void this.#make(layer).finally(() => {
      this.#running -= 1;
      this.#making.delete(layer);
      this.#next();
    });
  }

  async #make(layer: string): Promise<void> {
    const { log } = this.#options;
    const isMended = await this.#mend(layer).catch((error: unknown) => {
      log.warn({ layer, error }, 'a span table that was made anew is not in use');
      return false;
    });
    if (this.#stop.signal.aborted) return;
    if (isMended) {
      // The next time it is the blob that is at fault, or the registry.
      this.#failures.delete(layer);
      return;
    }
    const count = (this.#failures.get(layer)?.count ?? 0) + 1;
    this.#failures.delete(layer);
    this.#failures.set(layer, { count, until: this.#options.now() + pauseAfterFailures(count) });
    if (this.#failures.size > MOST_FAILURES)
      this.#failures.delete(this.#failures.keys().next().value as string);
    this.#giveUp(layer);
  }

  /** Returns whether the layer's images have another table now. */
  async #mend(layer: string): Promise<boolean> {
    const { log } = this.#options;
    for (const { image, device } of this.#blobsOf(layer)) {
      // Until an image names the table, a sweep would take it.
      image.isMending = true;
      try {
        const made = await this.#read(image, device);
        if (made === undefined) continue;
        if ((device.root ?? made.root) !== made.root) {
          log.error({ layer, root: made.root }, 'the block root of a layer is not its own');
          return false;
        }
        const changed = await Promise.all(this.#using(layer).map((one) => one.image.retable(made)));
        if (!changed.includes(true)) continue;
        log.warn({ layer, image: image.resolved.ref }, 'a span table led nowhere: the node has made another');
        return true;
      } finally {
        image.isMending = false;
      }
    }
    return false;
  }

  /** Undefined where the blob cannot be had, or is another layer. */
  async #read(image: Image, { diffId, spans: blob }: ImageDevice): Promise<ImageDevice | undefined> {
    const { makeTable, log, roots } = this.#options;
    const { registry, repository, layers } = image.resolved;
    const layer = layers.find((one) => one.diffId === diffId && one.blob === blob);
    if (layer === undefined) return undefined;
    try {
      const made = await makeTable({ source: { registry, repository }, layer }, this.#stop.signal);
      if (made.root !== undefined) roots.prove(diffId, made.root);
      return made;
    } catch (error) {
      log.warn({ diffId, blob, image: image.resolved.ref, error }, 'no span table could be made of a blob');
      return undefined;
    }
  }

  /** Images that have the layer attached. */
  #using(layer: string): Array<{ image: Image; device: ImageDevice }> {
    return [...this.#options.images.all()]
      .flatMap((image) => [...image.generations()])
      .filter((image) => image.attached !== undefined)
      .flatMap((image) =>
        (image.prepared?.devices ?? []).flatMap((device) =>
          layerIdOf(device) === layer ? [{ image, device }] : [],
        ),
      );
  }

  /** One for each blob, those of images that are proven first: an attacker's image may give the diffID to anything. */
  #blobsOf(layer: string): Array<{ image: Image; device: ImageDevice }> {
    const isProven = ({ image }: { image: Image }) => Number(image.standing === 'proven');
    const all = this.#using(layer).sort((a, b) => isProven(b) - isProven(a));
    const isFirst = ({ device }: { device: ImageDevice }, at: number) =>
      all.findIndex((other) => other.device.spans === device.spans) === at;
    return all.filter(isFirst).slice(0, MOST_BLOBS);
  }

  #giveUp(layer: string): void {
    this.#options.front.ask('given-up', { diffId: layer }).catch((error: unknown) => {
      this.#options.log.warn({ layer, error }, 'the front end did not hear that no table can be made');
    });
  }
}
