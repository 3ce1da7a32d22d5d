/** Mounts on the loops of an engine that was killed, which its log does not know any more. */
import { execFile } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Leftovers } from '../../src/supervisor/mounts/leftovers.ts';
import { mountErofs } from '../../src/kernel/erofs.ts';
import { attachLoop, detachLoop, dismissLoop, listLoops, type LoopDevice } from '../../src/kernel/loop.ts';
import { isMounted, MS, mountSync, unmountSync } from '../../src/kernel/mount.ts';
import { Layout } from '../../src/store/layout.ts';
import { eventually } from '../support/engine.ts';
import { Cleanup, mountsBelow } from '../support/temp.ts';

const log = pino({ level: 'silent' });
const ENGINE = 'cofa:test';
const LABEL = `${ENGINE}/flat-1`;
let cleanup: Cleanup;
let root: string;
let flat: LoopDevice;

beforeEach(async () => {
  cleanup = new Cleanup();
  root = await cleanup.tempDir('leftovers');
  flat = await erofs('flat', LABEL);
});
afterEach(() => cleanup.run());

async function erofs(name: string, label: string): Promise<LoopDevice> {
  const [tree, file] = [join(root, `${name}.tree`), join(root, name)];
  await mkdir(join(tree, 'sub'), { recursive: true });
  await promisify(execFile)('mkfs.erofs', [file, tree]);
  const loop = await attachLoop(file, { directIo: false, readOnly: true, label });
  cleanup.defer(() => dismissLoop(loop));
  return loop;
}

async function target(name: string): Promise<string> {
  const dir = join(root, name);
  await mkdir(dir);
  cleanup.defer(() => isMounted(dir) && unmountSync(dir, { lazy: true }));
  return dir;
}

async function mountAt(name: string, loop = flat): Promise<string> {
  const dir = await target(name);
  await mountErofs({ metadata: loop, devices: [], target: dir });
  return dir;
}

test('a mount that shares its loop with one that came back is unmounted; bind mounts of that one stay', async () => {
  const back = await mountAt('back');
  const stray = await mountAt('stray');
  const [bound, subfolder] = [await target('bound'), await target('subfolder')];
  mountSync({ source: back, target: bound, type: '', flags: MS.BIND });
  mountSync({ source: join(back, 'sub'), target: subfolder, type: '', flags: MS.BIND });
  const leftovers = await Leftovers.find(new Layout(root), ENGINE);
  expect(leftovers.take(LABEL)).toMatchObject([{ path: flat.path }]);
  const told = new Set([back, stray, subfolder]);
  const dismissed = await leftovers.dismissRest(
    log,
    (dir) => dir === back,
    async () => told,
  );
  expect(dismissed).toEqual({ loops: 0, dirs: [stray] });
  expect(mountsBelow(root)).toEqual([back, bound, subfolder]);
});

test('a mount on a loop that no image took over is unmounted with it, whatever the log says', async () => {
  const stray = await mountAt('stray');
  const leftovers = await Leftovers.find(new Layout(root), ENGINE);
  const dismissed = await leftovers.dismissRest(
    log,
    () => false,
    async () => new Set(),
  );
  expect(dismissed).toEqual({ loops: 1, dirs: [stray] });
  expect(mountsBelow(root)).toEqual([]);
  expect((await listLoops()).some(({ label }) => label === LABEL)).toBe(false);
});

test('what stands on a loop that has got the number of one that was taken stays', async () => {
  let tries = 0;
  // Another process may take the number in between, and keep it: then the test begins anew.
  const [leftovers, other] = await eventually('the number is given again', async () => {
    const taken = tries++ === 0 ? flat : await erofs(`flat-${tries}`, LABEL);
    const found = await Leftovers.find(new Layout(root), ENGINE);
    found.take(LABEL);
    await detachLoop(taken);
    const loop = await erofs(`other-${tries}`, 'somebody');
    if (loop.path === taken.path) return [found, loop] as const;
    await dismissLoop(loop);
    return undefined;
  });
  const dir = await mountAt('other-mnt', other);
  const dismissed = await leftovers.dismissRest(
    log,
    () => false,
    async () => new Set([dir]),
  );
  expect(dismissed).toEqual({ loops: 0, dirs: [] });
  expect(mountsBelow(root)).toEqual([dir]);
});
