import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import {
  awaitLeftovers,
  claim,
  describeLeftovers,
  isClean,
  type RunMarks,
  removeLeftovers,
  sweepDeadRuns,
  takeSnapshot,
} from './leaks.ts';
import { removeTree } from './temp.ts';

/** Leaves one of each kind behind on purpose, under marks of its own, so that the real check stays clean. */
test('a forgotten process, mount, loop device and folder are named and removed', async () => {
  const directory = mkdtempSync('/tmp/cofa-leak-');
  const marks: RunMarks = { id: 'leaks-test', directory, alone: false };
  const before = takeSnapshot(marks);
  expect(isClean(await awaitLeftovers(marks, before, 0))).toBe(true);

  const child = spawn('sleep', ['600'], {
    env: { ...process.env, COFA_TEST_RUN: marks.id },
    stdio: 'ignore',
  });
  mkdirSync(join(directory, 'a b'));
  execFileSync('mount', ['-t', 'tmpfs', 'none', join(directory, 'a b')]);
  writeFileSync(join(directory, 'disk'), Buffer.alloc(65536));
  const loop = execFileSync('losetup', ['--find', '--show', join(directory, 'disk')])
    .toString()
    .trim();

  const left = await awaitLeftovers(marks, before, 100);
  const text = describeLeftovers(left);
  expect(text).toContain(`process ${child.pid}: sleep 600`);
  expect(text).toContain(`mount ${directory}/a b (tmpfs)`);
  expect(text).toContain(`${loop} on ${directory}/disk`);
  expect(text).toContain('in the temporary folder: a b');

  await removeLeftovers(marks, left);
  expect(describeLeftovers(await awaitLeftovers(marks, before, 1000))).toBe('');
  rmdirSync(directory);
});

test('the next run cleans up after one that was killed, and leaves a living one alone', async () => {
  const tmp = mkdtempSync('/tmp/cofa-runs-');
  try {
    const living: RunMarks = { id: 'living', directory: join(tmp, 'cofa-t-living'), alone: false };
    mkdirSync(living.directory);
    claim(living);
    writeFileSync(join(living.directory, 'file'), 'x');

    const dead: RunMarks = { id: 'dead', directory: join(tmp, 'cofa-t-dead'), alone: false };
    mkdirSync(join(dead.directory, 'mount'), { recursive: true });
    claim(dead);
    const note = join(dead.directory, '.owner');
    writeFileSync(note, readFileSync(note, 'utf8').replace(/"start":"\d+"/, '"start":"1"'));
    execFileSync('mount', ['-t', 'tmpfs', 'none', join(dead.directory, 'mount')]);
    const env = { ...process.env, COFA_TEST_RUN: 'dead' };
    const child = spawn('sleep', ['600'], { env, stdio: 'ignore' });
    const ended = new Promise((resolve) => child.once('exit', resolve));

    expect(await sweepDeadRuns(tmp)).toEqual([dead.directory]);
    await ended;
    expect(readdirSync(tmp)).toEqual(['cofa-t-living']);
    expect(readdirSync(living.directory)).toContain('file');
  } finally {
    await removeTree(tmp);
  }
});
