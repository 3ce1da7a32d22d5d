/** Pauses between the rounds of a rehearsal. */
import { expect, test } from 'vitest';
import { REHEARSAL_PACE, rehearsalPause } from '../../actors/rehearsal-pace.ts';

const { pauseMs, limitMs } = REHEARSAL_PACE;

/** How long it pauses behind one round on a machine whose tasks wait for this share of the time, ms. */
function pausedAt(share: number | undefined): number {
  let paused = 0;
  for (;;) {
    const ms = rehearsalPause(paused, share === undefined ? undefined : share * pauseMs);
    if (ms === 0) return paused;
    paused += ms;
  }
}

test('one pause behind a round, more while others wait for a processor, and an end to that', () => {
  expect(pausedAt(0)).toBe(pauseMs);
  expect(pausedAt(undefined)).toBe(pauseMs);
  expect(pausedAt(1)).toBe(limitMs);
});
