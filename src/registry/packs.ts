/**
 * Startup packs in the registry: referrers of the image like its sidecar (sidecars.ts), one artifact for each start.
 *
 *     manifest   artifactType application/vnd.cofa.pack.v1, subject = the image's manifest, config = the empty descriptor,
 *                annotations io.cofa.pack.start = which start (src/pack/pack-store.ts), io.cofa.pack.digest and
 *                io.cofa.pack.size = its blob: lists of referrers show them, and a start need not ask for the manifest
 *       pack     application/vnd.cofa.pack.v1+zstd (src/pack/format.ts)
 *
 * A reader uses a pack's bytes before it has checked their digest: a check would mean waiting for the last byte. Each
 * block is verified against the layer's span table.
 */
import { isDigest } from '../../schemas/digest.ts';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import type { Descriptor, RegistryClient, ResolvedImage } from './client.ts';
import { countOf, MEDIA_TYPES } from './manifest.ts';
import { throwIfAborted } from './retry.ts';

export const PACK_TYPES = {
  artifact: 'application/vnd.cofa.pack.v1',
  pack: 'application/vnd.cofa.pack.v1+zstd',
} as const;

const START = 'io.cofa.pack.start';
const DIGEST = 'io.cofa.pack.digest';
const SIZE = 'io.cofa.pack.size';
/** Largest pack, bytes. */
const MAX_PACK = 1 << 30;
/** Candidates that are tried; any account that may push can add some. */
const MAX_CANDIDATES = 8;

/** A pack in the registry. */
export interface RegistryPack {
  /** Of its manifest. */
  descriptor: Descriptor;
  start: string;
  /** The blob with the pack. */
  blob: { digest: string; size: number };
}

/** Pushes a pack and makes it a referrer of the image; it replaces one of the same start. */
export async function pushPack(
  client: RegistryClient,
  image: ResolvedImage,
  start: string,
  body: Buffer,
  signal?: AbortSignal,
): Promise<Descriptor> {
  if (body.length > MAX_PACK)
    throw new CofaError('unsupported', `a startup pack of ${body.length} bytes; the limit is ${MAX_PACK}`);
  const source = image.reference;
  const blob = await client.pushBlob(source, body, PACK_TYPES.pack, signal);
  const config = await client.pushBlob(source, Buffer.from('{}'), MEDIA_TYPES.ociEmpty, signal);
  const { mediaType, digest, size } = image.descriptor;
  const manifest = {
    schemaVersion: 2,
    mediaType: MEDIA_TYPES.ociManifest,
    artifactType: PACK_TYPES.artifact,
    config,
    layers: [blob],
    subject: { mediaType, digest, size },
    annotations: { [START]: start, [DIGEST]: blob.digest, [SIZE]: `${blob.size}` },
  };
  return await client.pushManifest(
    source,
    Buffer.from(JSON.stringify(manifest)),
    MEDIA_TYPES.ociManifest,
    undefined,
    {
      replaces: (entry) => entry.artifactType === PACK_TYPES.artifact && entry.annotations?.[START] === start,
      ...(signal === undefined ? {} : { signal }),
    },
  );
}

/**
 * The pack in an entry of a list of referrers, where the entry says it all; packs of older versions need their
 * manifest.
 */
export function packIn(entry: Descriptor): RegistryPack | undefined {
  const { [START]: start, [DIGEST]: digest, [SIZE]: said } = entry.annotations ?? {};
  const size = countOf(said) ?? 0;
  if (start === undefined || !isDigest(digest) || size === 0 || size > MAX_PACK) return undefined;
  return { descriptor: entry, start, blob: { digest, size } };
}

/**
 * The pack of the first of `starts` that has one; undefined where none has. Skips malformed ones. Throws what the
 * client throws when the registry cannot be asked.
 */
export async function findPack(
  client: RegistryClient,
  image: ResolvedImage,
  starts: readonly string[],
  signal?: AbortSignal,
): Promise<RegistryPack | undefined> {
  const all = await client.referrers(image.reference, image.descriptor.digest, PACK_TYPES.artifact, signal);
  // Where the registry keeps the list, a later pack does not remove the earlier ones.
  const usable = starts.flatMap((start) =>
    all.filter((entry) => entry.annotations?.[START] === start).toReversed(),
  );
  for (const candidate of usable.slice(0, MAX_CANDIDATES)) {
    try {
      const told = packIn(candidate);
      if (told !== undefined) return told;
      const { parsed } = await client.manifest(image.reference, candidate.digest, signal);
      if (parsed.kind !== 'manifest' || parsed.manifest.artifactType !== PACK_TYPES.artifact) continue;
      const { manifest } = parsed;
      const blob = manifest.layers.find(({ mediaType }) => mediaType === PACK_TYPES.pack);
      const start = manifest.annotations?.[START];
      if (blob === undefined || start === undefined || blob.size > MAX_PACK) continue;
      if (manifest.subject?.digest !== image.descriptor.digest) continue;
      return { descriptor: candidate, start, blob: { digest: blob.digest, size: blob.size } };
    } catch (error) {
      throwIfAborted(signal);
      if (!['integrity', 'unsupported', 'not-found'].includes(toErrorRecord(error).code)) throw error;
    }
  }
  return undefined;
}
