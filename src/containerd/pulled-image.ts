/** An image that containerd has pulled, as its content store has it: by which manifest, of which layers. */
import { isDigest } from '../../schemas/digest.ts';
import { CofaError } from '../../schemas/errors.ts';
import { MAX_CONFIG, MAX_MANIFEST, parseConfig, parseManifest } from '../registry/manifest.ts';
import type { ContainerdClient } from './client.ts';

export interface PulledImage {
  manifest: string;
  layers: Array<{ diffId: string; blob: string; blobSize: number }>;
}

/** Manifests of one index that are looked at. */
const MOST_MANIFESTS = 256;
/** Indexes within indexes. */
const MAX_DEPTH = 3;

/**
 * The image of this configuration's digest that containerd's `name` points at. Errors: containerd's (ConnectError), and
 * `unsupported` where the name has no such image.
 */
export async function pulledImage(
  containerd: Pick<ContainerdClient, 'content' | 'images'>,
  name: string,
  config: string,
): Promise<PulledImage> {
  const { image } = await containerd.images.get({ name });
  const target = image?.target?.digest ?? '';
  const found = isDigest(config) ? await find(containerd, target, config, 0) : undefined;
  if (found === undefined) throw new CofaError('unsupported', `containerd's ${name} has no image ${config}`);
  return found;
}

async function find(
  containerd: Pick<ContainerdClient, 'content'>,
  digest: string,
  config: string,
  depth: number,
): Promise<PulledImage | undefined> {
  const bytes = await read(containerd, digest, MAX_MANIFEST);
  const parsed = parseManifest(bytes, undefined, digest);
  if (parsed.kind === 'index') {
    if (depth === MAX_DEPTH) return undefined;
    for (const child of parsed.index.manifests.slice(0, MOST_MANIFESTS)) {
      // Those of other platforms are not here.
      const found = await find(containerd, child.digest, config, depth + 1).catch(() => undefined);
      if (found !== undefined) return found;
    }
    return undefined;
  }
  const { manifest } = parsed;
  if (manifest.config.digest !== config) return undefined;
  const { diffIds } = parseConfig(await read(containerd, config, MAX_CONFIG), manifest.layers.length, config);
  const layers = manifest.layers.map(({ digest: blob, size }, at) => ({
    diffId: diffIds[at] as string,
    blob,
    blobSize: size,
  }));
  return { manifest: digest, layers };
}

/** A blob in memory. Errors: containerd's (ConnectError), `unsupported` for one of more than `limit` bytes. */
export async function read(
  { content }: Pick<ContainerdClient, 'content'>,
  digest: string,
  limit: number,
): Promise<Buffer> {
  const pieces: Buffer[] = [];
  let length = 0;
  for await (const { data } of content.read({ digest })) {
    length += data.length;
    if (length > limit) throw new CofaError('unsupported', `${digest} has more than ${limit} bytes`);
    pieces.push(Buffer.from(data));
  }
  return Buffer.concat(pieces);
}
