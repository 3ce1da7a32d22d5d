/** Attacks on images in a real registry, whose repositories the attacker may push to. */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  blobPath,
  describeLayer,
  type LayerFile,
  pushLayout,
  writeLayout,
} from '../../../ops/images/layout.ts';
import { digestOf } from '../../../src/digest/digest.ts';
import { indexLayer } from '../../../src/image/index-layer.ts';
import type { RegistryClient } from '../../../src/registry/client.ts';
import { parseReference } from '../../../src/registry/reference.ts';
import { pushSidecar, type Sidecar } from '../../../src/registry/sidecars.ts';
import type { FaultImage } from '../../faults/fault-image.ts';
import { type GenuineLayer, whole } from './layer.ts';
import { flatOfSizes, honestSidecar, withTables } from './sidecars.ts';
import type { Forgery } from './tables.ts';

/** The layers of an image, as the attacker studies them. */
export async function layersOf({ layout, blobs, tars }: FaultImage): Promise<GenuineLayer[]> {
  return await Promise.all(
    tars.map(async (tar, at) => {
      const blob = await readFile(blobPath(layout.directory, blobs[at]?.digest ?? ''));
      return { ...(await indexLayer(whole(blob))), tar, blob };
    }),
  );
}

/** Pushes a sidecar beside the image. Returns its digest. */
export async function pushBeside(client: RegistryClient, ref: string, sidecar: Sidecar): Promise<string> {
  const image = await client.resolve(parseReference(ref));
  return (await pushSidecar(client, image, sidecar)).digest;
}

/** Pushes a sidecar that is the honest one but for a forged table of the lowest layer. */
export async function pushForged(
  client: RegistryClient,
  image: FaultImage,
  forge: (base: GenuineLayer) => Forgery | undefined | Promise<Forgery | undefined>,
): Promise<{ digest: string; forgery: Forgery }> {
  const layers = await layersOf(image);
  const forgery = await forge(layers[0] as GenuineLayer);
  if (forgery === undefined) throw new Error('the layer does not lend itself to this');
  const sidecar = withTables(honestSidecar(layers), new Map([[0, forgery.table]]));
  return { digest: await pushBeside(client, image.ref, sidecar), forgery };
}

/**
 * Pushes an image of the attacker's own: one layer that bears the base's diffID, whose blob and table are the forgery's.
 * Returns its reference.
 */
export async function pushPoisoned(
  directory: string,
  client: RegistryClient,
  ref: string,
  base: GenuineLayer,
  { table, blob }: Forgery,
): Promise<string> {
  const { registry, repository } = parseReference(ref);
  await mkdir(directory, { recursive: true });
  const file = join(directory, 'blob');
  await writeFile(file, blob);
  const layer = await describeLayer(file, base.compression, base.diffId, 'not the base');
  if (layer.digest !== table.blobDigest) throw new Error('the table is not of this blob');
  const layout = await writeLayout(join(directory, 'layout'), {
    kind: 'oci',
    layers: [layer],
    config: { Env: ['ATTACKER=1'] },
    created: '2020-01-01T00:00:00Z',
  });
  await pushLayout(layout, registry, repository, '1');
  const own = { ...base, blobDigest: layer.digest };
  const sidecar = withTables(honestSidecar([own]), new Map([[0, table]]));
  await pushBeside(client, ref, { ...sidecar, flat: flatOfSizes([base], new Map([[0, table.rawSize]])) });
  return ref;
}

/** Pushes another image of the same layers. */
export async function pushTwin(directory: string, image: FaultImage, ref: string): Promise<FaultImage> {
  const layers = image.tars.map((tar, at): LayerFile => {
    const blob = image.blobs[at] as { digest: string; size: number };
    const file = blobPath(image.layout.directory, blob.digest);
    return { ...blob, file, compression: 'gzip', diffId: digestOf(tar), createdBy: `layer ${at}` };
  });
  const created = '2020-01-01T00:00:00Z';
  const layout = await writeLayout(directory, { kind: 'oci', layers, config: { Env: ['TWIN=1'] }, created });
  const { registry, repository } = parseReference(ref);
  await pushLayout(layout, registry, repository, '1');
  return { ...image, layout, ref, repository };
}
