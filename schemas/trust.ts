/** Which sidecars of a registry may be used before the node has proven them; docs/trust.md. */
export const TRUST_POLICIES = ['always', 'own', 'never'] as const;
export type TrustPolicy = (typeof TRUST_POLICIES)[number];
