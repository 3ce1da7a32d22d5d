/**
 * Layers that are unpacked side by side, each without its parent, as containerd's unpacker does with the capability
 * `rebase`; a tar of GNU tar stands for containerd's applier, which writes into the upper folder in the same order.
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, chownSync, lstatSync, mkdirSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, test } from 'vitest';
import { completeFolders, isUnpackedAlone } from '../../src/snapshotter/rebase.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());
let work: string;
let layer: string;
beforeEach(async () => {
  work = await cleanup.tempDir('rebase');
  layer = join(work, 'layer');
  mkdirSync(layer);
});

const LISTED = new Date('2020-02-02T02:02:02Z');
const what = (path: string) => {
  const { uid, gid, mode } = lstatSync(path);
  return `${(mode & 0o7777).toString(8)} ${uid}:${gid}`;
};
function folder(path: string, mode: number, uid = 0, gid = 0): string {
  mkdirSync(path, { recursive: true });
  chownSync(path, uid, gid);
  chmodSync(path, mode);
  return path;
}
/** As an applier leaves it that has found the folder in the tar. */
function listed(path: string, mode: number): void {
  folder(path, mode);
  utimesSync(path, LISTED, LISTED);
}
const lower = (name: string) => folder(join(work, name), 0o755);
const setfattr = (name: string, value: string, path: string) =>
  execFileSync('python3', [
    '-c',
    'import os, sys; os.setxattr(sys.argv[1], sys.argv[2], sys.argv[3].encode())',
    path,
    name,
    value,
  ]);
const getfattr = (name: string, path: string) =>
  execFileSync(
    'python3',
    ['-c', 'import os, sys; print(os.getxattr(sys.argv[1], sys.argv[2]).decode(), end="")', path, name],
    {
      encoding: 'utf8',
    },
  );

describe('folders that a layer does not list', () => {
  test('are as those that they hide; those that it lists stay as it says', async () => {
    const below = lower('below');
    folder(join(below, 'tmp'), 0o1777);
    folder(join(below, 'home/me'), 0o700, 1000, 1001);
    folder(join(below, 'etc'), 0o711);
    folder(join(below, 'only below'), 0o700);
    chmodSync(below, 0o750);
    setfattr('user.note', 'kept', join(below, 'home/me'));
    folder(join(layer, 'tmp'), 0o755);
    folder(join(layer, 'home/me/deep'), 0o755);
    writeFileSync(join(layer, 'home/me/deep/file'), 'new');
    listed(join(layer, 'etc'), 0o700);
    await completeFolders(layer, [below]);
    expect(what(join(layer, 'tmp'))).toBe('1777 0:0');
    expect(what(join(layer, 'home/me'))).toBe('700 1000:1001');
    expect(getfattr('user.note', join(layer, 'home/me'))).toBe('kept');
    expect(what(join(layer, 'home/me/deep'))).toBe('755 0:0');
    expect(what(join(layer, 'etc'))).toBe('700 0:0');
    expect(what(layer)).toBe('750 0:0');
    expect(() => lstatSync(join(layer, 'only below'))).toThrow('ENOENT');
  });

  test('are as the uppermost layer below shows them, and not as what that one hides', async () => {
    const [high, low] = [lower('high'), lower('low')];
    folder(join(low, 'both'), 0o700);
    folder(join(high, 'both'), 0o711);
    folder(join(low, 'low'), 0o701);
    // Each of these hides what is further down: another file, a whiteout, an opaque folder.
    for (const name of ['file', 'gone', 'opaque/in', 'link']) {
      folder(join(low, name), 0o700);
      folder(join(layer, name), 0o755);
    }
    writeFileSync(join(high, 'file'), '');
    execFileSync('mknod', [join(high, 'gone'), 'c', '0', '0']);
    folder(join(high, 'opaque'), 0o755);
    setfattr('trusted.overlay.opaque', 'y', join(high, 'opaque'));
    symlinkSync('low', join(high, 'link'));
    for (const name of ['both', 'low']) folder(join(layer, name), 0o755);
    await completeFolders(layer, [high, low]);
    expect(what(join(layer, 'both'))).toBe('711 0:0');
    expect(what(join(layer, 'low'))).toBe('701 0:0');
    for (const name of ['file', 'gone', 'opaque/in', 'link']) expect(what(join(layer, name))).toBe('755 0:0');
  });

  test('may have names of any bytes', async () => {
    const below = lower('below');
    const name = Buffer.from([0xff, 0x0a, 0x20]);
    for (const [root, mode] of [
      [below, 0o700],
      [layer, 0o755],
    ] as const) {
      const path = Buffer.concat([Buffer.from(`${root}/`), name]);
      mkdirSync(path);
      chmodSync(path, mode);
    }
    await completeFolders(layer, [below]);
    expect(lstatSync(Buffer.concat([Buffer.from(`${layer}/`), name])).mode & 0o777).toBe(0o700);
  });
});

test('only what an unpacker prepares without its parent is unpacked alone', () => {
  const time = { sec: 1, nsec: 0 };
  const usage = { size: 0, inodes: 0 };
  const facts = { id: 'a', name: 'a', created: time, updated: time, usage, flat: undefined };
  const labels = { 'containerd.io/snapshot/parent-chain-id': 'sha256:x' };
  const alone = { ...facts, kind: 'active', parent: '', labels } as const;
  expect(isUnpackedAlone(alone)).toBe(true);
  expect(isUnpackedAlone({ ...alone, parent: 'below' })).toBe(false);
  expect(isUnpackedAlone({ ...alone, labels: {} })).toBe(false);
  expect(isUnpackedAlone({ ...alone, kind: 'view' })).toBe(false);
  expect(isUnpackedAlone({ ...alone, kind: 'committed' })).toBe(false);
});
