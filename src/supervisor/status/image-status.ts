/** An image in `status`: its own state, and the figures of its layers added up. Pure. */
import { type ImageDevice, layerIdOf } from '../../../actors/device.ts';
import type { ImageStatus } from '../../../schemas/api.ts';
import type { FrontStatus } from '../../../schemas/front.ts';
import type { Image } from '../images/image.ts';

export type LayerFigures = FrontStatus['layers'][number];
/** What of an image `status` shows. */
export type ShownImage = Pick<Image, 'manifest' | 'standing'> & {
  resolved: Pick<Image['resolved'], 'ref'>;
  prepared:
    | (Pick<NonNullable<Image['prepared']>, 'origin' | 'passed'> & {
        devices: ReadonlyArray<Pick<ImageDevice, 'diffId' | 'root'>>;
      })
    | undefined;
  host: { readonly state: string };
};

/** `layers`: as the front end has them. One that it has not contributes nothing. */
export function imageStatus(images: Iterable<ShownImage>, layers: readonly LayerFigures[]): ImageStatus[] {
  const known = new Map(layers.map((layer) => [layer.diffId, layer]));
  return Array.from(images, (image) => {
    const { prepared } = image;
    const mine = (prepared?.devices ?? []).flatMap((device) => known.get(layerIdOf(device)) ?? []);
    return {
      ref: image.resolved.ref,
      manifest: image.manifest,
      state: stateOf(image),
      ...(prepared === undefined ? {} : { origin: prepared.origin, trust: image.standing }),
      ...(prepared?.passed === undefined ? {} : { passed: prepared.passed }),
      ...sumOf(mine),
      layers: mine.map(({ diffId: id, content, state, blocks, bytes }) => ({
        ...(content === undefined ? { diffId: id } : { diffId: content, root: id }),
        state,
        blocks,
        bytes,
      })),
    };
  });
}

/** Of an image, in a word. */
export function stateOf({ host, prepared }: Pick<ShownImage, 'host' | 'prepared'>): ImageStatus['state'] {
  if (host.state === 'failed') return 'failed';
  if (prepared !== undefined) return 'ready';
  return host.state === 'preparing' ? 'indexing' : 'unprepared';
}

function sumOf(layers: readonly LayerFigures[]): Pick<ImageStatus, 'blocks' | 'bytes' | 'reads'> {
  const sum = (pick: (layer: LayerFigures) => number) => layers.reduce((n, layer) => n + pick(layer), 0);
  return {
    blocks: {
      absent: sum(({ blocks }) => blocks.absent),
      fetching: sum(({ blocks }) => blocks.fetching),
      present: sum(({ blocks }) => blocks.present),
    },
    bytes: {
      total: sum(({ bytes }) => bytes.total),
      present: sum(({ bytes }) => bytes.present),
      fetched: sum(({ bytes }) => bytes.fetched),
    },
    reads: {
      hits: sum(({ hits }) => hits),
      misses: sum(({ misses }) => misses),
      errors: sum(({ errors }) => errors),
    },
  };
}
