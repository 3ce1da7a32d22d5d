/** The memory that indexing an image of 60,000 files takes, beside that of the process. */
import { expect, test } from 'vitest';
import { costOf } from '../support/cost.ts';

const MIB = 1 << 20;
const works = new URL('many-files.ts', import.meta.url);

test('the table of a layer is written while it streams: no entry stays', () => {
  const { outcome, grown } = costOf(works, 'layer');
  expect(outcome).toBe('true');
  expect(grown).toBeLessThan(48 * MIB);
});

test('the flat image is built in a young generation that stays small', () => {
  const { outcome, grown } = costOf(works, 'flatImage');
  expect(outcome).toBe('1');
  expect(grown).toBeLessThan(84 * MIB);
});
