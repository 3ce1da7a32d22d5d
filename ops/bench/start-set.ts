/** The blocks that a start reads, as its startup pack names them. */
import type { StartSet } from '../../actors/start-set.ts';
import { decodePack, type PackHeader } from '../../src/pack/format.ts';
import { RegistryClient, type ResolvedImage } from '../../src/registry/client.ts';
import { findPack } from '../../src/registry/packs.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { findSidecar } from '../../src/registry/sidecars.ts';
import { SpanTable } from '../../src/image/span-table.ts';

/**
 * Compressed bytes that the blocks of the image's pack take in its layers: of each span the share of its blocks that
 * the pack names. The pack itself is smaller, since it is compressed otherwise.
 */
export async function bytesInLayers(ref: string): Promise<number> {
  const client = new RegistryClient({});
  try {
    const image = await client.resolve(parseReference(ref));
    const [pack, sidecar] = [await findPack(client, image, ['default']), await findSidecar(client, image)];
    if (pack === undefined || sidecar === undefined) throw new Error(`${ref} has no pack or no sidecar`);
    const tables = new Map<string, SpanTable>();
    for (const [index, { diffId }] of image.layers.entries())
      tables.set(diffId, SpanTable.decode(await sidecar.spans(index)));
    const { devices, runs } = await headerOf(client.blobRange(image.reference, pack.blob, 0, pack.blob.size));
    let bytes = 0;
    for (const [device, first, count] of runs) {
      const table = tables.get(devices[device] as string);
      if (table === undefined) throw new Error(`the pack of ${ref} is for another image`);
      for (let block = first; block < first + count; block++) {
        const { inStart, inEnd, blockCount } = table.span(table.spanOfBlock(block));
        bytes += (inEnd - inStart) / blockCount;
      }
    }
    return Math.round(bytes);
  } finally {
    await client.close();
  }
}

/** What the image's pack says that a start reads. */
export async function startOfPack(client: RegistryClient, image: ResolvedImage): Promise<StartSet> {
  const pack = await findPack(client, image, ['default']);
  if (pack === undefined) throw new Error(`${image.reference.text} has no pack`);
  const { devices, runs } = await headerOf(client.blobRange(image.reference, pack.blob, 0, pack.blob.size));
  return { devices, runs };
}

async function headerOf(body: AsyncIterable<Uint8Array>): Promise<PackHeader> {
  let header: PackHeader | undefined;
  await decodePack(
    body,
    (found) => {
      header = found;
    },
    () => {},
  );
  return header as PackHeader;
}
