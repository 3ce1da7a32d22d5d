import type { LayerGeometry } from '../../actors/layer.ts';

/** A layer whose spans have these numbers of blocks. */
export function geometryOf(spans: readonly number[]): LayerGeometry {
  const starts: number[] = [];
  const owners: number[] = [];
  for (const [span, count] of spans.entries()) {
    starts.push(owners.length);
    for (let block = 0; block < count; block++) owners.push(span);
  }
  return {
    blockCount: owners.length,
    spanCount: spans.length,
    spanOfBlock: (block) => owners[block] ?? -1,
    span: (index) => ({ firstBlock: starts[index] ?? -1, blockCount: spans[index] ?? 0 }),
  };
}

/** `spanCount` spans of `blocks` blocks each, as most layers have; costs no memory. */
export function evenGeometry(spanCount: number, blocks: number): LayerGeometry {
  return {
    blockCount: spanCount * blocks,
    spanCount,
    spanOfBlock: (block) => Math.floor(block / blocks),
    span: (index) => ({ firstBlock: index * blocks, blockCount: blocks }),
  };
}
