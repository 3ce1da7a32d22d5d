/**
 * Seeds of test/support/machine, new ones each time: the engine's own programs in simulated time, with faults drawn from
 * the seed. `COFA_SEED=n` runs one of them again, `COFA_SEEDS=n` sets how many run; for many: ops/sim.
 */
import { randomInt } from 'node:crypto';
import { availableParallelism } from 'node:os';
import { describe, expect, test } from 'vitest';
import { replacementCount } from '../support/machine/hooks.ts';
import { runSeeds, showSeed } from '../support/machine/run-seeds.ts';
import type { Sabotage } from '../support/machine/sabotage.ts';

const one = process.env.COFA_SEED;
const count = Number(process.env.COFA_SEEDS ?? 120);
const jobs = Math.min(4, availableParallelism());

describe('the whole engine in a world of faults', () => {
  test.runIf(one !== undefined)(`seed ${one}`, async () => {
    const result = await showSeed(Number(one), undefined, (line) => console.log(line));
    expect(result).not.toHaveProperty('message');
  });

  test.runIf(one === undefined)(
    `keeps its rules in ${count} new seeds`,
    { timeout: count * 2_000 },
    async () => {
      const first = randomInt(1, 2 ** 31);
      console.log(`seeds ${first} to ${first + count - 1}; one again: ops/sim --seed N`);
      const report = await runSeeds({ first, count, jobs });
      expect(report.failures).toEqual([]);
      expect(report.seeds).toBe(count);
      expect(report.unmet, 'replacements that match no module').toEqual([]);
      // It meets what it is there for.
      for (const what of ['mount: ok', 'reads served', 'power cuts', 'kills of supervisor', 'acks lost'])
        expect(report.met[what], what).toBeGreaterThan(0);
    },
  );

  test('replaces few modules by path, and no more than before', () => {
    expect(replacementCount).toBeLessThanOrEqual(25);
  });

  test('the same seed is the same run, to the last event', async () => {
    const trace = async (seed: number) => {
      const lines: string[] = [];
      const result = await showSeed(seed, undefined, (line) => {
        // What a process logs carries the real process's number.
        if (!line.includes(' says ')) lines.push(line);
      });
      return { result, lines };
    };
    for (const seed of [11, 12]) expect(await trace(seed)).toEqual(await trace(seed));
  });
});

describe('a mistake that is built in is found', () => {
  const mistakes: Sabotage[] = ['event-before-sync', 'lost-unmount', 'forget-loop'];
  test.each(mistakes)('%s', async (sabotage) => {
    const { failures } = await runSeeds({ first: 1, count: 60, jobs, sabotage });
    expect(failures.length).toBeGreaterThan(0);
  });
});
