/**
 * What a container's view carries beside bytes: extended attributes, those of security modules among them; and what becomes of a
 * user namespace's ids. Lazy images, call by call.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { Code } from '@connectrpc/connect';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { pushLayout } from '../../ops/images/layout.ts';
import { MAP_LABELS } from '../../actors/id-maps.ts';
import { buildImage } from '../images/nasty.ts';
import { TarBytes } from '../images/tar-bytes.ts';
import { index } from '../clients/images.ts';
import { type Engine, startEngine } from '../support/engine.ts';
import { startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';
import { untilServed } from './served.ts';
import { inside, refused, type SnapshotClient } from './test-bed.ts';

const cleanup = new Cleanup();
let work: string;
let engine: Engine;
let client: SnapshotClient;
/** Name of the committed snapshot of the whole image. */
let top: string;

/** VFS_CAP_REVISION_2 with CAP_NET_BIND_SERVICE permitted and effective (linux/capability.h). */
const BIND_SERVICE = Buffer.from('0100000200040000000000000000000000000000', 'hex');
const CONTEXT = 'system_u:object_r:container_file_t:s0:c1,c2\0';

const sha256 = (bytes: Buffer | string) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

beforeAll(async () => {
  work = await cleanup.tempDir('views');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const lower = new TarBytes()
    .file('noted', 'noted\n', { pax: [['SCHILY.xattr.user.note', 'from the image']] })
    .file('server', '#!/bin/sh\n', { mode: 0o755, pax: [['SCHILY.xattr.security.capability', BIND_SERVICE]] })
    .file('labelled', 'labelled\n', { pax: [['SCHILY.xattr.security.selinux', CONTEXT]] });
  const upper = new TarBytes().file('above', 'above\n');
  const tars = [lower.bytes(), upper.bytes()];
  const layout = await buildImage(join(work, 'image'), tars, 'gzip');
  await pushLayout(layout, registry.host, 'views', '1');
  const ref = `${registry.host}/views:1`;
  await index(ref);
  engine = await startEngine({ workers: 1, args: ['--snapshotter'] });
  cleanup.defer(() => engine.stop());
  client = await untilServed(join(engine.root, 'run/snapshotter.sock'));
  cleanup.defer(() => client.close());
  let parent = '';
  let chain = '';
  for (const diffId of tars.map(sha256)) {
    chain = chain === '' ? diffId : sha256(`${chain} ${diffId}`);
    const labels = {
      'containerd.io/snapshot.ref': chain,
      'containerd.io/snapshot/cri.image-ref': ref,
      'containerd.io/snapshot/cri.manifest-digest': layout.manifest.digest,
    };
    await refused(client.prepare(`layer ${chain}`, parent, labels), Code.AlreadyExists);
    const [info] = await client.walk(`labels."containerd.io/snapshot.ref"==${chain}`);
    parent = info?.name as string;
  }
  top = parent;
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

const MAPS = { [MAP_LABELS.uid]: '0:100000:65536', [MAP_LABELS.gid]: '0:200000:65536' };

test('with maps of ids only a copy that containerd has made for them is taken', async () => {
  await refused(client.prepare('mapped', top, MAPS), Code.FailedPrecondition);
  const copied = `${top}-100000-200000`;
  await client.prepare('copy', top);
  await client.commit(copied, 'copy');
  const [mount] = await client.prepare('copied', copied, MAPS);
  expect(mount?.options.join()).not.toContain('map=');
});

test.each([
  ['0:100000', '0:200000:65536'],
  ['0:1:1,lowerdir=/', '0:1:1'],
  ['1:100000:10', '1:100000:10'],
])('maps %j and %j are refused, and nothing stays', async (uid, gid) => {
  const before = (await client.walk()).length;
  const folder = mkdtempSync(join(work, 'r-'));
  const labels = { [MAP_LABELS.uid]: uid, [MAP_LABELS.gid]: gid };
  await refused(client.prepare(`bad ${folder}`, top, labels), Code.InvalidArgument);
  expect((await client.walk()).length).toBe(before);
});
