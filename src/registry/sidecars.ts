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
import { availableParallelism } from 'node:os';
import { promisify } from 'node:util';
import { constants, zstdCompress, zstdDecompress } from 'node:zlib';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import { digestOf } from '../digest/digest.ts';
import { MAX_HINTS } from '../image/hints/hints.ts';
import { ByteBudget } from './byte-budget.ts';
import type { Descriptor, ImageManifest, RegistryClient, ResolvedImage } from './client.ts';
import { countOf, MEDIA_TYPES } from './manifest.ts';
import { namedSidecar, namingManifest, SIDECAR_ARTIFACT } from './named-sidecar.ts';
import { printable } from './printable.ts';
import { throwIfAborted } from './retry.ts';
import { MAX_BODY, type PartKind, sizeProblem } from './sidecar-limits.ts';

/** What the indexer makes of an image; uncompressed. */
export interface Sidecar {
  /** The flat image's EROFS metadata. */
  flat: Buffer;
  /** One for each layer of the image, lowest first; `spans` and `toc` are encoded. */
  layers: Array<{ diffId: string; blobDigest: string; spans: Buffer; toc: Buffer }>;
  /** The blocks that its start is likely to read, encoded (src/image/hints/hints.ts); undefined: none are known. */
  hints?: Buffer | undefined;
}

/** Names a part of a sidecar. `layer` counts the image's layers from the lowest. */
export type SidecarPartName = { kind: 'flat' } | { kind: 'spans' | 'toc'; layer: number };

/**
 * A sidecar found in the registry. Each call fetches; it checks bodies by digest and unpacks them within bounds
 * (sidecar-limits.ts).
 */
export interface SidecarHandle {
  /** Of the sidecar's manifest. */
  descriptor: Descriptor;
  /** The builder's revision in its manifest; undefined: the manifest names none. */
  revision: number | undefined;
  /** Bytes of all its blobs in the registry. */
  size: number;
  /**
   * Fetches a part and hands its bytes to `work`, which must not keep them. The parts that a process holds so share a
   * budget of 64 MiB: what does not fit waits until other work has ended.
   */
  use<T>(part: SidecarPartName, work: (bytes: Buffer) => Promise<T>, signal?: AbortSignal): Promise<T>;
  flat(signal?: AbortSignal): Promise<Buffer>;
  /** `layer` counts the image's layers from the lowest. */
  spans(layer: number, signal?: AbortSignal): Promise<Buffer>;
  toc(layer: number, signal?: AbortSignal): Promise<Buffer>;
  /** Undefined where it has none. */
  hints(signal?: AbortSignal): Promise<Buffer | undefined>;
}

/** Why the reader skips a candidate. */
export interface SkippedSidecar {
  descriptor: Descriptor;
  reason: string;
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

const ANNOTATIONS = {
  diffId: 'io.cofa.layer.diffid',
  blob: 'io.cofa.layer.blob',
  size: 'io.cofa.size',
  revision: 'io.cofa.revision',
  hints: 'io.cofa.hints',
} as const;

/** Candidates that are tried; any account that may push can add some. */
const MAX_CANDIDATES = 16;
/** Largest packed blob that its descriptor carries as well, bytes: a request costs a registry more than these. */
const MOST_EMBEDDED = 1_024;
/** zstd's. Level 19 makes a sidecar 9 % smaller, and would take a fifth of all the time of indexing. */
const LEVEL = 12;
/**
 * Bytes of parts that this process holds packed and unpacked at a time, but for those that leave a handle. A part that is
 * larger comes alone.
 */
const FETCHED = new ByteBudget(128 << 20);
const UNPACKED = new ByteBudget(64 << 20);
/** Blobs compressed and sent at a time; each of zstd's contexts takes some 20 MB at this level. */
const PARALLEL = Math.min(4, availableParallelism());

/** `{}`, the configuration of artifacts that have none (image-spec, "Guidance for an Empty Descriptor"). */
const EMPTY = Buffer.from('{}');

const compress = promisify(zstdCompress);
const decompress = promisify(zstdDecompress);

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

/**
 * The sidecar of an image, or undefined where the registry has no usable one. Fetches only its manifest. Reports
 * skipped candidates to `onSkipped`. Throws what the registry client throws when the registry cannot be asked.
 */
export async function findSidecar(
  client: RegistryClient,
  image: ResolvedImage,
  signal?: AbortSignal,
  onSkipped?: (skipped: SkippedSidecar) => void,
): Promise<SidecarHandle | undefined> {
  for await (const handle of sidecarsOf(client, image, signal, onSkipped)) return handle;
  return undefined;
}

/**
 * All usable sidecars of an image, the preferred one first, for a caller that may find fault with the contents of one. One
 * that the image's manifest names comes before those that the registry lists.
 */
export async function* sidecarsOf(
  client: RegistryClient,
  image: ResolvedImage,
  signal?: AbortSignal,
  onSkipped?: (skipped: SkippedSidecar) => void,
): AsyncGenerator<SidecarHandle, void, undefined> {
  const open = async (candidate: Descriptor): Promise<SidecarHandle | undefined> => {
    try {
      return await openSidecar(client, image, candidate, signal);
    } catch (error) {
      throwIfAborted(signal);
      const { code, message } = toErrorRecord(error);
      // A registry that does not answer says nothing about the sidecar.
      if (!['integrity', 'unsupported', 'not-found'].includes(code)) throw error;
      onSkipped?.({ descriptor: candidate, reason: message });
      return undefined;
    }
  };
  const named = namedSidecar(image.manifest);
  if (named !== undefined) {
    const handle = await open({ mediaType: MEDIA_TYPES.ociManifest, digest: named, size: 0 });
    if (handle !== undefined) yield handle;
  }
  const { digest } = image.descriptor;
  const all = await client.referrers(image.reference, digest, SIDECAR_TYPES.artifact, signal);
  const unique = [...new Map(all.map((entry) => [entry.digest, entry])).values()];
  const sorted = unique.sort(
    (a, b) =>
      (revisionOf(b) ?? 0) - (revisionOf(a) ?? 0) ||
      Number(hasHints(b)) - Number(hasHints(a)) ||
      (a.digest < b.digest ? -1 : 1),
  );
  for (const [i, candidate] of sorted.entries()) {
    if (i >= MAX_CANDIDATES) {
      onSkipped?.({ descriptor: candidate, reason: `only ${MAX_CANDIDATES} candidates are looked at` });
      return;
    }
    const handle = candidate.digest === named ? undefined : await open(candidate);
    if (handle !== undefined) yield handle;
  }
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

async function openSidecar(
  client: RegistryClient,
  image: ResolvedImage,
  candidate: Descriptor,
  signal: AbortSignal | undefined,
): Promise<SidecarHandle> {
  const source = image.reference;
  const { descriptor, parsed } = await client.manifest(source, candidate.digest, signal);
  if (parsed.kind !== 'manifest') throw wrong(descriptor, 'it is an index');
  const parts = checkParts(descriptor, parsed.manifest, image);
  const use = async <T>(part: Descriptor, work: (bytes: Buffer) => Promise<T>, signal?: AbortSignal) => {
    const size = unpackedSize(part, descriptor);
    const fetched = async () => {
      const body = await client.blob(source, part, signal, MAX_BODY);
      return await UNPACKED.use(size, async () => await work(await unpack(body, size, part)), signal);
    };
    return await FETCHED.use(part.size, fetched, signal);
  };
  const fetch = (part: Descriptor, signal?: AbortSignal) => use(part, async (bytes) => bytes, signal);
  const partOf = (layer: number) => {
    const part = parts.layers[layer];
    if (part === undefined) throw new CofaError('invalid-argument', `${source.text} has no layer ${layer}`);
    return part;
  };
  return {
    descriptor: { ...candidate, ...descriptor },
    revision: countOf(parsed.manifest.annotations?.[ANNOTATIONS.revision]),
    size: parsed.manifest.layers.reduce((sum, { size }) => sum + size, 0),
    use: async (name, work, signal) =>
      await use(name.kind === 'flat' ? parts.flat : partOf(name.layer)[name.kind], work, signal),
    flat: (signal) => fetch(parts.flat, signal),
    spans: async (layer, signal) => await fetch(partOf(layer).spans, signal),
    toc: async (layer, signal) => await fetch(partOf(layer).toc, signal),
    hints: async (signal) => {
      const part = parsed.manifest.layers.find(({ mediaType }) => mediaType === SIDECAR_TYPES.hints);
      if (part === undefined) return undefined;
      if (part.size > MAX_HINTS || unpackedSize(part, descriptor) > MAX_HINTS)
        throw wrong(descriptor, `its hints have more than ${MAX_HINTS} bytes`);
      return await fetch(part, signal);
    },
  };
}

/** Checks a sidecar's manifest against the image and finds the part for each layer. */
function checkParts(
  descriptor: Descriptor,
  manifest: ImageManifest,
  image: ResolvedImage,
): { flat: Descriptor; layers: Array<{ spans: Descriptor; toc: Descriptor }> } {
  if (manifest.artifactType !== SIDECAR_TYPES.artifact) {
    throw wrong(descriptor, `its type is ${printable(manifest.artifactType ?? manifest.config.mediaType)}`);
  }
  const { subject } = manifest;
  const isNamed = subject === undefined && descriptor.digest === namedSidecar(image.manifest);
  const { digest, size } = image.descriptor;
  if (!isNamed && (subject?.digest !== digest || subject.size !== size)) {
    throw wrong(descriptor, `its subject is ${subject?.digest ?? 'missing'}, not ${digest}`);
  }
  const flats: Descriptor[] = [];
  const byLayer = {
    [SIDECAR_TYPES.spans]: new Map<string, Descriptor>(),
    [SIDECAR_TYPES.toc]: new Map<string, Descriptor>(),
  };
  for (const part of manifest.layers) {
    const { mediaType, annotations } = part;
    if (mediaType === SIDECAR_TYPES.flat) flats.push(part);
    if (mediaType !== SIDECAR_TYPES.spans && mediaType !== SIDECAR_TYPES.toc) continue;
    const key = `${annotations?.[ANNOTATIONS.diffId]} ${annotations?.[ANNOTATIONS.blob]}`;
    if (byLayer[mediaType].has(key)) throw wrong(descriptor, `it describes layer ${printable(key)} twice`);
    byLayer[mediaType].set(key, part);
  }
  const [flat] = flats;
  if (flat === undefined || flats.length > 1) throw wrong(descriptor, `it has ${flats.length} flat images`);
  const find = (type: typeof SIDECAR_TYPES.spans | typeof SIDECAR_TYPES.toc, key: string) => {
    const part = byLayer[type].get(key);
    if (part === undefined) throw wrong(descriptor, `it has no ${type} for layer ${key}`);
    return part;
  };
  const layers = image.layers.map(({ diffId, blob }) => ({
    spans: find(SIDECAR_TYPES.spans, `${diffId} ${blob.digest}`),
    toc: find(SIDECAR_TYPES.toc, `${diffId} ${blob.digest}`),
  }));
  const checkSize = (kind: PartKind, part: Descriptor, described: number) => {
    const unpacked = unpackedSize(part, descriptor);
    const problem = sizeProblem(kind, { packed: part.size, unpacked }, described);
    if (problem !== undefined) throw wrong(descriptor, `its blob ${part.digest} ${problem}`);
  };
  checkSize('flat', flat, blobBytes(image));
  for (const [i, { spans, toc }] of layers.entries()) {
    const { size } = (image.layers[i] as ResolvedImage['layers'][number]).blob;
    checkSize('spans', spans, size);
    checkSize('toc', toc, size);
  }
  return { flat, layers };
}

const blobBytes = ({ layers }: ResolvedImage): number => layers.reduce((sum, { blob }) => sum + blob.size, 0);

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

/** Unpacks to exactly `size` bytes and never more. */
async function unpack(body: Buffer, size: number, part: Descriptor): Promise<Buffer> {
  let bytes: Buffer;
  try {
    // One byte more than promised shows as an error, a terabyte is never unpacked.
    bytes = await decompress(body, {
      maxOutputLength: size + 1,
      // In one piece: joining several takes the same again.
      chunkSize: Math.max(64, size + 1),
      params: { [constants.ZSTD_d_windowLogMax]: 27 },
    });
  } catch (cause) {
    const isLarger = (cause as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE';
    const why = isLarger ? `it unpacks to more than ${size} bytes` : 'it is not valid zstd';
    throw new CofaError('integrity', `blob ${part.digest} (${part.mediaType}): ${why}`, { cause });
  }
  if (bytes.length !== size) {
    throw new CofaError(
      'integrity',
      `blob ${part.digest} (${part.mediaType}): ${bytes.length} bytes instead of ${size}`,
    );
  }
  return bytes;
}

function unpackedSize(part: Descriptor, sidecar: Descriptor): number {
  const size = countOf(part.annotations?.[ANNOTATIONS.size]);
  if (size === undefined || size > MAX_BODY)
    throw wrong(sidecar, `its blob ${part.digest} does not say a usable size`);
  return size;
}

const HINTS_VERSION = '1';
const hasHints = (entry: Descriptor): boolean => entry.annotations?.[ANNOTATIONS.hints] === HINTS_VERSION;

function revisionOf(entry: Descriptor): number | undefined {
  return countOf(entry.annotations?.[ANNOTATIONS.revision]);
}

function within(value: number | undefined, lowest: number, highest: number): boolean {
  return value !== undefined && value >= lowest && value <= highest;
}

function wrong(descriptor: Descriptor, why: string): CofaError {
  return new CofaError('integrity', `sidecar ${descriptor.digest}: ${why}`);
}
