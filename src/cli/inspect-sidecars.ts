/** Who vouches for the sidecars of an image, as `cofa inspect` shows it. */
import type { RegistryClient, ResolvedImage } from '../registry/client.ts';
import type { SidecarHandle, SkippedSidecar } from '../registry/sidecars.ts';
import type { Trusted } from '../signature/keys.ts';
import type { SignatureState } from '../signature/find.ts';
import { formatBytes, renderTable } from '../terminal/table.ts';

/** A sidecar of the image, in the order in which nodes look at them. */
export interface SidecarView {
  digest: string;
  size: number;
  revision: number | null;
  signed: SignatureState;
  /** Names of the trusted keys that vouch for it. */
  keys: string[];
  /** The trusted identities that do. `name`: of the rule. */
  identities: Array<{ name: string; issuer: string; subject: string }>;
  /** Why other signatures vouch for nothing, a sentence each. */
  refused: string[];
}

export interface FoundSidecars {
  /** The one that nodes look at first. */
  first: SidecarHandle | undefined;
  views: SidecarView[];
  /** Candidates that are no sidecars of this image. */
  skipped: SkippedSidecar[];
}

/** All sidecars of an image with their signatures. Errors: of the registry. */
export async function findSidecars(
  client: RegistryClient,
  image: ResolvedImage,
  trusted: readonly Trusted[],
  signal: AbortSignal,
): Promise<FoundSidecars> {
  const [{ sidecarsOf }, { signaturesOf, stateOf }, { signedFirst }] = await Promise.all([
    import('../registry/sidecars.ts'),
    import('../signature/find.ts'),
    import('../signature/among.ts'),
  ]);
  const found: FoundSidecars = { first: undefined, views: [], skipped: [] };
  const prefer = signedFirst(client, image.reference, trusted, signal);
  const skip = (one: SkippedSidecar) => found.skipped.push(one);
  for await (const handle of sidecarsOf(client, image, signal, skip, prefer)) {
    const { digest } = handle.descriptor;
    const signatures = await signaturesOf(client, image.reference, digest, trusted, { signal, all: true });
    found.first ??= handle;
    found.views.push({
      digest,
      size: handle.size,
      revision: handle.revision ?? null,
      signed: stateOf(signatures),
      keys: signatures.signers.flatMap(({ by, identity }) => (identity === undefined ? [by.name] : [])),
      identities: signatures.signers.flatMap(({ by, identity }) =>
        identity === undefined ? [] : [{ name: by.name, ...identity }],
      ),
      refused: signatures.refused.map(({ why }) => why),
    });
  }
  return found;
}

export function vouchedText({
  signed,
  keys,
  identities,
}: Pick<SidecarView, 'signed' | 'keys' | 'identities'>): string {
  const named = identities.map(({ name, issuer, subject }) => `${name} (${subject} of ${issuer})`);
  if (signed === 'signed') return [...keys, ...named].join(', ');
  return {
    unsigned: 'no key: unsigned',
    'unknown-key': 'no key: signed by an unknown key',
    'unknown-identity': 'no identity: signed by one that is not trusted',
    'out-of-scope': 'no key: signed by one that may not vouch for this repository',
  }[signed];
}

/** For images with several sidecars. */
export const renderSidecars = (views: readonly SidecarView[]): string =>
  renderTable(
    ['SIDECAR', 'SIZE', 'VOUCHED FOR BY'],
    views.map((view) => [view.digest, formatBytes(view.size), vouchedText(view)]),
    ['SIZE'],
  );
