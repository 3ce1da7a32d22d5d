/** Overlays that stand on a mount, by a /proc of files. */
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { overlaysUpon } from '../../src/kernel/users.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
let proc = '';
beforeEach(async () => {
  proc = await cleanup.tempDir('proc');
});
afterEach(() => cleanup.run());

/** A process `pid`, or `self`, with the mounts of its namespace: where, of which type, and what the file system says of itself. */
async function process(
  pid: string,
  namespace: number,
  mounts: ReadonlyArray<readonly [point: string, type: string, options: string]>,
): Promise<void> {
  await mkdir(join(proc, pid, 'ns'), { recursive: true });
  await symlink(`mnt:[${namespace}]`, join(proc, pid, 'ns/mnt'));
  const lines = mounts.map(
    ([point, type, options], at) => `${at + 1} 0 0:${at + 1} / ${point} rw - ${type} source ${options}\n`,
  );
  await writeFile(join(proc, pid, 'mountinfo'), lines.join(''));
  await writeFile(join(proc, pid, 'comm'), 'program\n');
}

const root = ['/', 'ext4', 'rw'] as const;
const onApp = 'rw,lowerdir=/above:/mnt/app,upperdir=/u,workdir=/w';

test('an overlay of this mount namespace stands on its layers, and on folders of them', async () => {
  await process('self', 1, [root, ['/merged', 'overlay', onApp]]);
  expect(await overlaysUpon(['/mnt/app'], undefined, proc)).toEqual(['the mount /merged']);
  expect(await overlaysUpon(['/mnt'], undefined, proc)).toEqual(['the mount /merged']);
  expect(await overlaysUpon(['/mnt/ap', '/mnt/app/sub'], undefined, proc)).toEqual([]);
});

test('a layer may be named by a link', async () => {
  await process('self', 1, [root, ['/merged', 'overlay', 'rw,lowerdir=/l/NAME']]);
  const resolve = (folder: string) => (folder === '/l/NAME' ? '/mnt/app' : folder);
  expect(await overlaysUpon(['/mnt/app'], resolve, proc)).toEqual(['the mount /merged']);
});

test('the root of a container is found in its own mount namespace, past processes that have ended', async () => {
  await process('self', 1, [root]);
  await process('7', 1, [root]);
  await process('8', 2, []);
  await process('9', 2, [['/', 'overlay', onApp]]);
  await process('10', 2, [['/', 'overlay', onApp]]);
  await mkdir(join(proc, '11'));
  expect(await overlaysUpon(['/mnt/app'], undefined, proc)).toEqual([
    expect.stringMatching(/^program \(pid (9|10), root folder\)$/),
  ]);
});

test('a copy of a container’s root somewhere in another namespace is no user', async () => {
  await process('self', 1, [root]);
  await process('9', 2, [root, ['/rootfs/run/merged', 'overlay', onApp], ['/rootfs/mnt/app', 'erofs', 'ro']]);
  expect(await overlaysUpon(['/mnt/app'], undefined, proc)).toEqual([]);
});
