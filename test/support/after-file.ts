/** Setup file of every test file: what the file leaves behind fails it, by name, and is removed. */
import { afterAll } from 'vitest';
import {
  awaitLeftovers,
  describeLeftovers,
  isClean,
  type RunMarks,
  removeLeftovers,
  takeSnapshot,
} from './leaks.ts';

const id = process.env.COFA_TEST_RUN;
const directory = process.env.TMPDIR;

if (id !== undefined && directory !== undefined) {
  const marks: RunMarks = { id, directory, alone: (process.env.CI ?? '') !== '' };
  const before = takeSnapshot(marks);
  // Registered first, so it runs after the file's own afterAll hooks.
  afterAll(async () => {
    const left = await awaitLeftovers(marks, before);
    if (isClean(left)) return;
    await removeLeftovers(marks, left);
    throw new Error(`this test file left something behind:\n${describeLeftovers(left)}`);
  }, 120_000);
}
