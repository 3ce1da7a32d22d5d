/**
 * The one pass over an image without a sidecar: each layer streams once from the registry through the indexer, which
 * builds the flat image from the layers' tables of contents. `cofa index` pushes the outcome as the image's sidecar. A
 * node that found no sidecar keeps the outcome for itself, and the pass also writes the layer devices.
 *
 *     this thread     registry ─▶ pieces (pieces.ts)          tables of contents ─▶ flat image
 *                                   │      ▲ used                 ▲
 *     layer-thread    ──────────────┴─▶ decode, hash, write ──────┘ ─▶ device synced
 *
 * Steps overlap where they can: threads load their code while the first bytes arrive, this thread reads layers ahead of
 * the threads, and it builds the flat image while the last devices are on their way to the disk.
 */
import { availableParallelism } from 'node:os';
import type { Progress } from '../../schemas/api.ts';
import type { FlatImage } from '../image/erofs.ts';
import type { Toc } from '../image/toc.ts';
import type { RegistryClient, ResolvedImage } from '../registry/client.ts';
import type { Sidecar } from '../registry/sidecars.ts';
import { readUntilRight } from '../registry/wrong-bytes.ts';
import type { IndexedLayer, LayerContents, RegistrySettings } from './layer-job.ts';
import { Pieces } from './pieces.ts';
import type { RawBudget } from './raw-budget.ts';
import { ThreadPool } from './thread-pool.ts';

export interface IndexImageOptions {
  image: ResolvedImage;
  /** Settings of the registry client that brings the layers. */
  registry?: RegistrySettings;
  /** Layers side by side; one a core by default. */
  threads?: number;
  /** Threads that run already; they end with the image. */
  pool?: ThreadPool;
  /** Root of the store in which the pass is to leave the layers' devices; see `IndexedLayer.built`. Undefined: it leaves none. */
  store?: string;
  /** What the devices count against. */
  budget?: RawBudget;
  /** Called once, when every thread is at work: by then the code is loaded. */
  onBegun?: () => void;
  /** Called with each layer as soon as it is complete; the pass waits for the promise. */
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
  // The largest first, so that none is left alone at the end.
  const unique = new Map(
    options.image.layers
      .toSorted((a, b) => b.blob.size - a.blob.size)
      .map((layer) => [keyOf(layer), layer] as const),
  );
  const most = options.threads ?? availableParallelism();
  const threads = Math.max(1, Math.min(most, unique.size));
  const lone = loneOf([...unique.values()]);
  const pool = options.pool ?? new ThreadPool(lone === undefined ? threads : Math.min(most, threads + 1));
  const { RegistryClient } = await import('../registry/client.ts');
  const registry = new RegistryClient(options.registry);
  try {
    return await new ImagePass(options, { unique, threads, pool, registry, lone }).run();
  } finally {
    // No job runs any more. To free what the threads hold takes as long as the rest of the end, so nothing waits for
    // it.
    void pool.close();
    await registry.close();
  }
}

interface PassParts {
  /** The image's layers by `keyOf`, each once. */
  unique: ReadonlyMap<string, Layer>;
  threads: number;
  pool: ThreadPool;
  registry: RegistryClient;
  lone: Layer | undefined;
}

/** One pass over the layers of one image. A failure stops the other layers: their bytes would be thrown away. */
class ImagePass {
  readonly #options: IndexImageOptions;
  readonly #parts: PassParts;
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;
  readonly #large: Turns;
  readonly #small = new Turns(SMALL_AT_ONCE);
  /** Keys of layers whose bytes a thread has used. */
  readonly #begun = new Set<string>();
  readonly #contents: ReadonlyMap<string, PromiseWithResolvers<LayerContents>>;

  constructor(options: IndexImageOptions, parts: PassParts) {
    this.#options = options;
    this.#parts = parts;
    const own = this.#stop.signal;
    this.#signal = options.signal === undefined ? own : AbortSignal.any([options.signal, own]);
    this.#large = new Turns(parts.threads + 1);
    this.#contents = new Map(
      [...parts.unique.keys()].map((key) => [key, Promise.withResolvers<LayerContents>()]),
    );
  }

  async run(): Promise<IndexedImage> {
    const flattened = this.#flatten();
    // Where a layer fails this promise never settles, or has nothing to add.
    flattened.catch(() => this.#stop.abort());
    const jobs = new Map<string, Promise<IndexedLayer>>();
    for (const [key, layer] of this.#parts.unique) {
      const job = this.#index(key, layer);
      job.catch(() => this.#stop.abort());
      jobs.set(key, job);
    }
    await this.#settle([...jobs.values()]);
    // If the flat image failed and its failure stopped the layers, this says why.
    const { metadata, devices } = await flattened;
    const layers = await Promise.all(
      this.#options.image.layers.map((layer) => jobs.get(keyOf(layer)) as Promise<IndexedLayer>),
    );
    return { layers, flat: metadata, devices };
  }

  /** Waits for all layers. Throws the caller's reason, else the first failure that is not our own stop. */
  async #settle(jobs: ReadonlyArray<Promise<IndexedLayer>>): Promise<void> {
    const settled = await Promise.allSettled(jobs);
    this.#options.signal?.throwIfAborted();
    for (const outcome of settled) {
      if (outcome.status === 'rejected' && outcome.reason !== this.#stop.signal.reason) throw outcome.reason;
    }
  }

  /** Builds the flat image when the contents of all layers are known. */
  async #flatten(): Promise<FlatImage> {
    const { image, onProgress } = this.#options;
    const [{ buildFlat }, { decodeToc }] = await Promise.all([
      import('../image/erofs.ts'),
      import('../image/toc-codec.ts'),
    ]);
    const parts = new Map<string, { rawSize: number; toc: Toc }>();
    const found = [...this.#contents].map(async ([key, { promise }]) => {
      const { rawSize, toc } = await promise;
      // Decodes while the other layers still arrive.
      parts.set(key, { rawSize, toc: decodeToc(toc) });
    });
    await Promise.all(found);
    onProgress?.({ phase: 'flatten' });
    const all = image.layers.map((layer) => ({ diffId: layer.diffId, ...parts.get(keyOf(layer)) }));
    return buildFlat(
      all.map(({ toc }) => toc as Toc),
      all.map(({ diffId, rawSize }) => ({ diffId, size: rawSize as number })),
    );
  }

  /**
   * Indexes one layer in its turn. The turn ends when the thread has read the layer: its device may still be written.
   */
  async #index(key: string, { blob, diffId, file }: Layer): Promise<IndexedLayer> {
    const { store, onLayer } = this.#options;
    this.#report(key, blob, 0);
    const endTurn = await (blob.size <= SMALL ? this.#small : this.#large).next();
    const hashBeside = blob.digest === this.#parts.lone?.blob.digest;
    const run = () =>
      this.#parts.pool.run(
        {
          blob,
          diffId,
          file,
          ...(store === undefined ? {} : { store }),
          budget: this.#options.budget,
          hashBeside,
        },
        this.#open(blob),
        {
          onProgress: (done) => this.#report(key, blob, done),
          onContents: (found) => {
            endTurn();
            this.#contents.get(key)?.resolve(found);
          },
          signal: this.#signal,
        },
      );
    try {
      const { registry } = this.#parts;
      const { reference } = this.#options.image;
      const { value: layer } = await readUntilRight(run, () => registry.doubt(reference, blob));
      registry.right(reference, blob, [[0, blob.size]]);
      await onLayer?.(layer);
      return layer;
    } finally {
      endTurn();
    }
  }

  /** The compressed bytes of a layer. The thread that decodes them compares their digest. */
  #open(blob: Layer['blob']): Pieces {
    const { image } = this.#options;
    return new Pieces(
      (own) => this.#parts.registry.blobRange(image.reference, blob, 0, blob.size, own),
      this.#signal,
    );
  }

  /** `done`: compressed bytes of the layer that its thread has used. */
  #report(key: string, blob: Layer['blob'], done: number): void {
    const { threads } = this.#parts;
    const isNew = done > 0 && this.#begun.size < threads && !this.#begun.has(key);
    if (isNew && this.#begun.add(key).size === threads) this.#options.onBegun?.();
    this.#options.onProgress?.({ phase: 'index', item: blob.digest, done, total: blob.size });
  }
}

type Layer = ResolvedImage['layers'][number];

/**
 * Large layers are requested one more at a time than there are threads, so that the first bytes of the next are there
 * when a thread is free. Small ones, up to this size, wait for round trips more than for bytes: they are requested
 * while the large ones arrive.
 */
const SMALL = 262_144;
const SMALL_AT_ONCE = 16;

/** The layer, if there is one, that takes so much longer than all others that a thread is idle meanwhile. */
function loneOf(largestFirst: readonly Layer[]): Layer | undefined {
  const [largest, ...others] = largestFirst;
  const rest = others.reduce((sum, { blob }) => sum + blob.size, 0);
  return largest !== undefined && largest.blob.size >= LEAST_LONE && rest < largest.blob.size / 4
    ? largest
    : undefined;
}

/** Bytes from which a second thread, where it has to be started, saves more than it costs. */
const LEAST_LONE = 8 << 20;

/** The same bytes may be files of several names. */
const keyOf = ({ blob, diffId, file }: Layer): string =>
  `${blob.digest}/${diffId}/${file === undefined ? '' : JSON.stringify(file)}`;

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
