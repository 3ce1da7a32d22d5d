/** `cofa index --as NEWREF`: a copy of the image's manifest that names its sidecar (src/registry/named-sidecar.ts). */
import { CofaError } from '../../schemas/errors.ts';
import type { Descriptor, RegistryClient, ResolvedImage } from '../registry/client.ts';
import { parseReference, type Reference } from '../registry/reference.ts';
import type { Sidecar } from '../registry/sidecar-format.ts';

export interface NamedCopy {
  ref: string;
  /** Digest of its manifest. */
  manifest: string;
}

/**
 * The tag of the copy; undefined where there is to be none. Error: `invalid-argument` for another repository, whose blobs
 * would have to be copied, for a digest, and for the image's own tag.
 */
export function copyTag(as: string | undefined, image: Reference): string | undefined {
  if (as === undefined) return undefined;
  const { domain, repository, tag, digest } = parseReference(as);
  const refuse = (why: string, hint: string) =>
    new CofaError('invalid-argument', `--as ${as}: ${why}`, { hint });
  if (domain !== image.domain || repository !== image.repository)
    throw refuse('it is in another repository', 'copy the image there first, then index it there');
  if (digest !== undefined || tag === undefined)
    throw refuse('it has to be a tag', `such as ${copyText(image, 'cofa')}`);
  if (tag === image.tag && image.digest === undefined)
    throw refuse('it is the tag of the image itself, which stays as it is', 'choose another tag');
  return tag;
}

const copyText = ({ domain, repository }: Reference, tag: string): string =>
  parseReference(`${domain}/${repository}:${tag}`).text;

/** Pushes a sidecar: beside the image, or, with the tag of a copy, named by that. `size`: bytes of its blobs. */
export async function pushFor(
  client: RegistryClient,
  image: ResolvedImage,
  { sidecar, copy, signal }: { sidecar: Sidecar; copy: string | undefined; signal: AbortSignal },
): Promise<{ descriptor: Descriptor; size: number; named: NamedCopy | undefined }> {
  const { pushNamedSidecar, pushSidecar } = await import('../registry/push-sidecar.ts');
  const { reference } = image;
  let descriptor: Descriptor;
  let named: NamedCopy | undefined;
  if (copy === undefined) descriptor = await pushSidecar(client, image, sidecar, signal);
  else {
    const pushed = await pushNamedSidecar(client, image, sidecar, copy, signal);
    descriptor = pushed.sidecar;
    named = { ref: copyText(reference, copy), manifest: pushed.image.digest };
  }
  const { parsed } = await client.manifest(reference, descriptor.digest, signal);
  const size =
    parsed.kind === 'manifest' ? parsed.manifest.layers.reduce((sum, { size }) => sum + size, 0) : 0;
  return { descriptor, size, named };
}
