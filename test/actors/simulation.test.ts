/**
 * Hundreds of seeds of test/support/simulation.ts, new ones each time. `COFA_SEED=n` runs one of them again and prints
 * what happened; `COFA_SEEDS=n` sets how many run.
 */
import { randomInt } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { type Outcome, type Sabotage, simulate, Violation } from '../support/simulation.ts';

const one = process.env.COFA_SEED;
const count = Number(process.env.COFA_SEEDS ?? 300);

describe('layers and dispatcher in a world of faults', () => {
  test.runIf(one !== undefined)(`seed ${one}`, () => {
    const outcome = simulate(Number(one), { onTrace: (line) => console.log(line) });
    console.log(outcome);
  });

  test.runIf(one === undefined)(
    `keep their rules in ${count} new seeds`,
    () => {
      const first = randomInt(2 ** 31);
      console.log(
        `seeds ${first} to ${first + count - 1}; one again: COFA_SEED=n npx vitest run test/actors/simulation.test.ts`,
      );
      for (let seed = first; seed < first + count; seed++) simulate(seed);
    },
    count * 1_000,
  );

  test('the same seed is the same run, to the last message', () => {
    for (const seed of [1, 2, 3, 4, 5]) {
      const traces = [0, 1].map(() => {
        const lines: string[] = [];
        return { outcome: simulate(seed, { onTrace: (line) => lines.push(line) }), lines };
      });
      expect(traces[1]).toEqual(traces[0]);
    }
    expect(simulate(6).trace).not.toBe(simulate(7).trace);
  });

  test('the world meets what it is there for', () => {
    const outcomes = Array.from({ length: 120 }, (_, at) => simulate(at + 1));
    const sum = (count: (outcome: Outcome) => number | undefined) =>
      outcomes.reduce((total, outcome) => total + (count(outcome) ?? 0), 0);
    const things = [
      'demand jobs',
      'prefetch jobs',
      'prefetch at a pace',
      'idle work: held',
      'idle work: aged',
      'promoted',
      'ranges ahead of readers in order',
      'retries',
      'late blocks',
      'complete',
      'corrupt',
      'punched',
      'packs',
      'pool: full',
      'pool: waited',
      'pool: lost',
      'failed: busy',
      'failed: integrity',
      'failed: timeout',
      'failed: unavailable',
      'failed appends',
      'lost messages',
      'fetcher crashes',
      'front end crashes',
      'power cuts',
    ];
    for (const thing of things)
      expect(
        sum(({ met }) => met[thing]),
        thing,
      ).toBeGreaterThan(5);
    expect(sum(({ served }) => served)).toBeGreaterThan(10_000);
  });
});

describe('a mistake that is built in is found', () => {
  const mistakes: Sabotage[] = [
    'drop-waiter',
    'double-fetch',
    'answer-early',
    'log-before-sync',
    'punch-before-log',
    'forget-append',
    'prefetch-first',
    'overspend',
    'miss-deadline',
  ];
  test.each(mistakes)('%s', (sabotage) => {
    const run = () => {
      for (let seed = 1; seed <= 100; seed++) simulate(seed, { sabotage });
    };
    expect(run).toThrow(Violation);
  });
});
