/**
 * Builds the flat image of an image again, from the layers that lie on this node: tar → table of contents → EROFS. The
 * builder is deterministic: either the result equals the sidecar's metadata byte for byte, or the sidecar is not the
 * image's.
 *
 * It hashes each layer's tar on the way: a device that does not hash to its diffID is an error of the disk and says
 * nothing about the sidecar. A layer without a device (the image has none of its data, or the sidecar hides that) is
 * streamed from the registry. One layer at a time; memory: the tables of contents, and what buildFlat needs.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { setImmediate as pause } from 'node:timers/promises';
import { Digest, digestOf } from '../digest/digest.ts';
import type { ImageDevice } from '../../actors/device.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { LayerFile } from '../../schemas/events.ts';
import { buildFlat, type LayerDevice } from '../image/erofs.ts';
import { tocOfFile } from '../image/file-toc.ts';
import { indexLayer } from '../image/index-layer.ts';
import { decodeToc, encodeToc } from '../image/toc-codec.ts';
import { type Toc, TocBuilder } from '../image/toc.ts';
import { dropPages } from '../kernel/page-cache.ts';
import type { RegistryClient, Source } from '../registry/client.ts';
import { type Layout, writeWhole } from '../store/layout.ts';

export interface RebuildOrder {
  source: Source;
  /** The image's, lowest first. */
  layers: Array<{ diffId: string; blob: string; blobSize: number; file?: LayerFile | undefined }>;
  /** Layers of which a device is whole. */
  local: LocalLayer[];
  /** Layers that images of this node have, with span tables whose block root is proven. */
  known: ImageDevice[];
  /** Whether to use tables of contents that an earlier rebuild left in the store. */
  cached: boolean;
}

/** A device that is whole: the layer's id, which names it, and the bytes of the tar in it. */
export interface CompleteLayer {
  layer: string;
  size: number;
}

/** By diffID. */
export type CompleteLayers = ReadonlyMap<string, CompleteLayer>;

export interface LocalLayer extends CompleteLayer {
  diffId: string;
}

export interface RebuiltFlat {
  metadata: Buffer;
  devices: ImageDevice[];
}

const CHUNK = 1 << 20;

/**
 * Rebuilds. It leaves tables of contents in the store for the next image that has the layer, and span tables of layers
 * that it streamed. `onProgress`: bytes read of all layers. Errors: `integrity` where a device or a blob is not the
 * layer, those of the registry and of buildFlat.
 */
export async function rebuildFlat(
  order: RebuildOrder,
  context: { layout: Layout; registry: RegistryClient; onProgress?: (bytes: number) => void },
): Promise<RebuiltFlat> {
  let bytes = 0;
  const count = (more: number) => {
    bytes += more;
    context.onProgress?.(bytes);
  };
  const parts = new Map<string, Part>();
  for (const layer of order.layers)
    if (!parts.has(keyOf(layer))) parts.set(keyOf(layer), await partOf(layer, order, context, count));
  for (;;) {
    const chain = order.layers.map((layer) => ({ layer, ...(parts.get(keyOf(layer)) as Part) }));
    const { metadata, devices } = buildFlat(
      chain.map(({ toc }) => toc),
      chain.map(({ layer: { diffId }, size }): LayerDevice => ({ diffId, size })),
    );
    const used = devices.map((at) => chain[at] as (typeof chain)[number]);
    const unknown = used.find(({ device }) => device === undefined);
    if (unknown === undefined) return { metadata, devices: used.flatMap(({ device }) => device ?? []) };
    // Its table of contents is here, and its span table is not.
    parts.set(keyOf(unknown.layer), await streamed(unknown.layer, order, context, count));
  }
}

/** A layer of an image: its blob is of `blobSize` bytes. */
export type RebuildLayer = RebuildOrder['layers'][number];
/** The same bytes may be a tar, and files of several names. */
const keyOf = ({ diffId, file }: RebuildLayer): string =>
  file === undefined ? diffId : `${diffId} ${JSON.stringify(file)}`;
type RebuildContext = Parameters<typeof rebuildFlat>[1];

/** What is known of a layer. */
interface Part {
  toc: Toc;
  /** Bytes of the tar; without a device: up to the end of its last file. */
  size: number;
  /** Undefined: the node has no span table of the layer whose root is proven. */
  device: ImageDevice | undefined;
}

/** From a table of contents in the store, else from the layer's device, else from the registry. */
async function partOf(
  layer: RebuildLayer,
  order: RebuildOrder,
  context: RebuildContext,
  count: (bytes: number) => void,
): Promise<Part> {
  const { layout } = context;
  const { diffId, blob, blobSize, file } = layer;
  const device = order.known.find((one) => one.diffId === diffId && one.spans === blob);
  // The manifest says all of it.
  if (file !== undefined) return { toc: tocOfFile(file, blobSize), size: blobSize, device };
  const local = order.local.find((one) => one.diffId === diffId);
  const stored = order.cached ? await storedToc(layout, diffId, device?.size ?? local?.size) : undefined;
  if (stored !== undefined) return { toc: stored, size: device?.size ?? endOf(stored), device };
  if (local === undefined) return await streamed(layer, order, context, count);
  const toc = await tocOfDevice(layout.device(local.layer), diffId, local.size, count);
  await writeWhole(layout.toc(diffId), encodeToc(toc));
  return { toc, size: local.size, device };
}

async function streamed(
  layer: RebuildLayer,
  { source }: RebuildOrder,
  context: RebuildContext,
  count: (bytes: number) => void,
): Promise<Part> {
  const { toc, device } = await indexed(layer, source, context, count);
  return { toc, size: device.size, device };
}

/**
 * The layer, with a span table that is made from its blob in the registry, and lies in the store. `count`: called with the
 * compressed bytes that came. Errors: those of the registry, `integrity` where the blob does not give the layer.
 */
export const indexedFrom = async (...order: Parameters<typeof indexed>): Promise<ImageDevice> =>
  (await indexed(...order)).device;

async function indexed(
  { diffId, blob, blobSize, file }: RebuildLayer,
  source: Source,
  { layout, registry }: Pick<RebuildContext, 'layout' | 'registry'>,
  count: (bytes: number) => void,
): Promise<{ toc: Toc; device: ImageDevice }> {
  const stream = registry.blobStream(source, { digest: blob, size: blobSize });
  const expect = { digest: blob, size: blobSize, diffId };
  const { toc, spans, rawSize: size } = await indexLayer(counted(stream, count), { expect, file });
  const bytes = spans.encode();
  const table = digestOf(bytes);
  await writeWhole(layout.spans(table), bytes);
  if (file === undefined) await writeWhole(layout.toc(diffId), encodeToc(toc));
  return { toc, device: { diffId, size, spans: blob, root: spans.root, table } };
}

/** Where the data of the last file end. */
function endOf(toc: Toc): number {
  let end = 0;
  for (const { extents } of toc.entries)
    for (const { deviceOffset, length } of extents) end = Math.max(end, deviceOffset + length);
  return end;
}

/** The table of contents of a layer device, whose `size` raw bytes must hash to its diffID. */
export async function tocOfDevice(
  path: string,
  diffId: string,
  size: number,
  onBytes: (bytes: number) => void = () => {},
): Promise<Toc> {
  const file = openSync(path, 'r');
  try {
    const hash = new Digest();
    const builder = new TocBuilder();
    const buffer = Buffer.allocUnsafeSlow(CHUNK);
    let fault: unknown;
    for (let at = 0; at < size; ) {
      const got = readSync(file, buffer, 0, Math.min(CHUNK, size - at), at);
      if (got === 0)
        throw new CofaError('integrity', `the device of layer ${diffId} ends after ${at} of ${size} bytes`);
      const bytes = buffer.subarray(0, got);
      hash.update(bytes);
      // A tar that cannot be parsed may be an error of the disk: the hash decides.
      try {
        if (fault === undefined) builder.push(bytes);
      } catch (error) {
        fault = error;
      }
      // The kernel reads the device past this cache, and other programs need the memory.
      await dropPages(file, at, got);
      at += got;
      onBytes(got);
      await pause();
    }
    const found = hash.end();
    if (found !== diffId)
      throw new CofaError('integrity', `the device of layer ${diffId} hashes to ${found}`, {
        hint: 'cofa scrub --repair',
      });
    if (fault !== undefined) throw fault;
    return builder.finish();
  } finally {
    closeSync(file);
  }
}

/** The table that an earlier pass over the layer left; undefined where it cannot be read. `size`: bytes of the tar, where they are known. */
async function storedToc(layout: Layout, diffId: string, size: number | undefined): Promise<Toc | undefined> {
  try {
    return decodeToc(await readFile(layout.toc(diffId)), size);
  } catch {
    return undefined;
  }
}

async function* counted(stream: AsyncIterable<Buffer>, count: (bytes: number) => void) {
  for await (const chunk of stream) {
    count(chunk.length);
    yield chunk;
  }
}
