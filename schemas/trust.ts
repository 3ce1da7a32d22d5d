/** Which sidecars of a registry may be used before the node has proven them; docs/trust.md. */
export const TRUST_POLICIES = ['always', 'own', 'never'] as const;
export type TrustPolicy = (typeof TRUST_POLICIES)[number];

/** From the loosest to the tightest: what a tighter one lets a sidecar do, every looser one does too. */
const BY_TIGHTNESS: readonly TrustPolicy[] = ['always', 'own', 'never'];

/** Whether `a` believes no sidecar that `b` would not: a request may ask for such a policy whatever the engine's is. */
export const isTighterOrEqual = (a: TrustPolicy, b: TrustPolicy): boolean =>
  BY_TIGHTNESS.indexOf(a) >= BY_TIGHTNESS.indexOf(b);
