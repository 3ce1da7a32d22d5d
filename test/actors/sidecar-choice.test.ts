/** Which sidecar is tried, and why others are passed over. */
import { describe, expect, test } from 'vitest';
import {
  type ChoiceFacts,
  endsChoice,
  isHopeless,
  isUsable,
  passedBefore,
  passedFor,
} from '../../actors/sidecar-choice.ts';

const facts: ChoiceFacts = {
  policy: 'always',
  listed: new Set(),
  known: undefined,
  refuted: { flat: undefined, sidecars: new Set() },
  revision: 3,
};
const sidecar = { digest: 'a', flat: 'f', revision: 3 };

describe('the registry is not asked for sidecars', () => {
  test.each<[string, Partial<ChoiceFacts>, boolean]>([
    ['under never, whatever is known', { policy: 'never', known: 'f', listed: new Set(['a']) }, true],
    ['under own with an empty list and nothing proven', { policy: 'own' }, true],
    ['but under own with a list', { policy: 'own', listed: new Set(['a']) }, false],
    ['but under own for what this node has proven', { policy: 'own', known: 'f' }, false],
    ['but under always', {}, false],
  ])('%s', (_, change, isTrue) => {
    expect(isHopeless({ ...facts, ...change })).toBe(isTrue);
  });
});

describe('a sidecar is passed over before it is fetched', () => {
  test('when the layers have refuted it for some image', () => {
    const refuted = { flat: undefined, sidecars: new Set(['a']) };
    expect(passedBefore({ ...facts, refuted }, 'a')).toBe('it was refuted by the layers');
    expect(isUsable({ ...facts, refuted }, 'a')).toBe(false);
    expect(passedBefore({ ...facts, refuted }, 'b')).toBeUndefined();
  });

  test('when it is not listed, and nothing is proven that it could hold', () => {
    const own = { ...facts, policy: 'own' as const, listed: new Set(['b']) };
    expect(passedBefore(own, 'a')).toContain('trusted-sidecars does not name it');
    expect(passedBefore(own, 'b')).toBeUndefined();
    expect(passedBefore({ ...own, known: 'f' }, 'a')).toBeUndefined();
    expect([isUsable(own, 'a'), isUsable(own, 'b')]).toEqual([false, true]);
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

  test('when they are not what is proven, and the list does not name the sidecar', () => {
    const own = { ...facts, policy: 'own' as const, known: 'g' };
    expect(passedFor(own, sidecar)).toContain('trusted-sidecars');
    expect(passedFor({ ...own, known: 'f' }, sidecar)).toBeUndefined();
  });
});

test('what no other sidecar would mend ends the choice', () => {
  expect(['unauthorized', 'no-space', 'environment', 'integrity', 'not-found'].filter(endsChoice)).toEqual([
    'unauthorized',
    'no-space',
    'environment',
  ]);
});
