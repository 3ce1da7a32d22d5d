/**
 * A pull into containerd through its API, without its layers: manifest and configuration become content, the layers
 * snapshots of cofa that containerd never unpacks, and a name points at them. Afterwards containerd cannot tell the image from
 * one that it pulled by itself, but for the blobs of the layers: what needs them (export, push elsewhere) asks for
 * them with `layers`.
 *
 * In the order in which containerd's garbage collection can follow: a lease holds everything until the name is there.
 * The labels `containerd.io/gc.ref.…` say what an object needs (containerd, docs/garbage-collection.md).
 */
import { randomBytes } from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import { Code } from '@connectrpc/connect';
import { chainIds } from '../digest/chain-id.ts';
import type { Descriptor, RegistryClient, ResolvedImage } from '../registry/client.ts';
import type { Reference } from '../registry/reference.ts';
import { CofaError } from '../../schemas/errors.ts';
import {
  WriteAction,
  type WriteContentRequest,
  WriteContentRequestSchema,
} from './generated/containerd/services/content/v1/content_pb.ts';
import { IMAGE_LABELS, sourceLabel } from './labels.ts';
import { keepLazy, LAZY_LABEL } from './lazy-content.ts';
import { type ContainerdClient, isCode } from './client.ts';

export interface PullOrder {
  containerd: ContainerdClient;
  registry: RegistryClient;
  /** containerd's name of cofa. */
  snapshotter: string;
  reference: Reference;
  image: ResolvedImage;
  /** Fetch the blobs of the layers, too. */
  layers: boolean;
  /** Makes the image one that this node can mount without unpacking it; undoes afterwards what it needed for that. */
  prepareHere: () => Promise<() => Promise<void>>;
  /** Bytes of layers' blobs that arrived. */
  onBytes: (count: number) => void;
  signal: AbortSignal;
}

export interface Pulled {
  /** As containerd knows it: `docker.io/library/debian:12`. */
  name: string;
  /** What the name points at: the manifest, or the index that it was chosen from. */
  target: string;
  manifest: string;
  /** Layers that stay in the registry. */
  lazyLayers: number;
  /** Layers whose blobs containerd has got now. */
  fetchedLayers: number;
}

const TARGET_LABEL = 'containerd.io/snapshot.ref';
/** A pull that was killed is forgotten after so long, ms. */
const LEASE_MS = 3_600_000;
/** Bytes in a message; containerd takes 16 MiB. */
const CHUNK = 1 << 20;
/** containerd refuses longer labels; a list of layers is cut where it would be. */
const MAX_LABEL = 4096;

/** Errors: those of the registry, of containerd (ConnectError) and of `prepareHere`. */
export async function pullInto(order: PullOrder): Promise<Pulled> {
  const { containerd, image, reference, layers } = order;
  const lease = `cofa-pull-${randomBytes(8).toString('hex')}`;
  const expires = new Date(Date.now() + LEASE_MS).toISOString();
  await containerd.leases.create({ id: lease, labels: { 'containerd.io/gc.expire': expires } });
  containerd.useLease(lease);
  try {
    const chains = chainIds(image.layers.map(({ diffId }) => diffId));
    // The snapshotter looks into the manifest, too.
    const target = await describe(order, chains.at(-1) ?? '');
    await unfold(order, chains);
    let fetchedLayers = 0;
    if (layers) for (const { blob } of image.layers) if (await fetchLayer(order, blob)) fetchedLayers += 1;
    const name = nameOf(reference);
    await point(containerd, name, target);
    const { digest: manifest } = image.descriptor;
    return { name, target: target.digest, manifest, lazyLayers: image.layers.length, fetchedLayers };
  } finally {
    await containerd.leases.delete({ id: lease }).catch(() => {});
  }
}

/** As containerd and docker write it in full. */
export function nameOf({ domain, repository, tag, digest }: Reference): string {
  const name = `${domain}/${repository}`;
  if (digest !== undefined) return `${name}@${digest}`;
  return `${name}:${tag ?? 'latest'}`;
}

/** Has a snapshot for each chain of layers. */
async function unfold(order: PullOrder, chains: readonly string[]): Promise<void> {
  const { image } = order;
  let parent = '';
  let undo: (() => Promise<void>) | undefined;
  try {
    for (const [at, chain] of chains.entries()) {
      if (!(await adopt(order, at, chain, parent))) {
        if (undo === undefined) undo = await order.prepareHere();
        if (!(await adopt(order, at, chain, parent))) {
          throw new CofaError('unsupported', `${image.reference.text} cannot be mounted without its layers`, {
            hint: `docker or ctr can pull it; ${order.snapshotter} has to be a snapshotter of cofa`,
          });
        }
      }
      parent = chain;
    }
  } finally {
    await undo?.();
  }
}

/** Asks as an unpacker does; false when the layer would have to be unpacked. */
async function adopt(order: PullOrder, at: number, chain: string, parent: string): Promise<boolean> {
  const { containerd, image, snapshotter, reference } = order;
  const key = `extract-cofa-${randomBytes(6).toString('hex')} ${chain}`;
  try {
    await containerd.snapshots.prepare({
      snapshotter,
      key,
      parent,
      labels: {
        [TARGET_LABEL]: chain,
        [IMAGE_LABELS.ref]: nameOf(reference),
        [IMAGE_LABELS.manifest]: image.descriptor.digest,
        [IMAGE_LABELS.layer]: image.layers[at]?.blob.digest ?? '',
        [IMAGE_LABELS.layers]: layersFrom(image, at),
      },
    });
  } catch (error) {
    if (isCode(error, Code.AlreadyExists)) return true;
    throw error;
  }
  await containerd.snapshots.remove({ snapshotter, key });
  return false;
}

/** Digests of the layers from this one on, as many as a label takes. */
function layersFrom(image: ResolvedImage, at: number): string {
  let text = '';
  for (const { blob } of image.layers.slice(at)) {
    const longer = text === '' ? blob.digest : `${text},${blob.digest}`;
    if (longer.length + IMAGE_LABELS.layers.length > MAX_LABEL) break;
    text = longer;
  }
  return text;
}

/** Stores configuration, manifest and, where the reference names one, index; returns what the name is to point at. */
async function describe(order: PullOrder, chain: string): Promise<Descriptor> {
  const { registry, reference, image, snapshotter, signal } = order;
  const unfolded: Record<string, string> =
    chain === '' ? {} : { [`containerd.io/gc.ref.snapshot.${snapshotter}`]: chain };
  await store(order, image.configDescriptor, image.config, unfolded);
  const references: Record<string, string> = {
    'containerd.io/gc.ref.content.config': image.configDescriptor.digest,
  };
  for (const [at, { blob }] of image.layers.entries()) {
    references[`containerd.io/gc.ref.content.l.${at}`] = blob.digest;
  }
  await store(order, image.descriptor, image.manifestBytes, references);
  const named = await registry.manifest(reference, reference.digest ?? reference.tag ?? 'latest', signal);
  if (named.parsed.kind === 'manifest') {
    if (named.descriptor.digest === image.descriptor.digest) return image.descriptor;
    throw new CofaError('conflict', `${reference.text} was changed in its registry meanwhile`, {
      hint: 'pull it again',
    });
  }
  const children: Record<string, string> = {};
  for (const [at, { digest }] of named.parsed.index.manifests.entries()) {
    children[`containerd.io/gc.ref.content.m.${at}`] = digest;
  }
  await store(order, named.descriptor, named.bytes, children);
  return named.descriptor;
}

async function store(
  order: PullOrder,
  { digest, size }: Descriptor,
  bytes: Buffer,
  references: Record<string, string>,
): Promise<void> {
  const labels = { ...labelsOf(order), ...references };
  async function* once(): AsyncGenerator<Buffer> {
    yield bytes;
  }
  await write(order, digest, size, once(), labels);
}

/** True when it was not there before. */
async function fetchLayer(order: PullOrder, blob: Descriptor): Promise<boolean> {
  const { containerd, registry, reference, signal, onBytes } = order;
  const known = await containerd.content.info({ digest: blob.digest }).catch(ignoreAbsent);
  if ((known?.info?.labels[LAZY_LABEL] ?? '') !== '') {
    const { digest, size } = blob;
    await keepLazy(containerd, registry, { digest, size, source: reference }, { onBytes, signal });
    return true;
  }
  if (known !== undefined) return false;
  return await write(order, blob.digest, blob.size, registry.blobStream(reference, blob, signal), {
    ...labelsOf(order),
  });
}

const labelsOf = ({ reference }: PullOrder): Record<string, string> => ({
  [sourceLabel(reference.domain)]: reference.repository,
});

/** containerd checks the digest. False when it was there already; it has the labels then as well. */
async function write(
  order: PullOrder,
  digest: string,
  size: number,
  bytes: AsyncIterable<Buffer>,
  labels: Record<string, string>,
): Promise<boolean> {
  const { containerd, onBytes, signal } = order;
  const ref = `cofa-${randomBytes(6).toString('hex')}-${digest}`;
  const request = (action: WriteAction, offset: number, data: Uint8Array): WriteContentRequest =>
    create(WriteContentRequestSchema, {
      action,
      ref,
      total: BigInt(size),
      expected: digest,
      offset: BigInt(offset),
      data,
      labels,
    });
  async function* requests(): AsyncGenerator<WriteContentRequest> {
    let offset = 0;
    for await (const piece of bytes) {
      for (let at = 0; at < piece.length; at += CHUNK) {
        const data = piece.subarray(at, at + CHUNK);
        yield request(WriteAction.WRITE, offset, data);
        offset += data.length;
        onBytes(data.length);
      }
    }
    yield request(WriteAction.COMMIT, offset, new Uint8Array());
  }
  try {
    // As long as it takes: the registry's own deadlines end a layer that does not come.
    for await (const _ of containerd.content.write(requests(), { signal, timeoutMs: 0 }));
    return true;
  } catch (error) {
    if (!isCode(error, Code.AlreadyExists)) {
      await containerd.content.abort({ ref }).catch(() => {});
      throw error;
    }
    const paths = Object.keys(labels).map((label) => `labels.${label}`);
    await containerd.content.update({ info: { digest, labels }, updateMask: { paths } });
    return false;
  }
}

async function point(containerd: ContainerdClient, name: string, target: Descriptor): Promise<void> {
  const image = {
    name,
    target: { mediaType: target.mediaType, digest: target.digest, size: BigInt(target.size) },
  };
  try {
    await containerd.images.create({ image });
  } catch (error) {
    if (!isCode(error, Code.AlreadyExists)) throw error;
    await containerd.images.update({ image, updateMask: { paths: ['target'] } });
  }
}

function ignoreAbsent(error: unknown): undefined {
  if (!isCode(error, Code.NotFound)) throw error;
}
