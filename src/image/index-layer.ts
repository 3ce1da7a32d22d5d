import type { Compression, SpanTable } from './span-table.ts';
import type { Toc } from './toc.ts';

export interface LayerIndex {
  diffId: string;
  rawSize: number;
  compression: Compression;
  blobDigest: string;
  blobSize: number;
  toc: Toc;
  spans: SpanTable;
}

export interface IndexOptions {
  /** What the manifest and the image config say about the layer; a difference is CofaError('integrity'). */
  expect?: { digest?: string; size?: number; diffId?: string };
  onRaw?: (offset: number, bytes: Buffer) => void | Promise<void>;
  onProgress?: (compressedBytes: number) => void;
  signal?: AbortSignal;
}

export function indexLayer(_blob: AsyncIterable<Uint8Array>, _options: IndexOptions): Promise<LayerIndex> {
  throw new Error('not written yet');
}
