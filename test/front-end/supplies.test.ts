/** Where a layer's blocks come from, when images that share it name several places. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Supply } from '../../schemas/front.ts';
import { Supplies } from '../../src/front-end/supplies.ts';

const supply = (name: string): Supply => ({
  source: { registry: 'r', repository: name, digest: `sha256:${name}`, size: 1 },
  table: `sha256:table-${name}`,
});
const [a, b, c] = ['a', 'b', 'c'].map(supply) as [Supply, Supply, Supply];

test('the next one is used from the first failure on, and after the last one the first again', () => {
  const supplies = new Supplies(a, [b]);
  supplies.failed(a);
  expect(supplies.current).toEqual(b);
  // A job that was sent before.
  supplies.failed(a);
  expect(supplies.current).toEqual(b);
  supplies.failed(b);
  expect(supplies.current).toEqual(a);
});

test('the one that works stays when images come and go; one that is gone is used no longer', () => {
  const supplies = new Supplies(a, [b]);
  supplies.failed(a);
  supplies.replace([c, a, b]);
  expect(supplies.current).toEqual(b);
  supplies.replace([c, a]);
  expect(supplies.current).toEqual(c);
});

test('one that is right is found within as many failures as there are others', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 16 }), fc.nat(15), (count, at) => {
      const all = Array.from({ length: count }, (_, n) => supply(`s${n}`)) as [Supply, ...Supply[]];
      const right = all[at % count];
      const supplies = new Supplies(...([all[0], all.slice(1)] as const));
      for (let tries = 0; supplies.current !== right; tries++) {
        expect(tries).toBeLessThan(count);
        supplies.failed(supplies.current);
      }
    }),
  );
});
