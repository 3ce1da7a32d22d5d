/** Every rule that must hold in a layer actor between two events: slow, for tests and simulation. */
import { BlockState } from './block.ts';
import type { LayerInside } from './layer-inside.ts';
import { spansOf } from './ranges.ts';

/** Sentences about the rules that are broken. */
export function auditLayer(layer: LayerInside): string[] {
  const wrong = [...layer.blocks.audit()];
  const check = (ok: boolean, text: () => string) => {
    if (!ok) wrong.push(text());
  };
  const { states, blocks, limits, reads, owners, jobs, jobSilence, evictions, retries, promises, unlogged } =
    layer;

  const needsAll = layer.state !== 'lazy' && layer.state !== 'corrupt';
  check(!needsAll || blocks.isFull, () => `a layer is ${layer.state} that lacks blocks`);

  const owned = new Set<number>();
  const own = (span: number, owner: unknown) => {
    check(!owned.has(span), () => `span ${span} has two owners`);
    check(owners.get(span) === owner, () => `span ${span} does not know its owner`);
    owned.add(span);
  };
  let prefetching = 0;
  for (const job of jobs.values()) {
    if (job.class === 'prefetch') prefetching += 1;
    check(jobSilence.has(job.number), () => `job ${job.number} may stay silent for ever`);
    for (const span of spansOf(job.runs)) own(span, job);
  }
  for (const eviction of evictions.values()) for (const span of eviction.spans) own(span, eviction);
  check(owners.size === owned.size, () => 'a span has an owner that is over');
  check(jobSilence.size === jobs.size, () => 'a job that is over has a timer');
  check(
    prefetching === layer.prefetchRunning,
    () => `${prefetching} prefetch jobs, not ${layer.prefetchRunning}`,
  );
  const mostPrefetching = Math.max(limits.prefetchInFlight, limits.aimedInFlight);
  check(prefetching <= mostPrefetching, () => `${prefetching} prefetch jobs are too many`);

  for (let block = 0; block < blocks.blockCount; block++) {
    const isPresent = states[block] === BlockState.present;
    const isFetched = owners.get(blocks.spanOf(block))?.kind === 'fetch' && !isPresent;
    check(
      (states[block] === BlockState.fetching) === isFetched,
      () => `block ${block} and its jobs disagree`,
    );
    check(!unlogged.has(block) || isPresent, () => `block ${block} would be logged before it is there`);
  }

  check(reads.size <= limits.maxWaiters, () => 'too many reads wait');
  for (const { id, missing, blocks: waits } of reads.entries()) {
    check(missing === waits.length && missing > 0, () => `read ${id} miscounts what it waits for`);
    for (const block of waits) {
      const span = blocks.spanOf(block);
      const owner = owners.get(span);
      check(
        states[block] !== BlockState.present,
        () => `read ${id} waits for block ${block}, which is present`,
      );
      check(
        owner !== undefined || retries.isPaused(span) || promises.has(block),
        () => `read ${id} waits for span ${span}, but no job fetches it`,
      );
      check(
        owner?.kind !== 'fetch' || owner.class === 'demand' || promises.has(block),
        () => `read ${id} waits for a prefetch job`,
      );
    }
  }
  check(retries.size.failures <= retries.size.paused + owned.size, () => 'failures pile up');
  return wrong;
}
