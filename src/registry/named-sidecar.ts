/**
 * An image that names its sidecar, as SOCI's v2 indexes do: the manifest's annotation `io.cofa.sidecar` is the digest of the
 * sidecar's manifest. To pin such an image by digest pins the sidecar as well, and an account that may move its tag may
 * change the image itself: no other account can bring a sidecar of its own.
 *
 * The digest of such a sidecar cannot depend on that of the image, so it has no `subject`. It is kept from a registry's
 * garbage collection by the tag `sha256-<hex of the image's manifest>.cofa`.
 */
import { hexOf, isDigest } from '../../schemas/digest.ts';
import { CofaError } from '../../schemas/errors.ts';
import { digestOf } from '../digest/digest.ts';
import { type ImageManifest, MEDIA_TYPES, parseObject, type ResolvedImage } from './manifest.ts';

export const SIDECAR_ARTIFACT = 'application/vnd.cofa.sidecar.v1';
const NAMED = 'io.cofa.sidecar';

/** Digest of the sidecar's manifest that an image's manifest names; undefined: it names none. */
export function namedSidecar({ annotations }: Pick<ImageManifest, 'annotations'>): string | undefined {
  const digest = annotations?.[NAMED];
  return isDigest(digest) ? digest : undefined;
}

export interface NamingManifest {
  bytes: Buffer;
  digest: string;
  mediaType: string;
  /** Under which its sidecar stays. */
  sidecarTag: string;
}

/**
 * The manifest of an image with the name of a sidecar in it: a new digest; layers and configuration are the same blobs. A
 * manifest of docker's form becomes one of OCI's, since docker's has no annotations. Error: `unsupported` where a layer has
 * no type in OCI's form.
 */
export function namingManifest({ manifestBytes, reference }: ResolvedImage, sidecar: string): NamingManifest {
  const document = parseObject(manifestBytes, `the manifest of ${reference.text}`);
  const typed = (part: unknown) => {
    const { mediaType, ...rest } = part as { mediaType: string };
    const type = Object.hasOwn(IN_OCI, mediaType) ? IN_OCI[mediaType] : mediaType;
    if (type === undefined || type.startsWith('application/vnd.docker.'))
      throw new CofaError('unsupported', `${reference.text}: ${mediaType} has no form in an OCI manifest`);
    return { mediaType: type, ...rest };
  };
  const changed = {
    ...document,
    mediaType: MEDIA_TYPES.ociManifest,
    config: typed(document['config']),
    layers: (document['layers'] as unknown[]).map(typed),
    annotations: { ...(document['annotations'] as object | undefined), [NAMED]: sidecar },
  };
  const bytes = Buffer.from(JSON.stringify(changed));
  const digest = digestOf(bytes);
  const sidecarTag = `sha256-${hexOf(digest)}.cofa`;
  return { bytes, digest, mediaType: MEDIA_TYPES.ociManifest, sidecarTag };
}

/** docker's media types in OCI's form (image-spec, media-types.md, "Compatibility Matrix"): the blobs are the same. */
const IN_OCI: Readonly<Record<string, string>> = {
  [MEDIA_TYPES.dockerConfig]: MEDIA_TYPES.ociConfig,
  'application/vnd.docker.image.rootfs.diff.tar': 'application/vnd.oci.image.layer.v1.tar',
  'application/vnd.docker.image.rootfs.diff.tar.gzip': 'application/vnd.oci.image.layer.v1.tar+gzip',
  'application/vnd.docker.image.rootfs.diff.tar.zstd': 'application/vnd.oci.image.layer.v1.tar+zstd',
};
