/** Folders that options name. Needs no root. */
import { chmod, mkdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { makeFolder } from '../../src/kernel/make-folder.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());
const modeOf = async (path: string) => ((await stat(path)).mode & 0o7777).toString(8);

test('makes what is missing above a folder with its rights, and leaves what is there', async () => {
  const folder = await cleanup.tempDir('made');
  await mkdir(join(folder, 'there'));
  await chmod(join(folder, 'there'), 0o711);
  await makeFolder(join(folder, 'there/new/inner'), 0o700);
  expect(
    await Promise.all(['there', 'there/new', 'there/new/inner'].map((name) => modeOf(join(folder, name)))),
  ).toEqual(['711', '700', '700']);
  await makeFolder(join(folder, 'there'), 0o755);
  expect(await modeOf(join(folder, 'there'))).toBe('711');
});

test('of two processes that make the same, none fails', async () => {
  const folder = await cleanup.tempDir('made');
  await Promise.all(Array.from({ length: 8 }, () => makeFolder(join(folder, 'a/b/c/d'))));
  expect((await stat(join(folder, 'a/b/c/d'))).isDirectory()).toBe(true);
});

test.each(['/proc/nosuch/a/b', '/sys/nosuch'])(
  '%s: a file system that takes none says so, and it ends',
  async (path) => {
    await expect(makeFolder(path)).rejects.toMatchObject({
      code: 'environment',
      message: expect.stringMatching(
        /^no folder can be made in \/(proc|sys) \((ENOENT|EPERM|EACCES|EROFS)\)$/,
      ),
    });
  },
);

test('a file in the way is named, at the end and in the middle', async () => {
  const folder = await cleanup.tempDir('made');
  await writeFile(join(folder, 'file'), '');
  for (const path of [join(folder, 'file'), join(folder, 'file/x/y')])
    await expect(makeFolder(path)).rejects.toMatchObject({
      code: 'invalid-argument',
      message: `${path} cannot be a folder: a part of it is a file`,
    });
});
