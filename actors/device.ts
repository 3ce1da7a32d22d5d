/** The layers that an image has file data in, as its event `image.prepared` names them. */
import type { EventOf } from '../schemas/events.ts';
import type { JobLayer } from '../schemas/fetch.ts';
import { type ImageFacts, type RootFacts, type RootStanding, standingOf } from './node-state.ts';
import { worstOf } from './trust.ts';
import { membersOfVoucher } from './voucher.ts';

export type ImageDevice = EventOf<'image.prepared'>['devices'][number];

/**
 * The layer's id on this node, which names its device: the block root. Images that a cofa without roots has prepared have
 * devices that bear the diffID.
 */
export const layerIdOf = ({ root, diffId }: Pick<ImageDevice, 'root' | 'diffId'>): string => root ?? diffId;

/** Name of the layer's span table in the store. */
export const tableNameOf = ({ table, spans }: Pick<ImageDevice, 'table' | 'spans'>): string => table ?? spans;

/**
 * Whether no one has vouched for the layer's span table. Where its block root is proven it gives no wrong byte all the same,
 * but its spans may lead nowhere. Members of a fleet vouch for roots and flat metadata, and for no spans.
 */
export const isPushed = (
  { origin, vouched }: Pick<EventOf<'image.prepared'>, 'origin' | 'vouched'>,
  { pushed }: ImageDevice,
): boolean =>
  pushed ?? (origin === 'sidecar' && (vouched === undefined || membersOfVoucher(vouched) !== undefined));

/**
 * The flat image with a span table that the node has made for one of its layers; undefined where it has that already, or has
 * no such layer.
 */
export function withTable<P extends Pick<EventOf<'image.prepared'>, 'devices'>>(
  prepared: P,
  made: ImageDevice,
): P | undefined {
  const isOther = ({ diffId, spans, table }: ImageDevice): boolean =>
    diffId === made.diffId && spans === made.spans && table !== made.table;
  if (!prepared.devices.some(isOther)) return undefined;
  const devices = prepared.devices.map((device) =>
    isOther(device) ? { ...device, table: made.table, pushed: false } : device,
  );
  return { ...prepared, devices };
}

/** As jobs that concern several layers name it. */
export const jobLayerOf = ({ diffId, spans, root, table }: ImageDevice): JobLayer => ({
  diffId,
  blob: spans,
  ...(root === undefined ? {} : { layer: root }),
  ...(table === undefined ? {} : { table }),
});

/** What the log says of layers and of their roots. */
interface KnownLayers {
  readonly roots: ReadonlyMap<string, RootFacts>;
  readonly layers: { get(id: string): { readonly complete: boolean } | undefined };
}

/**
 * What is known of the block roots of a flat image. What this node has built it has read whole. A device without a root is as
 * good as its layer: proven while that is whole.
 */
export function rootsOfImage(
  { origin, devices }: Pick<EventOf<'image.prepared'>, 'origin' | 'devices'>,
  { roots, layers }: KnownLayers,
): RootStanding {
  return worstOf(
    devices.map(({ diffId, root }) => {
      const isWhole = root === undefined && layers.get(diffId)?.complete === true;
      const standing = root === undefined ? 'unknown' : standingOf(roots, diffId, root);
      return standing === 'unknown' && (isWhole || origin === 'node') ? 'proven' : standing;
    }),
  );
}

/** Ids that an image's layers may have in the log. */
export const layersOfImage = ({
  resolved,
  prepared,
}: Pick<ImageFacts, 'resolved' | 'prepared'>): Set<string> =>
  new Set([...resolved.layers.map(({ diffId }) => diffId), ...(prepared?.devices.map(layerIdOf) ?? [])]);

/** What flat metadata are made of: the same bytes are another layer where they are a file, or the file has another name. */
export const layersText = (
  layers: ReadonlyArray<Pick<EventOf<'image.resolved'>['layers'][number], 'diffId' | 'file'>>,
): string =>
  layers
    .map(({ diffId, file }) =>
      file === undefined
        ? diffId
        : `${diffId} ${JSON.stringify([file.path, file.mode, file.uid, file.gid, file.mtime])}`,
    )
    .join('\n');
