import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import {
  detachMount,
  findMount,
  isMounted,
  type MountEntry,
  MS,
  mount,
  mountSync,
  unmount,
  unmountSync,
} from '../../src/kernel/mount.ts';
import { Cleanup } from '../support/temp.ts';

let cleanup: Cleanup;
let folder: string;
beforeEach(async () => {
  cleanup = new Cleanup();
  folder = await cleanup.tempDir('mount');
});
afterEach(() => cleanup.run());

async function tmpfs(name: string, options: { flags?: number; data?: string } = {}): Promise<string> {
  const target = join(folder, name);
  await mkdir(target);
  await mount({ source: 'cofa-test', target, type: 'tmpfs', ...options });
  cleanup.defer(() => isMounted(target) && unmountSync(target, { lazy: true }));
  return target;
}

test('a tmpfs is mounted with its options, found, and unmounted', async () => {
  const target = await tmpfs('with blank and \\', { flags: MS.NODEV, data: 'size=1m,mode=0751' });
  expect((await stat(target)).mode & 0o777).toBe(0o751);
  expect(findMount(target)).toMatchObject({ type: 'tmpfs', source: 'cofa-test', mountPoint: target });
  expect(findMount(target)?.options).toContain('nodev');
  await unmount(target);
  expect(isMounted(target)).toBe(false);
});

test('the topmost of two mounts at one place is found', async () => {
  const target = await tmpfs('twice');
  mountSync({ source: 'second', target, type: 'tmpfs' });
  expect(findMount(target)?.source).toBe('second');
  unmountSync(target);
  expect(findMount(target)?.source).toBe('cofa-test');
});

test('a bind mount shows the folder', async () => {
  const source = await tmpfs('source');
  await writeFile(join(source, 'file'), 'here');
  const target = join(folder, 'bound');
  await mkdir(target);
  await mount({ source, target, type: '', flags: MS.BIND });
  cleanup.defer(() => isMounted(target) && unmount(target));
  expect(await readFile(join(target, 'file'), 'utf8')).toBe('here');
});

test('unmount of a busy mount says who uses it: a process by its working folder, and another mount', async () => {
  const target = await tmpfs('busy');
  await mkdir(join(target, 'inner'));
  const sleeper = spawn('sleep', ['60'], { cwd: target });
  cleanup.defer(() => sleeper.kill('SIGKILL'));
  await expect(unmount(target)).rejects.toMatchObject({
    code: 'busy',
    message: expect.stringMatching(
      new RegExp(`is in use by .*sleep \\(pid ${sleeper.pid}, working folder\\)`),
    ),
  });
  await mount({ source: 'inner', target: join(target, 'inner'), type: 'tmpfs' });
  await expect(unmount(target)).rejects.toMatchObject({
    message: expect.stringContaining(`the mount ${join(target, 'inner')}`),
  });
  await unmount(join(target, 'inner'));
  sleeper.kill('SIGKILL');
  await once(sleeper, 'exit');
  await unmount(target);
});

test('the very mount that was looked up is detached, busy as it is, and none that has come in its place', async () => {
  const target = await tmpfs('very');
  const first = findMount(target) as MountEntry;
  const sleeper = spawn('sleep', ['60'], { cwd: target });
  cleanup.defer(() => sleeper.kill('SIGKILL'));
  mountSync({ source: 'on top', target, type: 'tmpfs' });
  expect(await detachMount(first)).toBe(false);
  expect(findMount(target)?.source).toBe('on top');
  unmountSync(target);
  expect(await detachMount(first)).toBe(true);
  expect(isMounted(target)).toBe(false);
  mountSync({ source: 'successor', target, type: 'tmpfs' });
  // The kernel may have given it the number that the other one had.
  expect(await detachMount({ ...first, id: findMount(target)?.id as number })).toBe(false);
  expect(await detachMount(first)).toBe(false);
  expect(findMount(target)?.source).toBe('successor');
  const last = findMount(target) as MountEntry;
  expect(await detachMount(last)).toBe(true);
  expect(await detachMount(last)).toBe(false);
});

test('a lazy unmount detaches a busy mount at once', async () => {
  const target = await tmpfs('lazy');
  const sleeper = spawn('sleep', ['60'], { cwd: target });
  cleanup.defer(() => sleeper.kill('SIGKILL'));
  await unmount(target, { lazy: true });
  expect(isMounted(target)).toBe(false);
});

test('errors name what was attempted and the errno: missing folder, unknown file system, nothing mounted', async () => {
  const missing = join(folder, 'missing');
  await expect(mount({ source: 'x', target: missing, type: 'tmpfs' })).rejects.toMatchObject({
    code: 'not-found',
    message: `mount of x (tmpfs) at ${missing}: ENOENT`,
    cause: expect.objectContaining({ code: 'ENOENT', syscall: 'mount' }),
  });
  await expect(mount({ source: 'x', target: folder, type: 'nosuchfs' })).rejects.toMatchObject({
    code: 'environment',
    message: expect.stringContaining('ENODEV'),
    hint: expect.stringContaining('nosuchfs'),
  });
  await expect(unmount(folder)).rejects.toMatchObject({ code: 'not-found' });
  expect(() => unmountSync(missing)).toThrow(/ENOENT/);
  await expect(
    mount({ source: 'x', target: folder, type: 'tmpfs', data: 'size=1m,'.repeat(600) }),
  ).rejects.toMatchObject({ code: 'unsupported' });
});
