/** Whom a member asks, by how others have behaved. */
import { describe, expect, test } from 'vitest';
import { PEER_LIMITS, Peers } from '../../actors/fleet-peers.ts';

const peers = (limits = {}) => new Peers(() => 0, limits);
const pauseOf = (of: Peers, member: string, now: number): number => {
  for (let ms = 0; ms < 1e7; ms += 250) if (of.isAsked(member, now + ms)) return ms;
  return Number.POSITIVE_INFINITY;
};

describe('other members', () => {
  test('one that is silent is left out for longer each time, and no longer after a piece has come', () => {
    const all = peers();
    const pauses = Array.from({ length: 8 }, () => {
      all.silent('slow', 0);
      return pauseOf(all, 'slow', 0);
    });
    expect(pauses).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
    all.came('slow', 5);
    all.silent('slow', 100_000);
    expect(pauseOf(all, 'slow', 100_000)).toBe(1_000);
  });

  test('a silent one that says that it has got a piece is asked again; a liar that says so is not', () => {
    const all = peers();
    all.silent('slow', 0);
    all.wrong('liar', undefined, 0);
    for (const member of ['slow', 'liar', 'unknown']) all.heard(member, 10);
    expect(['slow', 'liar', 'unknown'].map((member) => all.isAsked(member, 10))).toEqual([true, false, true]);
    all.silent('slow', 10);
    expect(pauseOf(all, 'slow', 10)).toBe(2_000);
  });

  test('one whose bytes are wrong is left out for an hour and named first', () => {
    const all = peers();
    all.silent('slow', 0);
    all.wrong('liar', undefined, 0);
    all.wrong('registry-liar', 'registry', 0);
    expect(pauseOf(all, 'liar', 0)).toBe(PEER_LIMITS.wrongMs);
    expect(all.leftOut(1).map(({ member, reason }) => [member, reason])).toEqual([
      ['liar', 'wrong'],
      ['registry-liar', 'wrong'],
      ['slow', 'silent'],
    ]);
    all.came('liar', 1);
    expect(all.isAsked('liar', 1_000_000)).toBe(false);
  });

  test('one that was cheated by another is forgiven twice; one that says so each time is not', () => {
    const all = peers();
    const pauses = Array.from({ length: 3 }, (_, at) => {
      all.wrong('home', 'somebody-else', at * 200_000);
      return pauseOf(all, 'home', at * 200_000);
    });
    expect(pauses).toEqual([10_000, 100_000, PEER_LIMITS.wrongMs]);
    expect(all.leftOut(500_000)[0]?.reason).toBe('wrong');
  });

  test('a busy one is not asked before it said, and no other stands in for it', () => {
    const all = peers();
    all.busy('home', 500, 0);
    expect([all.isAsked('home', 499), all.isAsked('home', 500), all.isLeftOut('home', 0)]).toEqual([
      false,
      true,
      false,
    ]);
  });

  test('another home is asked as well after what nineteen of twenty take, within bounds, for a tenth of all', () => {
    const all = peers();
    for (let ms = 1; ms <= 100; ms++) all.came('home', ms * 4);
    // The last 64: 148 to 400 ms.
    expect(all.hedgeMs).toBe(388);
    for (let ms = 0; ms < 64; ms++) all.came('home', 1);
    expect(all.hedgeMs).toBe(PEER_LIMITS.hedgeMinMs);
    while (all.takeHedge());
    let hedges = 0;
    for (let came = 0; came < 100; came++) {
      all.came('home', 1);
      if (all.takeHedge()) hedges += 1;
    }
    expect(Math.abs(hedges - 10)).toBeLessThan(2);
  });

  test('one that answers late is asked again, and what is usual is known: half of the last ones, once there are some', () => {
    const all = peers();
    all.silent('slow', 0);
    all.answered('slow', 3_000, 500);
    expect([all.isAsked('slow', 500), all.usualMs('answer')]).toEqual([true, 0]);
    for (const ms of [3_000, 3_000, 3_000]) all.answered('slow', ms, 500);
    expect(all.usualMs('answer')).toBe(3_000);
    // One slow member among fast ones.
    for (let at = 0; at < 64; at++) all.answered(`node-${at % 4}`, at % 4 === 0 ? 3_000 : 10, 500);
    expect([all.usualMs('answer'), all.usualMs('piece'), all.usualMs('want')]).toEqual([10, 0, 0]);
  });

  test('what is known is bounded, and liars are forgotten last', () => {
    const all = peers({ most: 3 });
    all.wrong('liar', undefined, 0);
    for (let at = 0; at < 10; at++) all.silent(`silent-${at}`, 0);
    expect(all.leftOut(1).map(({ member }) => member)).toEqual(['liar', 'silent-8', 'silent-9']);
  });
});
