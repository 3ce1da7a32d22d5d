/** Log files of an engine that runs for months. */
import { closeSync, openSync, writeSync } from 'node:fs';
import { readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { cutLogs } from '../../src/process/bounded-logs.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

test('a file that is too long is kept beside, and its process goes on at the beginning', async () => {
  const folder = await cleanup.tempDir('logs');
  const file = join(folder, 'front-end.log');
  const process = openSync(file, 'a');
  const round = async (letter: string) => {
    writeSync(process, letter.repeat(100));
    await cutLogs(folder, 150);
    return [(await readFile(file, 'utf8')).length, (await readdir(folder)).length];
  };
  try {
    expect(await round('a')).toEqual([100, 1]);
    expect(await round('b')).toEqual([0, 2]);
    expect(await readFile(`${file}.1`, 'utf8')).toBe('a'.repeat(100) + 'b'.repeat(100));
    // The copy of before makes room for the next one.
    await round('c');
    expect(await round('d')).toEqual([0, 2]);
    expect(await readFile(`${file}.1`, 'utf8')).toBe('c'.repeat(100) + 'd'.repeat(100));
  } finally {
    closeSync(process);
  }
});

test('what is no log file, and a link, stay as they are; a folder that is not there has nothing to cut', async () => {
  const folder = await cleanup.tempDir('logs');
  const other = join(await cleanup.tempDir('other'), 'file');
  const long = 'x'.repeat(100);
  for (const file of [other, join(folder, 'notes.txt')]) await writeFile(file, long);
  await symlink(other, join(folder, 'linked.log'));
  await cutLogs(folder, 10);
  await cutLogs(join(folder, 'nowhere'), 10);
  expect(await readFile(other, 'utf8')).toBe(long);
  expect(await readdir(folder)).toEqual(['linked.log', 'notes.txt']);
});
