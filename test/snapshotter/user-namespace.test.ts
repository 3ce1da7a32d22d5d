/**
 * Snapshots for containers in user namespaces, call by call: what is below them shows the container's owners, nothing is copied
 * or fetched for that, and nothing stays. Clients that ask so are in test/clients.
 */
import {
  appendFileSync,
  lstatSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { Code } from '@connectrpc/connect';
import type { Mount } from '../../src/containerd/generated/containerd/types/mount_pb.ts';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { MAP_LABELS } from '../../actors/id-maps.ts';
import { layoutLayers } from '../../ops/images/layout.ts';
import { noise, prose } from '../images/nasty.ts';
import { TarBytes } from '../images/tar-bytes.ts';
import { type Engine, eventually, startEngine } from '../support/engine.ts';
import { startRegistry } from '../support/registry-server.ts';
import { Cleanup, mountsBelow } from '../support/temp.ts';
import { adoptLayers, pushLazyImage } from './lazy-image.ts';
import { untilServed } from './served.ts';
import { inside, refused, type SnapshotClient } from './test-bed.ts';

const cleanup = new Cleanup();
let work: string;
let engine: Engine;
let client: SnapshotClient;
/** Name of the committed snapshot of the whole image. */
let top: string;

const PROSE = prose(300_000, 1);

beforeAll(async () => {
  work = await cleanup.tempDir('userns');
  const storage = await cleanup.tempDir('userns-registry');
  const registry = await startRegistry({ storage });
  cleanup.defer(() => registry.stop());
  const lower = new TarBytes()
    .file('roots', PROSE, { mode: 0o640 })
    .file('users', 'a user’s\n', { uid: 1000, gid: 50 })
    .file('beyond', 'beyond the map\n', { uid: 70_000, gid: 0 });
  const big = new TarBytes().file('big', noise(2 << 20, 2));
  const upper = new TarBytes().file('above', 'above\n');
  const image = await pushLazyImage(
    work,
    registry.host,
    'userns',
    [lower, big, upper].map((tar) => tar.bytes()),
  );
  // A client that copies the image has to read this layer, and cannot.
  const [, blob] = await layoutLayers(image.layout);
  removeBlob(storage, blob?.digest as string);
  engine = await start();
  client = await untilServed(join(engine.root, 'run/snapshotter.sock'));
  cleanup.defer(() => client.close());
  top = await adoptLayers(client, image);
});
afterAll(() => cleanup.run());

async function start(root?: string): Promise<Engine> {
  const args = ['--snapshotter'];
  const started = await startEngine({ workers: 1, args, ...(root === undefined ? {} : { root }) });
  cleanup.defer(() => started.stop());
  return started;
}

function removeBlob(storage: string, digest: string): void {
  const hex = digest.slice('sha256:'.length);
  rmSync(join(storage, 'docker/registry/v2/blobs/sha256', hex.slice(0, 2), hex), { recursive: true });
}

const mapLabels = (uid: string, gid: string) => ({ [MAP_LABELS.uid]: uid, [MAP_LABELS.gid]: gid });
const MAPS = mapLabels('0:100000:65536', '0:200000:65536');
const mapped = () => join(engine.root, 'mapped');
const mountsOf = async (key: string) => (await client.api.mounts({ snapshotter: 'cofa', key })).mounts;
const optionOf = (mounts: readonly Mount[], name: string) =>
  mounts[0]?.options.find((option) => option.startsWith(`${name}=`))?.slice(name.length + 1);
const owner = (path: string) => {
  const { uid, gid } = lstatSync(path);
  return `${uid} ${gid}`;
};
const noneMapped = () =>
  eventually(
    'no mapped mount',
    () => mountsBelow(mapped()).length === 0 && readdirSync(mapped()).length === 0,
  );

test('files show the container’s owners and the image’s bytes; what it writes is its own', async () => {
  const mounts = await client.prepare('mapped', top, MAPS);
  // The client is left nothing to map.
  expect(mounts[0]?.options.join()).not.toContain('map=');
  const upper = optionOf(mounts, 'upperdir') as string;
  expect(owner(upper)).toBe('100000 200000');
  expect(await mountsOf('mapped')).toEqual(mounts);
  await inside(mounts, work, (root) => {
    expect(owner(root)).toBe('100000 200000');
    expect(owner(join(root, 'roots'))).toBe('100000 200000');
    expect(owner(join(root, 'users'))).toBe('101000 200050');
    expect(owner(join(root, 'big'))).toBe('100000 200000');
    // An owner beyond the map is shown as the overflow user.
    expect(owner(join(root, 'beyond'))).toBe('65534 200000');
    expect(statSync(join(root, 'roots')).mode & 0o7777).toBe(0o640);
    expect(readFileSync(join(root, 'roots')).equals(PROSE)).toBe(true);
    expect(readFileSync(join(root, 'users'), 'utf8')).toBe('a user’s\n');
    appendFileSync(join(root, 'users'), 'more\n');
  });
  expect(owner(join(upper, 'users'))).toBe('101000 200050');
  // That file is all that was copied.
  const { size } = await client.api.usage({ snapshotter: 'cofa', key: 'mapped' });
  expect(Number(size)).toBeLessThan(64 << 10);
  expect((await client.walk()).filter(({ name }) => name.includes('remap'))).toEqual([]);
  // Beside it, the same image without maps.
  await inside(await client.prepare('unmapped', top), work, (root) => {
    expect(owner(join(root, 'users'))).toBe('1000 50');
  });
  for (const key of ['mapped', 'unmapped']) await client.remove(key);
  await noneMapped();
});

test('layers that were unpacked are mapped as well, and views', async () => {
  await inside(await client.prepare('work', top), work, (root) =>
    writeFileSync(join(root, 'unpacked'), 'mine\n'),
  );
  await client.commit('unpacked', 'work');
  const mounts = await client.prepare('mixed', 'unpacked', MAPS);
  expect(
    optionOf(mounts, 'lowerdir')
      ?.split(':')
      .map((dir) => dir.startsWith(`${mapped()}/`)),
  ).toEqual([true, true]);
  const check = (root: string) => {
    expect(owner(join(root, 'unpacked'))).toBe('100000 200000');
    expect(owner(join(root, 'users'))).toBe('101000 200050');
    expect(readFileSync(join(root, 'unpacked'), 'utf8')).toBe('mine\n');
  };
  await inside(mounts, work, check);
  await inside(await client.view('mixed view', 'unpacked', MAPS), work, check);
  const view = await client.view('view', top, MAPS);
  expect(view.map(({ type }) => type)).toEqual(['bind']);
  await inside(view, work, (root) => expect(owner(join(root, 'users'))).toBe('101000 200050'));
  // On nothing: the folder is the container's.
  const [bind] = await client.prepare('empty', '', MAPS);
  expect(owner(bind?.source as string)).toBe('100000 200000');
  for (const key of ['mixed', 'mixed view', 'view', 'empty']) await client.remove(key);
  await noneMapped();
  await client.remove('unpacked');
});

test('each range of ids has mounts of its own, unmounted with the last that needs them', async () => {
  const other = mapLabels('0:300000:65536', '0:300000:65536');
  await client.prepare('one', top, MAPS);
  await client.prepare('two', top, MAPS);
  await client.prepare('three', top, other);
  expect(mountsBelow(mapped())).toHaveLength(2);
  await client.remove('one');
  await client.remove('three');
  await eventually('one mount', () => mountsBelow(mapped()).length === 1);
  await inside(await mountsOf('two'), work, (root) =>
    expect(owner(join(root, 'roots'))).toBe('100000 200000'),
  );
  await client.remove('two');
  await noneMapped();
});

test('labels that a client changes change the mount', async () => {
  await client.prepare('changing', top, MAPS);
  const labels = mapLabels('0:300000:65536', '0:300000:65536');
  await client.api.update({ info: { name: 'changing', labels }, updateMask: { paths: ['labels'] } });
  await inside(await mountsOf('changing'), work, (root) =>
    expect(owner(join(root, 'roots'))).toBe('300000 300000'),
  );
  expect(mountsBelow(mapped())).toHaveLength(1);
  await client.remove('changing');
  await noneMapped();
});

test('a copy that containerd has made for the ids is taken as it is', async () => {
  const copied = `${top}-100000-200000`;
  await client.prepare('copy', top);
  await client.commit(copied, 'copy');
  const mounts = await client.prepare('copied', copied, MAPS);
  expect(optionOf(mounts, 'lowerdir')).not.toContain(mapped());
  for (const key of ['copied', copied]) await client.remove(key);
  await noneMapped();
});

test.each([
  ['0:100000', '0:200000:65536'],
  ['0:1:1,lowerdir=/', '0:1:1'],
  ['1:100000:10', '1:100000:10'],
  ['', '0:1:1'],
])('maps %j and %j are refused, and nothing stays', async (uid, gid) => {
  const before = (await client.walk()).length;
  const name = `bad ${mkdtempSync(join(work, 'r-'))}`;
  await refused(client.prepare(name, top, mapLabels(uid, gid)), Code.InvalidArgument);
  expect((await client.walk()).length).toBe(before);
  await noneMapped();
});

test('a snapshot answers the same after its snapshotter was killed, after all was killed, and after cofa down', async () => {
  const mounts = await client.prepare('survivor', top, MAPS);
  await client.prepare('gone meanwhile', top, mapLabels('0:300000:65536', '0:300000:65536'));
  const { root } = engine;
  const check = async () => {
    client = await untilServed(join(root, 'run/snapshotter.sock'));
    expect(await mountsOf('survivor')).toEqual(mounts);
    await inside(mounts, work, (inner) => {
      expect(owner(join(inner, 'users'))).toBe('101000 200050');
      expect(readFileSync(join(inner, 'roots')).equals(PROSE)).toBe(true);
    });
  };
  const { snapshotter } = await engine.pids();
  client.close();
  process.kill(snapshotter as number, 'SIGKILL');
  await eventually('another snapshotter', async () => {
    const now = (await engine.pids()).snapshotter;
    return now !== undefined && now !== snapshotter;
  });
  await check();
  await client.remove('gone meanwhile');
  await eventually('one mount', () => mountsBelow(mapped()).length === 1);

  for (const pid of Object.values(await engine.pids())) process.kill(pid, 'SIGKILL');
  await engine.ended;
  client.close();
  engine = await start(root);
  await check();

  client.close();
  expect((await engine.cli(['down'])).code).toBe(0);
  await engine.ended;
  expect(mountsBelow(root)).toEqual([]);
  engine = await start(root);
  await check();
  await client.remove('survivor');
  await noneMapped();
});
