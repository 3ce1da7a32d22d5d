/** Which sidecar is tried, and why others are passed over. */
import { describe, expect, test } from 'vitest';
import {
  type ChoiceFacts,
  comeFirst,
  endsChoice,
  isHopeless,
  isRootVouched,
  isUsable,
  isVouched,
  passedBefore,
  passedFor,
  silentFleet,
  voucherOf,
} from '../../actors/sidecar-choice.ts';
import type { FleetWord } from '../../actors/fleet-ledger.ts';
import { TRUST_POLICIES, type TrustPolicy } from '../../schemas/trust.ts';

const facts: ChoiceFacts = {
  policy: 'registry',
  listed: new Set(),
  named: undefined,
  hasKeys: false,
  roots: new Map(),
  known: undefined,
  refuted: { flat: undefined, sidecars: new Set() },
  revision: 3,
};
const sidecar = {
  digest: 'a',
  flat: 'f',
  revision: 3,
  roots: [{ diffId: 'd', root: 'r' }],
  signer: undefined,
};
const proven = new Map([['d', { proven: 'r', refuted: [], at: 0 }]]);

describe('the registry is not asked for sidecars', () => {
  test.each<[string, Partial<ChoiceFacts>, boolean]>([
    ['under never, whatever is known', { policy: 'never', known: 'f', listed: new Set(['a']) }, true],
    ['under own with an empty list, whatever is known', { policy: 'own', known: 'f' }, true],
    ['but under own with a list', { policy: 'own', listed: new Set(['a']) }, false],
    ['but under registry', {}, false],
    ['but under signed, to say that it has no keys', { policy: 'signed' }, false],
    ['but under signed with a key', { policy: 'signed', hasKeys: true }, false],
  ])('%s', (_, change, isTrue) => {
    expect(isHopeless({ ...facts, ...change })).toBe(isTrue);
  });
});

describe('a sidecar is passed over before it is fetched', () => {
  test('when the layers have refuted it for some image', () => {
    const refuted = { flat: undefined, sidecars: new Set(['a']) };
    expect(passedBefore({ ...facts, refuted }, 'a')).toBe('it was refuted by the layers');
    expect(isUsable({ ...facts, refuted }, 'a', 'key:k')).toBe(false);
    expect(passedBefore({ ...facts, refuted }, 'b')).toBeUndefined();
  });

  test('when it is not listed, whatever is proven', () => {
    const own = { ...facts, policy: 'own' as const, listed: new Set(['b']) };
    expect(passedBefore(own, 'a')).toContain('trusted-sidecars does not name it');
    expect(passedBefore(own, 'b')).toBeUndefined();
    expect(passedBefore({ ...own, known: 'f' }, 'a')).toContain('trusted-sidecars does not name it');
    expect([isUsable(own, 'a', 'key:k'), isUsable(own, 'b', undefined)]).toEqual([false, true]);
  });
});

describe('a sidecar is passed over for its flat metadata', () => {
  test('when they were refuted for this image, also where they came with another sidecar', () => {
    const refuted = { flat: 'f', sidecars: new Set<string>() };
    expect(passedFor({ ...facts, refuted }, sidecar)).toContain('were refuted');
  });

  test('when our builder is said to have made them, and this node has built others from the same layers', () => {
    expect(passedFor({ ...facts, known: 'g' }, sidecar)).toContain('are not those that this node has built');
    expect(passedFor({ ...facts, known: 'g' }, { ...sidecar, revision: undefined })).toBeUndefined();
    expect(passedFor({ ...facts, known: 'f' }, sidecar)).toBeUndefined();
  });

  test('when the list does not name the sidecar, also where they and the roots are proven: its spans are not', () => {
    const own = { ...facts, policy: 'own' as const, roots: proven };
    for (const known of ['f', 'g'])
      expect(passedFor({ ...own, known }, sidecar)).toContain('trusted-sidecars');
    expect(passedFor({ ...own, known: 'f', listed: new Set(['a']) }, sidecar)).toBeUndefined();
  });
});

describe('a sidecar is passed over for its span tables', () => {
  test('when this node knows another block root of a layer, whoever vouches for it', () => {
    const roots = new Map([['d', { proven: 'other', refuted: [], at: 0 }]]);
    for (const policy of TRUST_POLICIES)
      expect(
        passedFor(
          { ...facts, policy, roots, known: 'f', listed: new Set(['a']) },
          { ...sidecar, signer: 'key:k' },
        ),
      ).toContain('another block root');
  });

  test('when its root was refuted, and the right one is not known yet', () => {
    const roots = new Map([['d', { refuted: ['r'], at: 0 }]]);
    expect(passedFor({ ...facts, roots }, sidecar)).toContain('another block root');
  });

  test('when its metadata are proven, its roots are not, and no one vouches for it', () => {
    const own = { ...facts, policy: 'own' as const, known: 'f' };
    expect(passedFor(own, sidecar)).toContain('does not name it');
    expect(passedFor({ ...own, listed: new Set(['a']) }, sidecar)).toBeUndefined();
    expect(passedFor({ ...own, policy: 'never' }, sidecar)).toContain('does not name it');
  });
});

test('who vouches: the list, a key, or whoever may push, as the policy says', () => {
  const signed = { digest: 'a', signer: 'key:k' };
  const word = (policy: TrustPolicy, listed: string[] = []) =>
    voucherOf({ ...facts, policy, listed: new Set(listed) }, signed);
  expect(TRUST_POLICIES.map((policy) => word(policy))).toEqual([undefined, 'key:k', 'key:k', false, false]);
  expect(TRUST_POLICIES.map((policy) => word(policy, ['a']))).toEqual([
    'list',
    'list',
    'list',
    'list',
    false,
  ]);
  const named = (policy: TrustPolicy) =>
    voucherOf({ ...facts, policy, named: 'a' }, { ...signed, signer: undefined });
  expect(TRUST_POLICIES.map(named)).toEqual([undefined, 'image', 'image', false, false]);
  const bare = { ...facts, policy: 'signed' as const, hasKeys: true };
  expect(passedFor(bare, sidecar)).toContain('no key of this node has signed it');
  expect(passedFor(bare, { ...sidecar, signer: 'key:k' })).toBeUndefined();
});

describe('the fleet vouches for what a sidecar holds', () => {
  /** One member has proven the metadata `f` and the root `r`. */
  const word: FleetWord = {
    silence: undefined,
    sidecars: new Set(['b']),
    provesRoot: (diffId, root) => diffId === 'd' && root === 'r',
    vouch: ({ flat, roots }) =>
      flat === 'f' && roots.every(({ root }) => root === 'r')
        ? { members: ['one'] }
        : { reason: 'no member has proven what it holds' },
  };
  const fleet = { ...facts, policy: 'fleet' as const, fleet: word };

  test('and not before it is here: it is fetched, and its layers are attached ahead as far as their roots are proven', () => {
    expect([
      passedBefore(fleet, 'a'),
      isUsable(fleet, 'a', undefined),
      isVouched(fleet, 'a', undefined),
    ]).toEqual([undefined, true, false]);
    expect([isRootVouched(fleet, 'd', 'r'), isRootVouched(fleet, 'd', 's')]).toEqual([true, false]);
    expect([...comeFirst(fleet, ['a', 'b'], new Map())]).toEqual(['b']);
  });

  test('the event names the member', () => {
    expect(passedFor(fleet, sidecar)).toBeUndefined();
    expect(voucherOf(fleet, sidecar)).toBe('fleet:one');
    // A key, the list and the image hold for stricter mounts, too.
    expect(voucherOf(fleet, { ...sidecar, signer: 'key:k' })).toBe('key:k');
    expect(voucherOf({ ...fleet, listed: new Set(['a']) }, sidecar)).toBe('list');
  });

  test('other metadata and other roots are passed over, with the reason and the way out', () => {
    for (const forged of [
      { ...sidecar, flat: 'g' },
      { ...sidecar, roots: [{ diffId: 'd', root: 's' }] },
    ])
      expect(passedFor(fleet, forged)).toBe(
        'no one vouches for it: no member has proven what it holds, this node has no keys (cofa trust add), and trusted-sidecars does not name it',
      );
  });

  test('what this node knows to be otherwise no member can vouch for', () => {
    const roots = new Map([['d', { proven: 'other', refuted: [], at: 0 }]]);
    expect(passedFor({ ...fleet, roots }, sidecar)).toContain('another block root');
    const refuted = { flat: 'f', sidecars: new Set<string>() };
    expect(passedFor({ ...fleet, refuted }, sidecar)).toContain('were refuted');
    expect(passedFor({ ...fleet, known: 'g' }, sidecar)).toContain('this node has built');
  });

  test('under no stricter policy, and not where it is silent or not there: no sidecar is fetched then', () => {
    for (const policy of ['signed', 'own', 'never'] as const)
      expect(passedFor({ ...fleet, policy }, sidecar), policy).toContain('trusted-sidecars does not name it');
    const silent = { ...fleet, fleet: silentFleet('no other node of the fleet is there') };
    expect(passedBefore(silent, 'a')).toContain('no other node of the fleet is there');
    expect(passedFor(silent, sidecar)).toContain('no other node of the fleet is there');
    expect(passedBefore({ ...fleet, fleet: undefined }, 'a')).toContain('this node is of no fleet');
    expect(isUsable(silent, 'a', undefined)).toBe(false);
    expect(passedBefore({ ...silent, hasKeys: true }, 'a')).toBeUndefined();
  });
});

test('what no other sidecar would mend ends the choice', () => {
  expect(['unauthorized', 'no-space', 'environment', 'integrity', 'not-found'].filter(endsChoice)).toEqual([
    'unauthorized',
    'no-space',
    'environment',
  ]);
});
