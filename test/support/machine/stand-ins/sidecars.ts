/** Stand-in for src/registry/sidecars.ts. */
import { CofaError } from '../../../../schemas/errors.ts';
import type { ResolvedImage } from '../../../../src/registry/client.ts';
import { SIDECAR_REVISION, type SidecarHandle } from '../../../../src/registry/sidecars.ts';
import { machine } from '../machine.ts';
import { world } from '../world.ts';
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
  const blob = async (bytes: Buffer): Promise<Buffer> => {
    await request('sidecar blob');
    // Bodies are compared with their digests.
    if (machine().random.chance(world().plan.wrongBytes)) throw new CofaError('integrity', 'wrong bytes');
    return bytes;
  };
  return {
    descriptor: { mediaType: 'sidecar', digest: found.sidecar, size: 1 },
    revision: SIDECAR_REVISION,
    size: 1,
    flat: () => blob(found.offered),
    spans: (layer) => blob(encodeTable(found.layers[layer] as never)),
    toc: () => blob(Buffer.alloc(0)),
    hints: async () => undefined,
  };
}

export async function* sidecarsOf(client: unknown, image: ResolvedImage): AsyncIterable<SidecarHandle> {
  const found = await findSidecar(client, image);
  if (found !== undefined) yield found;
}
