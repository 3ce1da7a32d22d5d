/**
 * Evictions from layers that are closed: they have no reader and no actor, so the log is told and the bytes are punched here.
 * One layer is never opened, closed and evicted from at the same time: `whileIdle`. What waits its turn there may be wanted no
 * longer when that comes, so each of these asks again: `isStill`.
 */
import { statSync } from 'node:fs';
import { open, readlink, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { type BlockRun, pairsOf } from '../../actors/ranges.ts';
import { punchHole } from '../kernel/holes.ts';
import { backingFiles } from '../kernel/loop.ts';
import type { LayerLog } from '../store/layer-log.ts';
import type { Layout } from '../store/layout.ts';
import type { CacheSizes } from './cache-sizes.ts';
import type { EvictionReason } from './layer-host.ts';

export interface ClosedLayersOptions {
  layout: Layout;
  facts: LayerLog;
  /** Whether the layer is open, opening or closing. */
  isInUse: (diffId: string) => boolean;
}

export interface ClosedDevice {
  path: string;
  /** Whether the file is the one that was there, or there is none still. */
  isSame: () => boolean;
}

export class ClosedLayers {
  readonly #options: ClosedLayersOptions;
  readonly #sizes: CacheSizes;
  readonly #busy = new Map<string, Promise<unknown>>();

  constructor(options: ClosedLayersOptions, sizes: CacheSizes) {
    this.#options = options;
    this.#sizes = sizes;
  }

  /** Does `work` when nothing else is being done with the layer's files; later callers wait for it. */
  whileIdle<T>(diffId: string, work: () => Promise<T>): Promise<T> {
    const before = this.#busy.get(diffId) ?? Promise.resolve();
    const mine = before.catch(() => {}).then(work);
    this.#busy.set(diffId, mine);
    const done = () => {
      if (this.#busy.get(diffId) === mine) this.#busy.delete(diffId);
    };
    mine.then(done, done);
    return mine;
  }

  /** Resolves when no work of `whileIdle` runs. */
  async idle(): Promise<void> {
    await Promise.allSettled(this.#busy.values());
  }

  /** Resolves with the bytes that were punched. Errors: `unsupported` where the file system cannot punch holes. */
  async evict(
    diffId: string,
    ranges: readonly BlockRun[],
    reason: EvictionReason,
    isStill: () => boolean,
  ): Promise<number> {
    return await this.whileIdle(diffId, () => this.#evict(diffId, ranges, reason, isStill));
  }

  /** Removes the device of a closed layer as a whole, for want of room. */
  async dropDevice(diffId: string, isStill: () => boolean): Promise<void> {
    const device = this.deviceOf(diffId);
    await this.whileIdle(diffId, async () => {
      const { facts, isInUse } = this.#options;
      const known = facts.layers.get(diffId);
      if (known === undefined || isInUse(diffId) || !isStill() || !device.isSame()) return;
      await facts.append(diffId, { type: 'layer.evicted', ranges: [[0, known.blockCount]], reason: 'limit' });
      if (device.isSame()) await rm(device.path, { force: true });
      this.#sizes.setClosed(diffId, 0);
    });
  }

  /**
   * Removes a layer with its files; false where it is in use by now, is wanted again, or has another device. The event comes
   * first: files without a fact are swept, a fact without its files would be believed.
   */
  async remove(diffId: string, device: ClosedDevice, isStill: () => boolean): Promise<boolean> {
    return await this.whileIdle(diffId, async () => {
      const { facts, isInUse } = this.#options;
      if (isInUse(diffId) || !facts.layers.has(diffId) || !isStill() || !device.isSame()) return false;
      await facts.append(diffId, { type: 'layer.removed' });
      this.#sizes.forgetClosed(diffId);
      // A loop of an earlier engine may have the file open: it keeps its bytes.
      if (device.isSame()) await rm(dirname(device.path), { recursive: true, force: true });
      return true;
    });
  }

  /** The device as it is now. An indexer of an image that is being prepared may put another file in its place at any time. */
  deviceOf(diffId: string): ClosedDevice {
    const path = this.#options.layout.device(diffId);
    const inode = () => statSync(path, { throwIfNoEntry: false })?.ino;
    const before = inode();
    return { path, isSame: () => inode() === before };
  }

  async #evict(
    diffId: string,
    ranges: readonly BlockRun[],
    reason: EvictionReason,
    isStill: () => boolean,
  ): Promise<number> {
    const { facts, isInUse, layout } = this.#options;
    const known = facts.layers.get(diffId);
    if (known === undefined || isInUse(diffId) || !isStill()) return 0;
    const file = await open(layout.device(diffId), 'r+').catch(() => undefined);
    try {
      const path = file === undefined ? undefined : await readlink(`/proc/self/fd/${file.fd}`);
      // A file system that an earlier engine left may still stand on it.
      if (path !== undefined && backingFiles().has(path)) return 0;
      if (!isStill()) return 0;
      await facts.append(diffId, { type: 'layer.evicted', ranges: pairsOf(ranges), reason });
      if (file === undefined) {
        this.#sizes.setClosed(diffId, 0);
        return 0;
      }
      const { blocks: before } = await file.stat();
      for (const [first, count] of ranges)
        await punchHole(file.fd, first * known.blockSize, count * known.blockSize);
      const { blocks: after } = await file.stat();
      this.#sizes.setClosed(diffId, after * 512);
      return (before - after) * 512;
    } finally {
      await file?.close();
    }
  }
}
