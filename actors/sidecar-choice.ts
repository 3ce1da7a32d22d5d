/**
 * Which sidecar of the registry an image is mounted with. Everyone who can push to the repository can push a sidecar, so each
 * is looked at in the registry's order, and the first that nothing speaks against is taken. One that is passed over has a
 * reason. The policy says who may vouch for one before this node has proven it: actors/trust.ts.
 */
import type { TrustPolicy } from '../schemas/trust.ts';
import type { FleetWord } from './fleet-ledger.ts';
import { type RootFacts, standingOf } from './node-state.ts';
import { voucherOfMembers } from './voucher.ts';

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
  /** What members of the fleet have proven for the same layers; undefined: the policy does not ask them. */
  fleet?: FleetWord | undefined;
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

/** What is known of a sidecar: its contents once they are here. */
type Known = Pick<SidecarContents, 'digest' | 'signer'> & Partial<SidecarContents>;

/**
 * Who vouches for the sidecar, as the event `image.prepared` says it; undefined: its pusher. False: no one does, or the fleet
 * may, when its contents are here.
 */
export function voucherOf(facts: ChoiceFacts, sidecar: Known): string | false | undefined {
  const { policy, listed, named, fleet } = facts;
  const { digest, signer, flat, roots, revision } = sidecar;
  if (policy !== 'never' && listed.has(digest)) return 'list';
  // To change what the manifest names takes another manifest, and that is another image.
  if (takesSigned(facts) && digest === named) return IMAGE;
  if (takesSigned(facts) && signer !== undefined) return signer;
  if (policy === 'fleet' && fleet !== undefined && flat !== undefined && roots !== undefined) {
    const vouching = fleet.vouch({ flat, roots, revision });
    if ('members' in vouching) return voucherOfMembers(vouching.members);
  }
  return policy === 'registry' ? undefined : false;
}

const takesSigned = ({ policy }: Pick<ChoiceFacts, 'policy'>): boolean =>
  policy === 'signed' || policy === 'fleet';

/** Whether the fleet may vouch for a sidecar of the image: that depends on what it holds. */
const mayFleetVouch = ({ policy, fleet }: ChoiceFacts): boolean =>
  policy === 'fleet' && fleet !== undefined && fleet.silence === undefined;

/** Whether a layer's device may be attached before its sidecar is taken, where no key, list or image vouches for that. */
export const isRootVouched = ({ policy, fleet }: ChoiceFacts, diffId: string, root: string): boolean =>
  policy === 'fleet' && fleet?.provesRoot(diffId, root) === true;

/**
 * Whether none can be taken, so that the registry need not be asked for them. Under `signed` it is asked all the same: a user
 * who has prepared an image wants to know why that is of no use.
 */
export const isHopeless = ({ policy, listed }: ChoiceFacts): boolean =>
  policy === 'never' || (policy === 'own' && listed.size === 0);

/** Whether it matters who has signed a sidecar. */
export const asksForSigner = ({ policy, hasKeys }: Pick<ChoiceFacts, 'policy' | 'hasKeys'>): boolean =>
  takesSigned({ policy }) && hasKeys;

/** Whether a policy takes a sidecar that is in the registry, as far as its digest and its signature can tell. */
export const isUsable = (facts: ChoiceFacts, digest: string, signer: string | undefined): boolean =>
  (isVouched(facts, digest, signer) || mayFleetVouch(facts)) && !facts.refuted.sidecars.has(digest);

/** The same where it does not depend on what the sidecar holds. */
export const isVouched = (facts: ChoiceFacts, digest: string, signer: string | undefined): boolean =>
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
  if (mayFleetVouch(facts)) return undefined;
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
      if (facts.fleet?.sidecars.has(digest) === true) return true;
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
  if (voucherOf(facts, sidecar) === false) return notVouched(facts, sidecar);
  if (known !== undefined && sidecar.flat !== known && (sidecar.revision ?? 1) === revision)
    return 'its flat metadata are not those that this node has built from the same layers';
  return undefined;
}

function notVouched(facts: ChoiceFacts, contents?: SidecarContents): string {
  const { policy, hasKeys } = facts;
  if (!takesSigned(facts)) return `policy ${policy}: trusted-sidecars does not name it`;
  const keys = hasKeys
    ? 'no key of this node has signed it, and no identity'
    : 'this node has no keys (cofa trust add)';
  const fleet = fleetReason(facts, contents);
  const others = fleet === undefined ? '' : `${fleet}, `;
  return `no one vouches for it: ${others}${keys}, and trusted-sidecars does not name it`;
}

/** Why the fleet does not vouch; undefined: it is not asked. */
function fleetReason({ policy, fleet }: ChoiceFacts, contents?: SidecarContents): string | undefined {
  if (policy !== 'fleet') return undefined;
  if (fleet === undefined) return 'this node is of no fleet';
  if (fleet.silence !== undefined || contents === undefined) return fleet.silence;
  const vouching = fleet.vouch(contents);
  return 'reason' in vouching ? vouching.reason : undefined;
}

/** Whether a sidecar that failed with this code ends the choice: no other one would do either. */
export const endsChoice = (code: string): boolean => FATAL.has(code);
const FATAL: ReadonlySet<string> = new Set(['unauthorized', 'no-space', 'environment']);

/** Where no member could be asked. */
export const silentFleet = (silence: string): FleetWord => ({
  silence,
  sidecars: new Set(),
  provesRoot: () => false,
  vouch: () => ({ reason: silence }),
});
