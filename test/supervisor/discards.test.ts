/** What is left of a container that has ended, in real folders. */
import { execFile } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { CofaError } from '../../schemas/errors.ts';
import { ContainerFolder, createFolder } from '../../src/container/record.ts';
import { Conditions } from '../../src/process/conditions.ts';
import { Discards } from '../../src/supervisor/mounts/discards.ts';
import { MS, mountSync, unmountSync } from '../../src/kernel/mount.ts';
import { Cleanup } from '../support/temp.ts';

const log = pino({ level: 'silent' });
const run = promisify(execFile);
let cleanup: Cleanup;
let root: string;
let away: string;
let conditions: Conditions;
/** What the unmount of the image does. */
let unmount: () => Promise<void>;

beforeEach(async () => {
  cleanup = new Cleanup();
  root = await cleanup.tempDir('discards');
  away = join(root, 'discarded');
  conditions = new Conditions(log);
  unmount = async () => {};
});
afterEach(() => cleanup.run());

const discards = () =>
  new Discards({
    folder: away,
    conditions,
    log,
    mounts: {
      unmount: async (dir) => {
        await unmount();
        return { id: 'm1', dir };
      },
    },
  });

function container(name: string): ContainerFolder {
  const wanted = { name, ref: 'image', args: [], keep: false, now: new Date(0) };
  return createFolder(root, wanted).folder;
}

test('a container that has ended: its name is free with the answer, and what it wrote is deleted behind it', async () => {
  const all = discards();
  await writeFile(join(container('web').upper, 'file'), 'text');
  const folder = new ContainerFolder(root, 'web');
  expect(await all.discard(folder)).toEqual({ id: 'm1', dir: folder.image, discarded: true });
  expect(container('web').path).toBe(folder.path);
  await all.settled(10_000);
  expect(readdirSync(away)).toEqual([]);
  expect(existsSync(folder.path)).toBe(true);
});

test('an image that cannot be unmounted: nothing of the container is deleted', async () => {
  unmount = async () => {
    throw new CofaError('busy', 'in use');
  };
  const folder = container('web');
  await expect(discards().discard(folder)).rejects.toMatchObject({ code: 'busy' });
  expect(existsSync(folder.record)).toBe(true);
});

test('something is still mounted in the folder: it stays, and the answer says so', async () => {
  const folder = container('web');
  mountSync({ source: folder.etc, target: folder.work, type: '', flags: MS.BIND });
  cleanup.defer(() => unmountSync(folder.work));
  expect(await discards().discard(folder)).toEqual({ id: 'm1', dir: folder.image });
  expect(existsSync(folder.record)).toBe(true);
});

test('what cannot be removed is shown, and is removed when an engine starts', async () => {
  const folder = container('web');
  const stuck = join(folder.upper, 'stuck');
  await writeFile(stuck, '');
  await run('chattr', ['+i', stuck]);
  const loosen = () => run('chattr', ['-R', '-i', root]);
  cleanup.defer(loosen);
  const all = discards();
  await all.discard(folder);
  await all.settled(10_000);
  expect(conditions.list()).toEqual([
    expect.stringMatching(/container web left stays until the engine starts again/),
  ]);
  await loosen();
  const next = discards();
  next.sweep();
  await next.settled(10_000);
  expect([readdirSync(away), conditions.list()]).toEqual([[], []]);
});

test('an engine that never discarded anything has nothing to sweep', async () => {
  discards().sweep();
  await mkdir(away);
  discards().sweep();
  expect(readdirSync(away)).toEqual([]);
});
