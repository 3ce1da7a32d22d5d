/** What a process holds at a time: random pieces of work over a budget of bytes. */
import { setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ByteBudget } from '../../src/registry/byte-budget.ts';

test('work never holds more than the budget, all of it gets its turn, and all bytes come back', async () => {
  const piece = fc.record({
    bytes: fc.nat(150),
    turns: fc.nat(4),
    fails: fc.boolean(),
    abortAfter: fc.option(fc.nat(6), { nil: undefined }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(piece, { maxLength: 20 }), async (pieces) => {
      const budget = new ByteBudget(100);
      let held = 0;
      const outcomes = pieces.map(async ({ bytes, turns, fails, abortAfter }) => {
        const control = new AbortController();
        const abort = (async () => {
          if (abortAfter === undefined) return;
          for (let i = 0; i < abortAfter; i++) await turn();
          control.abort(new Error('given up'));
        })();
        const work = async () => {
          const release = await budget.lease(bytes, control.signal);
          held += Math.min(bytes, 100);
          expect(held).toBeLessThanOrEqual(100);
          for (let i = 0; i < turns; i++) await turn();
          held -= Math.min(bytes, 100);
          release();
          if (fails) throw new Error('failed');
          return bytes;
        };
        const outcome = await work().catch((error: Error) => error.message);
        if (outcome === 'given up') expect(abortAfter).toBeDefined();
        else expect(outcome).toBe(fails ? 'failed' : bytes);
        await abort;
      });
      await Promise.all(outcomes);
      expect(held).toBe(0);
      expect(budget.free).toBe(100);
    }),
    { numRuns: 200 },
  );
});
