/** Pushes what the indexer made of an image: beside the image, or named by a copy of it (sidecar-format.ts). */
import { availableParallelism } from 'node:os';
import { promisify } from 'node:util';
import { constants, zstdCompress } from 'node:zlib';
import { CofaError } from '../../schemas/errors.ts';
import { digestOf } from '../digest/digest.ts';
import type { Descriptor, RegistryClient, ResolvedImage } from './client.ts';
import { MEDIA_TYPES } from './manifest.ts';
import { namingManifest } from './named-sidecar.ts';
import {
  ANNOTATIONS,
  blobBytes,
  HINTS_VERSION,
  revisionOf,
  SIDECAR_REVISION,
  SIDECAR_TYPES,
  type Sidecar,
} from './sidecar-format.ts';
import { type PartKind, sizeProblem } from './sidecar-limits.ts';

/** Largest packed blob that its descriptor carries as well, bytes: a request costs a registry more than these. */
const MOST_EMBEDDED = 1_024;
/** zstd's. Level 19 makes a sidecar 9 % smaller, and would take a fifth of all the time of indexing. */
const LEVEL = 12;
/** Blobs compressed and sent at a time; each of zstd's contexts takes some 20 MB at this level. */
const PARALLEL = Math.min(4, availableParallelism());

/** `{}`, the configuration of artifacts that have none (image-spec, "Guidance for an Empty Descriptor"). */
const EMPTY = Buffer.from('{}');
const compress = promisify(zstdCompress);

/**
 * Pushes the sidecar of an image to the image's repository and makes it a referrer of the image's manifest. Returns
 * the descriptor of its manifest. The same sidecar again changes nothing.
 */
export async function pushSidecar(
  client: RegistryClient,
  image: ResolvedImage,
  sidecar: Sidecar,
  signal?: AbortSignal,
): Promise<Descriptor> {
  const { mediaType, digest, size } = image.descriptor;
  const manifest = await pushParts(client, image, sidecar, { mediaType, digest, size }, signal);
  return await client.pushManifest(image.reference, manifest, MEDIA_TYPES.ociManifest, undefined, {
    replaces: (entry) =>
      entry.artifactType === SIDECAR_TYPES.artifact && within(revisionOf(entry), 1, SIDECAR_REVISION),
    ...(signal === undefined ? {} : { signal }),
  });
}

/**
 * Pushes a copy of the image's manifest that names this sidecar (named-sidecar.ts) under a tag of the same repository, and
 * the sidecar. Returns the descriptors of both manifests. Error: `unsupported` for layers without a type in OCI's form.
 */
export async function pushNamedSidecar(
  client: RegistryClient,
  image: ResolvedImage,
  sidecar: Sidecar,
  tag: string,
  signal?: AbortSignal,
): Promise<{ image: Descriptor; sidecar: Descriptor }> {
  const source = image.reference;
  const own = await pushParts(client, image, sidecar, undefined, signal);
  const naming = namingManifest(image, digestOf(own));
  const options = signal === undefined ? {} : { signal };
  // Before the image that names it.
  const pushed = await client.pushManifest(source, own, MEDIA_TYPES.ociManifest, naming.sidecarTag, options);
  return {
    sidecar: pushed,
    image: await client.pushManifest(source, naming.bytes, naming.mediaType, tag, options),
  };
}

/** Pushes the blobs of a sidecar. Returns its manifest, which is not pushed. */
async function pushParts(
  client: RegistryClient,
  image: ResolvedImage,
  sidecar: Sidecar,
  subject: Descriptor | undefined,
  signal: AbortSignal | undefined,
): Promise<Buffer> {
  const source = image.reference;
  checkDescribes(sidecar, image);
  const blobs = await inParallel(
    sidecarParts(sidecar, image).map((part) => () => pushPart(client, source, part, signal)),
    PARALLEL,
  );
  const config = await client.pushBlob(source, EMPTY, MEDIA_TYPES.ociEmpty, signal);
  return Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MEDIA_TYPES.ociManifest,
      artifactType: SIDECAR_TYPES.artifact,
      config,
      layers: blobs,
      ...(subject === undefined ? {} : { subject }),
      annotations: {
        [ANNOTATIONS.revision]: `${SIDECAR_REVISION}`,
        ...(sidecar.hints === undefined ? {} : { [ANNOTATIONS.hints]: HINTS_VERSION }),
      },
    }),
  );
}

/** Error: `invalid-argument` for a sidecar of other layers. */
function checkDescribes({ layers }: Sidecar, image: ResolvedImage): void {
  const isSame = image.layers.every(
    ({ diffId, blob }, i) => layers[i]?.diffId === diffId && layers[i]?.blobDigest === blob.digest,
  );
  if (!isSame || layers.length !== image.layers.length)
    throw new CofaError(
      'invalid-argument',
      `the sidecar does not describe the layers of ${image.reference.text}`,
    );
}

/** One blob of a sidecar, not yet compressed. */
interface SidecarPart {
  kind: PartKind | 'hints';
  /** Bytes of the layers' blobs that it describes. */
  described: number;
  bytes: Buffer;
  mediaType: string;
  annotations: Record<string, string>;
}

/** The blobs of a sidecar in their order; each layer once. */
function sidecarParts(sidecar: Sidecar, image: ResolvedImage): SidecarPart[] {
  const parts: SidecarPart[] = [];
  const add = (kind: SidecarPart['kind'], bytes: Buffer, described: number, annotations = {}) =>
    parts.push({ kind, bytes, described, mediaType: SIDECAR_TYPES[kind], annotations });
  add('flat', sidecar.flat, blobBytes(image));
  const described = new Set<string>();
  for (const [i, { diffId, blobDigest, spans, toc }] of sidecar.layers.entries()) {
    const key = `${diffId} ${blobDigest}`;
    if (described.has(key)) continue;
    described.add(key);
    const annotations = { [ANNOTATIONS.diffId]: diffId, [ANNOTATIONS.blob]: blobDigest };
    const size = image.layers[i]?.blob.size ?? 0;
    add('spans', spans, size, annotations);
    add('toc', toc, size, annotations);
  }
  if (sidecar.hints !== undefined) add('hints', sidecar.hints, 0);
  return parts;
}

/** Compresses and pushes a part. A small one that a start needs is also in its descriptor. Error: `unsupported`. */
async function pushPart(
  client: RegistryClient,
  source: ResolvedImage['reference'],
  { kind, described, bytes, mediaType, annotations }: SidecarPart,
  signal: AbortSignal | undefined,
): Promise<Descriptor> {
  const body = await pack(bytes);
  const sizes = { packed: body.length, unpacked: bytes.length };
  const problem = kind === 'hints' ? undefined : sizeProblem(kind, sizes, described);
  if (problem !== undefined)
    throw new CofaError(
      'unsupported',
      `no node would take the sidecar of ${source.text}: its ${mediaType} ${problem}`,
    );
  const descriptor = await client.pushBlob(source, body, mediaType, signal);
  const isCarried = mediaType !== SIDECAR_TYPES.toc && body.length <= MOST_EMBEDDED;
  return {
    ...descriptor,
    ...(isCarried ? { data: body.toString('base64') } : {}),
    annotations: { ...annotations, [ANNOTATIONS.size]: `${bytes.length}` },
  };
}

/** Runs the work, `limit` pieces at a time; results in order. After a failure it begins no further piece. */
async function inParallel<T>(work: ReadonlyArray<() => Promise<T>>, limit: number): Promise<T[]> {
  const results: T[] = [];
  let next = 0;
  let failed = false;
  const lane = async () => {
    for (let i = next++; i < work.length && !failed; i = next++) {
      try {
        results[i] = await (work[i] as () => Promise<T>)();
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  await Promise.all(Array.from({ length: limit }, lane));
  return results;
}

/** The same bytes and the same zstd give the same result. */
async function pack(bytes: Buffer): Promise<Buffer> {
  return await compress(bytes, {
    params: {
      [constants.ZSTD_c_compressionLevel]: LEVEL,
      [constants.ZSTD_c_contentSizeFlag]: 1,
      // The blob's digest is the checksum.
      [constants.ZSTD_c_checksumFlag]: 0,
    },
    pledgedSrcSize: bytes.length,
  });
}

function within(value: number | undefined, lowest: number, highest: number): boolean {
  return value !== undefined && value >= lowest && value <= highest;
}
