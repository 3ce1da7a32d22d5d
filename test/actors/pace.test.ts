import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BURST_MS, Budget, Budgets } from '../../actors/pace.ts';
import { type SpanRun, spanRun } from '../../actors/ranges.ts';

const bytesOf = ([, spanCount]: SpanRun) => spanCount * 1_000;

describe('a budget', () => {
  test('keeps to its rate over any stretch, but for one job and a burst', () => {
    const steps = fc.array(fc.record({ pause: fc.nat(3_000), bytes: fc.nat(10_000) }), { maxLength: 50 });
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 10_000 }), steps, (rate, pauses) => {
        const budget = new Budget(rate);
        const taken: Array<{ at: number; bytes: number }> = [];
        let now = 0;
        for (const { pause, bytes } of pauses) {
          now += pause;
          if (budget.readyAt > now) continue;
          budget.take(bytes, now);
          taken.push({ at: now, bytes });
        }
        for (const [from, first] of taken.entries()) {
          let sum = 0;
          for (const { at, bytes } of taken.slice(from)) {
            expect(sum).toBeLessThanOrEqual(((at - first.at + BURST_MS) * rate) / 1_000 + 1e-6);
            sum += bytes;
          }
        }
      }),
    );
  });

  test('time that passes unused is lost', () => {
    const budget = new Budget(1_000);
    budget.take(1_000, 1_000_000);
    expect(budget.readyAt).toBe(1_001_000 - BURST_MS);
  });
});

describe('budgets of images', () => {
  test('the layers of an image share one', () => {
    const budgets = new Budgets();
    for (const layer of ['a', 'b']) budgets.set(layer, [['image', 1_000]], 0);
    budgets.paceOf('a', bytesOf)?.take(spanRun(0, 2), 0);
    expect(budgets.paceOf('b', bytesOf)?.readyAt).toBe(2_000 - BURST_MS);
  });

  test('a layer of several images takes from the one that is ready first', () => {
    const budgets = new Budgets();
    budgets.set(
      'a',
      [
        ['slow', 1],
        ['fast', 1_000],
      ],
      0,
    );
    budgets.set('b', [['slow', 1]], 0);
    const pace = budgets.paceOf('a', bytesOf);
    pace?.take(spanRun(0, 1), 0);
    pace?.take(spanRun(0, 1), 0);
    expect(pace?.readyAt).toBe(1_000 - BURST_MS);
    pace?.take(spanRun(0, 1), 1_000);
    expect(pace?.readyAt).toBe(2_000 - BURST_MS);
    expect(budgets.paceOf('b', bytesOf)?.readyAt).toBeGreaterThan(900_000);
  });

  test('a layer whose limit is lifted has none, and unused ones are forgotten', () => {
    const budgets = new Budgets();
    budgets.set('a', [['image', 1]], 0);
    budgets.paceOf('a', bytesOf)?.take(spanRun(0, 1), 0);
    budgets.set('a', [], 0);
    expect(budgets.paceOf('a', bytesOf)).toBeUndefined();
    budgets.set('a', [['image', 1]], 0);
    expect(budgets.paceOf('a', bytesOf)?.readyAt).toBeLessThan(0);
  });
});
