/** When the kernel last read devices that were handed over: their loops alone show that. */
import { realpath } from 'node:fs/promises';
import { backingFiles, loopReads } from '../kernel/loop.ts';
import type { Layout } from '../store/layout.ts';
import type { LayerHost } from './layer-host.ts';

export interface LoopUse {
  /** Ticks: when its loops' reads had last grown, and since when that is known. */
  seen: number;
  since: number;
}

export class LoopReads {
  readonly #layout: Layout;
  readonly #opened: ReadonlyMap<string, LayerHost>;
  readonly #tick: () => number;
  /** `reads`: -1 while the device is not handed over. */
  readonly #loops = new Map<string, LoopUse & { reads: number }>();

  /** `opened`: layers that are open. `tick`: the cache's time. */
  constructor(layout: Layout, opened: ReadonlyMap<string, LayerHost>, tick: () => number) {
    this.#layout = layout;
    this.#opened = opened;
    this.#tick = tick;
  }

  of(diffId: string): LoopUse {
    return this.#loops.get(diffId) ?? { seen: 0, since: 0 };
  }

  /** The layer closes. */
  forget(diffId: string): void {
    this.#loops.delete(diffId);
  }

  async look(): Promise<void> {
    const direct = [...this.#opened].filter(([, layer]) => layer.isDirect);
    for (const diffId of this.#loops.keys()) {
      if (this.#opened.get(diffId)?.isDirect !== true && this.#loops.get(diffId)?.reads !== -1)
        this.#loops.set(diffId, { reads: -1, seen: 0, since: this.#tick() });
    }
    if (direct.length === 0) return;
    const loops = backingFiles();
    const root = await realpath(this.#layout.root);
    for (const [diffId, layer] of direct) {
      const path = this.#layout.device(diffId).replace(this.#layout.root, root);
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
