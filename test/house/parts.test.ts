/** The tests that `npm run test:fast` leaves out (vitest.config.ts). */
import { globSync, readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { ENGINES } from '../../vitest.config.ts';

/** As tests start an engine. */
const STARTS = /\b(startEngine|startMember|followSoak)\(|runCofa\(\['up'/;

it('no other test starts an engine', () => {
  const apart = new Set(globSync(ENGINES));
  const others = globSync('test/**/*.test.ts').filter((file) => !apart.has(file));
  expect(others.length).toBeGreaterThan(100);
  expect(others.filter((file) => STARTS.test(readFileSync(file, 'utf8')))).toEqual([]);
});

it('each name stands for a test', () => {
  expect(ENGINES.filter((pattern) => globSync(pattern).length === 0)).toEqual([]);
});
