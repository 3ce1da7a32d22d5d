/** The layers of the images that containerd has, without their blobs: from manifests and configurations. */
import { Code } from '@connectrpc/connect';
import { chainIds } from '../digest/chain-id.ts';
import { MAX_CONFIG, MAX_MANIFEST, parseConfig, parseManifest } from '../registry/manifest.ts';
import { parseReference, type Reference } from '../registry/reference.ts';
import { type ContainerdClient, isCode } from './client.ts';
import { read } from './pulled-image.ts';

export interface ImageLayer {
  digest: string;
  /** Bytes. */
  size: number;
  /** ChainID of this layer with all below it. */
  chain: string;
}

/** Layers by the digest of their manifest, which stay what they are: lowest first. */
export type KnownLayers = Map<string, ImageLayer[]>;

/** Manifests that are remembered. */
const MOST_KNOWN = 10_000;
/** Manifests of one index that are looked at. */
const MOST_MANIFESTS = 256;

/**
 * Each image of the client's namespace with the layers of those of its manifests that are here. Errors: containerd's
 * (ConnectError); an image that cannot be understood is left out.
 */
export async function imageLayers(
  containerd: ContainerdClient,
  known: KnownLayers,
): Promise<Array<{ source: Reference; layers: ImageLayer[] }>> {
  const { images } = await containerd.images.list({});
  const found: Array<{ source: Reference; layers: ImageLayer[] }> = [];
  for (const { name, target } of images) {
    try {
      const source = parseReference(name);
      const layers = await layersBelow(containerd, target?.digest ?? '', known, true);
      if (layers.length > 0) found.push({ source, layers });
    } catch (error) {
      if (isCode(error, Code.Unavailable) || isCode(error, Code.DeadlineExceeded)) throw error;
    }
  }
  return found;
}

async function layersBelow(
  containerd: ContainerdClient,
  digest: string,
  known: KnownLayers,
  mayBeIndex: boolean,
): Promise<ImageLayer[]> {
  const before = known.get(digest);
  if (before !== undefined) return before;
  const parsed = parseManifest(await read(containerd, digest, MAX_MANIFEST), undefined, digest);
  if (parsed.kind === 'index') {
    if (!mayBeIndex) return [];
    const layers: ImageLayer[] = [];
    for (const child of parsed.index.manifests.slice(0, MOST_MANIFESTS)) {
      // Those of other platforms are not here.
      const found = await layersBelow(containerd, child.digest, known, false).catch(() => []);
      layers.push(...found);
    }
    return layers;
  }
  const { config, layers } = parsed.manifest;
  const bytes = await read(containerd, config.digest, MAX_CONFIG);
  const chains = chainIds(parseConfig(bytes, layers.length, config.digest).diffIds);
  const found = layers.map(({ digest, size }, at) => ({ digest, size, chain: chains[at] as string }));
  if (known.size < MOST_KNOWN) known.set(digest, found);
  return found;
}
