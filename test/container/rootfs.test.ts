import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findCommand } from '../../src/container/command.ts';
import { exec } from '../../src/container/exec.ts';
import { readTextInRoot, resolveInRoot } from '../../src/container/rootfs.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
let root = '';

beforeAll(async () => {
  const directory = await cleanup.tempDir('rootfs');
  root = join(directory, 'image');
  await mkdir(join(root, 'etc'), { recursive: true });
  await mkdir(join(root, 'usr/bin'), { recursive: true });
  await mkdir(join(root, 'opt/tool'), { recursive: true });
  await writeFile(join(directory, 'outside'), 'outside\n');
  await writeFile(join(root, 'outside'), 'inside\n');
  await writeFile(join(root, 'usr/bin/tool'), 'x', { mode: 0o755 });
  await writeFile(join(root, 'usr/bin/data'), 'x', { mode: 0o644 });
  const links = {
    bin: 'usr/bin',
    'etc/climb': '../../../../outside',
    'etc/absolute': '/outside',
    'etc/host': join(directory, 'outside'),
    'etc/loop': 'loop',
    'etc/ping': 'pong',
    'etc/pong': 'ping',
    'etc/dangling': '/nowhere/at/all',
    'usr/bin/alias': '/bin/tool',
  };
  for (const [path, target] of Object.entries(links)) await symlink(target, join(root, path));
  await exec('mkfifo', [join(root, 'etc/fifo')]);
});
afterAll(() => cleanup.run());

describe('paths in an image', () => {
  it.each([
    ['/etc/climb', '/outside'],
    ['/etc/absolute', '/outside'],
    ['/../../outside', '/outside'],
    ['/bin/../../outside', '/outside'],
    ['/bin/alias', '/usr/bin/tool'],
    ['/', '/'],
  ])('%s is %s of the image', (path, inside) => {
    const found = resolveInRoot(root, path);
    expect(found?.inside).toBe(inside);
    expect(found?.outside).toBe(inside === '/' ? root : join(root, inside));
  });
  it.each(['/etc/host', '/etc/loop', '/etc/ping', '/etc/dangling', '/outside/below', `/${'x'.repeat(300)}`])(
    '%s is nothing',
    (path) => expect(resolveInRoot(root, path)).toBeUndefined(),
  );
  it('are read within the image only, and never from a FIFO', async () => {
    expect(await readTextInRoot(root, '/etc/climb', 100)).toBe('inside\n');
    expect(await readTextInRoot(root, '/etc/climb', 3)).toBe('ins');
    expect(await readTextInRoot(root, '/etc/fifo', 100)).toBeUndefined();
    expect(await readTextInRoot(root, '/etc', 100)).toBeUndefined();
  });
});

const find = (command: string, covered: string[] = []) =>
  findCommand(root, command, { path: '/opt:/bin', cwd: '/usr', covered });

describe('the command of a container', () => {
  it.each([
    ['/bin/tool', { kind: 'found', path: '/bin/tool' }],
    ['alias', { kind: 'found', path: '/bin/alias' }],
    ['bin/tool', { kind: 'found', path: '/usr/bin/tool' }],
    // A folder of that name earlier in PATH does not hide the program.
    ['tool', { kind: 'found', path: '/bin/tool' }],
    ['nosuch', { kind: 'missing' }],
    ['./tool', { kind: 'missing' }],
    ['data', { kind: 'not-executable', path: '/bin/data', why: 'nobody may execute it' }],
    ['/opt/tool', { kind: 'not-executable', path: '/opt/tool', why: 'it is a directory' }],
  ])('%s', (command, check) => expect(find(command)).toEqual(check));
  it('below a volume is for runc to find', () => {
    expect(find('/bin/tool', ['/usr/bin'])).toEqual({ kind: 'unknown' });
    expect(find('tool', ['/opt'])).toEqual({ kind: 'unknown' });
    expect(find('/usr/binary', ['/usr/bin'])).toEqual({ kind: 'missing' });
  });
});
