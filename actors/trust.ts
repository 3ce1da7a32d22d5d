/**
 * Trust in flat metadata that came from a registry: which policy takes what, and what a proof or a refutation changes.
 * docs/trust.md has the reasons. Effects: src/supervisor/images.
 *
 *     always   any that nothing speaks against
 *     own      those that this node has proven, and unproven ones whose sidecar the user lists
 *     never    those that this node has proven
 */
import type { TrustPolicy } from '../schemas/trust.ts';
import type { Proof } from './node-state.ts';

const STRICTNESS: Record<TrustPolicy, number> = { always: 0, own: 1, never: 2 };

export const isStricter = (policy: TrustPolicy, than: TrustPolicy): boolean =>
  STRICTNESS[policy] > STRICTNESS[than];

/** Flat metadata that a mount is about to use. */
export interface Candidate {
  /** Undefined: there are none yet. */
  proof: Proof | undefined;
  /** Digest of the sidecar that they came with; undefined: the node has built them. */
  sidecar: string | undefined;
}

export interface Evidence {
  /** Sidecars that the user lists for policy `own`. */
  listed: ReadonlySet<string>;
  /** Sidecars that this node has refuted for any image. */
  refuted: ReadonlySet<string>;
}

/** Whether a mount of this policy may use them. */
export function accepts(
  policy: TrustPolicy,
  { proof, sidecar = '' }: Candidate,
  evidence: Evidence,
): boolean {
  if (proof !== 'unproven') return proof === 'proven';
  // Another image has shown that the sidecar lies; this one's part of it may be right, and is not taken on trust.
  if (evidence.refuted.has(sidecar)) return false;
  if (policy === 'own') return evidence.listed.has(sidecar);
  return policy === 'always';
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

export function claim(policy: TrustPolicy, generation: Generation): Claim {
  const { isAccepted, isIdle, trust, isEarlierAccepted } = generation;
  if (isAccepted === false) return 'succeed';
  if (!isIdle) return isAccepted === true || !isStricter(policy, trust) ? 'use' : 'succeed';
  return isAccepted === undefined && isEarlierAccepted === true ? 'go-back' : 'prepare';
}

/** Whether the layers that are here are looked at before the registry is. */
export const buildsFromLayersFirst = (policy: TrustPolicy, isRefuted: boolean): boolean =>
  policy !== 'always' || isRefuted;

/**
 * Whether a mount is refused as long as the registry offers what was refuted. The other policies do not take it in any
 * case, and use what this node builds.
 */
export const isRefused = (policy: TrustPolicy, isRefuted: boolean): boolean =>
  isRefuted && policy === 'always';

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
