/** The layers as actors/cache.ts wants to see them: what is present of each, and when it was used. */
import type { CacheLayer, CacheNeed, EvictionPlan } from '../../actors/cache.ts';
import type { LayerLog } from '../store/layer-log.ts';
import type { LayerHost } from './layer-host.ts';
import type { LoopUse } from './loop-reads.ts';
import { presentIn, type SpanMemory, unknownSpans } from './span-use.ts';

/** The layers of mounts, and those of images that the node knows. */
export interface NeededLayers {
  mounts: ReadonlySet<string>;
  images: ReadonlySet<string>;
}

export interface CacheViewOptions {
  facts: LayerLog;
  /** Layers that are open. */
  opened: ReadonlyMap<string, LayerHost>;
  /** Whether the layer is open, opening or closing. */
  isInUse: (diffId: string) => boolean;
  /** Undefined until the supervisor has said it: then mounts need all of them. */
  needs: NeededLayers | undefined;
  /** Uses of layers that are closed. */
  memories: ReadonlyMap<string, SpanMemory>;
  loopOf: (diffId: string) => LoopUse;
}

export function viewLayers({
  facts,
  opened,
  isInUse,
  needs,
  memories,
  loopOf,
}: CacheViewOptions): CacheLayer[] {
  const layers: CacheLayer[] = [];
  for (const [id, known] of facts.layers) {
    const layer = opened.get(id);
    if (layer !== undefined) {
      const { seen, since } = loopOf(id);
      const direct = layer.isDirect;
      layers.push({ id, need: 'mount', ...layer.spans, direct, seen: direct ? seen : 0, since });
      continue;
    }
    if (known.presentCount === 0 || isInUse(id)) continue;
    const remembered = memories.get(id);
    const spans =
      remembered?.starts.at(-1) === known.blockCount ? remembered : unknownSpans(known.blockCount);
    const present = presentIn(spans.starts, known.present, 1);
    const { blockSize } = known;
    layers.push({
      id,
      need: needOf(id, needs),
      blockSize,
      ...spans,
      present,
      direct: false,
      seen: 0,
      since: 0,
    });
  }
  return layers;
}

function needOf(diffId: string, needs: NeededLayers | undefined): CacheNeed {
  if (needs === undefined || needs.mounts.has(diffId)) return 'mount';
  return needs.images.has(diffId) ? 'image' : 'none';
}

/** The tick of a layer's last use. */
export const lastOf = (layer: CacheLayer): number =>
  Array.from(layer.lastUse).reduce((last, use) => Math.max(last, use), 0);

/** Startup spans count as not present. */
export function withoutStartup(layer: CacheLayer): CacheLayer {
  const present = Array.from(layer.present, (count, span) => (layer.startup[span] === 1 ? 0 : count));
  return { ...layer, present };
}

/** Bytes of the devices that a plan takes back from the kernel. */
export function directBytes(layers: readonly CacheLayer[], { takeBack }: EvictionPlan): number {
  return layers
    .filter(({ id }) => takeBack.includes(id))
    .reduce(
      (sum, layer) =>
        sum + Array.from(layer.present).reduce((blocks, count) => blocks + count, 0) * layer.blockSize,
      0,
    );
}
