/** Stand-in for src/registry/sidecars.ts. */
import { CofaError } from '../../../../schemas/errors.ts';
import type { ResolvedImage } from '../../../../src/registry/client.ts';
import { SIDECAR_REVISION, type SidecarHandle } from '../../../../src/registry/sidecars.ts';
import { machine } from '../machine.ts';
import { type SimImage, type SimLayer, world } from '../world.ts';
import { request } from './registry-client.ts';
import { encodeTable } from './span-table.ts';

export * from '../../../../src/registry/sidecars.ts';

export async function findSidecar(
  _client: unknown,
  image: ResolvedImage,
): Promise<SidecarHandle | undefined> {
  await request('referrers');
  const found = world().images.find(({ manifest }) => manifest === image.descriptor.digest);
  if (found?.isIndexed !== true) return undefined;
  return handleOf(found.sidecar, found.offered, cut(found));
}

/** `layers`: what its span tables say. */
function handleOf(sidecar: string, offered: Buffer, layers: readonly SimLayer[]): SidecarHandle {
  const blob = async (bytes: Buffer): Promise<Buffer> => {
    await request('sidecar blob');
    // Bodies are compared with their digests.
    if (machine().random.chance(world().plan.wrongBytes)) throw new CofaError('integrity', 'wrong bytes');
    return bytes;
  };
  const flat = () => blob(offered);
  const spans = (layer: number) => blob(encodeTable(layers[layer] as SimLayer));
  const toc = () => blob(Buffer.alloc(0));
  return {
    descriptor: { mediaType: 'sidecar', digest: sidecar, size: 1 },
    revision: SIDECAR_REVISION,
    size: 1,
    use: async (part, work) =>
      await work(
        part.kind === 'flat' ? await flat() : part.kind === 'toc' ? await toc() : await spans(part.layer),
      ),
    sizeOf: () => ({ packed: 1, unpacked: 1, blob: { digest: sidecar, mediaType: 'sidecar' } }),
    packed: () => {
      throw new Error('no part is large');
    },
    flat,
    spans,
    toc,
    hints: async () => undefined,
  };
}

/** Every other image has cut spans: layers that images have in common come with two tables. */
function cut(image: SimImage): SimLayer[] {
  if (world().images.indexOf(image) % 2 === 0) return image.layers;
  const halves = (blocks: number) => (blocks > 1 ? [1, blocks - 1] : [blocks]);
  return image.layers.map((layer) => ({ ...layer, spans: layer.spans.flatMap(halves) }));
}

export async function* sidecarsOf(client: unknown, image: ResolvedImage): AsyncIterable<SidecarHandle> {
  const own = await findSidecar(client, image);
  const { beside, flat } = world().images.find(({ manifest }) => manifest === image.descriptor.digest) ?? {};
  const forged =
    beside === undefined || flat === undefined ? [] : [handleOf(beside.digest, flat, beside.layers)];
  const honest = own === undefined ? [] : [own];
  yield* beside?.isPreferred === true ? [...forged, ...honest] : [...honest, ...forged];
}
