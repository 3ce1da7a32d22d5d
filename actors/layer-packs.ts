/** Startup packs of a layer: what they promise, and what happens to the readers when they do not keep it. */
import type { LayerInside } from './layer-inside.ts';
import type { LayerJobs } from './layer-jobs.ts';
import type { LayerEvent } from './layer-protocol.ts';
import { type BlockRun, within } from './ranges.ts';

export class LayerPacks {
  readonly #inside: LayerInside;
  readonly #jobs: LayerJobs;

  constructor(inside: LayerInside, jobs: LayerJobs) {
    this.#inside = inside;
    this.#jobs = jobs;
  }

  promise({ pack, ranges }: LayerEvent & { type: 'promise' }): void {
    const { state, promises, clock } = this.#inside;
    if (state !== 'lazy' || promises.isFull) return;
    const job = this.#inside.nextJob++;
    promises.make(job, this.#absentIn(this.#inside.inside(ranges)), clock);
    this.#inside.emit({ type: 'promised', pack, job });
  }

  ended(job: number): void {
    const { promises } = this.#inside;
    if (!promises.isKnown(job)) return;
    // Which of the blocks that it names from now on it owed is not known any more.
    this.#inside.fence = this.#inside.nextJob;
    this.#waitNoLonger(promises.end(job));
  }

  /** Reads no longer wait for packs that have been silent for too long. */
  expire(): void {
    const { promises, clock } = this.#inside;
    for (let left = promises.takeSilent(clock); left !== undefined; left = promises.takeSilent(clock))
      this.#waitNoLonger(left);
  }

  /** A pack does not bring these blocks, or not soon. */
  #waitNoLonger(left: readonly BlockRun[]): void {
    const { prefetcher, blocks, owners, retries } = this.#inside;
    // Also spans of which the pack has brought all that it promised may lack the rest.
    prefetcher.revisit(this.#inside.passed);
    this.#inside.passed = Number.POSITIVE_INFINITY;
    const wanted: number[] = [];
    for (const span of this.#spansIn(left)) {
      if (blocks.isComplete(span)) continue;
      const verdict = retries.verdict(span);
      if (verdict !== undefined) this.#inside.giveUp(span, verdict);
      if (this.#inside.isWanted(span)) wanted.push(span);
      else if (!owners.has(span)) prefetcher.revisit(span);
    }
    this.#jobs.demand(wanted);
  }

  #spansIn(runs: readonly BlockRun[]): Set<number> {
    const { blocks } = this.#inside;
    const spans = new Set<number>();
    for (const [first, count] of runs) {
      const last = blocks.spanOf(first + count - 1);
      for (let span = blocks.spanOf(first); span <= last; span++) spans.add(span);
    }
    return spans;
  }

  /**
   * The blocks that are not present. Left out are spans that are being evicted: bytes written there before the hole is
   * punched are punched with it, and the pack may name them afterwards.
   */
  #absentIn(runs: readonly BlockRun[]): BlockRun[] {
    const { blocks, owners } = this.#inside;
    return within(
      runs,
      (block) => !blocks.isPresent(block) && owners.get(blocks.spanOf(block))?.kind !== 'evict',
    );
  }
}
