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
import { Digest } from '../digest/digest.ts';
import { CofaError } from '../../schemas/errors.ts';
import { buildFlat, type LayerDevice } from '../image/erofs.ts';
import { indexLayer } from '../image/index-layer.ts';
import { SpanTable } from '../image/span-table.ts';
import { decodeToc, encodeToc } from '../image/toc-codec.ts';
import { type Toc, TocBuilder } from '../image/toc.ts';
import { dropPages } from '../kernel/page-cache.ts';
import type { RegistryClient, Source } from '../registry/client.ts';
import { type Layout, writeWhole } from '../store/layout.ts';

export interface RebuildOrder {
  source: Source;
  /** The image's, lowest first. */
  layers: Array<{ diffId: string; blob: string; blobSize: number }>;
  /** Layers whose device is whole, with the bytes of their tar. */
  local: Array<{ diffId: string; size: number }>;
  /** Whether to use tables of contents that an earlier rebuild left in the store. */
  cached: boolean;
}

export interface RebuiltFlat {
  metadata: Buffer;
  devices: Array<{ diffId: string; size: number; spans: string }>;
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
  const { layout, registry } = context;
  let bytes = 0;
  const count = (more: number) => {
    bytes += more;
    context.onProgress?.(bytes);
  };
  const sizes = new Map(order.local.map(({ diffId, size }) => [diffId, size]));
  const known = new Map<string, { toc: Toc; size: number }>();
  for (const { diffId, blob, blobSize } of order.layers) {
    if (known.has(diffId)) continue;
    const local = sizes.get(diffId);
    const stored = order.cached ? await storedToc(layout, diffId, blob, local) : undefined;
    if (stored !== undefined) {
      known.set(diffId, stored);
    } else if (local !== undefined) {
      const toc = await tocOfDevice(layout.device(diffId), diffId, local, count);
      await writeWhole(layout.toc(diffId), encodeToc(toc));
      known.set(diffId, { toc, size: local });
    } else {
      const stream = registry.blobStream(order.source, { digest: blob, size: blobSize });
      const index = await indexLayer(counted(stream, count), {
        expect: { digest: blob, size: blobSize, diffId },
      });
      await writeWhole(layout.spans(blob), index.spans.encode());
      await writeWhole(layout.toc(diffId), encodeToc(index.toc));
      known.set(diffId, { toc: index.toc, size: index.rawSize });
    }
  }
  const chain = order.layers.map(({ diffId, blob }) => ({
    diffId,
    spans: blob,
    ...(known.get(diffId) as { toc: Toc; size: number }),
  }));
  const { metadata, devices } = buildFlat(
    chain.map(({ toc }) => toc),
    chain.map(({ diffId, size }): LayerDevice => ({ diffId, size })),
  );
  return {
    metadata,
    devices: devices.map((at) => {
      const { diffId, size, spans } = chain[at] as (typeof chain)[number];
      return { diffId, size, spans };
    }),
  };
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

/** The table that an earlier rebuild left; undefined where it cannot be read. */
async function storedToc(
  layout: Layout,
  diffId: string,
  blob: string,
  local: number | undefined,
): Promise<{ toc: Toc; size: number } | undefined> {
  try {
    const size = local ?? SpanTable.decode(await readFile(layout.spans(blob))).rawSize;
    return { toc: decodeToc(await readFile(layout.toc(diffId)), size), size };
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
