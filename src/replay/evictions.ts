/** What the cache evicted for room in a stretch of time, and how much of that came again. */
import { checkedEvent } from './checked.ts';
import type { ReplayLog } from './replay-log.ts';

/** Blocks of the layers of these ids, between two times, ms since the epoch. */
export function evictionsOf(
  log: ReplayLog,
  layers: ReadonlySet<string>,
  from: number,
  to: number,
): { evictedBlocks: number; refetchedBlocks: number } {
  const { timeline, count } = log;
  const evicted = new Map<string, Set<number>>();
  let [evictedBlocks, refetchedBlocks] = [0, 0];
  for (let index = 0; index < count; index++) {
    const at = timeline.timeAt(index);
    if (at < from || at > to || timeline.kindAt(index) !== 'layer') continue;
    const layer = `sha256:${timeline.idAt(index)}`;
    if (!layers.has(layer)) continue;
    const event = timeline.eventAt(index);
    const out = checkedEvent(event, 'layer.evicted');
    if (out?.reason === 'limit') {
      const set = evicted.get(layer) ?? new Set();
      evicted.set(layer, set);
      for (const [first, length] of out.ranges)
        for (let block = first; block < first + length; block++) set.add(block);
      evictedBlocks += out.ranges.reduce((sum, [, length]) => sum + length, 0);
    }
    const set = evicted.get(layer);
    const came = set === undefined ? undefined : checkedEvent(event, 'layer.blocks');
    for (const [first, length] of came?.ranges ?? [])
      for (let block = first; block < first + length; block++)
        if (set?.delete(block) === true) refetchedBlocks += 1;
  }
  return { evictedBlocks, refetchedBlocks };
}
