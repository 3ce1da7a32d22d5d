/** Evictions of one layer: the actor says which blocks become absent, the log is told, and then their bytes are punched. */
import { readlinkSync } from 'node:fs';
import type { LayerEffect, LayerEvent } from '../../actors/layer.ts';
import { type BlockRun, blocksOf, pairsOf } from '../../actors/ranges.ts';
import { BLOCK_PRESENT } from '../fuse/transport.ts';
import { punchHole } from '../kernel/holes.ts';
import { backingFiles } from '../kernel/loop.ts';
import { deviceSize } from '../store/device.ts';
import type { EvictionReason, LayerCore } from './layer-core.ts';
import type { LayerWriter } from './layer-writer.ts';

export class LayerEvictions {
  readonly #core: LayerCore;
  readonly #writer: LayerWriter;
  readonly #running = new Set<Promise<number>>();

  constructor(core: LayerCore, writer: LayerWriter) {
    this.#core = core;
    this.#writer = writer;
  }

  /** `LayerHost.evict`, of a device that the kernel does not read itself. */
  async evict(ranges: readonly BlockRun[], reason: EvictionReason): Promise<number> {
    if (this.#core.isClosed) return 0;
    // A loop that an engine before this one left may be there for users that this one does not know.
    const { file } = this.#core.options.layer;
    if (backingFiles().has(readlinkSync(`/proc/self/fd/${file.fd}`))) return 0;
    return await this.#punchAll({ type: 'evict', ranges, now: this.#core.now() }, reason);
  }

  /** `LayerHost.damaged` */
  async damaged(ranges: readonly BlockRun[]): Promise<boolean> {
    if (this.#core.isClosed) return false;
    await this.#punchAll({ type: 'verified', ok: false, damaged: ranges, now: this.#core.now() }, 'scrub');
    return Array.from(blocksOf(ranges)).every((block) => this.#core.states[block] !== BLOCK_PRESENT);
  }

  /** Resolves when every eviction that runs has ended. */
  async ended(): Promise<void> {
    await Promise.allSettled(this.#running);
  }

  /** Resolves with the bytes that were punched. */
  async #punchAll(event: LayerEvent, reason: EvictionReason): Promise<number> {
    let bytes = 0;
    for (const effect of this.#core.take(event, 'punch')) {
      const punch = this.#punch(effect, reason);
      this.#running.add(punch);
      bytes += await punch.finally(() => this.#running.delete(punch));
    }
    return bytes;
  }

  /**
   * The blocks are absent since the actor named them. Reads that saw them present a moment ago are waited for, the log is
   * told, and only then their bytes are punched. A flush that is under way leaves out what is absent by now (`loggable`).
   */
  async #punch({ job, ranges }: LayerEffect & { type: 'punch' }, reason: EvictionReason): Promise<number> {
    const isDamage = reason === 'scrub';
    let isLogged = false;
    try {
      await Promise.all([
        this.#core.options.fuse.quiesce(),
        this.#writer.append({ type: 'layer.evicted', ranges: pairsOf(ranges), reason }),
      ]);
      isLogged = true;
      return await this.#punchRuns(ranges);
    } catch (error) {
      this.#warn(error, isLogged, isDamage);
      if (isLogged) throw error;
      return 0;
    } finally {
      // No reader is given damaged blocks again. Their bytes stay: what is fetched in their place may be written at any time.
      if (isDamage && !isLogged) this.#writer.sayLater(ranges);
      this.#core.send({ type: 'evicted', job, undone: !isLogged && !isDamage, now: this.#core.now() });
    }
  }

  async #punchRuns(runs: readonly BlockRun[]): Promise<number> {
    const { file, table } = this.#core.options.layer;
    const size = deviceSize(table.rawSize);
    let bytes = 0;
    for (const [first, count] of runs) {
      const from = first * table.blockSize;
      // Whole blocks, past the end as well: a page in part is only zeroed.
      await punchHole(file.fd, from, count * table.blockSize);
      bytes += Math.min(count * table.blockSize, size - from);
    }
    return bytes;
  }

  #warn(error: unknown, isLogged: boolean, isDamage: boolean): void {
    const what = isLogged
      ? 'evicted blocks keep their bytes'
      : isDamage
        ? 'damaged blocks are not read any more, which the log does not know yet'
        : 'blocks are not evicted';
    this.#core.options.log.warn({ layer: this.#core.diffId, error }, what);
  }
}
