/** Mounts where a local user may write above the mount point, for real. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, lchown, mkdir, readdir, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { toErrorRecord } from '../../schemas/errors.ts';
import { listDirectory, type Lookup, makeDirectory, removeDirectory } from '../../src/kernel/directory.ts';
import { ATTRIBUTE, mountAt } from '../../src/kernel/mount-at.ts';
import { detachMount, findMount, listMounts, type MountEntry, unmountEntry } from '../../src/kernel/mount.ts';
import { Cleanup } from '../support/temp.ts';

const OURS: Lookup = { links: 'ours' };
const NONE: Lookup = { links: 'none' };
const NOBODY = 65_534;
let cleanup: Cleanup;
let folder: string;
const attackers: ChildProcess[] = [];
beforeEach(async () => {
  cleanup = new Cleanup();
  folder = await cleanup.tempDir('at');
  cleanup.defer(async () => {
    for (const entry of below().toReversed()) await detachMount(entry);
  });
});
afterEach(async () => {
  for (const one of attackers.splice(0)) {
    one.kill('SIGKILL');
    await once(one, 'exit');
  }
  await cleanup.run();
});

const below = (): MountEntry[] =>
  listMounts().filter(({ mountPoint }) => mountPoint.startsWith(`${folder}/`));
const tmpfs = (target: string, lookup = OURS) =>
  mountAt({ source: 'cofa-test', type: 'tmpfs', attributes: ATTRIBUTE.NODEV, target, lookup });

/** A process that swaps two names for as long as the test lasts: one rename at a time, as fast as it can. */
async function swapping(one: string, other: string): Promise<void> {
  const program = `$| = 1; print "ready"; while (1) {
    syscall(${process.arch === 'arm64' ? 276 : 316}, -100, $ARGV[0], -100, $ARGV[1], 2) }`;
  const child = spawn('perl', ['-e', program, one, other], { stdio: ['ignore', 'pipe', 'inherit'] });
  attackers.push(child);
  await once(child.stdout, 'data');
}

test('a mount has its attributes and options, and is unmounted by what it is', async () => {
  await makeDirectory(join(folder, 'a/b'), OURS);
  const target = join(folder, 'a/b');
  await mountAt({
    source: 'x',
    type: 'tmpfs',
    options: ['size=1m', 'mode=0751'],
    attributes: ATTRIBUTE.NOSUID,
    target,
    lookup: NONE,
  });
  const entry = findMount(target);
  expect(entry).toMatchObject({ source: 'x', options: expect.stringContaining('nosuid') });
  expect(entry?.superOptions).toContain('mode=751');
  await unmountEntry(entry as MountEntry);
  expect(findMount(target)).toBeUndefined();
  await expect(unmountEntry(entry as MountEntry)).rejects.toMatchObject({ code: 'not-found' });
  await removeDirectory(target, OURS);
  expect(await listDirectory(join(folder, 'a'), OURS)).toEqual([]);
});

test.each([
  ['the directory itself', 'home/point', 'home/point'],
  ['a directory above it', 'home', 'home/point'],
])('a link that is swapped in for %s takes no mount elsewhere', async (_, swapped, point) => {
  await makeDirectory(join(folder, 'home/point'), OURS);
  // What an attacker would like to have covered: /usr/local/sbin.
  await mkdir(join(folder, 'victim/point'), { recursive: true });
  const link = join(folder, 'link');
  await symlink(join(folder, swapped === 'home' ? 'victim' : 'victim/point'), link);
  await lchown(link, NOBODY, NOBODY);
  await swapping(join(folder, swapped), link);
  const outcomes: Record<string, number> = {};
  for (let round = 0; round < 150; round++) {
    const outcome = await tmpfs(join(folder, point)).then(
      () => 'mounted',
      (error: unknown) => toErrorRecord(error).code,
    );
    outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
    const there = below();
    expect(there.filter(({ mountPoint }) => mountPoint.includes('/victim'))).toEqual([]);
    for (const entry of there.toReversed()) await detachMount(entry).catch(() => {});
  }
  expect(outcomes.conflict).toBeGreaterThan(0);
  expect(outcomes.mounted).toBeGreaterThan(0);
});

test('links of root alone are followed, and with `none` not even these; the last part never is one', async () => {
  await mkdir(join(folder, 'real/inner'), { recursive: true });
  await symlink('real', join(folder, 'link'));
  await writeFile(join(folder, 'file'), '');
  const through = join(folder, 'link/inner');
  const refused = {
    code: 'conflict',
    message: expect.stringContaining('leads through a symbolic link: link'),
  };
  expect(await listDirectory(through, OURS)).toEqual([]);
  await expect(listDirectory(through, NONE)).rejects.toMatchObject(refused);
  await expect(listDirectory(join(folder, 'link'), OURS)).rejects.toMatchObject(refused);
  await lchown(join(folder, 'link'), NOBODY, NOBODY);
  await expect(listDirectory(through, OURS)).rejects.toMatchObject(refused);
  await lchown(join(folder, 'link'), 0, 0);
  // Others may put a link of root's there that they have found elsewhere.
  await chmod(folder, 0o777);
  await expect(listDirectory(through, OURS)).rejects.toMatchObject(refused);
  await chmod(folder, 0o1777);
  expect(await listDirectory(through, OURS)).toEqual([]);
  await expect(listDirectory(join(folder, 'file'), OURS)).rejects.toMatchObject({
    code: 'conflict',
    hint: 'choose an empty or a new directory',
  });
  await expect(makeDirectory(join(folder, 'file/x'), OURS)).rejects.toMatchObject({ code: 'conflict' });
  await symlink('loop', join(folder, 'loop'));
  await expect(listDirectory(join(folder, 'loop/x'), OURS)).rejects.toThrow('too many symbolic links');
  expect(await listDirectory(join(folder, 'none/x'), OURS)).toBeUndefined();
  await makeDirectory(join(folder, 'link/made'), OURS);
  await removeDirectory(join(folder, 'link/made'), OURS);
  expect(await readdir(join(folder, 'real'))).toEqual(['inner']);
  // Nothing is made, or removed, beyond another's link.
  await lchown(join(folder, 'link'), NOBODY, NOBODY);
  await expect(makeDirectory(join(folder, 'link/made'), OURS)).rejects.toMatchObject(refused);
  await expect(removeDirectory(through, OURS)).rejects.toMatchObject(refused);
  expect(await readdir(join(folder, 'real'))).toEqual(['inner']);
});

test('an unmount follows no link to the mount of another', async () => {
  const [mine, others] = [join(folder, 'home/point'), join(folder, 'victim/point')];
  for (const point of [mine, others]) {
    await makeDirectory(point, OURS);
    await tmpfs(point);
  }
  const entry = findMount(mine) as MountEntry;
  await rename(join(folder, 'home'), join(folder, 'away'));
  await symlink(join(folder, 'victim'), join(folder, 'home'));
  await expect(unmountEntry(entry)).rejects.toMatchObject({ code: 'conflict' });
  expect(findMount(others)).toBeDefined();
  await rm(join(folder, 'home'));
  await rename(join(folder, 'victim'), join(folder, 'home'));
  await expect(unmountEntry(entry)).rejects.toMatchObject({ code: 'not-found' });
  expect(below()).toHaveLength(2);
});
