/** A registry in the memory of the test. Blobs and manifests are what their digests say, but where the attacker lies. */
import { digestOf } from '../../../src/digest/digest.ts';
import {
  type Descriptor,
  type FetchedManifest,
  RegistryClient,
  type ResolvedImage,
} from '../../../src/registry/client.ts';
import { MEDIA_TYPES, parseManifest } from '../../../src/registry/manifest.ts';
import { parseReference } from '../../../src/registry/reference.ts';
import { CofaError } from '../../../schemas/errors.ts';
import type { GenuineLayer } from './layer.ts';

const REGISTRY = 'registry.test';

/**
 * A client whose registry is this object. As the real one it compares whole blobs and manifests with their digests; ranges of
 * blobs it cannot, so there the attacker gives what he likes.
 */
export class HostileRegistry extends RegistryClient {
  readonly #blobs = new Map<string, Buffer>();
  readonly #manifests = new Map<string, Buffer>();
  readonly #referrers = new Map<string, Descriptor[]>();
  /** What ranges of a blob are taken from instead of it, by its digest. */
  readonly lies = new Map<string, Buffer>();

  constructor() {
    super({ dockerConfig: '/nonexistent', certDirs: [], environment: {} });
  }

  /** Pushes an image of these layers; `name` makes images of the same layers differ. */
  async pushImage(name: string, layers: readonly LayerBlob[]): Promise<ResolvedImage> {
    const reference = parseReference(`${REGISTRY}/${name}:1`);
    const blobs = await Promise.all(
      layers.map(({ blob }) => this.pushBlob(reference, blob, 'application/vnd.oci.image.layer.v1.tar+gzip')),
    );
    const config = Buffer.from(
      JSON.stringify({
        architecture: 'amd64',
        os: 'linux',
        config: { Env: [`NAME=${name}`] },
        rootfs: { type: 'layers', diff_ids: layers.map(({ diffId }) => diffId) },
      }),
    );
    const configDescriptor = await this.pushBlob(reference, config, MEDIA_TYPES.ociConfig);
    const manifestBytes = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: MEDIA_TYPES.ociManifest,
        config: configDescriptor,
        layers: blobs,
      }),
    );
    const descriptor = await this.pushManifest(reference, manifestBytes, MEDIA_TYPES.ociManifest);
    const { parsed } = await this.manifest(reference, descriptor.digest);
    if (parsed.kind !== 'manifest') throw new Error('no manifest');
    const { manifest } = parsed;
    return {
      reference,
      descriptor,
      manifest,
      manifestBytes,
      config,
      configDescriptor,
      isPublic: true,
      layers: layers.map(({ diffId }, at) => ({ blob: blobs[at] as Descriptor, diffId })),
    };
  }

  /** What the registry gives for a blob whose digest the caller compares. */
  bytesOf(digest: string): Buffer {
    return found(this.lies.get(digest) ?? this.#blobs.get(digest), digest);
  }

  override async pushBlob(_source: unknown, bytes: Buffer, mediaType: string): Promise<Descriptor> {
    const digest = digestOf(bytes);
    this.#blobs.set(digest, bytes);
    return await Promise.resolve({ mediaType, digest, size: bytes.length });
  }

  override async pushManifest(_source: unknown, bytes: Buffer, mediaType: string): Promise<Descriptor> {
    const digest = digestOf(bytes);
    this.#manifests.set(digest, bytes);
    const descriptor = { mediaType, digest, size: bytes.length };
    const { subject, artifactType, annotations } = JSON.parse(bytes.toString()) as Partial<Referrer>;
    if (subject !== undefined) {
      const entry = { ...descriptor, artifactType, annotations } as Descriptor;
      this.#referrers.set(subject.digest, [...(this.#referrers.get(subject.digest) ?? []), entry]);
    }
    return await Promise.resolve(descriptor);
  }

  override async referrers(_source: unknown, digest: string, artifactType?: string): Promise<Descriptor[]> {
    const all = this.#referrers.get(digest) ?? [];
    return await Promise.resolve(
      all.filter((entry) => artifactType === undefined || entry.artifactType === artifactType),
    );
  }

  override async manifest(_source: unknown, digest: string): Promise<FetchedManifest> {
    const bytes = found(this.#manifests.get(digest), digest);
    const descriptor = { mediaType: MEDIA_TYPES.ociManifest, digest, size: bytes.length };
    return await Promise.resolve({
      bytes,
      descriptor,
      isPublic: true,
      parsed: parseManifest(bytes, descriptor.mediaType, digest),
    });
  }

  override async blob(_source: unknown, blob: Descriptor): Promise<Buffer> {
    const bytes = found(this.#blobs.get(blob.digest), blob.digest);
    return await Promise.resolve(bytes);
  }

  override async *blobRanges(
    _source: unknown,
    blob: { digest: string },
    ranges: ReadonlyArray<readonly [number, number]>,
  ): AsyncGenerator<Buffer, void, undefined> {
    const bytes = found(this.lies.get(blob.digest) ?? this.#blobs.get(blob.digest), blob.digest);
    for (const [start, end] of ranges) {
      if (end > bytes.length) throw new CofaError('integrity', `blob ${blob.digest} ends before byte ${end}`);
      for (let at = start; at < end; at += PIECE) yield bytes.subarray(at, Math.min(end, at + PIECE));
    }
  }
}

/** Bytes that come at a time. */
const PIECE = 50_000;

export type LayerBlob = Pick<GenuineLayer, 'blob' | 'diffId'>;

interface Referrer {
  subject: { digest: string };
  artifactType: string;
  annotations: Record<string, string>;
}

function found(bytes: Buffer | undefined, digest: string): Buffer {
  if (bytes === undefined) throw new CofaError('not-found', `the registry has no ${digest}`);
  return bytes;
}
