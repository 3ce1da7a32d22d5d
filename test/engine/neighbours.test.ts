/** What local users and containers get of images that this node has mounted: a real engine, docker's registry. */
import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, lchownSync, mkdirSync, readdirSync, statSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { makeBase, makeClientImage, push } from '../clients/images.ts';
import { type Engine, startEngine } from '../support/engine.ts';
import { startRegistry } from '../support/registry-server.ts';
import { runCommand } from '../support/services.ts';
import { Cleanup, letThrough } from '../support/temp.ts';

const NOBODY = 65_534;
const cleanup = new Cleanup();
let directory = '';
let root = '';
let ref = '';
let engine: Engine;
vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

beforeAll(async () => {
  directory = await cleanup.tempDir('neighbours');
  await letThrough(directory);
  root = join(directory, 'root');
  // As kubelet makes a hostPath, and as an admin may have left what is in it.
  for (const folder of [root, join(root, 'flats'), join(root, 'layers'), join(root, 'runc')])
    mkdirSync(folder, { mode: 0o755 });
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const base = await makeBase(directory);
  copyFileSync(join(base, 'bin/id'), join(base, 'bin/rooted'));
  chmodSync(join(base, 'bin/rooted'), 0o4755);
  await runCommand('mknod', ['-m', '666', join(base, 'data/device'), 'c', '1', '5']);
  ref = await push(
    await makeClientImage(directory, base, 'setuid', { big: 1, said: 'hello' }),
    registry.host,
    'setuid',
  );
  engine = await startEngine({ root });
  cleanup.defer(() => engine.stop());
});
afterAll(() => cleanup.run());

/** What a command says to a local user, or why it does not. setpriv(1) has its capabilities until it starts a program: thus the shell. */
function asNobody(command: string, ...args: string[]): string {
  const who = [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups', '--'];
  try {
    return execFileSync('setpriv', [...who, 'sh', '-c', 'exec "$@"', 'sh', command, ...args], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { LC_ALL: 'C' },
    }).trim();
  } catch (error) {
    return /Permission denied/.exec(String((error as { stderr?: unknown }).stderr))?.[0] ?? String(error);
  }
}

async function cofa(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await engine.cli(args);
  expect(code, stdout + stderr).toBe(0);
  return stdout;
}

const seenAt = (dir: string) => ({
  user: asNobody(join(dir, 'bin/rooted'), '-u'),
  device: asNobody('head', '-c', '0', join(dir, 'data/device')),
});

test('a local user gains nothing by a setuid program or a device of a mount, unless root has said so, also after a restart', async () => {
  const [plain, asked] = [join(directory, 'plain'), join(directory, 'asked')];
  await cofa('mount', ref, plain);
  await cofa('mount', '--suid', '--dev', ref, asked);
  const seen = () => ({ plain: seenAt(plain), asked: seenAt(asked) });
  const expected = {
    plain: { user: String(NOBODY), device: 'Permission denied' },
    asked: { user: '0', device: '' },
  };
  expect(seen()).toEqual(expected);
  await cofa('down');
  await engine.ended;
  await engine.stop();
  engine = await startEngine({ root });
  expect(seen()).toEqual(expected);
});

test('setuid programs of the image work in its containers', async () => {
  expect(await cofa('run', '--user', '1000', ref, 'rooted', '-u')).toBe('0\n');
});

test('a local user reaches nothing below the root, though others made it', async () => {
  const dir = join(root, 'flats/inside');
  await engine.client.call('mount', { ref, dir, suid: true, dev: true });
  expect(seenAt(dir)).toEqual({ user: 'Permission denied', device: 'Permission denied' });
  await engine.client.call('unmount', { dir });
  const open = readdirSync(root).filter((name) => (statSync(join(root, name)).mode & 0o077) !== 0);
  expect(open).toEqual([]);
});

test('a mount follows a link that only root can have made, and none where the request says so', async () => {
  const [real, link] = [join(directory, 'real'), join(directory, 'link')];
  mkdirSync(real);
  symlinkSync(real, link);
  const dir = join(link, 'inner');
  await cofa('mount', ref, dir);
  expect(seenAt(join(real, 'inner')).user).toBe(String(NOBODY));
  await cofa('unmount', dir);
  expect(readdirSync(real)).toEqual([]);
  const refused = { code: 'conflict', message: `${dir} leads through a symbolic link: link` };
  await expect(engine.client.call('mount', { ref, dir, noSymlinks: true })).rejects.toMatchObject(refused);
  lchownSync(link, NOBODY, NOBODY);
  await expect(engine.client.call('mount', { ref, dir })).rejects.toMatchObject(refused);
  const { mounts } = await engine.status();
  expect(mounts.filter((one) => one.dir === dir)).toEqual([]);
});

test('an engine does not start in a folder that others may write', async () => {
  const other = join(directory, 'shared');
  mkdirSync(other);
  chmodSync(other, 0o777);
  await expect(startEngine({ root: other })).rejects.toThrow(
    `${other} may be written by others than its owner`,
  );
});
