/** The block map of the page: what its canvas draws, as numbers. */
import { expect, test } from 'vitest';
import { around } from '../../src/console/web/layers/blocks.ts';

test('the line around the chosen block is on the canvas as a whole, also at its edges', () => {
  for (const [at, edge] of [
    [0, 24],
    [240, 24],
    [1_176, 24],
    [0, 4],
    [1_199, 4],
  ] as const) {
    const [from, to] = around(at, edge, 1_200);
    // Half of its two pixels lie on each side.
    expect(from).toBeGreaterThanOrEqual(1);
    expect(to).toBeLessThanOrEqual(1_199);
    expect(to - from).toBeGreaterThanOrEqual(edge - 1);
  }
  expect(around(240, 24, 1_200)).toEqual([240, 264]);
});
