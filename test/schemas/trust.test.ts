import { expect, test } from 'vitest';
import { checkFleetTrust, trustOption } from '../../src/cli/trust-option.ts';
import { OPERATIONS } from '../../schemas/api.ts';
import { DEFAULT_TRUST, isTighterOrEqual, policyNamed, TRUST_POLICIES } from '../../schemas/trust.ts';

test('policies have one order: a policy is as tight as itself, and of two one is the tighter', () => {
  for (const a of TRUST_POLICIES)
    for (const b of TRUST_POLICIES)
      expect(isTighterOrEqual(a, b) && isTighterOrEqual(b, a), `${a}, ${b}`).toBe(a === b);
  for (const policy of TRUST_POLICIES) expect(isTighterOrEqual('never', policy)).toBe(true);
  expect(isTighterOrEqual('own', 'registry')).toBe(true);
  // A mount may ask for signatures where the engine believes its fleet, and not the other way round.
  expect([isTighterOrEqual('signed', 'fleet'), isTighterOrEqual('fleet', 'signed')]).toEqual([true, false]);
});

test('an engine of no fleet takes no policy that asks one', () => {
  const words = { message: '--trust fleet takes --fleet' };
  expect(() => checkFleetTrust({ trust: 'fleet' })).toThrow(expect.objectContaining(words));
  expect(() => checkFleetTrust({ trust: 'fleet', fleet: false })).toThrow(expect.objectContaining(words));
  for (const fine of [{ trust: 'fleet', fleet: true }, { trust: 'signed' }, { fleet: 'test' }] as const)
    expect(() => checkFleetTrust(fine)).not.toThrow();
});

test('an engine that is told nothing believes no client that may merely push; `always` is still understood', () => {
  expect(DEFAULT_TRUST).toBe('signed');
  expect(policyNamed('always')).toBe('registry');
});

test('a word that is no policy is refused with the words that are, by options and by the API', () => {
  expect(() => trustOption('friends')).toThrow(
    '--trust: "friends" is not one of registry, fleet, signed, own, never',
  );
  const { error } = OPERATIONS.mount.request.safeParse({ ref: 'image', dir: '/dir', trust: 'friends' });
  for (const policy of TRUST_POLICIES) expect(error?.issues[0]?.message).toContain(`"${policy}"`);
});
