/** Clients that pull, run and remove all the time, while containerd and the engine's processes are killed in turns. */
import { randomInt } from 'node:crypto';
import { expect, test } from 'vitest';
import { clientChurn } from '../support/client-churn.ts';

test('every run prints its image, containers live on, and nothing is left', async () => {
  const seed = randomInt(2 ** 31);
  console.log(`seed ${seed}`);
  const report = await clientChurn({ cycles: 8, clients: 2, killRounds: 4, seed, untilUnmounted: false });
  expect(report.violations).toEqual([]);
  expect(report.cycles).toBeGreaterThanOrEqual(8);
  expect(report.kills).toEqual({ containerd: 1, snapshotter: 1, 'front-end': 1, engine: 1 });
}, 360_000);
