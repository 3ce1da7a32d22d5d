/** How a digest is written: `sha256:` and 64 lower-case hex digits (OCI image-spec, descriptor.md, "Digests"). */

export const DIGEST = /^sha256:[0-9a-f]{64}$/;

export function isDigest(value: unknown): value is string {
  return typeof value === 'string' && DIGEST.test(value);
}

/** The 64 hex digits. Error: RangeError for anything but a digest, since they become part of paths and formats. */
export function hexOf(digest: string): string {
  if (!DIGEST.test(digest)) throw new RangeError(`not a sha256 digest: ${JSON.stringify(digest)}`);
  return digest.slice('sha256:'.length);
}
