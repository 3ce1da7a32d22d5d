/** A few rounds of what `ops/soak --kill-rounds` does for long: processes killed at random under readers and mounts. */
import { randomInt } from 'node:crypto';
import { expect, it } from 'vitest';
import { killRounds } from '../support/kill-rounds.ts';

it('processes killed at random: no wrong byte, no hang, no failed read, nothing left behind', async () => {
  const seed = Number(process.env.COFA_KILL_SEED ?? randomInt(2 ** 31));
  console.log(`seed ${seed}; again: COFA_KILL_SEED=${seed}, or for long: ops/soak --kill-rounds 200`);
  const report = await killRounds({
    rounds: 8,
    seed,
    limitMs: 10_000,
    readers: 8,
    victims: ['fetcher', 'front-end'],
  });
  expect(report).toMatchObject({ violations: [], leaked: [], wrongBytes: 0, hangs: 0, failedReads: 0 });
  expect(report.reads).toBeGreaterThan(100);
  expect(report.rounds).toBeGreaterThan(0);
});
