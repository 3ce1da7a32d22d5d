/** A layer and its log: what the log has to hear, and what it knew when the actor was made. */
import { BlockEvent } from './block.ts';
import { BlockSet } from './block-set.ts';
import type { LayerInside } from './layer-inside.ts';
import type { LayerEvent } from './layer-protocol.ts';
import { type BlockRun, blocksOf } from './ranges.ts';

export class LayerRecords {
  readonly #inside: LayerInside;

  constructor(inside: LayerInside) {
    this.#inside = inside;
  }

  /** Hands out what became present since the last flush. */
  flush(): void {
    const { unlogged, limits } = this.#inside;
    const ranges = unlogged.takeRuns();
    for (let at = 0; at < ranges.length; at += limits.appendRanges)
      this.#inside.emit({ type: 'append', ranges: ranges.slice(at, at + limits.appendRanges) });
  }

  /** The log did not take these: they wait for the next flush. */
  relog(runs: readonly BlockRun[]): void {
    const { blocks, unlogged } = this.#inside;
    for (const block of blocksOf(this.#inside.inside(runs))) if (blocks.isPresent(block)) unlogged.add(block);
  }

  restore(event: LayerEvent & { type: 'restore' }): void {
    const { state, blocks } = this.#inside;
    if (state !== 'lazy') return;
    for (const run of this.#inside.inside(event.ranges))
      this.#inside.fill(run, BlockEvent.RESTORED, event.logged === false);
    if (event.complete !== true || !blocks.isFull || !this.#inside.move('RESTORED')) return;
    if (event.handedOver === true) this.#inside.move('HANDED_OVER');
  }

  /** Those of the blocks that are present and not waiting for a flush. */
  loggable(runs: readonly BlockRun[]): BlockRun[] {
    const { blocks, unlogged } = this.#inside;
    const still = new BlockSet(blocks.blockCount);
    for (const block of blocksOf(this.#inside.inside(runs)))
      if (blocks.isPresent(block) && !unlogged.has(block)) still.add(block);
    return still.takeRuns();
  }
}
