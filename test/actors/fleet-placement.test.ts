/** Where pieces have their homes. */
import { describe, expect, test } from 'vitest';
import { Placement, type Placed } from '../../actors/fleet-placement.ts';
import { GROUP_PIECES } from '../../schemas/fleet.ts';
import { Random } from '../support/random.ts';

const digest = (n: number) => `sha256:${n.toString(16).padStart(64, '0')}`;
const member = (id: string, weight = 1, zone = 'a'): Placed => ({ id, zone, weight });
const members = (count: number) => Array.from({ length: count }, (_, at) => member(`node-${at}`));
const PIECES = Array.from({ length: 20_000 }, (_, n) => ({ digest: digest(n), index: 0 }));

function shares(placement: Placement): Map<string, number> {
  const homes = new Map<string, number>();
  for (const piece of PIECES)
    for (const home of placement.homes(piece, 'a')) homes.set(home, (homes.get(home) ?? 0) + 1);
  return homes;
}

describe('homes of pieces', () => {
  test('the order in which members became known makes no difference', () => {
    const there = new Placement(members(50));
    const back = new Placement(members(50).toReversed());
    for (const piece of PIECES.slice(0, 500)) expect(back.homes(piece, 'a')).toEqual(there.homes(piece, 'a'));
  });

  test('there are two of them, and each member has its share of all, within a tenth', () => {
    const homes = shares(new Placement(members(10)));
    expect([...homes.values()].reduce((sum, count) => sum + count, 0)).toBe(2 * PIECES.length);
    for (const count of homes.values()) expect(Math.abs(count - 4_000)).toBeLessThan(400);
  });

  test('a member of threefold weight is the first home of three times as many', () => {
    const placement = new Placement([member('big', 3), ...members(9)]);
    const first = PIECES.filter((piece) => placement.homes(piece, 'a')[0] === 'big').length;
    expect(Math.abs(first / PIECES.length - 3 / 12)).toBeLessThan(0.02);
  });

  test('when a member leaves, only the pieces it was a home of get another one, and the other home stays', () => {
    const before = new Placement(members(20));
    const after = new Placement(members(20).filter(({ id }) => id !== 'node-7'));
    for (const piece of PIECES.slice(0, 5_000)) {
      const stay = before.homes(piece, 'a').filter((home) => home !== 'node-7');
      expect(after.homes(piece, 'a').slice(0, stay.length)).toEqual(stay);
    }
  });

  test('homes that were found before members came, left and moved are those that one who knows them all at once finds', () => {
    const random = new Random(5);
    const placement = new Placement();
    const there = new Map<string, Placed>();
    for (let step = 0; step < 400; step++) {
      const id = `node-${random.int(0, 29)}`;
      if (random.chance(0.4)) {
        placement.delete(id);
        there.delete(id);
      } else {
        const one = member(id, random.pick([0, 1, 1, 2.5]), random.pick(['a', 'a', 'b']));
        placement.set(one);
        there.set(id, one);
      }
      const anew = new Placement(there.values());
      for (const zone of ['a', 'b'])
        for (const piece of PIECES.slice(0, 8))
          expect(placement.homes(piece, zone)).toEqual(anew.homes(piece, zone));
    }
  });

  test('neighbouring pieces share homes, so that a right is shown once for them', () => {
    const placement = new Placement(members(20));
    const homesOf = (index: number) => placement.homes({ digest: digest(1), index }, 'a');
    for (let index = 0; index < GROUP_PIECES; index++) expect(homesOf(index)).toEqual(homesOf(0));
    expect(
      new Set(Array.from({ length: 8 }, (_, group) => homesOf(group * GROUP_PIECES).join())).size,
    ).toBeGreaterThan(4);
  });

  test('a zone has homes of its own; members of no weight are none; where none is left there is none', () => {
    const placement = new Placement([member('far', 1, 'b'), member('light', 0), member('near')]);
    expect(placement.homes(PIECES[0] as never, 'a')).toEqual(['near']);
    expect(placement.homes(PIECES[0] as never, 'b')).toEqual(['far']);
    expect(placement.homes(PIECES[0] as never, 'c')).toEqual([]);
  });
});

describe('cells of a large zone', () => {
  const LIMITS = { undivided: 100, members: 50 };
  const PIECE = { digest: digest(1), index: 0 };
  const among = (count: number) => new Placement(members(count), 2, LIMITS);
  const cells = (placement: Placement, count: number) => members(count).map(({ id }) => placement.cellOf(id));

  test('a zone has them from so many members on, each of about as many', () => {
    expect(new Set(cells(among(100), 100))).toEqual(new Set([undefined]));
    const sizes = new Map<number | undefined, number>();
    for (const cell of cells(among(1_000), 1_000)) sizes.set(cell, (sizes.get(cell) ?? 0) + 1);
    expect(sizes.size).toBe(20);
    for (const size of sizes.values()) expect(Math.abs(size - 50)).toBeLessThan(25);
  });

  test('a piece has other homes in each, which are the same however many cells there are', () => {
    const [some, more] = [among(1_000), among(1_040)];
    const homes = Array.from({ length: 20 }, (_, cell) => some.homes(PIECE, 'a', cell).join());
    expect(new Set([...homes, some.homes(PIECE, 'a').join()]).size).toBeGreaterThan(19);
    const same = homes.filter((list, cell) => list === more.homes(PIECE, 'a', cell).join());
    expect(same.length).toBeGreaterThan(14);
  });

  test('when there is one more, its own members move and no others', () => {
    const [before, after] = [cells(among(1_000), 1_000), cells(among(1_001), 1_000)];
    const moved = after.flatMap((cell, at) => (cell === before[at] ? [] : [cell]));
    expect(new Set(moved)).toEqual(new Set([20]));
    expect(moved.length).toBeLessThan(100);
  });

  test('a member that gives nothing to others is of none: who waits for it would wait in vain', () => {
    const placement = among(1_000);
    placement.set(member('light', 0));
    expect(placement.cellOf('light')).toBeUndefined();
  });

  test('no member is a home of a cell that the zone cannot have, nor of any where it has none', () => {
    expect([0, 21, 23, 900].map((cell) => among(1_000).homes(PIECE, 'a', cell).length)).toEqual([2, 2, 0, 0]);
    expect([0, 1].map((cell) => among(80).homes(PIECE, 'a', cell).length)).toEqual([0, 0]);
    // Others may have heard of more members.
    expect(among(95).homes(PIECE, 'a', 2)).toHaveLength(2);
  });
});
