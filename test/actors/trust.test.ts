/** What a policy accepts, and what a proof or a refutation changes. */
import { describe, expect, test } from 'vitest';
import type { Proof, RootStanding } from '../../actors/node-state.ts';
import {
  accepts,
  buildsFromLayersFirst,
  claim,
  type Generation,
  isRefused,
  isStricter,
  pauseAfterFailures,
  policyFor,
  proofStep,
  verdict,
  worstOf,
} from '../../actors/trust.ts';
import { TRUST_POLICIES, type TrustPolicy } from '../../schemas/trust.ts';

const none = {
  listed: new Set<string>(),
  keys: new Set<string>(),
  refuted: new Set<string>(),
  disbelieved: new Set<string>(),
};
const known = { proof: 'proven', roots: 'proven', sidecar: 'a', vouched: undefined } as const;

describe('a mount may use a flat image', () => {
  /** By policy: of a sidecar that is listed, one that a key has signed, another one, one that another image has refuted. */
  const unproven: Record<TrustPolicy, [boolean, boolean, boolean, boolean]> = {
    registry: [true, true, true, false],
    fleet: [true, true, false, false],
    signed: [true, true, false, false],
    own: [true, false, false, false],
    never: [false, false, false, false],
  };

  test.each(TRUST_POLICIES)('%s: what is proven always, what is refuted never', (policy) => {
    for (const [proof, roots, isAccepted] of [
      ['proven', 'proven', true],
      ['refuted', 'proven', false],
      ['proven', 'other', false],
      ['unproven', 'other', false],
      [undefined, 'proven', false],
    ] as ReadonlyArray<[Proof | undefined, RootStanding, boolean]>)
      expect(accepts(policy, { ...known, proof, roots }, { ...none, listed: new Set(['a']) })).toBe(
        isAccepted,
      );
  });

  test.each(TRUST_POLICIES)('%s: what is not proven yet', (policy) => {
    const listed = new Set(['a']);
    const keys = new Set(['key:k']);
    for (const part of [{ proof: 'unproven' }, { roots: 'unknown' }] as const) {
      const candidate = { ...known, ...part };
      const signed = { ...candidate, vouched: 'key:k' };
      expect([
        accepts(policy, candidate, { ...none, listed }),
        accepts(policy, signed, { ...none, keys }),
        accepts(policy, candidate, { ...none, keys }),
        accepts(policy, signed, { ...none, listed, keys, refuted: new Set(['a']) }),
      ]).toEqual(unproven[policy]);
    }
  });

  test('that a key has vouched for, as long as the operator has the key', () => {
    const candidate = { ...known, roots: 'unknown', vouched: 'key:k' } as const;
    expect(accepts('signed', candidate, { ...none, keys: new Set(['key:k']) })).toBe(true);
    expect(accepts('signed', candidate, { ...none, keys: new Set(['key:l']) })).toBe(false);
    expect(accepts('signed', { ...candidate, vouched: 'image' }, none)).toBe(true);
    expect(accepts('own', { ...candidate, vouched: 'image' }, none)).toBe(false);
  });

  test('that members of the fleet have vouched for, as long as each is believed, and where the node has a fleet', () => {
    const candidate = { ...known, roots: 'unknown', vouched: 'fleet:one,two' } as const;
    const words = TRUST_POLICIES.map((policy) => accepts(policy, candidate, none));
    expect(words).toEqual([true, true, false, false, false]);
    expect(accepts('fleet', candidate, { ...none, disbelieved: new Set(['two']) })).toBe(false);
    expect(accepts('fleet', candidate, { ...none, disbelieved: undefined })).toBe(false);
    for (const wrong of [{ proof: 'refuted' }, { roots: 'other' }] as const)
      expect(accepts('fleet', { ...candidate, ...wrong }, none)).toBe(false);
  });

  test('on the word of the registry alone where the reference does not name a digest', () => {
    expect([policyFor('registry', false), policyFor('registry', true)]).toEqual(['registry', 'signed']);
    for (const policy of ['fleet', 'signed', 'own', 'never'] as const)
      expect(policyFor(policy, true)).toBe(policy);
  });

  test('only if all its block roots are fine', () => {
    expect(worstOf([])).toBe('proven');
    expect(worstOf(['proven', 'unknown'])).toBe('unknown');
    expect(worstOf(['other', 'unknown', 'proven'])).toBe('other');
  });

  test('is refused as long as the registry offers what was refuted, where the policy would take that', () => {
    expect(TRUST_POLICIES.filter((policy) => isRefused(policy, true))).toEqual(['registry']);
    expect(TRUST_POLICIES.filter((policy) => isRefused(policy, false))).toEqual([]);
  });

  test('that are built from the layers here first, unless any sidecar would do', () => {
    expect(TRUST_POLICIES.filter((policy) => buildsFromLayersFirst(policy, false))).toEqual(['own', 'never']);
    expect(buildsFromLayersFirst('registry', true)).toBe(true);
  });
});

describe('a mount that finds a generation of an image', () => {
  const generation: Generation = {
    isAccepted: undefined,
    isIdle: true,
    trust: 'registry',
    isEarlierAccepted: undefined,
  };

  test.each<[string, Partial<Generation>, TrustPolicy, ReturnType<typeof claim>]>([
    ['has it prepared where nothing is there yet', {}, 'own', 'prepare'],
    ['uses what its policy takes', { isAccepted: true, isIdle: false }, 'own', 'use'],
    ['needs another one where its policy does not take it', { isAccepted: false }, 'own', 'succeed'],
    ['waits for one that is being prepared as strictly', { isIdle: false, trust: 'never' }, 'own', 'use'],
    ['does not wait for one that is prepared less strictly', { isIdle: false }, 'own', 'succeed'],
    [
      'goes back to the one before, where a stricter one failed',
      { isEarlierAccepted: true },
      'registry',
      'go-back',
    ],
    ['does not go back to what its policy does not take', { isEarlierAccepted: false }, 'never', 'prepare'],
  ])('%s', (_, found, policy, decision) => {
    expect(claim(policy, { ...generation, ...found })).toBe(decision);
  });

  test('policies have an order', () => {
    expect(isStricter('never', 'own') && isStricter('own', 'registry')).toBe(true);
    expect(isStricter('own', 'own') || isStricter('registry', 'own')).toBe(false);
  });
});

describe('a proof', () => {
  test.each([
    ['needs no rebuild where the node has built the same', { known: 'f' }, 'proven'],
    ['is built where nothing is known', {}, 'rebuild'],
    ['is built where another one is known, and new mounts would use this one', { known: 'g' }, 'rebuild'],
    [
      'refutes what older mounts alone have, where our builder made it',
      { known: 'g', isSucceeded: true },
      'refuted',
    ],
    [
      'leaves what older mounts alone have, where another builder made it',
      { known: 'g', isSucceeded: true, isOurs: false },
      'leave',
    ],
  ] as const)('%s', (_, facts, step) => {
    const all = { flat: 'f', known: undefined, isOurs: true, isSucceeded: false, ...facts };
    expect(proofStep(all)).toBe(step);
  });

  test('that finds a difference refutes what our builder is said to have made, and replaces that of another', () => {
    expect([verdict(true, false), verdict(false, true), verdict(false, false)]).toEqual([
      'proven',
      'refuted',
      'replaced',
    ]);
  });

  test('that failed is tried again after half a minute, later and later, and within the hour', () => {
    expect([1, 2, 3].map(pauseAfterFailures)).toEqual([30_000, 60_000, 120_000]);
    expect(pauseAfterFailures(50)).toBe(3_600_000);
  });
});
