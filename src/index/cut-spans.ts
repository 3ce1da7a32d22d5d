/**
 * Cuts the spans of a layer where the blocks that a start reads begin and end. A span has 16 blocks, and a fetcher
 * fetches and decodes it as a whole; a start reads some of them, mostly those of one file. For two or three KB more in
 * its span table a start fetches these blocks alone.
 */
import { cutSpan } from '../image/cut-span.ts';
import { LARGEST_SPAN, type SpanRecord, type SpanTable } from '../image/span-table.ts';

/** Gaps of up to so many unwanted blocks stay in a span: a checkpoint in front of them costs as much as they do. */
const SMALL_GAP = 2;
/** New spans of a layer, at most: its table is fetched before anything else. */
const MOST_CUTS = 512;
/** Spans that are fetched side by side. */
const AT_ONCE = 4;

/**
 * The layer's table with further spans. `wanted`: blocks that a start is likely to read. `fetch` gives the blob's bytes
 * [start, end). Errors: those of `fetch`; `integrity`; the signal's reason.
 */
export async function cutSpans(
  table: SpanTable,
  wanted: ReadonlySet<number>,
  fetch: (start: number, end: number) => Promise<Uint8Array>,
  signal?: AbortSignal,
): Promise<SpanTable> {
  if (table.compression === 'zstd') return table;
  const cuts = cutsOf(table, wanted);
  if (cuts.size === 0) return table;
  const pieces = new Map<number, SpanRecord[]>();
  const turns = cuts.entries();
  const work = async () => {
    for (const [index, blocks] of turns) {
      signal?.throwIfAborted();
      const { inStart, inEnd } = table.span(index);
      pieces.set(index, cutSpan(table, index, blocks, await fetch(inStart, inEnd)));
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return table.withSpans(
    Array.from({ length: table.spanCount }, (_, index) => pieces.get(index) ?? [table.part(index)]).flat(),
  );
}

/** By span: the first blocks of its parts, but for the first part. */
export function cutsOf(table: SpanTable, wanted: ReadonlySet<number>): Map<number, number[]> {
  const cuts = new Map<number, number[]>();
  let left = MOST_CUTS;
  for (const index of new Set([...wanted].map((block) => table.spanOfBlock(block)).sort((a, b) => a - b))) {
    const { firstBlock, blockCount } = table.span(index);
    // No checkpoint could be made in its middle.
    if (blockCount * table.blockSize > LARGEST_SPAN) continue;
    const blocks = cutsBetween(firstBlock, firstBlock + blockCount, (block) => wanted.has(block));
    if (blocks.length === 0 || blocks.length > left) continue;
    left -= blocks.length;
    cuts.set(index, blocks);
  }
  return cuts;
}

/** Where runs of wanted blocks begin and end; small gaps belong to the runs beside them. */
function cutsBetween(first: number, end: number, isWanted: (block: number) => boolean): number[] {
  const cuts: number[] = [];
  let runEnd = first;
  for (let block = first; block < end; block++) {
    if (!isWanted(block)) continue;
    if (block - runEnd > SMALL_GAP) {
      if (runEnd > first) cuts.push(runEnd);
      cuts.push(block);
    }
    runEnd = block + 1;
  }
  if (end - runEnd > SMALL_GAP && runEnd > first) cuts.push(runEnd);
  return cuts;
}
