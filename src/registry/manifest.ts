/**
 * What a registry says about an image: descriptors, manifests, indexes and the image configuration, in the forms of OCI
 * (image-spec v1.1: descriptor.md, manifest.md, image-index.md, config.md) and of docker (distribution's "Image
 * Manifest V 2, Schema 2"). All parsers here read bytes that a stranger wrote. They check shapes, sizes and counts
 * before use, and refuse with the reason what they do not understand.
 */
import { isDigest } from '../../schemas/digest.ts';
import { digestOf } from '../digest/digest.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { LayerFile } from '../../schemas/events.ts';
import { shapeProblem } from './json-shape.ts';
import { printable } from './printable.ts';
import type { Platform } from './platform.ts';
import type { Reference } from './reference.ts';

/** Names some content: its type, its sha256 digest and its size in bytes. */
export interface Descriptor {
  mediaType: string;
  digest: string;
  size: number;
  annotations?: Record<string, string>;
  artifactType?: string;
  platform?: Platform;
  /** The content itself, as base64 (image-spec v1.1, descriptor.md, "Embedded Content"). `embeddedIn` reads it. */
  data?: string;
}

export interface ImageManifest {
  mediaType: string;
  artifactType?: string;
  config: Descriptor;
  layers: Descriptor[];
  subject?: Descriptor;
  annotations?: Record<string, string>;
}

export interface ImageIndex {
  mediaType: string;
  artifactType?: string;
  manifests: Descriptor[];
  subject?: Descriptor;
  annotations?: Record<string, string>;
}

/** An image of one platform, every byte of its description checked by digest. */
export interface ResolvedImage {
  reference: Reference;
  /** The platform's own manifest, never an index. */
  descriptor: Descriptor;
  manifest: ImageManifest;
  manifestBytes: Buffer;
  /** The image configuration, raw JSON. */
  config: Buffer;
  configDescriptor: Descriptor;
  /** Lowest layer first. `file`: the layer is this file, as it is (model.ts). */
  layers: Array<{ blob: Descriptor; diffId: string; file?: LayerFile }>;
  /** The registry gave the manifest to a request without credentials. */
  isPublic: boolean;
}

/** The parts of an image configuration that resolving needs. */
export interface ImageConfig {
  /** Undefined where the configuration names none. */
  platform: Platform | undefined;
  /** Digests of the uncompressed layers, lowest first. */
  diffIds: string[];
}

export const MEDIA_TYPES = {
  ociManifest: 'application/vnd.oci.image.manifest.v1+json',
  ociIndex: 'application/vnd.oci.image.index.v1+json',
  ociConfig: 'application/vnd.oci.image.config.v1+json',
  ociEmpty: 'application/vnd.oci.empty.v1+json',
  dockerManifest: 'application/vnd.docker.distribution.manifest.v2+json',
  dockerList: 'application/vnd.docker.distribution.manifest.list.v2+json',
  dockerConfig: 'application/vnd.docker.container.image.v1+json',
} as const;

/** Bytes; the OCI distribution spec asks registries for at least this much, and nothing real comes near it. */
export const MAX_MANIFEST = 4 * 1024 * 1024;
/** Bytes. A configuration lists history and labels; the largest seen are a few hundred KiB. */
export const MAX_CONFIG = 8 * 1024 * 1024;
/** Layers of one image. Overlay file systems end at some 500, docker at 127. */
const MAX_LAYERS = 1024;
const MAX_INDEX_ENTRIES = 10_000;
const MAX_ANNOTATIONS = 1024;
const BASE64 = /^[A-Za-z0-9+/]*={0,2}$/;

const LAYER_TYPES = new Set([
  'application/vnd.oci.image.layer.v1.tar',
  'application/vnd.oci.image.layer.v1.tar+gzip',
  'application/vnd.oci.image.layer.v1.tar+zstd',
  'application/vnd.docker.image.rootfs.diff.tar',
  'application/vnd.docker.image.rootfs.diff.tar.gzip',
  'application/vnd.docker.image.rootfs.diff.tar.zstd',
]);

/**
 * The content that a descriptor carries; undefined: none. Throws `integrity` where it is not what the descriptor names.
 */
export function embeddedIn({
  data,
  digest,
  size,
}: Pick<Descriptor, 'data' | 'digest' | 'size'>): Buffer | undefined {
  if (data === undefined) return undefined;
  const bytes = Buffer.from(data, 'base64');
  if (!BASE64.test(data) || bytes.length !== size || digestOf(bytes) !== digest)
    throw new CofaError('integrity', `the data that a descriptor of ${digest} carries are not its content`);
  return bytes;
}

/** A count in an annotation: decimal, no sign, no leading zero. */
export function countOf(text: string | undefined): number | undefined {
  return text !== undefined && /^(?:0|[1-9]\d{0,14})$/.test(text) ? Number(text) : undefined;
}

/**
 * Parses a manifest or an index. `contentType` is the registry's header, used where the document does not name its type
 * itself (docker's old indexes, some OCI ones). `where` names it in errors. Throws CofaError: `integrity` for malformed
 * documents, `unsupported` for schema 1 and unknown types.
 */
export function parseManifest(
  bytes: Buffer,
  contentType: string | undefined,
  where: string,
): { kind: 'manifest'; manifest: ImageManifest } | { kind: 'index'; index: ImageIndex } {
  const document = parseObject(bytes, where);
  const header = contentType?.split(';')[0]?.trim().toLowerCase();
  const declared = document['mediaType'];
  if (declared !== undefined && typeof declared !== 'string')
    throw malformed(where, 'its mediaType is not a string');
  const generic = header === undefined || header === '' || !header.startsWith('application/vnd.');
  const mediaType = declared ?? (generic ? shapeType(document) : header);
  if (
    document['schemaVersion'] === 1 ||
    mediaType?.startsWith('application/vnd.docker.distribution.manifest.v1+')
  ) {
    throw new CofaError('unsupported', `${where}: it has docker's old image format (schema 1)`, {
      hint: 'pull and push it again with a current docker, which converts it',
    });
  }
  if (document['schemaVersion'] !== 2) throw malformed(where, 'its schemaVersion is not 2');
  // A document that is both a manifest and an index would mean different images to different readers.
  if ('manifests' in document && ('layers' in document || 'config' in document)) {
    throw malformed(where, 'it is a manifest and an index at once');
  }
  switch (mediaType) {
    case MEDIA_TYPES.ociManifest:
    case MEDIA_TYPES.dockerManifest:
      return { kind: 'manifest', manifest: imageManifest(document, mediaType, where) };
    case MEDIA_TYPES.ociIndex:
    case MEDIA_TYPES.dockerList:
      return { kind: 'index', index: imageIndex(document, mediaType, where) };
    default:
      throw new CofaError(
        'unsupported',
        `${where}: its type is ${printable(mediaType ?? 'unknown')}, not an image`,
      );
  }
}

/** Refuses manifests that are not container images: artifacts, foreign and encrypted layers. */
export function checkIsImage(manifest: ImageManifest, where: string): void {
  const { config, layers } = manifest;
  if (config.mediaType !== MEDIA_TYPES.ociConfig && config.mediaType !== MEDIA_TYPES.dockerConfig) {
    const type = manifest.artifactType ?? config.mediaType;
    throw new CofaError('unsupported', `${where}: it is no container image but ${printable(type)}`);
  }
  for (const { mediaType, digest } of layers) {
    if (LAYER_TYPES.has(mediaType)) continue;
    if (mediaType.includes('.foreign.') || mediaType.includes('.nondistributable.')) {
      throw new CofaError(
        'unsupported',
        `${where}: layer ${digest} is not in the registry (${printable(mediaType)})`,
        {
          hint: 'images with foreign layers, such as those of Windows, cannot be mounted lazily',
        },
      );
    }
    throw new CofaError(
      'unsupported',
      `${where}: layer ${digest} has the unknown type ${printable(mediaType)}`,
    );
  }
}

/** Parses an image configuration; there must be one diffID for each of `layerCount` layers. */
export function parseConfig(bytes: Buffer, layerCount: number, where: string): ImageConfig {
  const document = parseObject(bytes, where);
  const rootfs = document['rootfs'];
  if (!isObject(rootfs) || rootfs['type'] !== 'layers')
    throw malformed(where, 'its rootfs is not of type layers');
  // Go writes an empty list as null.
  const diffIds = rootfs['diff_ids'] ?? [];
  if (!Array.isArray(diffIds) || !diffIds.every(isDigest)) {
    throw malformed(where, 'its rootfs.diff_ids are not a list of sha256 digests');
  }
  if (diffIds.length !== layerCount) {
    throw malformed(where, `it has ${diffIds.length} diff_ids, the manifest ${layerCount} layers`);
  }
  const { os, architecture, variant } = document;
  const platform =
    typeof os === 'string' && typeof architecture === 'string' && os !== '' && architecture !== ''
      ? { os, architecture, ...(typeof variant === 'string' && variant !== '' ? { variant } : {}) }
      : undefined;
  return { platform, diffIds };
}

/** Parses JSON that has to be an object. */
export function parseObject(bytes: Buffer, where: string): Record<string, unknown> {
  const problem = shapeProblem(bytes);
  if (problem !== undefined) throw malformed(where, problem);
  let document: unknown;
  try {
    document = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new CofaError('integrity', `${where}: it is not valid JSON`, { cause });
  }
  if (!isObject(document)) throw malformed(where, 'it is not a JSON object');
  return document;
}

function imageManifest(document: Record<string, unknown>, mediaType: string, where: string): ImageManifest {
  const { layers } = document;
  if (!Array.isArray(layers)) throw malformed(where, 'it has no list of layers');
  if (layers.length > MAX_LAYERS) {
    throw new CofaError('unsupported', `${where}: it has ${layers.length} layers, more than ${MAX_LAYERS}`);
  }
  return {
    mediaType,
    ...common(document, where),
    config: descriptor(document['config'], `${where}, config`),
    layers: layers.map((layer, i) => descriptor(layer, `${where}, layer ${i}`)),
  };
}

function imageIndex(document: Record<string, unknown>, mediaType: string, where: string): ImageIndex {
  // Go writes an empty list as null.
  const manifests = document['manifests'] ?? [];
  if (!Array.isArray(manifests)) throw malformed(where, 'its manifests are not a list');
  if (manifests.length > MAX_INDEX_ENTRIES) {
    throw new CofaError('unsupported', `${where}: it has more than ${MAX_INDEX_ENTRIES} entries`);
  }
  return {
    mediaType,
    ...common(document, where),
    manifests: manifests.map((entry, i) => descriptor(entry, `${where}, entry ${i}`)),
  };
}

function common(
  document: Record<string, unknown>,
  where: string,
): Pick<ImageManifest, 'artifactType' | 'subject' | 'annotations'> {
  const { artifactType, subject } = document;
  const found = annotations(document['annotations'], where);
  return {
    ...(typeof artifactType === 'string' && artifactType !== '' ? { artifactType } : {}),
    ...(subject === undefined || subject === null
      ? {}
      : { subject: descriptor(subject, `${where}, subject`) }),
    ...(found === undefined ? {} : { annotations: found }),
  };
}

function descriptor(value: unknown, where: string): Descriptor {
  if (!isObject(value)) throw malformed(where, 'it is not a descriptor');
  const { mediaType, digest, size, artifactType, platform } = value;
  if (typeof mediaType !== 'string') throw malformed(where, 'it has no mediaType');
  if (!isDigest(digest)) {
    if (typeof digest === 'string' && /^sha512:[0-9a-f]{128}$/.test(digest)) {
      throw new CofaError('unsupported', `${where}: only sha256 digests are supported`);
    }
    throw malformed(where, 'it has no sha256 digest');
  }
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) {
    throw malformed(where, 'its size is not a count of bytes');
  }
  const found = annotations(value['annotations'], where);
  return {
    mediaType,
    digest,
    size,
    ...(found === undefined ? {} : { annotations: found }),
    ...(typeof artifactType === 'string' && artifactType !== '' ? { artifactType } : {}),
    ...(isObject(platform) ? { platform: descriptorPlatform(platform) } : {}),
    ...(typeof value['data'] === 'string' ? { data: value['data'] } : {}),
  };
}

function descriptorPlatform(value: Record<string, unknown>): Platform {
  const variant = textOf(value['variant']);
  const platform: Platform = { os: textOf(value['os']), architecture: textOf(value['architecture']) };
  if (variant !== '') platform.variant = variant;
  return platform;
}

function annotations(value: unknown, where: string): Record<string, string> | undefined {
  if (value === undefined || value === null) return undefined;
  if (!isObject(value)) throw malformed(where, 'its annotations are not an object');
  const entries = Object.entries(value);
  if (entries.length > MAX_ANNOTATIONS) throw malformed(where, 'it has too many annotations');
  for (const [, text] of entries) {
    if (typeof text !== 'string') throw malformed(where, 'an annotation is not a string');
  }
  // Without a prototype, a key such as __proto__ is a key like any other.
  return Object.assign(Object.create(null), Object.fromEntries(entries)) as Record<string, string>;
}

/**
 * The type of a document without one, by its fields (image-spec, manifest.md and image-index.md make mediaType
 * optional).
 */
function shapeType(document: Record<string, unknown>): string | undefined {
  if ('manifests' in document) return MEDIA_TYPES.ociIndex;
  return 'layers' in document && 'config' in document ? MEDIA_TYPES.ociManifest : undefined;
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function malformed(where: string, why: string): CofaError {
  return new CofaError('integrity', `${where}: ${why}`);
}
