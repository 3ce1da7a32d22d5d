/**
 * What the supervisor orders from the indexer's processes, and what they answer. Both ends are checked against these types;
 * neither program imports the other.
 */
import type { ImageDevice } from '../../actors/device.ts';
import type { Progress } from '../../schemas/api.ts';
import type { ErrorRecord } from '../../schemas/errors.ts';
import type { ResolvedImage } from '../registry/client.ts';
import type { Layout } from '../store/layout.ts';
import type { RebuildOrder } from './rebuild-flat.ts';

/** src/indexer/main.ts indexes one image. */
export interface ToIndexer {
  root: string;
  manifest: string;
  image: ResolvedImage;
}

export interface NodeIndex {
  /** Digest of the flat metadata. */
  flat: string;
  devices: ImageDevice[];
}

export type FromIndexer =
  | { kind: 'progress'; progress: Progress }
  | { kind: 'done'; index: NodeIndex }
  | { kind: 'failed'; error: ErrorRecord };

/** src/indexer/flattener.ts builds one flat image from tables of contents. */
export interface ToFlattener {
  /** File that takes the flat metadata. */
  target: string;
  /** The lowest first; `toc`: file with the encoded table of contents, `size`: raw bytes. */
  layers: Array<{ diffId: string; size: number; toc: string }>;
}

export type FromFlattener =
  /** `flat`: digest of the metadata; `devices`: indexes of the layers that it needs. */
  { kind: 'done'; flat: string; devices: number[] } | { kind: 'failed'; error: ErrorRecord };

/** src/indexer/rebuilder.ts rebuilds one flat image from its layers. */
export interface RebuilderOrder extends RebuildOrder {
  root: string;
  manifest: string;
  expected: string | undefined;
}

/** Of the flat metadata that the layers give. */
export interface Rebuilt extends NodeIndex {
  /** How those that were expected differ from them; undefined: byte for byte the same. */
  difference: string | undefined;
  /** File of the rebuilt metadata where they are others, synced: `rebuiltPath`. */
  path: string;
}

/**
 * Where a rebuild leaves metadata that differ from those in use. The supervisor uses or removes the file, also after a
 * failure. It is a draft: the next start removes what a crash leaves.
 */
export const rebuiltPath = (layout: Layout, manifest: string, background: boolean): string =>
  `${layout.flat(manifest)}.${background ? 'rebuilt' : 'own'}.draft`;
