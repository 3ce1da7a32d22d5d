import { expect, test } from 'vitest';
import { isTighterOrEqual, TRUST_POLICIES } from '../../schemas/trust.ts';

test('policies have one order: a policy is as tight as itself, and of two one is the tighter', () => {
  for (const a of TRUST_POLICIES)
    for (const b of TRUST_POLICIES)
      expect(isTighterOrEqual(a, b) && isTighterOrEqual(b, a), `${a}, ${b}`).toBe(a === b);
  for (const policy of TRUST_POLICIES) expect(isTighterOrEqual('never', policy)).toBe(true);
  expect(isTighterOrEqual('own', 'registry')).toBe(true);
});
