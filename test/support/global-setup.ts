/**
 * Runs once around the whole suite: a temporary folder and a mark for everything that the tests start, and at the
 * end a look at what stayed. Leftovers are named, removed, and fail the run.
 */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  awaitLeftovers,
  describeLeftovers,
  isClean,
  type RunMarks,
  removeLeftovers,
  takeSnapshot,
} from './leaks.ts';

export default function setup(): () => Promise<void> {
  const outer = process.env.TMPDIR;
  const marks: RunMarks = {
    id: randomBytes(8).toString('hex'),
    // Short, because the paths of unix sockets below it must fit in 107 bytes.
    directory: mkdtempSync(join(tmpdir(), 'cofa-t-')),
    alone: (process.env.CI ?? '') !== '',
  };
  process.env.COFA_TEST_RUN = marks.id;
  process.env.TMPDIR = marks.directory;
  const before = takeSnapshot(marks);
  return async () => {
    if (outer === undefined) delete process.env.TMPDIR;
    else process.env.TMPDIR = outer;
    const left = await awaitLeftovers(marks, before);
    if (isClean(left)) {
      rmdirSync(marks.directory);
      return;
    }
    await removeLeftovers(marks, left);
    process.exitCode = 1;
    throw new Error(`the tests left something behind:\n${describeLeftovers(left)}`);
  };
}
