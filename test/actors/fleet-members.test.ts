/** Who counts as a member of the fleet, and for how long. */
import { describe, expect, test } from 'vitest';
import { announceEveryMs, Members } from '../../actors/fleet-members.ts';
import type { Member } from '../../schemas/fleet.ts';

const member = (id: string, more: Partial<Member> = {}): Member => ({
  v: 2,
  fleet: 'prod',
  id,
  zone: 'a',
  address: `${id}:7443`,
  fingerprint: '',
  role: 'node',
  weight: 1,
  version: '1',
  life: `${id}-life`,
  since: 0,
  everyMs: 1_000,
  ...more,
});
const PIECE = { digest: `sha256:${'1'.repeat(64)}`, index: 0 };

describe('members of a fleet', () => {
  test('one that falls silent is suspected, then gone; one that speaks again is live', () => {
    const members = new Members('prod');
    members.heard(member('one'), 1, 0);
    members.heard(member('two'), 2, 0);
    members.tick(2_999);
    expect(members.stateOf('one')).toBe('live');
    members.tick(3_000);
    expect(members.stateOf('one')).toBe('suspected');
    members.heard(member('one'), 3, 3_500);
    expect(members.stateOf('one')).toBe('live');
    members.tick(6_000);
    expect([members.stateOf('one'), members.stateOf('two')]).toEqual(['live', 'gone']);
    members.tick(60_000);
    expect(members.size).toBe(1);
    members.tick(120_000);
    expect([members.size, members.nextWake]).toEqual([0, Number.POSITIVE_INFINITY]);
  });

  test('a suspected member stays a home; one that leaves is none from then on', () => {
    const members = new Members('prod');
    for (const id of ['one', 'two', 'three']) members.heard(member(id, { everyMs: 10_000 }), 1, 0);
    const homes = members.placement.homes(PIECE, 'a');
    members.tick(30_000);
    expect(members.placement.homes(PIECE, 'a')).toEqual(homes);
    members.heard(member(homes[0] as string, { leaving: true }), 2, 30_001);
    expect(members.placement.homes(PIECE, 'a')[0]).toBe(homes[1]);
  });

  test('no clock but this node’s counts, and of two messages the revision says which is later', () => {
    const members = new Members('prod');
    members.heard(member('ahead', { since: 2 ** 45 }), 5, 0);
    members.heard(member('ahead', { since: 1, address: 'old:1' }), 4, 10);
    expect(members.get('ahead')?.address).toBe('ahead:7443');
    members.heard(member('ahead', { since: 1, address: 'new:1', life: 'another-life' }), 6, 20);
    expect(members.get('ahead')?.address).toBe('new:1');
    members.tick(3_019);
    expect(members.stateOf('ahead')).toBe('live');
  });

  test('a member of another fleet on the same NATS is none, and no more than so many are known', () => {
    const members = new Members('prod', { most: 2 });
    members.heard(member('other', { fleet: 'test' }), 1, 0);
    for (const id of ['one', 'two', 'three']) members.heard(member(id), 2, 0);
    expect([members.get('other'), members.size]).toEqual([undefined, 2]);
  });

  test('the more members there are, the less often each speaks: together they say as much', () => {
    expect([10, 200, 1_000, 10_000, 1e6].map(announceEveryMs)).toEqual([
      2_000, 2_000, 10_000, 100_000, 120_000,
    ]);
  });
});
