import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { removeFolder } from '../../src/container/remove-folder.ts';
import { MS, mountSync, unmountSync } from '../../src/kernel/mount.ts';
import { Cleanup } from '../support/temp.ts';

let cleanup: Cleanup;
let folder: string;
let path: string;

beforeEach(async () => {
  cleanup = new Cleanup();
  folder = await cleanup.tempDir('remove');
  path = join(folder, 'container');
  mkdirSync(path);
});
afterEach(() => cleanup.run());

/** Runs without rm(1), so that no process can remove anything. */
async function withoutPrograms<T>(work: () => Promise<T>): Promise<T> {
  const { PATH } = process.env;
  process.env.PATH = '/nosuch';
  try {
    return await work();
  } finally {
    process.env.PATH = PATH;
  }
}

test('the folder of a container that has written little is removed without a process', async () => {
  mkdirSync(join(path, 'work/work/incompat/volatile'), { recursive: true });
  writeFileSync(join(path, 'work/work/incompat/volatile/dirty'), '');
  writeFileSync(Buffer.concat([Buffer.from(`${path}/`), Buffer.from([0xff, 0x0a])]), '');
  writeFileSync(join(folder, 'kept'), '');
  mkdirSync(join(folder, 'others'));
  symlinkSync(join(folder, 'kept'), join(path, 'link'));
  symlinkSync(join(folder, 'others'), join(path, 'folder'));
  await promisify(execFile)('mkfifo', [join(path, 'fifo')]);
  await withoutPrograms(() => removeFolder(path));
  expect(existsSync(path)).toBe(false);
  expect([existsSync(join(folder, 'kept')), existsSync(join(folder, 'others'))]).toEqual([true, true]);
});

test('one that has written much is removed as well', async () => {
  for (let at = 0; at < 200; at++) mkdirSync(join(path, `a${at}/b`), { recursive: true });
  await removeFolder(path);
  expect(existsSync(path)).toBe(false);
});

test('nothing is removed while something is mounted in it', async () => {
  for (const name of ['a', 'b']) mkdirSync(join(path, name));
  writeFileSync(join(path, 'a/file'), '');
  mountSync({ source: join(path, 'a'), target: join(path, 'b'), type: '', flags: MS.BIND });
  cleanup.defer(() => unmountSync(join(path, 'b')));
  await expect(removeFolder(path)).rejects.toMatchObject({ code: 'busy' });
  expect(existsSync(join(path, 'b/file'))).toBe(true);
});
