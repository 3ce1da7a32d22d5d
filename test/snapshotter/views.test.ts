/** What a container's view carries beside bytes: extended attributes, those of security modules among them. Lazy images, call by call. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { TarBytes } from '../images/tar-bytes.ts';
import { type Engine, startEngine } from '../support/engine.ts';
import { startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';
import { adoptLayers, pushLazyImage } from './lazy-image.ts';
import { untilServed } from './served.ts';
import { inside, type SnapshotClient } from './test-bed.ts';

const cleanup = new Cleanup();
let work: string;
let engine: Engine;
let client: SnapshotClient;
/** Name of the committed snapshot of the whole image. */
let top: string;

/** VFS_CAP_REVISION_2 with CAP_NET_BIND_SERVICE permitted and effective (linux/capability.h). */
const BIND_SERVICE = Buffer.from('0100000200040000000000000000000000000000', 'hex');
const CONTEXT = 'system_u:object_r:container_file_t:s0:c1,c2\0';

beforeAll(async () => {
  work = await cleanup.tempDir('views');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const lower = new TarBytes()
    .file('noted', 'noted\n', { pax: [['SCHILY.xattr.user.note', 'from the image']] })
    .file('server', '#!/bin/sh\n', { mode: 0o755, pax: [['SCHILY.xattr.security.capability', BIND_SERVICE]] })
    .file('labelled', 'labelled\n', { pax: [['SCHILY.xattr.security.selinux', CONTEXT]] });
  const upper = new TarBytes().file('above', 'above\n');
  const image = await pushLazyImage(work, registry.host, 'views', [lower.bytes(), upper.bytes()]);
  engine = await startEngine({ workers: 1, args: ['--snapshotter'] });
  cleanup.defer(() => engine.stop());
  client = await untilServed(join(engine.root, 'run/snapshotter.sock'));
  cleanup.defer(() => client.close());
  top = await adoptLayers(client, image);
});
afterAll(() => cleanup.run());

const xattr = (path: string, name: string) =>
  execFileSync('getfattr', ['--absolute-names', '--only-values', '-n', name, path]);
const setXattr = (path: string, name: string, value: string) =>
  execFileSync('setfattr', ['-n', name, '-v', value, path]);

test('attributes of the image are seen, those of security modules too; what is set stays with the container', async () => {
  const mounts = await client.prepare('xattrs', top);
  await inside(mounts, work, (root) => {
    expect(xattr(join(root, 'noted'), 'user.note').toString()).toBe('from the image');
    expect(xattr(join(root, 'server'), 'security.capability').equals(BIND_SERVICE)).toBe(true);
    expect(execFileSync('getcap', [join(root, 'server')], { encoding: 'utf8' })).toContain(
      'cap_net_bind_service=ep',
    );
    expect(xattr(join(root, 'labelled'), 'security.selinux').toString()).toBe(CONTEXT);
    setXattr(join(root, 'noted'), 'user.note', 'mine');
    setXattr(join(root, 'labelled'), 'security.selinux', 'system_u:object_r:container_file_t:s0:c3,c4');
    execFileSync('setcap', ['cap_net_raw+ep', join(root, 'above')]);
  });
  await inside(await client.prepare('other', top), work, (root) => {
    expect(xattr(join(root, 'noted'), 'user.note').toString()).toBe('from the image');
    expect(execFileSync('getcap', [join(root, 'above')], { encoding: 'utf8' })).toBe('');
  });
  // Mounted again, and below others when it is committed.
  await client.commit('changed', 'xattrs');
  await inside(await client.prepare('above', 'changed'), work, (root) => {
    expect(xattr(join(root, 'noted'), 'user.note').toString()).toBe('mine');
    expect(xattr(join(root, 'labelled'), 'security.selinux').toString()).toContain('s0:c3,c4');
    expect(execFileSync('getcap', [join(root, 'above')], { encoding: 'utf8' })).toContain('cap_net_raw=ep');
    expect(xattr(join(root, 'server'), 'security.capability').equals(BIND_SERVICE)).toBe(true);
  });
});
