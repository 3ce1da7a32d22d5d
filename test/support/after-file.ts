/** Setup file of every test file: leftovers of the file fail it, by name, and are removed. */
import { mkdirSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import {
  awaitLeftovers,
  describeLeftovers,
  isClean,
  type RunMarks,
  removeLeftovers,
  takeSnapshot,
} from './leaks.ts';

const { COFA_TEST_RUN: run, TMPDIR: folder } = process.env;

if (run !== undefined && folder !== undefined) {
  // Files run side by side, so each has marks of its own. Short: paths of unix sockets end at 107 bytes.
  const name = process.pid.toString(36);
  const marks: RunMarks = { id: `${run}.${name}`, directory: join(folder, name), alone: false };
  mkdirSync(marks.directory);
  process.env.COFA_TEST_RUN = marks.id;
  process.env.TMPDIR = marks.directory;
  const before = takeSnapshot(marks);
  // Registered first, so it runs after the file's own afterAll hooks.
  afterAll(async () => {
    const left = await awaitLeftovers(marks, before);
    if (isClean(left)) return rmdirSync(marks.directory);
    await removeLeftovers(marks, left);
    throw new Error(`this test file left something behind:\n${describeLeftovers(left)}`);
  }, 120_000);
}
