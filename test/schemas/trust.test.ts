import { expect, test } from 'vitest';
import { DEFAULT_TRUST, isTighterOrEqual, policyNamed, TRUST_POLICIES } from '../../schemas/trust.ts';

test('policies have one order: a policy is as tight as itself, and of two one is the tighter', () => {
  for (const a of TRUST_POLICIES)
    for (const b of TRUST_POLICIES)
      expect(isTighterOrEqual(a, b) && isTighterOrEqual(b, a), `${a}, ${b}`).toBe(a === b);
  for (const policy of TRUST_POLICIES) expect(isTighterOrEqual('never', policy)).toBe(true);
  expect(isTighterOrEqual('own', 'registry')).toBe(true);
});

test('an engine that is told nothing believes no client that may merely push; `always` is still understood', () => {
  expect(DEFAULT_TRUST).toBe('signed');
  expect(policyNamed('always')).toBe('registry');
});
