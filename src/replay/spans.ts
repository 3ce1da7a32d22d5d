/** The spans of a log, by the engine's own fold (actors/start-spans.ts): what it sends while it runs, it would send of this. */
import { layersOfImage } from '../../actors/device.ts';
import type { SpanTree } from '../../actors/spans.ts';
import { StartSpans } from '../../actors/start-spans.ts';
import type { CofaEvent } from '../../schemas/events.ts';
import { digestOf } from '../digest/digest.ts';
import type { ReplayLog } from './replay-log.ts';

/** In the order in which they were over. `mount`: of this start alone, by its id. */
export function* spanTrees(log: ReplayLog, mount?: string): IterableIterator<SpanTree> {
  const { timeline, count, node } = log;
  let position = 0;
  const fold = new StartSpans({
    node,
    imageOf: (manifest) => {
      const image = log.stateAt(position).images.get(manifest);
      return image && { layers: layersOfImage(image), count: image.resolved.layers.length };
    },
    hash: (text) => digestOf(text).slice('sha256:'.length),
  });
  const isWanted = ({ spans }: SpanTree) =>
    mount === undefined || spans[0]?.attributes['cofa.mount'] === mount;
  for (let index = 0; index < count; index++) {
    const { strange, record } = timeline.decodedAt(index);
    if (strange !== undefined) continue;
    position = index + 1;
    const event = record as unknown as CofaEvent;
    const over = fold.take({ seq: timeline.seqAt(index), id: timeline.idAt(index), event });
    for (const tree of over) if (isWanted(tree)) yield tree;
  }
  for (const tree of fold.end()) if (isWanted(tree)) yield tree;
}
