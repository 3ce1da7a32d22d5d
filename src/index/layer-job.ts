/** What the main thread orders from the threads that index layers, and their answers; plain data, copied or moved. */
import type { MessagePort } from 'node:worker_threads';
import type { ErrorRecord } from '../../schemas/errors.ts';
import type { LayerFile } from '../../schemas/events.ts';
import type { RegistryClientOptions } from '../registry/client.ts';
import type { RawBudget } from './raw-budget.ts';

/** Settings of the registry client that brings the layers. */
export type RegistrySettings = Pick<
  RegistryClientOptions,
  'dockerConfig' | 'certDirs' | 'hostDirs' | 'insecure' | 'retry' | 'timeouts' | 'connections'
>;

/** Index one layer, whose compressed bytes follow. */
export interface LayerJob {
  blob: { digest: string; size: number };
  diffId: string;
  /** The layer is this file, as it is; undefined: a tar. */
  file?: LayerFile | undefined;
  /** Root of the store in which the layer device is to lie afterwards, whole and verified; undefined: the caller wants none. */
  store?: string;
  /** What the device counts against; undefined: the disk alone bounds it. */
  budget?: RawBudget | undefined;
  /** A thread that is idle is to hash for this one: the layer takes longer than all others together. */
  hashBeside?: boolean;
}

/** What the flat image needs of a layer: known and verified before the layer's device is on the disk. */
export interface LayerContents {
  /** Bytes of the layer, uncompressed. */
  rawSize: number;
  /** Encoded, uncompressed (toc-codec.ts). */
  toc: Buffer;
}

export interface IndexedLayer extends LayerContents {
  diffId: string;
  compression: 'gzip' | 'zstd' | 'none';
  blobDigest: string;
  blobSize: number;
  spanCount: number;
  /** Encoded (span-table.ts). */
  spans: Buffer;
  /** Block root of the span table. */
  root: string;
  /** The caller wanted the device, and it lies there. */
  built: boolean;
}

/** What the thread adds when the layer's device is on the disk. */
export type Rest = Omit<IndexedLayer, keyof LayerContents>;

/**
 * `bytes`: compressed ones, moved; `end`: no more follow. `beside`: who hashes for it; `hash`: for whom to hash
 * (hash-beside.ts).
 */
export type ToThread =
  | { id: number; job: LayerJob; beside?: MessagePort | undefined }
  | { hash: MessagePort }
  | { id: number; bytes: Uint8Array<SharedArrayBuffer> }
  | { id: number; end: true }
  | { id: number; abort: true };

/** `taken` gives back a piece of compressed bytes that the thread has used. After `contents` it takes the next job. */
export type FromThread =
  | { id: number; kind: 'taken'; bytes: Uint8Array<SharedArrayBuffer> }
  | { id: number; kind: 'contents'; contents: LayerContents }
  | { id: number; kind: 'done'; rest: Rest }
  | { id: number; kind: 'failed'; error: ErrorRecord };
