/**
 * Artifacts that hold files: models as the CNCF's ModelPack lays them out (model-spec v1: spec.md, annotations.md, config.md), as
 * docker's model runner does, and what ORAS pushes. A layer is either one file as it is, whose name is in an annotation, or a tar.
 * The manifest says what a layer of the first kind is, so its entry of the flat image needs no byte of the blob.
 */
import { isDigest } from '../../schemas/digest.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { LayerFile } from '../../schemas/events.ts';
import { MAX_PATH, normalisePath, pathProblem } from '../image/layer-path.ts';
import { type Descriptor, type ImageManifest, isObject, MEDIA_TYPES, parseObject } from './manifest.ts';
import { printable } from './printable.ts';

/** What one layer of such an artifact is. */
export interface ModelLayer {
  blob: Descriptor;
  diffId: string;
  /** The layer is this file, as it is; undefined: a tar. */
  file?: LayerFile;
}

/** Artifact types that may stand in an index beside images. */
export const MODEL_TYPES: ReadonlySet<string> = new Set([
  'application/vnd.cncf.model.manifest.v1+json',
  'application/vnd.docker.ai.model.config.v0.1+json',
]);

const MODEL_PACK = 'application/vnd.cncf.model.';
const FILE_PATH = 'org.cncf.model.filepath';
const FILE_METADATA = 'org.cncf.model.file.metadata+json';
/** OCI image-spec, annotations.md; ORAS names files with it. */
const TITLE = 'org.opencontainers.image.title';
/** ORAS: a folder that was packed, and the digest of the tar before compression. */
const UNPACKED_DIGEST = 'io.deis.oras.content.digest';

const TAR = /[.+]tar$/;
const PACKED_TAR = /[.+]tar(?:\+gzip|\+zstd|\.gzip|\.zstd)$/;
const DEFAULT_MODE = 0o644;
/** Bytes of the annotation about a file. */
const MAX_METADATA = 4_096;

/** Whether the manifest is no container image, and says what file or folder each of its layers is. */
export function isModel({ config: { mediaType }, layers }: ImageManifest): boolean {
  if (mediaType === MEDIA_TYPES.ociConfig || mediaType === MEDIA_TYPES.dockerConfig) return false;
  const isPack = mediaType.startsWith(MODEL_PACK);
  return layers.length > 0 && layers.every((one) => nameOf(one) !== undefined || (isPack && isTar(one)));
}

/**
 * The layers of an artifact that `isModel`. `where` names it in errors. Errors: `integrity` for names that lead nowhere,
 * `unsupported` for a compressed tar of which nothing says the diffID.
 */
export function modelLayers(manifest: ImageManifest, config: Buffer, where: string): ModelLayer[] {
  const diffIds = diffIdsOf(manifest, config, where);
  return manifest.layers.map((blob, at) => {
    // A title on a tar names the folder that was packed.
    if (TAR.test(blob.mediaType)) return { blob, diffId: blob.digest };
    if (packed(blob)) return { blob, diffId: unpackedDigest(blob, diffIds?.[at], where) };
    return { blob, diffId: blob.digest, file: fileOf(blob, `${where}, layer ${at}`) };
  });
}

const packed = ({ mediaType }: Descriptor): boolean => PACKED_TAR.test(mediaType);
const isTar = (blob: Descriptor): boolean => TAR.test(blob.mediaType) || packed(blob);
const nameOf = ({ annotations }: Descriptor): string | undefined =>
  annotations?.[FILE_PATH] ?? annotations?.[TITLE];

function unpackedDigest(blob: Descriptor, said: unknown, where: string): string {
  const diffId = said ?? blob.annotations?.[UNPACKED_DIGEST];
  if (isDigest(diffId)) return diffId;
  throw new CofaError(
    'unsupported',
    `${where}: nothing says the digest of the tar in layer ${blob.digest} (${printable(blob.mediaType)})`,
    { hint: 'push its layers uncompressed, or with a tool that writes modelfs.diffIds' },
  );
}

/** `modelfs.diffIds` of ModelPack, `rootfs.diff_ids` of docker's; undefined: the configuration has neither. */
function diffIdsOf({ layers, config }: ImageManifest, bytes: Buffer, where: string): unknown[] | undefined {
  if (!/[+/]json$/.test(config.mediaType) || config.mediaType === MEDIA_TYPES.ociEmpty) return undefined;
  const { modelfs, rootfs } = parseObject(bytes, `the configuration of ${where}`);
  const list = isObject(modelfs) ? modelfs['diffIds'] : isObject(rootfs) ? rootfs['diff_ids'] : undefined;
  return Array.isArray(list) && list.length === layers.length ? list : undefined;
}

function fileOf(blob: Descriptor, where: string): LayerFile {
  const name = Buffer.from(nameOf(blob) ?? '');
  const path = normalisePath(name);
  const text = path.toString();
  const problem = path.length > MAX_PATH ? 'a path that is too long' : pathProblem(path);
  const isOdd =
    path.length === 0 || text.includes('\uFFFD') || text.split('/').some((part) => part.startsWith('.wh.'));
  if (problem !== undefined || isOdd)
    throw new CofaError('integrity', `${where}: ${printable(name.toString())} names no file`);
  return { path: text, ...attributes(blob.annotations?.[FILE_METADATA]) };
}

/** Mode, owner and time of a file; what is not there, or has another form, is as in a file that root writes. */
function attributes(text: string | undefined): Omit<LayerFile, 'path'> {
  let said: unknown;
  try {
    said = text === undefined || text.length > MAX_METADATA ? undefined : JSON.parse(text);
  } catch {
    // It describes the file, and is none of its bytes.
  }
  const { mode, uid, gid, mtime } = isObject(said) ? said : {};
  const time = typeof mtime === 'string' ? Date.parse(mtime) / 1_000 : 0;
  return {
    mode: isCount(mode) ? mode & 0o777 : DEFAULT_MODE,
    uid: isCount(uid) ? uid : 0,
    gid: isCount(gid) ? gid : 0,
    mtime: Number.isFinite(time) ? Math.floor(time) : 0,
  };
}

const isCount = (value: unknown): value is number =>
  typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < 2 ** 32 - 1;
