/** What the devices of a layer take on the disk. A layer has one for each block root, and the engine knows which there are. */
import { stat } from 'node:fs/promises';
import type { Status } from '../../schemas/api.ts';
import type { Layout } from '../store/layout.ts';
import type { DiskUsage } from './disk-usage.ts';

export interface LayerUsageOptions {
  layout: Layout;
  /** The engine's status. */
  status: () => Promise<Pick<Status, 'images'>>;
  /** ms, monotonic */
  now: () => number;
}

/** A kubelet asks for all snapshots at once: they share what the engine said, for so long, ms. */
const SHARED_MS = 5_000;

export class LayerUsage {
  readonly #options: LayerUsageOptions;
  #roots: Promise<ReadonlyMap<string, ReadonlySet<string>>> | undefined;
  #since = Number.NEGATIVE_INFINITY;

  constructor(options: LayerUsageOptions) {
    this.#options = options;
  }

  /** Of all devices of a diffID, each of which is one file. Errors: those of the engine's `status`. */
  async of(diffId: string): Promise<DiskUsage> {
    const { layout } = this.#options;
    const roots = (await this.#known()).get(diffId) ?? [];
    const files = await Promise.all([diffId, ...roots].map((layer) => bytesOnDisk(layout.device(layer))));
    const there = files.filter((bytes) => bytes !== undefined);
    return { size: there.reduce((sum, bytes) => sum + bytes, 0), inodes: there.length };
  }

  #known(): Promise<ReadonlyMap<string, ReadonlySet<string>>> {
    const { status, now } = this.#options;
    if (this.#roots !== undefined && now() - this.#since < SHARED_MS) return this.#roots;
    this.#since = now();
    const asked = status().then(({ images }) => {
      const roots = new Map<string, Set<string>>();
      for (const { diffId, root } of images.flatMap(({ layers }) => layers))
        if (root !== undefined) roots.set(diffId, (roots.get(diffId) ?? new Set()).add(root));
      return roots;
    });
    this.#roots = asked;
    asked.catch(() => {
      if (this.#roots === asked) this.#roots = undefined;
    });
    return asked;
  }
}

/** Bytes that a file takes; undefined where there is none. */
const bytesOnDisk = (path: string): Promise<number | undefined> =>
  stat(path).then(
    ({ blocks }) => blocks * 512,
    () => undefined,
  );
