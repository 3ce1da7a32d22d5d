/**
 * The program's reads from what the log has of them: cold reads with their exact times (`layer.trace`), and which blocks were read
 * first in which order, with a time now and then (`layer.started`). A read that found its blocks present has a place between two
 * times; it is put there in proportion. Each read comes after the last one that had been answered before it.
 */
import type { TracedRead } from '../trace.ts';
import type { ProgramRead } from './recording.ts';

/** `layer.started` of one layer. */
export interface StartedLayer {
  layer: string;
  reads: ReadonlyArray<readonly [first: number, count: number, place: number]>;
  clock: ReadonlyArray<readonly [place: number, at: number]>;
}

/** Blocks that a read of the kernel has, where only their order is known: 128 KiB. */
const READ_BLOCKS = 2;
/** Clocks of two reads, ms. */
const SLACK_MS = 0.1;

interface TimedRead {
  layer: string;
  first: number;
  count: number;
  at: number;
  end: number;
}

/** `attachedAt`: when the layers were open; `endedAt`: when the last read had come at the latest. Ms since the epoch. */
export function programOf(
  traced: readonly TracedRead[],
  started: readonly StartedLayer[],
  { attachedAt, endedAt }: { attachedAt: number; endedAt: number },
): ProgramRead[] {
  const reads: TimedRead[] = traced.map(({ layer, block, blocks, at, us }) => ({
    layer,
    first: block,
    count: blocks,
    at: Math.max(at, attachedAt),
    end: Math.max(at, attachedAt) + us / 1_000,
  }));
  for (const hit of hitsOf(reads, started, attachedAt)) {
    const at = Math.min(hit.at, endedAt);
    reads.push({ ...hit, at, end: at });
  }
  reads.sort((a, b) => a.at - b.at || a.end - b.end);
  return inOrder(reads, attachedAt);
}

/** Reads of blocks that no cold read has, at the times between which they lie. */
function hitsOf(
  cold: readonly TimedRead[],
  started: readonly StartedLayer[],
  attachedAt: number,
): TimedRead[] {
  const coldAt = new Map<string, number>();
  for (const { layer, first, count, at } of cold)
    for (let block = first; block < first + count; block++) {
      const key = `${layer}/${block}`;
      coldAt.set(key, Math.min(coldAt.get(key) ?? Number.POSITIVE_INFINITY, at));
    }
  const blocks = started
    .flatMap(({ layer, reads }) =>
      reads.flatMap(([first, count, place]) =>
        Array.from({ length: count }, (_, at) => ({ layer, block: first + at, place: place + at })),
      ),
    )
    .sort((a, b) => a.place - b.place);
  const times = timesOf(blocks, coldAt, started[0]?.clock ?? [], attachedAt);
  const hits: TimedRead[] = [];
  for (const [index, { layer, block, place }] of blocks.entries()) {
    if (coldAt.has(`${layer}/${block}`)) continue;
    const last = hits.at(-1);
    const before = blocks[index - 1];
    const isNext = before?.place === place - 1 && before.layer === layer && before.block === block - 1;
    if (last !== undefined && isNext && last.count < READ_BLOCKS && last.first + last.count === block) {
      last.count += 1;
      continue;
    }
    const at = times(place);
    hits.push({ layer, first: block, count: 1, at, end: at });
  }
  return hits;
}

/** When the block of each place was read, ms since the epoch: between the nearest places of which that is known. */
function timesOf(
  blocks: ReadonlyArray<{ layer: string; block: number; place: number }>,
  coldAt: ReadonlyMap<string, number>,
  clock: ReadonlyArray<readonly [number, number]>,
  attachedAt: number,
): (place: number) => number {
  const known: Array<readonly [place: number, at: number]> = [[0, attachedAt]];
  const anchors = [...clock];
  for (const { layer, block, place } of blocks) {
    const at = coldAt.get(`${layer}/${block}`);
    if (at !== undefined) anchors.push([place, at]);
  }
  anchors.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  // Times rise with places; one that does not is of another read of the block.
  let latest = Number.POSITIVE_INFINITY;
  const rising: Array<readonly [number, number]> = [];
  for (const anchor of anchors.toReversed()) {
    if (anchor[1] > latest) continue;
    latest = anchor[1];
    rising.push(anchor);
  }
  known.push(...rising.toReversed().filter(([, at]) => at >= attachedAt));
  return (place) => {
    let low = 0;
    let high = known.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >>> 1;
      if ((known[middle] as readonly [number, number])[0] <= place) low = middle;
      else high = middle - 1;
    }
    const [fromPlace, from] = known[low] as readonly [number, number];
    const [toPlace, to] = known[low + 1] ?? [fromPlace + 1, from];
    if (toPlace <= fromPlace) return from;
    return from + ((place - fromPlace) / (toPlace - fromPlace)) * (to - from);
  };
}

/** Each read behind the one that was answered last before it came. `reads` by their arrival. */
function inOrder(reads: readonly TimedRead[], attachedAt: number): ProgramRead[] {
  /** Answered ones by their end, rising. */
  const answered: Array<{ index: number; end: number }> = [];
  return reads.map(({ layer, first, count, at, end }, index) => {
    let place = answered.length - 1;
    while (place >= 0 && (answered[place]?.end ?? 0) > at + SLACK_MS) place -= 1;
    const before = answered[place];
    let insert = answered.length;
    while (insert > 0 && (answered[insert - 1]?.end ?? 0) > end) insert -= 1;
    answered.splice(insert, 0, { index, end });
    return {
      layer,
      first,
      count,
      after: before?.index,
      thinkMs: Math.max(0, at - (before?.end ?? attachedAt)),
    };
  });
}
