/** Reads of a layer that found a block missing: answered at once, refused, or put into the queue with a job behind them. */
import type { LayerInside } from './layer-inside.ts';
import type { LayerJobs } from './layer-jobs.ts';
import type { LayerEvent, ReadFailure } from './layer-protocol.ts';
import type { BlockRun } from './ranges.ts';

/** What a read misses. */
interface Missing {
  blocks: number[];
  /** Spans of these blocks, ascending. */
  spans: number[];
  /** Those of the spans that a job has to fetch: a startup pack is about to bring the others. */
  toFetch: number[];
}

export class LayerReads {
  readonly #inside: LayerInside;
  readonly #jobs: LayerJobs;

  constructor(inside: LayerInside, jobs: LayerJobs) {
    this.#inside = inside;
    this.#jobs = jobs;
  }

  /** The lookup order of a cold read: present, bad lately, nothing comes, being fetched or paused, fetch. */
  read({ id, blocks }: LayerEvent & { type: 'read' }): void {
    const { reads, stall, jobs, clock, counters, prefetcher } = this.#inside;
    if (reads.has(id)) return;
    if (!this.#isReadable(blocks)) return this.#inside.refuse(id, OUTSIDE);
    // The one look at presence of this side (docs/cold-read.md): from here on the queue knows what the read waits for.
    const missing = this.#missingOf(blocks);
    if (missing.blocks.length === 0) {
      counters.hits += 1;
      this.#inside.emit({ type: 'answer', id, errno: 0 });
      return;
    }
    this.#inside.emit({ type: 'missed', id, spans: missing.spans });
    const refusal = this.#refusalOf(missing);
    if (refusal !== undefined) return this.#inside.refuse(id, refusal);
    const [first] = missing.toFetch;
    if (first !== undefined && stall.holds(clock, jobs.size > 0)) {
      this.#inside.refuse(id, STALLED);
      // One span is tried all the same, to find out when it is over.
      if (jobs.size === 0) this.#jobs.demand([first]);
      return;
    }
    counters.misses += 1;
    this.#enqueue(id, blocks, missing.blocks);
    for (const span of missing.toFetch) prefetcher.demanded(span, clock);
    this.#jobs.demand(missing.toFetch, true);
  }

  /** Refuses the reads whose deadline has come. */
  expire(): void {
    const { reads, stall, clock } = this.#inside;
    for (const id of reads.takeExpired(clock)) {
      stall.expired(clock);
      this.#inside.refuse(id, LATE);
    }
  }

  #isReadable([first, count]: BlockRun): boolean {
    const { blocks, limits } = this.#inside;
    const isWhole = Number.isSafeInteger(first) && Number.isSafeInteger(count);
    return (
      isWhole &&
      first >= 0 &&
      count > 0 &&
      first + count <= blocks.blockCount &&
      count <= limits.maxReadBlocks
    );
  }

  #missingOf([first, count]: BlockRun): Missing {
    const { blocks, promises } = this.#inside;
    const missing: Missing = { blocks: [], spans: [], toFetch: [] };
    const end = first + count;
    for (let block = first; block < end; block++) {
      if (blocks.isPresent(block)) continue;
      missing.blocks.push(block);
      const span = blocks.spanOf(block);
      if (missing.spans.at(-1) !== span) missing.spans.push(span);
      // A read waits for the blocks that a pack is about to bring; the span of any other one is fetched.
      if (missing.toFetch.at(-1) !== span && !promises.has(block)) missing.toFetch.push(span);
    }
    return missing;
  }

  /** Why the read need not wait, if it need not. */
  #refusalOf({ toFetch }: Missing): ReadFailure | undefined {
    const { state, reads, limits, retries } = this.#inside;
    if (state === 'corrupt') return CORRUPT;
    if (reads.size >= limits.maxWaiters) return CROWDED;
    for (const span of toFetch) {
      const verdict = retries.verdict(span);
      if (verdict !== undefined) return verdict;
    }
    return undefined;
  }

  #enqueue(id: number, [first, count]: BlockRun, missing: readonly number[]): void {
    const { blocks, reads, clock, limits } = this.#inside;
    const firstSpan = blocks.spanOf(first);
    const lastSpan = blocks.spanOf(first + count - 1);
    reads.add(id, missing, firstSpan, lastSpan, clock + limits.readDeadlineMs);
  }
}

const CORRUPT: ReadFailure = { code: 'integrity', message: 'the layer is not what its diffID says' };
const CROWDED: ReadFailure = { code: 'busy', message: 'too many reads wait for this layer' };
const LATE: ReadFailure = { code: 'timeout', message: 'the blocks did not come by the deadline of the read' };
const STALLED: ReadFailure = { code: 'unavailable', message: 'nothing has come for this layer for long' };
const OUTSIDE: ReadFailure = {
  code: 'invalid-argument',
  message: 'the read is outside of the layer, or too long',
};
