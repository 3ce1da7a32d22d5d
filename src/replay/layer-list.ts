/** The layers that a log tells of, with the images that have them. */
import { layersOfImage } from '../../actors/device.ts';
import type { LayerSummary } from './documents.ts';
import type { ReplayLog } from './replay-log.ts';

/** At the end of the log, the largest first. */
export function layersOfLog(log: ReplayLog): LayerSummary[] {
  const state = log.stateAt(log.count);
  const images = [...state.images.values()].map((image) => ({
    ref: image.resolved.ref,
    layers: layersOfImage(image),
  }));
  return [...state.layers]
    .map(([id, { size, blockCount, blockSize, presentCount }]) => ({
      layer: id,
      diffId: log.diffIdOf(id),
      size,
      blockCount,
      blockSize,
      present: presentCount,
      images: [...new Set(images.filter(({ layers }) => layers.has(id)).map(({ ref }) => ref))],
    }))
    .sort((a, b) => b.size - a.size);
}
