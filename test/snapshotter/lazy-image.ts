/** A prepared image in a registry, and the snapshots that containerd gets of it without unpacking a layer. */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { Code } from '@connectrpc/connect';
import { type ImageLayout, pushLayout } from '../../ops/images/layout.ts';
import { index } from '../clients/images.ts';
import { buildImage } from '../images/nasty.ts';
import { refused, type SnapshotClient } from './test-bed.ts';

export interface LazyImage {
  ref: string;
  layout: ImageLayout;
  tars: readonly Buffer[];
}

/** Builds, pushes and prepares it. */
export async function pushLazyImage(
  work: string,
  host: string,
  name: string,
  tars: readonly Buffer[],
): Promise<LazyImage> {
  const layout = await buildImage(join(work, name), tars, 'gzip');
  await pushLayout(layout, host, name, '1');
  const ref = `${host}/${name}:1`;
  await index(ref);
  return { ref, layout, tars };
}

/** As containerd pulls it; returns the name of the committed snapshot of the whole image. */
export async function adoptLayers(client: SnapshotClient, { ref, layout, tars }: LazyImage): Promise<string> {
  let parent = '';
  let chain = '';
  for (const diffId of tars.map(sha256)) {
    chain = chain === '' ? diffId : sha256(`${chain} ${diffId}`);
    const labels = {
      'containerd.io/snapshot.ref': chain,
      'containerd.io/snapshot/cri.image-ref': ref,
      'containerd.io/snapshot/cri.manifest-digest': layout.manifest.digest,
    };
    await refused(client.prepare(`layer ${chain}`, parent, labels), Code.AlreadyExists);
    const [info] = await client.walk(`labels."containerd.io/snapshot.ref"==${chain}`);
    parent = info?.name as string;
  }
  return parent;
}

const sha256 = (bytes: Buffer | string) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
