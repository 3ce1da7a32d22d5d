import { execFile } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, describe, expect, it } from 'vitest';
import { render } from '../../src/cli/doctor.ts';
import {
  checkCgroups,
  checkFree,
  checkFuse,
  checkFusectl,
  checkKernel,
  checkLoop,
  checkNats,
  checkNode,
  checkRunc,
  checkUser,
  type Check,
} from '../../src/cli/doctor-checks.ts';
import { checkKeys } from '../../src/cli/doctor-keys.ts';
import { Cleanup, listMounts } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

describe('what doctor makes of what it finds', () => {
  it.each<[string, Check, Check['state']]>([
    ['a new kernel', checkKernel('6.18.44-amd64'), 'ok'],
    ['a kernel that cannot send reads again', checkKernel('6.4.0'), 'warn'],
    ['a kernel without 512-byte blocks', checkKernel('6.1.0-18-amd64'), 'fail'],
    ['a kernel with a strange name', checkKernel('next'), 'fail'],
    ['its own Node', checkNode('24.21.0'), 'ok'],
    ['an old Node', checkNode('20.20.2'), 'fail'],
    ['root', checkUser(true), 'ok'],
    ['a plain user', checkUser(false), 'fail'],
    ['FUSE', checkFuse(undefined, new Set(['fuse', 'ext4'])), 'ok'],
    ['a container without /dev/fuse', checkFuse('ENOENT', new Set(['fuse'])), 'fail'],
    ['a kernel without FUSE', checkFuse(undefined, new Set(['ext4'])), 'fail'],
    ['no fusectl', checkFusectl(false), 'warn'],
    ['no keys', checkKeys({ keys: [], identities: [], problems: [] }), 'ok'],
    [
      'a broken key',
      checkKeys({ keys: [], identities: [], problems: [{ path: 'a', message: 'a is no key' }] }),
      'warn',
    ],
    ['no loop', checkLoop(false), 'fail'],
    ['no nats-server', checkNats(undefined), 'warn'],
    ['no runc', checkRunc(undefined), 'warn'],
    ['cgroup v2', checkCgroups('29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n'), 'ok'],
    ['cgroup v1', checkCgroups('1 2 0:3 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n'), 'ok'],
    ['no cgroups', checkCgroups('1 2 0:3 / / rw - ext4 /dev/cgroup rw\n'), 'warn'],
    ['much space', checkFree(1e12, '/'), 'ok'],
    ['little space', checkFree(5e9, '/'), 'warn'],
    ['hardly any space', checkFree(1e8, '/'), 'fail'],
  ])('%s', (_, check, state) => {
    expect(check.state).toBe(state);
    // Each problem comes with its meaning and its remedy.
    if (state !== 'ok') {
      expect(check.means).toMatch(/\w/);
      expect(check.fix).toMatch(/\w/);
    }
  });

  it('ends with a verdict', () => {
    const ok: Check = { name: 'a', state: 'ok', found: 'x' };
    const warn: Check = { name: 'long name', state: 'warn', found: 'y', means: 'm', fix: 'apt install z' };
    expect(render([ok])).toBe('ok    a  x\n\nall is well\n');
    expect(render([ok, warn])).toBe(
      'ok    a          x\nwarn  long name  y\n                 m\n                 apt install z\n\ncofa works here, with the limits above\n',
    );
    expect(render([ok, warn, { ...warn, state: 'fail' }])).toMatch(
      /\n1 thing missing: cofa will not work here\n$/,
    );
  });
});

describe('doctor on this machine', () => {
  it('mounts a tiny image, an overlay and a container, and leaves nothing behind', async () => {
    const directory = await cleanup.tempDir('doctor');
    const launcher = join(import.meta.dirname, '../../ops/cofa');
    const { stdout } = await promisify(execFile)(
      launcher,
      ['doctor', '--json', '--root', join(directory, 'root')],
      {
        timeout: 60_000,
      },
    );
    const report = JSON.parse(stdout) as { ok: boolean; checks: Check[] };
    expect(report.checks.filter((check) => check.state === 'fail')).toEqual([]);
    expect(report.ok).toBe(true);
    for (const name of ['erofs', 'other owners', 'overlayfs', 'container']) {
      expect(report.checks.find((check) => check.name === name)).toMatchObject({ state: 'ok' });
    }
    expect(await readdir(directory)).toEqual([]);
    expect(listMounts().filter((entry) => entry.point.includes('.cofa-doctor-'))).toEqual([]);
    const loops = await promisify(execFile)('losetup', ['-l', '-O', 'BACK-FILE', '-n']);
    expect(loops.stdout).not.toMatch(/cofa-doctor/);
  });
});
