/** What the threads that index layers are asked and what they answer; plain data, copied or moved between threads. */
import type { ErrorRecord } from '../../schemas/errors.ts';
import type { LayerDevice } from '../image/erofs.ts';
import type { RegistryClientOptions, Source } from '../registry/client.ts';

/** The settings of a registry client that can be handed to another thread. */
export type RegistrySettings = Pick<
  RegistryClientOptions,
  'dockerConfig' | 'certDirs' | 'insecure' | 'retry' | 'timeouts' | 'connections'
>;

/** Stream one layer from the registry through the indexer. */
export interface LayerJob {
  kind: 'layer';
  source: Source;
  blob: { digest: string; size: number };
  diffId: string;
  /** Where the layer device is to lie afterwards, whole and proven; undefined: it is not wanted. */
  device?: string;
}

/** Build the flat image from encoded tables of contents, lowest layer first. */
export interface FlattenJob {
  kind: 'flatten';
  tocs: Uint8Array[];
  layers: LayerDevice[];
}

export type Job = LayerJob | FlattenJob;

export interface IndexedLayer {
  diffId: string;
  /** Bytes of the uncompressed tar. */
  rawSize: number;
  compression: 'gzip' | 'zstd' | 'none';
  blobDigest: string;
  blobSize: number;
  spanCount: number;
  /** Encoded, uncompressed (toc-codec.ts). */
  toc: Buffer;
  /** Encoded (span-table.ts). */
  spans: Buffer;
  /** The device was wanted and lies there. */
  built: boolean;
}

export interface FlattenResult {
  metadata: Buffer;
  /** Indexes into the layers, in the order of the image's device slots. */
  devices: number[];
}

export type ToThread = { id: number; job: Job } | { id: number; abort: true };
export type FromThread =
  | { id: number; kind: 'progress'; done: number }
  | { id: number; kind: 'done'; result: IndexedLayer | FlattenResult }
  | { id: number; kind: 'failed'; error: ErrorRecord };
