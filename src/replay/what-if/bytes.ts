/** Compressed bytes of spans and blocks. */
import { type BlockRun, blockRun, type SpanRun, spansOf } from '../../../actors/ranges.ts';
import type { LayerShape } from '../shapes.ts';
import type { OrderedRun } from './recording.ts';

export const bytesIn = (shape: LayerShape, run: SpanRun): number => {
  let sum = 0;
  for (const span of spansOf([run])) sum += shape.bytesOf(span);
  return sum;
};

/** Compressed bytes that blocks take in their layer, where all blocks of a span are alike. */
export function bytesOfBlocks(shape: LayerShape, [first, count]: BlockRun): number {
  let sum = 0;
  for (let block = first; block < Math.min(first + count, shape.blockCount); ) {
    const span = shape.spanOfBlock(block);
    const { firstBlock, blockCount } = shape.span(span);
    const end = Math.min(first + count, firstBlock + blockCount);
    sum += (shape.bytesOf(span) * (end - block)) / blockCount;
    block = end;
  }
  return sum;
}

/** The runs of a pack of so many bytes, each with its share of them. */
export function* withBytes(
  runs: readonly OrderedRun[],
  layers: ReadonlyMap<string, LayerShape>,
  bytes: number,
): IterableIterator<OrderedRun & { bytes: number; isEnd: boolean }> {
  const known = runs.filter(({ layer }) => layers.has(layer));
  const weights = known.map(({ layer, first, count }) =>
    bytesOfBlocks(layers.get(layer) as LayerShape, blockRun(first, count)),
  );
  const all = weights.reduce((sum, one) => sum + one, 0);
  for (const [at, run] of known.entries())
    yield { ...run, bytes: all === 0 ? 0 : (bytes * (weights[at] ?? 0)) / all, isEnd: true };
}
