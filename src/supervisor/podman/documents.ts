/**
 * What podman, buildah and CRI-O read of an additional image store (containers/storage: images.go, layers.go,
 * drivers/overlay/overlay.go; containers/image: storage/storage_dest.go). An image has the ids here that podman gives it
 * when it pulls it, so that layers in common are found.
 */
import type { LayerSource } from '../../../schemas/events.ts';
import type { z } from 'zod';
import { hexOf } from '../../../schemas/digest.ts';
import { digestOf, sha256Hex } from '../../digest/digest.ts';

type Layer = z.infer<typeof LayerSource>;

/** An image as the store has it. */
export interface StoredImage {
  /** Digests. */
  manifest: string;
  config: string;
  names: readonly string[];
  /** The lowest first; `size`: bytes of the tar. */
  layers: ReadonlyArray<Layer & { size: number }>;
  /** When the image was made, as its configuration says; when it was put here. */
  created: Date;
  added: Date;
  /** Big data: its files. The manifest is there under two keys. */
  items: readonly BigItem[];
}

export interface BigItem {
  key: string;
  digest: string;
  size: number;
}

/** Ids of the layers, the lowest first. Each names a layer together with those below it; they are no ChainIDs. */
export function layerIds(diffIds: readonly string[]): string[] {
  const ids: string[] = [];
  for (const diffId of diffIds) {
    const below = ids.at(-1);
    ids.push(below === undefined ? hexOf(diffId) : sha256Hex(`${below}+${hexOf(diffId)}`));
  }
  return ids;
}

/**
 * A layer's short name, by which layers above it find it: containers keep it, so it is always the same. (podman draws its own at
 * random.)
 */
export function linkOf(id: string): string {
  const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
  const bytes = Buffer.from(sha256Hex(`cofa link ${id}`), 'hex');
  return Array.from(bytes.subarray(0, 26), (byte) => letters[byte & 31]).join('');
}

/** The name of an item's file. */
export const fileOf = (key: string): string =>
  /^[a-z0-9.]+$/.test(key) ? key : `=${Buffer.from(key).toString('base64')}`;

export const manifestKey = (digest: string): string => `manifest-${digest}`;

/** Items of an image: configuration, manifest and, where a name points at one, index. */
export function itemsOf(bytes: {
  config: Buffer;
  manifest: Buffer;
  index?: Buffer | undefined;
}): Array<BigItem & { bytes: Buffer }> {
  const item = (key: string, content: Buffer) => ({
    key,
    digest: digestOf(content),
    size: content.length,
    bytes: content,
  });
  const manifest = digestOf(bytes.manifest);
  return [
    item(digestOf(bytes.config), bytes.config),
    item(manifestKey(manifest), bytes.manifest),
    item('manifest', bytes.manifest),
    ...(bytes.index === undefined ? [] : [item(manifestKey(digestOf(bytes.index)), bytes.index)]),
    // podman notes the signatures of each manifest that it has fetched; it has none then.
    item(`signature-${hexOf(manifest)}`, Buffer.alloc(0)),
  ];
}

/** `overlay-images/images.json`. */
export function imagesJson(images: readonly StoredImage[]): string {
  return JSON.stringify(images.map(imageOf));
}

function imageOf({ manifest, config, names, layers, created, items }: StoredImage) {
  const by = <Value>(pick: (item: BigItem) => Value) =>
    Object.fromEntries(items.map((item) => [item.key, pick(item)]));
  return {
    id: hexOf(config),
    digest: manifest,
    names,
    'names-history': names,
    layer: layerIds(layers.map(({ diffId }) => diffId)).at(-1),
    metadata: JSON.stringify({ 'signatures-sizes': { [manifest]: [] } }),
    'big-data-names': items.map(({ key }) => key),
    'big-data-sizes': by(({ size }) => size),
    'big-data-digests': by(({ digest }) => digest),
    created: created.toISOString(),
  };
}

/** `overlay-layers/layers.json`: each layer once, and `others` as they are. */
export function layersJson(
  images: ReadonlyArray<Pick<StoredImage, 'layers' | 'added'>>,
  others: object[] = [],
): string {
  const layers = new Map<string, object>();
  for (const image of images) {
    const ids = layerIds(image.layers.map(({ diffId }) => diffId));
    for (const [at, layer] of image.layers.entries()) {
      const id = ids[at] as string;
      if (layers.has(id)) continue;
      layers.set(id, {
        id,
        ...(at === 0 ? {} : { parent: ids[at - 1] }),
        created: image.added.toISOString(),
        'compressed-diff-digest': layer.blob,
        'compressed-size': layer.blobSize,
        'diff-digest': layer.diffId,
        'diff-size': layer.size,
        ...compressionOf(layer.mediaType),
      });
    }
  }
  return JSON.stringify([...layers.values(), ...others]);
}

/** By the numbers of containers/storage (pkg/archive); uncompressed is 0, and left out. */
function compressionOf(mediaType: string): { compression?: number } {
  if (mediaType.endsWith('+zstd')) return { compression: 4 };
  return /[.+]gzip$/.test(mediaType) ? { compression: 2 } : {};
}
