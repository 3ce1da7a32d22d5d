/**
 * The sidecar of an image in the registry: an OCI artifact (image-spec v1.1, "Guidelines for Artifact Usage") beside
 * the image, which it never touches.
 *
 *     manifest   artifactType application/vnd.cofa.sidecar.v1, subject = the image's manifest,
 *                config = the empty descriptor, annotation io.cofa.revision; no subject where the image names it
 *                (named-sidecar.ts)
 *       flat     application/vnd.cofa.flat.v1.erofs+zstd    once
 *       spans    application/vnd.cofa.spans.v1+zstd         \ for each layer of the image, found by the annotations
 *       toc      application/vnd.cofa.toc.v1+zstd           / io.cofa.layer.diffid and io.cofa.layer.blob
 *       hints    application/vnd.cofa.hints.v1+zstd         at most once; named by the manifest's annotation io.cofa.hints
 *
 * Small blobs that a start needs are also in their descriptors (`data`), which saves the start a request each.
 *
 * Compressed blobs name their uncompressed size in `io.cofa.size`, so that a reader never unpacks more. A reader
 * ignores blobs of other types: later versions may add some that this one can do without. Layers that occur several
 * times in an image are described once. The sidecar has no date: the same input gives the same bytes.
 *
 * An image may have several sidecars. `io.cofa.revision` counts changes in what the builder makes of the same image. A
 * reader takes the highest revision, of equal ones one with hints, of these the lowest digest, so all nodes choose
 * alike. It skips malformed ones with a reason. In the fallback list of referrers a push replaces the sidecars of its
 * own and earlier revisions (same artifact type, marked by that annotation). Where the registry keeps the list, older
 * sidecars stay, since only their owner may delete them.
 */
import { countOf, type Descriptor, type ResolvedImage } from './manifest.ts';
import { SIDECAR_ARTIFACT } from './named-sidecar.ts';

/** What the indexer makes of an image; uncompressed. */
export interface Sidecar {
  /** The flat image's EROFS metadata. */
  flat: Buffer;
  /** One for each layer of the image, lowest first; `spans` and `toc` are encoded. */
  layers: Array<{ diffId: string; blobDigest: string; spans: Buffer; toc: Buffer }>;
  /** The blocks that its start is likely to read, encoded (src/image/hints/hints.ts); undefined: none are known. */
  hints?: Buffer | undefined;
}

export const SIDECAR_TYPES = {
  artifact: SIDECAR_ARTIFACT,
  flat: 'application/vnd.cofa.flat.v1.erofs+zstd',
  spans: 'application/vnd.cofa.spans.v1+zstd',
  toc: 'application/vnd.cofa.toc.v1+zstd',
  hints: 'application/vnd.cofa.hints.v1+zstd',
} as const;

/** Counts changes of the builder's output for the same image; see above. */
export const SIDECAR_REVISION = 1;

export const ANNOTATIONS = {
  diffId: 'io.cofa.layer.diffid',
  blob: 'io.cofa.layer.blob',
  size: 'io.cofa.size',
  revision: 'io.cofa.revision',
  hints: 'io.cofa.hints',
} as const;

export const HINTS_VERSION = '1';
export const hasHints = (entry: Descriptor): boolean =>
  entry.annotations?.[ANNOTATIONS.hints] === HINTS_VERSION;

export function revisionOf(entry: Descriptor): number | undefined {
  return countOf(entry.annotations?.[ANNOTATIONS.revision]);
}

/** Bytes of an image's layers in the registry. */
export const blobBytes = ({ layers }: Pick<ResolvedImage, 'layers'>): number =>
  layers.reduce((sum, { blob }) => sum + blob.size, 0);
