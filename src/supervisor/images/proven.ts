/**
 * What the node has proven, for images that come: layers with their span tables, and the flat images of the same layers.
 *
 * A proven block root says nothing of a table's spans: a client that may push could put such a table in place whose spans lead
 * nowhere. So tables that the node has made come first, those that came without a voucher last (`ImageDevice.pushed`).
 */
import { type ImageDevice, isPushed, layerIdOf, layersText, rootsOfImage } from '../../../actors/device.ts';
import type { LayerFacts, RootFacts } from '../../../actors/node-state.ts';
import type { EventOf } from '../../../schemas/events.ts';
import { SIDECAR_REVISION } from '../../registry/sidecars.ts';
import type { Image } from './image.ts';

/** What the log says of layers and of their block roots; live. */
export interface State {
  readonly roots: ReadonlyMap<string, RootFacts>;
  readonly layers: ReadonlyMap<string, Readonly<LayerFacts>>;
}
type Prepared = EventOf<'image.prepared'>;

/** A flat image that is proven, of an image that has the same layers. */
export interface Same {
  manifest: string;
  prepared: Prepared;
}

/** Layers that the images have, with span tables whose block root is proven; no one's word, the best tables first. */
export function knownDevices(images: Iterable<Image>, state: State): ImageDevice[] {
  const known: Array<{ device: ImageDevice; rank: number }> = [];
  for (const image of images) {
    for (const { prepared } of image.generations()) {
      for (const device of prepared?.devices ?? []) {
        if (prepared === undefined || !isProven(prepared, device, state)) continue;
        const marked = markedOf(prepared, device);
        known.push({ device: marked, rank: marked.pushed === true ? 2 : prepared.origin === 'node' ? 0 : 1 });
      }
    }
  }
  return known.sort((a, b) => a.rank - b.rank).map(({ device }) => device);
}

/** Flat images that are proven and by the builder's present revision, of the same layers as `image` has. */
export function* provenLike(images: Iterable<Image>, image: Image): Generator<Same, undefined> {
  const chain = chainOf(image);
  for (const other of images) {
    const { prepared, manifest } = other;
    const isOurs = (prepared?.revision ?? 1) === SIDECAR_REVISION;
    if (prepared !== undefined && isOurs && other.proof === 'proven' && chainOf(other) === chain)
      yield { manifest, prepared };
  }
}

/**
 * The devices of a proven flat image, for another image with these layers; undefined where one of them is not proven, or would
 * have blocks fetched by a table that no one vouches for: of a layer that is whole none has to be.
 */
export function devicesFor(
  prepared: Prepared,
  layers: ReadonlyArray<{ diffId: string; blob: string }>,
  state: State,
): ImageDevice[] | undefined {
  const devices = prepared.devices.map((device) => markedOf(prepared, device));
  const isFit = (device: ImageDevice): boolean =>
    layers.some(({ diffId, blob }) => diffId === device.diffId && blob === device.spans) &&
    isProven(prepared, device, state) &&
    (device.pushed !== true || state.layers.get(layerIdOf(device))?.complete === true);
  return devices.every(isFit) ? devices : undefined;
}

const markedOf = (prepared: Prepared, device: ImageDevice): ImageDevice =>
  isPushed(prepared, device) ? { ...device, pushed: true } : device;

const isProven = ({ origin }: Prepared, device: ImageDevice, state: State): boolean =>
  rootsOfImage({ origin, devices: [device] }, state) === 'proven';

/** What the flat image is made of. */
const chainOf = (image: Image): string => layersText(image.resolved.layers);
