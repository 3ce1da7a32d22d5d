import fc from 'fast-check';
import { expect, test } from 'vitest';
import { backoffMs, DEFAULT_RETRY, parseRetryAfter } from '../../src/registry/retry.ts';

const NOW = Date.parse('2030-06-01T12:00:00Z');

test.each([
  ['0', 0],
  ['120', 120_000],
  [' 5 ', 5000],
  ['Sat, 01 Jun 2030 12:00:30 GMT', 30_000],
  ['Saturday, 01-Jun-30 12:00:30 GMT', 30_000],
  ['Sat, 01 Jun 2030 11:00:00 GMT', 0],
  ['-5', undefined],
  ['1.5', undefined],
  ['soon', undefined],
  ['99999999999', undefined],
  ['', undefined],
  [undefined, undefined],
])('Retry-After: %s → %s ms', (value, expected) => {
  expect(parseRetryAfter(value, NOW)).toBe(expected);
});

test('waits double, stay below the limit, and differ by chance', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 1000 }),
      fc.double({ min: 0, max: 0.999, noNaN: true }),
      (failures, random) => {
        const wait = backoffMs(DEFAULT_RETRY, failures, random);
        const full = Math.min(DEFAULT_RETRY.maxMs, DEFAULT_RETRY.baseMs * 2 ** (failures - 1));
        expect(wait).toBeGreaterThanOrEqual(Math.floor(full / 2));
        expect(wait).toBeLessThanOrEqual(full);
      },
    ),
  );
  expect(backoffMs(DEFAULT_RETRY, 1, 0)).toBeLessThan(backoffMs(DEFAULT_RETRY, 1, 0.9));
});
