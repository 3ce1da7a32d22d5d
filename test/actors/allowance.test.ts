import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Allowance } from '../../actors/allowance.ts';

const LIMITS = { burst: 3, refillMs: 1_000 };
const taken = (allowance: Allowance, times: readonly number[]) => times.map((now) => allowance.take(now));

describe('an allowance', () => {
  it('gives so many in a row, then one for each pause', () => {
    const allowance = new Allowance(LIMITS);
    expect(taken(allowance, [0, 0, 0, 0, 999, 1_000, 1_000])).toEqual([
      true,
      true,
      true,
      false,
      false,
      true,
      false,
    ]);
    expect(allowance.waitMs(1_300)).toBe(700);
    expect(allowance.waitMs(2_000)).toBe(0);
  });

  it('loses nothing of a pause that is not a multiple', () => {
    const allowance = new Allowance(LIMITS);
    taken(allowance, [0, 0, 0]);
    expect(taken(allowance, [1_900, 3_800, 3_800, 3_800, 4_000])).toEqual([true, true, true, false, true]);
  });

  it('is never more than the burst, however long nothing happens', () => {
    const allowance = new Allowance(LIMITS);
    taken(allowance, [0, 0, 0]);
    expect(taken(allowance, [1e9, 1e9, 1e9, 1e9])).toEqual([true, true, true, false]);
  });

  it('gives no more than the burst and one for each pause, whenever it is asked', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(5_000), { maxLength: 200 }), (pauses) => {
        const allowance = new Allowance(LIMITS);
        let now = 0;
        let given = 0;
        for (const pause of pauses) {
          now += pause;
          const isThere = allowance.waitMs(now) === 0;
          const isTaken = allowance.take(now);
          expect(isTaken).toBe(isThere);
          if (isTaken) given += 1;
        }
        expect(given).toBeLessThanOrEqual(LIMITS.burst + now / LIMITS.refillMs);
      }),
    );
  });
});
