/**
 * Trust in what came from a registry: flat metadata, and the block roots of span tables. Which policy takes what, and what a
 * proof or a refutation changes. docs/trust.md has the reasons. Effects: src/supervisor/images.
 *
 * What is wrong is taken by no policy: flat metadata that the layers have refuted, a block root where another one is proven.
 * What is proven is taken by each. For what is neither, schemas/trust.ts says who may vouch.
 */
import { isTighterOrEqual, type TrustPolicy } from '../schemas/trust.ts';
import type { Proof, RootStanding } from './node-state.ts';
import { membersOfVoucher } from './voucher.ts';

/** Whether `policy` takes less than `than`; false for equal ones. */
export const isStricter = (policy: TrustPolicy, than: TrustPolicy): boolean =>
  policy !== than && isTighterOrEqual(policy, than);

/** A flat image that a mount is about to use. */
export interface Candidate {
  /** Of its metadata; undefined: there are none yet. */
  proof: Proof | undefined;
  /** Of the block roots of its layers, the worst. */
  roots: RootStanding;
  /** Digest of the sidecar that it came with; undefined: the node has built it. */
  sidecar: string | undefined;
  /** Who vouched for the sidecar when it was taken, as in the event `image.prepared`; undefined: no one had to. */
  vouched: string | undefined;
}

export interface Evidence {
  /** Sidecars that the operator lists. */
  listed: ReadonlySet<string>;
  /** The keys and identities that may vouch for images of its repository now, as `image.prepared` names them. */
  keys: ReadonlySet<string>;
  /** Sidecars that this node has refuted for any image. */
  refuted: ReadonlySet<string>;
  /** Members of the node's fleet whose word does not count; undefined: the node is of no fleet. */
  disbelieved: ReadonlySet<string> | undefined;
}

/** What is known of the block roots of several layers, together. */
export function worstOf(standings: Iterable<RootStanding>): RootStanding {
  let worst: RootStanding = 'proven';
  for (const standing of standings) {
    if (standing === 'other') return 'other';
    if (standing === 'unknown') worst = 'unknown';
  }
  return worst;
}

/** Whether no policy may use it any more. */
export const isWrong = ({ proof, roots }: Pick<Candidate, 'proof' | 'roots'>): boolean =>
  proof === 'refuted' || roots === 'other';

/** Whether a mount of this policy may use it. */
export function accepts(policy: TrustPolicy, candidate: Candidate, evidence: Evidence): boolean {
  const { proof, roots, sidecar = '', vouched = '' } = candidate;
  if (proof === undefined || isWrong(candidate)) return false;
  if (proof === 'proven' && roots === 'proven') return true;
  // Another image has shown that the sidecar lies; this one's part of it may be right, and is not taken on trust.
  if (evidence.refuted.has(sidecar)) return false;
  if (policy === 'registry') return true;
  if (policy === 'never') return false;
  if (evidence.listed.has(sidecar)) return true;
  if (policy === 'own') return false;
  if (vouched === 'image' || evidence.keys.has(vouched)) return true;
  return policy === 'fleet' && isFleetBelieved(vouched, evidence.disbelieved);
}

/** Members have vouched, and none of them was found to lie since. */
function isFleetBelieved(vouched: string, disbelieved: ReadonlySet<string> | undefined): boolean {
  const members = disbelieved === undefined ? undefined : membersOfVoucher(vouched);
  return members?.every((member) => disbelieved?.has(member) === false) === true;
}

/** One generation of an image, as a mount finds it: with one flat image, or about to get one. */
export interface Generation {
  /** Undefined: it has no flat image yet. */
  isAccepted: boolean | undefined;
  /** Nothing is being made of it, and its devices are not attached. */
  isIdle: boolean;
  /** Policy that it is, or was, prepared under. */
  trust: TrustPolicy;
  /** Whether the policy takes the flat image of the generation before; undefined: there is none. */
  isEarlierAccepted: boolean | undefined;
}

/**
 * What a mount of this policy does with the newest generation:
 *
 *     use       it has, or will have, what the policy takes
 *     go-back   it could not be prepared under a stricter policy: it takes the flat image of the generation before
 *     prepare   it is prepared under this policy
 *     succeed   another generation takes its place, for this mount and those that come
 */
export type Claim = 'use' | 'go-back' | 'prepare' | 'succeed';

/** `Claim` has the cases. */
export function claim(policy: TrustPolicy, generation: Generation): Claim {
  const { isAccepted, isIdle, trust, isEarlierAccepted } = generation;
  if (isAccepted === false) return 'succeed';
  if (!isIdle) return isAccepted === true || !isStricter(policy, trust) ? 'use' : 'succeed';
  return isAccepted === undefined && isEarlierAccepted === true ? 'go-back' : 'prepare';
}

/** Whether the layers that are here are looked at before the registry is. */
export const buildsFromLayersFirst = (policy: TrustPolicy, isRefuted: boolean): boolean =>
  policy === 'own' || policy === 'never' || isRefuted;

/**
 * The policy of a mount whose reference the user pinned by digest: what it gets is committed to by that digest, and not by a
 * client that may merely push.
 */
export const policyFor = (policy: TrustPolicy, isPinned: boolean): TrustPolicy =>
  isPinned && policy === 'registry' ? 'signed' : policy;

/**
 * Whether a mount is refused as long as the registry offers what was refuted. The other policies do not take it in any
 * case, and use what this node builds.
 */
export const isRefused = (policy: TrustPolicy, isRefuted: boolean): boolean =>
  isRefuted && policy === 'registry';

/** What is known of an unproven flat image before its layers are read. */
export interface Unproven {
  flat: string;
  /** Digest that this node has proven for the same layers by the present revision of the builder; undefined: none. */
  known: string | undefined;
  /** Whether the present revision of the builder made it. */
  isOurs: boolean;
  /** Whether another generation has taken its place: older mounts alone have it. */
  isSucceeded: boolean;
}

/**
 * How it is proven:
 *
 *     proven    the node has built the same already
 *     refuted   the node has built another one from the same layers
 *     leave     older mounts alone have it, and it says nothing of the registry
 *     rebuild   it has to be built from the layers, and compared
 */
export type ProofStep = 'proven' | 'refuted' | 'leave' | 'rebuild';

/** `ProofStep` has the cases. */
export function proofStep({ flat, known, isOurs, isSucceeded }: Unproven): ProofStep {
  if (known === flat) return 'proven';
  if (!isSucceeded || known === undefined) return 'rebuild';
  return isOurs ? 'refuted' : 'leave';
}

/**
 * What a rebuild from the layers says: `proven` when byte for byte the same; a difference refutes what our own builder is
 * said to have made; of another builder it proves nothing either way, and new mounts use what this node has built.
 */
export const verdict = (isSame: boolean, isOurs: boolean): 'proven' | 'refuted' | 'replaced' =>
  isSame ? 'proven' : isOurs ? 'refuted' : 'replaced';

const RETRY_MS = 30_000;
const RETRY_MAX_MS = 3_600_000;

/** After so many rebuilds of one image that failed, the next one comes after this pause, ms. */
export const pauseAfterFailures = (failures: number): number =>
  Math.min(RETRY_MS * 2 ** (failures - 1), RETRY_MAX_MS);
