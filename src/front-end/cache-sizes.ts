/** What the node's cache takes on the disk, measured now and then. */
import { statfsSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import type { Clock } from '../process/ports.ts';
import { draftBytes, treeBytes } from '../store/disk-use.ts';
import type { LayerLog } from '../store/layer-log.ts';
import type { Layout } from '../store/layout.ts';
import type { LayerHost } from './layer-host.ts';

/** Metadata and closed devices are measured anew after this, ms. */
const MEASURE_MS = 10_000;
/** Of a node with thousands of them that takes long: the pause is so many times as long, at least. */
const PAUSES = 200;

export interface CacheSizesOptions {
  layout: Layout;
  facts: LayerLog;
  /** Layers that are open. */
  opened: ReadonlyMap<string, LayerHost>;
  clock: Clock;
}

export class CacheSizes {
  readonly #options: CacheSizesOptions;
  /** By diffID. */
  readonly #closed = new Map<string, number>();
  #closedBytes = 0;
  readonly #open = new Map<string, number>();
  #metadataBytes = 0;
  /** Of devices that an indexer writes: no event tells of them yet. */
  #draftBytes = 0;
  #freeBytes = Number.POSITIVE_INFINITY;
  /** When what changes slowly is due, ms. */
  #due = Number.NEGATIVE_INFINITY;

  constructor(options: CacheSizesOptions) {
    this.#options = options;
  }

  get metadataBytes(): number {
    return this.#metadataBytes;
  }

  /** Of the disk. */
  get freeBytes(): number {
    return this.#freeBytes;
  }

  /** Bytes in use, those of fetches under way included; as exact as the last measurement. */
  get usedBytes(): number {
    let bytes = this.#metadataBytes + this.#draftBytes + this.#closedBytes;
    for (const [diffId, layer] of this.#options.opened)
      bytes += Math.max(layer.blockBytes, this.#open.get(diffId) ?? 0);
    return bytes;
  }

  /** Bytes of all devices; what has not arrived yet is not among them. */
  get heldBytes(): number {
    let bytes = this.#closedBytes;
    for (const size of this.#open.values()) bytes += size;
    return bytes;
  }

  /** Bytes of a layer's device. */
  of(diffId: string): number {
    return this.#open.get(diffId) ?? this.closed(diffId);
  }

  /** The same, 0 where it was not closed when it was measured. */
  closed(diffId: string): number {
    return this.#closed.get(diffId) ?? 0;
  }

  /** A closed device has this size from now on. */
  setClosed(diffId: string, bytes: number): void {
    this.#closedBytes += bytes - this.closed(diffId);
    this.#closed.set(diffId, bytes);
  }

  /** The layer has opened, or was removed. */
  forgetClosed(diffId: string): void {
    this.#closedBytes -= this.closed(diffId);
    this.#closed.delete(diffId);
  }

  /** The layer closes. */
  forgetOpen(diffId: string): void {
    this.#open.delete(diffId);
  }

  /** Open devices each time; what changes slowly now and then, or with `all`. */
  async measure(all = false): Promise<void> {
    const { layout, opened, clock } = this.#options;
    // Not on the pool of threads, where these would wait behind syncs of the very devices that are to shrink.
    const { bavail, bsize } = statfsSync(layout.root);
    this.#freeBytes = bavail * bsize;
    this.#draftBytes = await draftBytes(layout.in('layers'));
    for (const [diffId, layer] of opened) this.#open.set(diffId, layer.diskBytes);
    const began = clock.now();
    const isDue = all || began >= this.#due;
    // A call that comes meanwhile does not begin as well.
    if (isDue) this.#due = Number.POSITIVE_INFINITY;
    try {
      await this.#measureSlow(isDue);
    } finally {
      if (isDue) this.#due = began + Math.max(MEASURE_MS, PAUSES * (clock.now() - began));
    }
  }

  /** Metadata and every closed device where they are due, else those devices that have not been measured yet. */
  async #measureSlow(isDue: boolean): Promise<void> {
    const { layout, facts, opened } = this.#options;
    if (isDue) {
      const folders = ['spans', 'tocs', 'images'].map((name) => treeBytes(layout.in(name)));
      this.#metadataBytes = (await Promise.all(folders)).reduce((sum, bytes) => sum + bytes, 0);
      for (const diffId of this.#closed.keys()) if (!facts.layers.has(diffId)) this.forgetClosed(diffId);
    }
    for (const diffId of facts.layers.keys()) {
      if (opened.has(diffId) || (!isDue && this.#closed.has(diffId))) continue;
      const bytes = await stat(layout.device(diffId)).then(
        ({ blocks }) => blocks * 512,
        () => 0,
      );
      if (!opened.has(diffId) && facts.layers.has(diffId)) this.setClosed(diffId, bytes);
    }
  }
}
