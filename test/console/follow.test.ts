/** A page that follows an engine for long grows no more than the log does: a short stretch of `ops/soak --follow`. */
import { expect, test } from 'vitest';
import { followSoak } from '../support/follow-soak.ts';

/** What a heap that is collected anew, and a process on a busy machine, may differ between two looks, MB. */
const HEAP_MB = 6;
const PROCESS_MB = 80;

test('following for a while: the page is at the end, and neither it nor its console has grown', async () => {
  const { follows, rounds, events, trends } = await followSoak({ minutes: 0.4, samples: 8 });
  const told = JSON.stringify(trends, undefined, 1);
  console.log(
    `followed ${events} events of ${rounds} rounds: ${trends.map(({ name, first, last }) => `${name} ${first.toFixed(1)} to ${last.toFixed(1)}`).join(', ')}`,
  );
  expect(follows).toBe(true);
  expect(rounds).toBeGreaterThan(2);
  for (const { name, first, last } of trends)
    expect(last - first, told).toBeLessThan(name.startsWith('console') ? PROCESS_MB : HEAP_MB);
});
