/**
 * Which sidecar of the registry an image is mounted with. Everyone who can push to the repository can push a sidecar, so each
 * is looked at in the registry's order, and the first that nothing speaks against is taken. One that is passed over has a
 * reason. The policy says which may be used before this node has proven them: actors/trust.ts.
 */
import type { TrustPolicy } from '../schemas/trust.ts';

export interface ChoiceFacts {
  policy: TrustPolicy;
  /** Sidecars that the user lists in ROOT/trusted-sidecars. */
  listed: ReadonlySet<string>;
  /** Digest of the flat metadata that this node has proven for the same layers; undefined: none. */
  known: string | undefined;
  /** What this node has refuted: flat metadata of this image, and sidecars of any image. */
  refuted: { flat: string | undefined; sidecars: ReadonlySet<string> };
  /** Of the builder in this engine. */
  revision: number;
}

/** Whether the policy takes the sidecar's word. */
const isTrusted = ({ policy, listed }: ChoiceFacts, digest: string): boolean =>
  policy === 'always' || (policy === 'own' && listed.has(digest));

/** Whether none can be taken, so that the registry need not be asked for them. */
export function isHopeless({ policy, listed, known }: ChoiceFacts): boolean {
  if (policy === 'always') return false;
  if (policy === 'never') return true;
  return listed.size === 0 && known === undefined;
}

/** Whether a policy takes a sidecar that is in the registry, as far as its digest alone can tell. */
export const isUsable = (facts: ChoiceFacts, digest: string): boolean =>
  isTrusted(facts, digest) && !facts.refuted.sidecars.has(digest);

/** Why the sidecar is passed over before any of it is fetched; undefined: it is fetched. */
export function passedBefore(facts: ChoiceFacts, digest: string): string | undefined {
  if (facts.refuted.sidecars.has(digest)) return 'it was refuted by the layers';
  // What it has may be what this node has proven.
  return isTrusted(facts, digest) || facts.known !== undefined ? undefined : NOT_LISTED;
}

/** Why it is passed over for its flat metadata; undefined: it is taken. `revision`: of its builder. */
export function passedFor(
  facts: ChoiceFacts,
  sidecar: { digest: string; flat: string; revision: number | undefined },
): string | undefined {
  const { known, refuted, revision } = facts;
  if (refuted.flat === sidecar.flat) return 'its flat metadata were refuted by the layers';
  if (sidecar.flat === known) return undefined;
  if (!isTrusted(facts, sidecar.digest)) return NOT_LISTED;
  if (known !== undefined && (sidecar.revision ?? 1) === revision)
    return 'its flat metadata are not those that this node has built from the same layers';
  return undefined;
}

const NOT_LISTED = 'policy own: this node has not proven it, and trusted-sidecars does not name it';

/** Whether a sidecar that failed with this code ends the choice: no other one would do either. */
export const endsChoice = (code: string): boolean => FATAL.has(code);
const FATAL: ReadonlySet<string> = new Set(['unauthorized', 'no-space', 'environment']);
