/**
 * Which sidecar of the registry an image is mounted with. Everyone who can push to the repository can push a sidecar, so each
 * is looked at in the registry's order, and the first that nothing speaks against is taken. One that is passed over has a
 * reason. The policy says who may vouch for one before this node has proven it: actors/trust.ts.
 */
import type { TrustPolicy } from '../schemas/trust.ts';
import { type RootFacts, standingOf } from './node-state.ts';

export interface ChoiceFacts {
  policy: TrustPolicy;
  /** Sidecars that the operator lists in ROOT/trusted-sidecars. */
  listed: ReadonlySet<string>;
  /** Digest of the sidecar that the image's own manifest names; undefined: it names none. */
  named: string | undefined;
  /** Whether the operator trusts keys or identities that may sign for the image's repository. */
  hasKeys: boolean;
  /** Digest of the flat metadata that this node has proven for the same layers; undefined: none. It vouches for no sidecar. */
  known: string | undefined;
  /** What is known of block roots, by diffID. */
  roots: ReadonlyMap<string, RootFacts>;
  /** What this node has refuted: flat metadata of this image, and sidecars of any image. */
  refuted: { flat: string | undefined; sidecars: ReadonlySet<string> };
  /** Of the builder in this engine. */
  revision: number;
}

/** What a sidecar holds. */
export interface SidecarContents {
  /** Digest of its manifest. */
  digest: string;
  /** Digest of its flat metadata. */
  flat: string;
  /** Of its builder. */
  revision: number | undefined;
  /** Of its span tables: those of the layers that the image has file data in. */
  roots: ReadonlyArray<{ diffId: string; root: string }>;
  /** The operator's key or identity that has signed it, as `image.prepared` names it; undefined: none has. */
  signer: string | undefined;
}

/** What `image.prepared` says where the image's own manifest names the sidecar. */
const IMAGE = 'image';

/** Who vouches for the sidecar, as the event `image.prepared` says it; undefined: its pusher. False: no one does. */
export function voucherOf(
  { policy, listed, named }: ChoiceFacts,
  { digest, signer }: Pick<SidecarContents, 'digest' | 'signer'>,
): string | false | undefined {
  if (policy !== 'never' && listed.has(digest)) return 'list';
  // To change what the manifest names takes another manifest, and that is another image.
  if (policy === 'signed' && digest === named) return IMAGE;
  if (policy === 'signed' && signer !== undefined) return signer;
  return policy === 'registry' ? undefined : false;
}

/**
 * Whether none can be taken, so that the registry need not be asked for them. Under `signed` it is asked all the same: a user
 * who has prepared an image wants to know why that is of no use.
 */
export const isHopeless = ({ policy, listed }: ChoiceFacts): boolean =>
  policy === 'never' || (policy === 'own' && listed.size === 0);

/** Whether it matters who has signed a sidecar. */
export const asksForSigner = ({ policy, hasKeys }: Pick<ChoiceFacts, 'policy' | 'hasKeys'>): boolean =>
  policy === 'signed' && hasKeys;

/** Whether a policy takes a sidecar that is in the registry, as far as its digest and its signature can tell. */
export const isUsable = (facts: ChoiceFacts, digest: string, signer: string | undefined): boolean =>
  voucherOf(facts, { digest, signer }) !== false && !facts.refuted.sidecars.has(digest);

/**
 * Why the sidecar is passed over before any of it is fetched; undefined: it is fetched. `signer`: who has signed it; false: no
 * one has; undefined: that is not known yet.
 */
export function passedBefore(
  facts: ChoiceFacts,
  digest: string,
  signer?: string | false,
): string | undefined {
  if (facts.refuted.sidecars.has(digest)) return 'it was refuted by the layers';
  if (signer === undefined && asksForSigner(facts)) return undefined;
  return voucherOf(facts, { digest, signer: signer || undefined }) === false ? notVouched(facts) : undefined;
}

/**
 * Which of several sidecars are looked at first, wherever the registry lists them: those that are vouched for, as far as their
 * digests and `signers` tell. A client that may push can add any number of others.
 */
export const comeFirst = (
  facts: ChoiceFacts,
  digests: readonly string[],
  signers: ReadonlyMap<string, string | false>,
): ReadonlySet<string> =>
  new Set(
    digests.filter((digest) => {
      const voucher = voucherOf(facts, { digest, signer: signers.get(digest) || undefined });
      return voucher !== false && voucher !== undefined;
    }),
  );

/**
 * Why it is passed over for what it holds; undefined: it is taken. Metadata and roots that this node has proven vouch for none:
 * the spans beside them could still lead nowhere, and what is proven the node takes from its own store.
 */
export function passedFor(facts: ChoiceFacts, sidecar: SidecarContents): string | undefined {
  const { known, refuted, revision, roots } = facts;
  const standings = sidecar.roots.map(({ diffId, root }) => standingOf(roots, diffId, root));
  if (standings.includes('other'))
    return "one of its span tables is not the layer's: this node knows another block root";
  if (refuted.flat === sidecar.flat) return 'its flat metadata were refuted by the layers';
  if (voucherOf(facts, sidecar) === false) return notVouched(facts);
  if (known !== undefined && sidecar.flat !== known && (sidecar.revision ?? 1) === revision)
    return 'its flat metadata are not those that this node has built from the same layers';
  return undefined;
}

const notVouched = ({ policy, hasKeys }: ChoiceFacts): string =>
  policy === 'signed'
    ? `no one vouches for it: ${hasKeys ? 'no key of this node has signed it, and no identity' : 'this node has no keys (cofa trust add)'}, and trusted-sidecars does not name it`
    : `policy ${policy}: trusted-sidecars does not name it`;

/** Whether a sidecar that failed with this code ends the choice: no other one would do either. */
export const endsChoice = (code: string): boolean => FATAL.has(code);
const FATAL: ReadonlySet<string> = new Set(['unauthorized', 'no-space', 'environment']);
