/** `cofa up --prepare local`: the node prepares an image without a sidecar when containerd pulls it; nothing is unpacked. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Code } from '@connectrpc/connect';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FaultImage, pushImage } from '../faults/fault-image.ts';
import { noise, prose } from '../images/nasty.ts';
import { type Engine, eventually, startEngine } from '../support/engine.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';
import { untilServed } from './served.ts';
import { inside, refused, type SnapshotClient } from './test-bed.ts';

const cleanup = new Cleanup();
let work: string;
let registry: RegistryServer;
let engine: Engine;
let client: SnapshotClient;
let image: FaultImage;
let chains: string[];

const sha256 = (bytes: Buffer | string) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
const socket = () => join(engine.root, 'run/snapshotter.sock');
const prepared = async () =>
  (await engine.status()).mounts.filter(({ dir }) => dir.includes('/run/prepare-'));

beforeAll(async () => {
  work = await cleanup.tempDir('local');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  image = await pushImage(join(work, 'image'), registry.host, 'unprepared', [
    { 'app/one': prose(300_000, 1) },
    { 'app/two': noise(200_000, 2) },
    { 'app/three': prose(5_000, 3) },
  ]);
  chains = [];
  for (const diffId of image.tars.map(sha256)) {
    const below = chains.at(-1);
    chains.push(below === undefined ? diffId : sha256(`${below} ${diffId}`));
  }
  engine = await startEngine({ workers: 1, args: ['--snapshotter', '--prepare', 'local'] });
  cleanup.defer(() => engine.stop());
  client = await untilServed(socket());
  cleanup.defer(() => client.close());
}, 60_000);
afterAll(() => cleanup.run());

const labelsOf = (chain: string, ref = image.ref): Record<string, string> => ({
  'containerd.io/snapshot.ref': chain,
  'containerd.io/snapshot/cri.image-ref': ref,
  'containerd.io/snapshot/cri.manifest-digest': image.layout.manifest.digest,
});
const blobRequests = () =>
  registry
    .requests()
    .filter(({ method, path }) => method === 'GET' && image.blobs.some(({ digest }) => path.endsWith(digest)))
    .length;

test('its layers are there when they are asked for, each was read once, and the container sees the image', async () => {
  let parent = '';
  for (const [at, chain] of chains.entries()) {
    // Two pulls of one image at the same time.
    const asks = [1, 2].map((pull) =>
      refused(client.prepare(`${at}-${pull}`, parent, labelsOf(chain)), Code.AlreadyExists),
    );
    await Promise.all(asks);
    const [info] = await client.walk(`labels."containerd.io/snapshot.ref"==${chain}`);
    parent = info?.name as string;
  }
  expect(blobRequests()).toBe(image.blobs.length);
  await inside(await client.prepare('container', parent), work, (root) => {
    for (const [path, bytes] of image.files) expect(readFileSync(join(root, path)).equals(bytes)).toBe(true);
  });
  expect(await prepared()).toHaveLength(1);
});

test('a snapshotter that is started again takes away what it had mounted for that', async () => {
  const { snapshotter } = await engine.pids();
  process.kill(snapshotter as number, 'SIGKILL');
  await eventually('another snapshotter', async () => {
    const { snapshotter: now } = await engine.pids();
    return now !== undefined && now !== snapshotter && (await prepared()).length === 0;
  });
});

test('an image that cannot be had is left to containerd, as ever', async () => {
  const labels = {
    ...labelsOf(sha256('none'), `${registry.host}/none:1`),
    'containerd.io/snapshot/cri.manifest-digest': sha256('no manifest'),
  };
  const mounts = await client.prepare('absent', '', labels);
  expect(mounts).toHaveLength(1);
  expect(await prepared()).toHaveLength(0);
});
