/**
 * The one pass over an image that nobody has prepared: each layer streams once from the registry through the indexer,
 * and the flat image is built from their tables of contents. `cofa index` pushes the outcome as the image's sidecar; a
 * node that found none keeps it for itself and has the layer devices written on the way.
 *
 *     this thread     registry ─▶ pieces (pieces.ts)          tables of contents ─▶ flat image
 *                                   │      ▲ used                 ▲
 *     layer-thread    ──────────────┴─▶ decode, hash, write ──────┘ ─▶ device synced
 *
 * Nothing waits that need not: threads load their code while the first bytes come, layers are read ahead of the
 * threads, and the flat image is built while the last devices are on their way to the disk.
 */
import { availableParallelism } from 'node:os';
import type { Progress } from '../../schemas/api.ts';
import type { Toc } from '../image/toc.ts';
import type { ResolvedImage } from '../registry/client.ts';
import type { Sidecar } from '../registry/sidecars.ts';
import type { IndexedLayer, LayerContents, RegistrySettings } from './layer-job.ts';
import { Pieces } from './pieces.ts';
import { ThreadPool } from './thread-pool.ts';

export interface IndexImageOptions {
  image: ResolvedImage;
  /** Settings of the registry client that brings the layers. */
  registry?: RegistrySettings;
  /** Layers side by side; one a core by default. */
  threads?: number;
  /** Threads that are there already; they end with the image. */
  pool?: ThreadPool;
  /** Path of a layer's device if it is to be written; see `IndexedLayer.built`. */
  deviceOf?: (diffId: string) => string | undefined;
  /** Called once, when every thread is at work: by then the code is loaded. */
  onBegun?: () => void;
  /** Called with each layer as soon as it is complete; what it returns is waited for. */
  onLayer?: (layer: IndexedLayer) => Promise<void>;
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
  // The largest first, so that none is left alone at the end.
  const unique = new Map(
    image.layers.toSorted((a, b) => b.blob.size - a.blob.size).map((layer) => [keyOf(layer), layer] as const),
  );
  const threads = Math.max(1, Math.min(options.threads ?? availableParallelism(), unique.size));
  const pool = options.pool ?? new ThreadPool(threads);
  const { RegistryClient } = await import('../registry/client.ts');
  const registry = new RegistryClient(options.registry);
  try {
    const large = new Turns(threads + 1);
    const small = new Turns(SMALL_AT_ONCE);
    const begun = new Set<string>();
    const contents = new Map([...unique.keys()].map((key) => [key, Promise.withResolvers<LayerContents>()]));
    const flattened = (async () => {
      const [{ buildFlat }, { decodeToc }] = await Promise.all([
        import('../image/erofs.ts'),
        import('../image/toc-codec.ts'),
      ]);
      const parts = new Map<string, { rawSize: number; toc: Toc }>();
      const found = [...contents].map(async ([key, { promise }]) => {
        const { rawSize, toc } = await promise;
        // While the others are on their way.
        parts.set(key, { rawSize, toc: decodeToc(toc) });
      });
      await Promise.all(found);
      onProgress({ phase: 'flatten' });
      const all = image.layers.map((layer) => ({ diffId: layer.diffId, ...parts.get(keyOf(layer)) }));
      return buildFlat(
        all.map(({ toc }) => toc as Toc),
        all.map(({ diffId, rawSize }) => ({ diffId, size: rawSize as number })),
      );
    })();
    // Where a layer fails this waits for good, or has nothing to add.
    flattened.catch(() => stop.abort());
    const index = async (key: string, { blob, diffId }: (typeof image.layers)[number]) => {
      const device = options.deviceOf?.(diffId);
      const report = (done: number) => {
        if (done > 0 && begun.size < threads && begun.add(key).size === threads) options.onBegun?.();
        onProgress({ phase: 'index', item: blob.digest, done, total: blob.size });
      };
      report(0);
      const over = await (blob.size <= SMALL ? small : large).next();
      try {
        const source = new Pieces(
          // Its digest is looked at where it is decoded.
          (own) => registry.blobRange(image.reference, blob, 0, blob.size, own),
          signal,
        );
        const layer = await pool.run({ blob, diffId, ...(device === undefined ? {} : { device }) }, source, {
          onProgress: report,
          onContents: (found) => {
            over();
            contents.get(key)?.resolve(found);
          },
          signal,
        });
        await options.onLayer?.(layer);
        return layer;
      } finally {
        over();
      }
    };
    const jobs = new Map<string, Promise<IndexedLayer>>();
    for (const [key, layer] of unique) {
      const job = index(key, layer);
      job.catch(() => stop.abort());
      jobs.set(key, job);
    }
    const settled = await Promise.allSettled(jobs.values());
    options.signal?.throwIfAborted();
    for (const outcome of settled) {
      // Those that were stopped because another failed are not the reason.
      if (outcome.status === 'rejected' && outcome.reason !== stop.signal.reason) throw outcome.reason;
    }
    // If nothing failed but was stopped, this says why.
    const { metadata, devices } = await flattened;
    const layers = await Promise.all(
      image.layers.map((layer) => jobs.get(keyOf(layer)) as Promise<IndexedLayer>),
    );
    return { layers, flat: metadata, devices };
  } finally {
    // Nothing runs any more, and to take down what the threads have takes as long as the rest of the end.
    void pool.close();
    await registry.close();
  }
}

/**
 * A large layer more is asked for than there are threads, so that its first bytes are there when a thread is free; small
 * ones, which wait for round trips more than for bytes, are asked for while the large ones come.
 */
const SMALL = 262_144;
const SMALL_AT_ONCE = 16;

const keyOf = ({ blob, diffId }: ResolvedImage['layers'][number]): string => `${blob.digest}/${diffId}`;

/** So many at a time, in the order in which they came. */
class Turns {
  #free: number;
  readonly #waiting: Array<() => void> = [];

  constructor(free: number) {
    this.#free = free;
  }

  /** Resolves with a function that ends the turn; only its first call counts. */
  async next(): Promise<() => void> {
    if (this.#free > 0) this.#free -= 1;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    let isOver = false;
    return () => {
      if (isOver) return;
      isOver = true;
      const next = this.#waiting.shift();
      if (next === undefined) this.#free += 1;
      else next();
    };
  }
}

/** What is pushed beside the image. */
export function sidecarOf(indexed: IndexedImage, hints?: Buffer): Sidecar {
  return {
    flat: indexed.flat,
    hints,
    layers: indexed.layers.map(({ diffId, blobDigest, spans, toc }) => ({ diffId, blobDigest, spans, toc })),
  };
}
