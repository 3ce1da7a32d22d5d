/** When the kernel last read devices that were handed over: their loops alone show that. */
import { realpath } from 'node:fs/promises';
import { backingFiles, loopReads } from '../kernel/loop.ts';
import type { Clock } from '../process/ports.ts';
import type { Layout } from '../store/layout.ts';
import type { LayerHost } from './layer-host.ts';

export interface LoopUse {
  /** Ticks: when its loops' reads had last grown, and since when that is known. */
  seen: number;
  since: number;
}

export interface LoopReadsOptions {
  layout: Layout;
  /** Layers that are open. */
  opened: ReadonlyMap<string, LayerHost>;
  clock: Pick<Clock, 'now'>;
}

/** With hundreds of devices a look takes long: the pause after it is so many times as long, at least. */
const PAUSES = 200;

export class LoopReads {
  readonly #options: LoopReadsOptions;
  readonly #tick: () => number;
  /** The next look, ms. */
  #due = Number.NEGATIVE_INFINITY;
  /** `reads`: -1 while the device is not handed over. */
  readonly #loops = new Map<string, LoopUse & { reads: number }>();

  /** `tick`: the cache's time. */
  constructor(options: LoopReadsOptions, tick: () => number) {
    this.#options = options;
    this.#tick = tick;
  }

  of(diffId: string): LoopUse {
    return this.#loops.get(diffId) ?? { seen: 0, since: 0 };
  }

  /** The layer closes. */
  forget(diffId: string): void {
    this.#loops.delete(diffId);
  }

  /** `isNeeded`: something is about to be evicted, by what is seen now; else a look is made when one is due. */
  async look(isNeeded: boolean): Promise<void> {
    const { clock } = this.#options;
    const began = clock.now();
    if (!isNeeded && began < this.#due) return;
    await this.#look();
    this.#due = began + PAUSES * (clock.now() - began);
  }

  async #look(): Promise<void> {
    const { layout, opened } = this.#options;
    const direct = [...opened].filter(([, layer]) => layer.isDirect);
    for (const diffId of this.#loops.keys()) {
      if (opened.get(diffId)?.isDirect !== true && this.#loops.get(diffId)?.reads !== -1)
        this.#loops.set(diffId, { reads: -1, seen: 0, since: this.#tick() });
    }
    if (direct.length === 0) return;
    const loops = backingFiles();
    const root = await realpath(layout.root);
    for (const [diffId, layer] of direct) {
      const path = layout.device(diffId).replace(layout.root, root);
      const counts = await Promise.all((loops.get(path) ?? []).map((number) => loopReads(number)));
      const reads = counts.reduce<number>((sum, count) => sum + (count ?? 0), 0);
      const tick = this.#tick();
      const known = this.#loops.get(diffId);
      if (!layer.isDirect) continue;
      if (known === undefined || known.reads === -1)
        this.#loops.set(diffId, { reads, seen: tick, since: tick });
      else if (known.reads !== reads) this.#loops.set(diffId, { ...known, reads, seen: tick });
    }
  }
}
