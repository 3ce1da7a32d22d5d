/**
 * The span tables of an image that was just indexed, cut where the blocks of its hints begin and end (cut-spans.ts).
 */
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import { decodeHints } from '../image/hints/hints.ts';
import { SpanTable } from '../image/span-table.ts';
import type { RegistryClient, ResolvedImage } from '../registry/client.ts';
import { throwIfAborted } from '../registry/retry.ts';
import { cutSpans } from './cut-spans.ts';
import type { IndexedImage } from './index-image.ts';
import type { IndexedLayer } from './layer-job.ts';

/**
 * The image with tables that are cut for these hints. Where that fails it returns the image as it was and tells
 * `onFailed` why: whole spans cost a start some bytes more. Throws the signal's reason.
 */
export async function cutForHints(
  client: RegistryClient,
  image: ResolvedImage,
  indexed: IndexedImage,
  hints: Buffer,
  options: { signal?: AbortSignal | undefined; onFailed: (why: string) => void },
): Promise<IndexedImage> {
  const { signal, onFailed } = options;
  const wanted = wantedBlocks(hints);
  const cut = new Map<IndexedLayer, IndexedLayer>();
  try {
    for (const layer of new Set(indexed.layers)) {
      const blocks = wanted.get(layer.diffId);
      if (blocks === undefined) continue;
      const blob = { digest: layer.blobDigest, size: layer.blobSize };
      const fetch = async (start: number, end: number) =>
        await whole(client.blobRange(image.reference, blob, start, end, signal), end - start);
      const table = await cutSpans(SpanTable.decode(layer.spans), blocks, fetch, signal);
      cut.set(layer, { ...layer, spanCount: table.spanCount, spans: table.encode() });
    }
  } catch (error) {
    throwIfAborted(signal);
    onFailed(toErrorRecord(error).message);
    return indexed;
  }
  return { ...indexed, layers: indexed.layers.map((layer) => cut.get(layer) ?? layer) };
}

/** By diffID. */
function wantedBlocks(encoded: Buffer): Map<string, Set<number>> {
  const { devices, sections } = decodeHints(encoded);
  const wanted = new Map(devices.map((diffId) => [diffId, new Set<number>()]));
  for (const [device, first, count] of sections.flatMap(({ runs }) => runs)) {
    const blocks = wanted.get(devices[device] as string);
    for (let block = first; block < first + count; block++) blocks?.add(block);
  }
  return wanted;
}

async function whole(body: AsyncIterable<Uint8Array>, size: number): Promise<Uint8Array> {
  const bytes = Buffer.allocUnsafe(size);
  let at = 0;
  for await (const chunk of body) {
    if (at + chunk.length > size) break;
    bytes.set(chunk, at);
    at += chunk.length;
  }
  if (at !== size) throw new CofaError('integrity', `${at} bytes came of a range of ${size}`);
  return bytes;
}
