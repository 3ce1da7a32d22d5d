/**
 * Who may vouch for a sidecar before this node has proven it; docs/trust.md. From the loosest to the tightest: what a tighter
 * policy takes, every looser one takes too.
 *
 *     registry   every client that may push to the repository
 *     fleet      members of the node's fleet that have proven it, and all that follows
 *     signed     keys of the operator, the image's own manifest, the list of the operator, and what this node has proven
 *     own        the list of the operator, and what this node has proven
 *     never      what this node has proven
 */
export const TRUST_POLICIES = ['registry', 'fleet', 'signed', 'own', 'never'] as const;
export type TrustPolicy = (typeof TRUST_POLICIES)[number];

/** Of an engine that is told nothing else. */
export const DEFAULT_TRUST: TrustPolicy = 'signed';

/** What users and old events may say: `always` was the word for `registry`. */
export const TRUST_WORDS = ['always', ...TRUST_POLICIES] as const;
export type TrustWord = (typeof TRUST_WORDS)[number];

export const policyNamed = (word: TrustWord): TrustPolicy => (word === 'always' ? 'registry' : word);

/** Whether `a` believes no sidecar that `b` would not. A request may ask for a policy `a` of an engine whose policy is `b`. */
export const isTighterOrEqual = (a: TrustPolicy, b: TrustPolicy): boolean =>
  TRUST_POLICIES.indexOf(a) >= TRUST_POLICIES.indexOf(b);
