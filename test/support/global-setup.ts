/**
 * Runs once around the whole suite: makes a temporary folder and a mark for everything that the tests start. At the end
 * it looks for leftovers, names them, removes them, and fails the run.
 */
import { randomBytes } from 'node:crypto';
import { appendFileSync, mkdtempSync, readdirSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  awaitLeftovers,
  claim,
  describeLeftovers,
  isClean,
  type RunMarks,
  release,
  removeLeftovers,
  sweepDeadRuns,
  takeSnapshot,
} from './leaks.ts';

export default async function setup(): Promise<() => Promise<void>> {
  const outer = process.env.TMPDIR;
  for (const directory of await sweepDeadRuns(tmpdir()))
    console.log(`cleaned up after a killed run: ${directory}`);
  const marks: RunMarks = {
    id: randomBytes(8).toString('hex'),
    // Short, because the paths of unix sockets below it must fit in 107 bytes.
    directory: mkdtempSync(join(tmpdir(), 'cofa-t-')),
    alone: (process.env.CI ?? '') !== '',
  };
  claim(marks);
  process.env.COFA_TEST_RUN = marks.id;
  process.env.TMPDIR = marks.directory;
  // As in ops/cofa: programs that tests start by the hundred need not be compiled by each.
  process.env.NODE_COMPILE_CACHE ??= join(import.meta.dirname, '../../node_modules/.cache/cofa');
  const before = takeSnapshot(marks);
  return async () => {
    if (outer === undefined) delete process.env.TMPDIR;
    else process.env.TMPDIR = outer;
    removeEmpty(marks.directory);
    const left = await awaitLeftovers(marks, before);
    if (isClean(left)) {
      release(marks);
      return;
    }
    await removeLeftovers(marks, left);
    if (isClean(await awaitLeftovers(marks, before))) release(marks);
    process.exitCode = 1;
    const sentence = `the tests left something behind:\n${describeLeftovers(left)}`;
    // ops/test counts it beside tests that failed.
    if (process.env.COFA_LEFT_BEHIND !== undefined)
      appendFileSync(process.env.COFA_LEFT_BEHIND, `${sentence}\n`);
    throw new Error(sentence);
  };
}

/** A file of which every test is skipped has its folder (after-file.ts), and no hook of it runs. */
function removeEmpty(directory: string): void {
  for (const name of readdirSync(directory)) {
    try {
      rmdirSync(join(directory, name));
    } catch {
      // Something is in it.
    }
  }
}
