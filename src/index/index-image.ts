/**
 * The one pass over an image that nobody has prepared: each layer streams once from the registry through the indexer,
 * side by side in threads, and the flat image is built from their tables of contents. `cofa index` pushes the outcome
 * as the image's sidecar; a node that found none keeps it for itself and has the layer devices written on the way.
 */
import { availableParallelism } from 'node:os';
import type { Progress } from '../../schemas/api.ts';
import type { ResolvedImage } from '../registry/client.ts';
import type { Sidecar } from '../registry/sidecars.ts';
import type { IndexedLayer, RegistrySettings } from './layer-job.ts';
import { ThreadPool } from './thread-pool.ts';

export interface IndexImageOptions {
  image: ResolvedImage;
  /** Settings of the registry clients in the threads. */
  registry?: RegistrySettings;
  /** Layers side by side; one a core by default. */
  threads?: number;
  /** Path of a layer's device if it is to be written; see `IndexedLayer.built`. */
  deviceOf?: (diffId: string) => string | undefined;
  /** `index` with compressed bytes for each layer (item: its blob's digest), then `flatten`. */
  onProgress?: (progress: Progress) => void;
  signal?: AbortSignal | undefined;
}

export interface IndexedImage {
  /** As in the image, lowest first; a layer that occurs twice is the same object. */
  layers: IndexedLayer[];
  /** EROFS metadata of the whole image. */
  flat: Buffer;
  /** Indexes into `layers`, in the order of the image's device slots. */
  devices: number[];
}

/**
 * Indexes an image. Errors: those of the registry, `integrity` for a layer that is not what the manifest says,
 * `unsupported` for what no flat image can express, `no-space`; the signal's reason.
 */
export async function indexImage(options: IndexImageOptions): Promise<IndexedImage> {
  const { image, onProgress = () => {} } = options;
  // One failure stops the others: their bytes would be thrown away.
  const stop = new AbortController();
  const signal = options.signal === undefined ? stop.signal : AbortSignal.any([options.signal, stop.signal]);
  const pool = new ThreadPool(options.threads ?? availableParallelism(), options.registry ?? {});
  try {
    const jobs = new Map<string, Promise<IndexedLayer>>();
    // The largest first, so that none is left alone at the end.
    for (const { blob, diffId } of [...image.layers].sort((a, b) => b.blob.size - a.blob.size)) {
      const key = `${blob.digest}/${diffId}`;
      if (jobs.has(key)) continue;
      const device = options.deviceOf?.(diffId);
      const report = (done: number) =>
        onProgress({ phase: 'index', item: blob.digest, done, total: blob.size });
      report(0);
      const job = pool.run(
        {
          kind: 'layer',
          source: { registry: image.reference.registry, repository: image.reference.repository },
          blob: { digest: blob.digest, size: blob.size },
          diffId,
          ...(device === undefined ? {} : { device }),
        },
        { onProgress: report, signal },
      );
      job.catch(() => stop.abort());
      jobs.set(key, job);
    }
    const settled = await Promise.allSettled(jobs.values());
    options.signal?.throwIfAborted();
    for (const outcome of settled) {
      // Those that were stopped because another failed are not the reason.
      if (outcome.status === 'rejected' && outcome.reason !== stop.signal.reason) throw outcome.reason;
    }
    const layers = await Promise.all(
      image.layers.map(({ blob, diffId }) => jobs.get(`${blob.digest}/${diffId}`) as Promise<IndexedLayer>),
    );
    onProgress({ phase: 'flatten' });
    const flat = await pool.run(
      {
        kind: 'flatten',
        tocs: layers.map((layer) => layer.toc),
        layers: layers.map((layer) => ({ diffId: layer.diffId, size: layer.rawSize })),
      },
      { signal },
    );
    return { layers, flat: flat.metadata, devices: flat.devices };
  } finally {
    await pool.close();
  }
}

/** What is pushed beside the image. */
export function sidecarOf(indexed: IndexedImage): Sidecar {
  return {
    flat: indexed.flat,
    layers: indexed.layers.map(({ diffId, blobDigest, spans, toc }) => ({ diffId, blobDigest, spans, toc })),
  };
}
