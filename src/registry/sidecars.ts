/** Finds the sidecars of an image in its registry (sidecar-format.ts), and reads their parts. */
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import { MAX_HINTS } from '../image/hints/hints.ts';
import {
  type Descriptor,
  type ImageManifest,
  MOST_AHEAD_BYTES,
  type RegistryClient,
  type ResolvedImage,
  type Source,
} from './client.ts';
import { countOf, MEDIA_TYPES } from './manifest.ts';
import { namedSidecar } from './named-sidecar.ts';
import { printable } from './printable.ts';
import { throwIfAborted } from './retry.ts';
import { withinBudgets } from './sidecar-budgets.ts';
import { ANNOTATIONS, blobBytes, hasHints, revisionOf, SIDECAR_TYPES } from './sidecar-format.ts';
import { MAX_BODY, type PartKind, type PartSize, sizeProblem } from './sidecar-limits.ts';
import { unpackPart } from './unpack-part.ts';

export { pushNamedSidecar, pushSidecar } from './push-sidecar.ts';
export { SIDECAR_REVISION, SIDECAR_TYPES, type Sidecar } from './sidecar-format.ts';

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
   * Fetches a part and hands its bytes to `work`, which must not keep them: what a process holds so has a budget
   * (sidecar-budgets.ts), and what does not fit waits until other work has ended. Work with flat metadata may wait for
   * tables, work with a table for no other part.
   */
  use<T>(part: SidecarPartName, work: (bytes: Buffer) => Promise<T>, signal?: AbortSignal): Promise<T>;
  /** Bytes of a part, and the blob that it is. */
  sizeOf(part: SidecarPartName): PartSize & { blob: { digest: string; mediaType: string } };
  /** A part as it lies in the registry: for one that is too large for `use`. Error `integrity` at its end. */
  packed(part: SidecarPartName, signal?: AbortSignal): AsyncIterable<Buffer>;
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

/** Candidates that are tried; any account that may push can add some. As many that the caller prefers come before them. */
const MAX_CANDIDATES = 16;

/**
 * Digests of the candidates that come first, wherever they stand in the list; asked where there are several. `candidates`:
 * in the order in which they are tried otherwise.
 */
export type Prefer = (candidates: readonly Descriptor[]) => Promise<ReadonlySet<string>>;

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
 * that the image's manifest names comes before those that the registry lists; of these, those that `prefer` names.
 */
export async function* sidecarsOf(
  client: RegistryClient,
  image: ResolvedImage,
  signal?: AbortSignal,
  onSkipped?: (skipped: SkippedSidecar) => void,
  prefer?: Prefer,
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
  const sorted = unique.filter((entry) => entry.digest !== named).sort(byPreference);
  const chosen = sorted.length > 1 ? await prefer?.(sorted) : undefined;
  const first = sorted.filter((entry) => chosen?.has(entry.digest)).slice(0, MAX_CANDIDATES);
  const others = sorted.filter((entry) => !first.includes(entry));
  for (const candidate of [...first, ...others.slice(0, MAX_CANDIDATES)]) {
    const handle = await open(candidate);
    if (handle !== undefined) yield handle;
  }
  const [left] = others.slice(MAX_CANDIDATES);
  const reason = `only ${MAX_CANDIDATES} of ${others.length} candidates are looked at`;
  if (left !== undefined) onSkipped?.({ descriptor: left, reason });
}

const byPreference = (a: Descriptor, b: Descriptor): number =>
  (revisionOf(b) ?? 0) - (revisionOf(a) ?? 0) ||
  Number(hasHints(b)) - Number(hasHints(a)) ||
  (a.digest < b.digest ? -1 : 1);

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
  const use = async <T>(
    kind: PartKind | 'hints',
    part: Descriptor,
    work: (bytes: Buffer) => Promise<T>,
    signal?: AbortSignal,
  ) => {
    const size = unpackedSize(part, descriptor);
    return await withinBudgets({
      registry: source.registry,
      kind,
      packed: part.size,
      unpacked: size,
      fetch: () => client.blob(source, part, signal, MAX_BODY),
      unpack: (body) => unpackPart(body, size, part),
      work,
      signal,
    });
  };
  const fetch = (kind: PartKind | 'hints', part: Descriptor, signal?: AbortSignal) =>
    use(kind, part, async (bytes) => bytes, signal);
  const partOf = (layer: number) => {
    const part = parts.layers[layer];
    if (part === undefined) throw new CofaError('invalid-argument', `${source.text} has no layer ${layer}`);
    return part;
  };
  const named = (name: SidecarPartName): Descriptor =>
    name.kind === 'flat' ? parts.flat : partOf(name.layer)[name.kind];
  return {
    descriptor: { ...candidate, ...descriptor },
    revision: countOf(parsed.manifest.annotations?.[ANNOTATIONS.revision]),
    size: parsed.manifest.layers.reduce((sum, { size }) => sum + size, 0),
    use: async (name, work, signal) => await use(name.kind, named(name), work, signal),
    sizeOf: (name) => {
      const { digest, mediaType, size } = named(name);
      return { packed: size, unpacked: unpackedSize(named(name), descriptor), blob: { digest, mediaType } };
    },
    packed: (name, signal) => packedPart(client, source, named(name), signal),
    flat: (signal) => fetch('flat', parts.flat, signal),
    spans: async (layer, signal) => await fetch('spans', partOf(layer).spans, signal),
    toc: async (layer, signal) => await fetch('toc', partOf(layer).toc, signal),
    hints: async (signal) => {
      const part = parsed.manifest.layers.find(({ mediaType }) => mediaType === SIDECAR_TYPES.hints);
      if (part === undefined) return undefined;
      if (part.size > MAX_HINTS || unpackedSize(part, descriptor) > MAX_HINTS)
        throw wrong(descriptor, `its hints have more than ${MAX_HINTS} bytes`);
      return await fetch('hints', part, signal);
    },
  };
}

/** One that may have been fetched ahead is taken whole: it would come twice. */
async function* packedPart(
  client: RegistryClient,
  source: Source,
  part: Descriptor,
  signal: AbortSignal | undefined,
): AsyncGenerator<Buffer, void, undefined> {
  if (part.size <= MOST_AHEAD_BYTES) yield await client.blob(source, part, signal, MOST_AHEAD_BYTES);
  else yield* client.blobStream(source, part, signal);
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

function unpackedSize(part: Descriptor, sidecar: Descriptor): number {
  const size = countOf(part.annotations?.[ANNOTATIONS.size]);
  if (size === undefined || size > MAX_BODY)
    throw wrong(sidecar, `its blob ${part.digest} does not say a usable size`);
  return size;
}

function wrong(descriptor: Descriptor, why: string): CofaError {
  return new CofaError('integrity', `sidecar ${descriptor.digest}: ${why}`);
}
