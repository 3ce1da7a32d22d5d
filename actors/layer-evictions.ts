/** Blocks of a layer that are evicted: absent from the decision on, owned by the eviction until their bytes are punched. */
import { BlockEvent } from './block.ts';
import { BlockSet } from './block-set.ts';
import type { EvictionOwner, LayerInside } from './layer-inside.ts';
import type { LayerJobs } from './layer-jobs.ts';
import { type BlockRun, blocksOf } from './ranges.ts';

export class LayerEvictions {
  readonly #inside: LayerInside;
  readonly #jobs: LayerJobs;

  constructor(inside: LayerInside, jobs: LayerJobs) {
    this.#inside = inside;
    this.#jobs = jobs;
  }

  evict(runs: readonly BlockRun[]): void {
    const { state, evictions, owners } = this.#inside;
    if (state !== 'lazy' && state !== 'complete') return;
    const { leaving, spans } = this.#takeOut(runs);
    if (leaving.length === 0) return;
    if (state === 'complete') this.#inside.move('EVICTED');
    const number = this.#inside.nextJob++;
    const eviction: EvictionOwner = { kind: 'evict', number, spans, ranges: leaving, passed: [] };
    this.#inside.fence = this.#inside.nextJob;
    evictions.set(number, eviction);
    for (const span of spans) owners.set(span, eviction);
    this.#inside.emit({ type: 'punch', job: number, ranges: leaving });
  }

  /** The punch has been made, or given up (`undone`): the spans have no owner. */
  evicted(number: number, undone: boolean): void {
    const { evictions, owners, prefetcher, retries } = this.#inside;
    const eviction = evictions.get(number);
    if (eviction === undefined) return;
    evictions.delete(number);
    for (const span of eviction.spans) owners.delete(span);
    if (undone) for (const run of eviction.ranges) this.#inside.fill(run, BlockEvent.RESTORED, true);
    for (const span of eviction.passed) prefetcher.revisit(span);
    const wanted: number[] = [];
    for (const span of eviction.spans) {
      if (this.#inside.isWanted(span)) wanted.push(span);
      else retries.drop(span);
    }
    this.#jobs.demand(wanted.sort((a, b) => a - b));
  }

  /** Makes those of the blocks absent that may be evicted now. */
  #takeOut(runs: readonly BlockRun[]): { leaving: BlockRun[]; spans: number[] } {
    const { blocks, owners, reads, unlogged } = this.#inside;
    const leaving = new BlockSet(blocks.blockCount);
    const spans = new Set<number>();
    for (const block of blocksOf(this.#inside.inside(runs))) {
      const span = blocks.spanOf(block);
      // A reader that waits for other blocks of the span counts on those that were present when it came.
      if (owners.has(span) || reads.touches(span)) continue;
      if (!blocks.step(span, block, BlockEvent.EVICTED)) continue;
      unlogged.delete(block);
      leaving.add(block);
      spans.add(span);
    }
    return { leaving: leaving.takeRuns(), spans: [...spans] };
  }
}
