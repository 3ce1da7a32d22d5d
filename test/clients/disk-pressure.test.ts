/**
 * A disk that fills below a kubelet: what containerd's CRI plugin tells it (the image file system, what containers write),
 * and that cofa's cache gives way before the kubelet's limits. The engine's root is on a small disk of its own.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { containerdPath } from '../../ops/images/debs.ts';
import { untilServed } from '../snapshotter/served.ts';
import { type Engine, eventually, mountImage, startEngine } from '../support/engine.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { type Containerd, runCommand, startContainerd } from '../support/services.ts';
import { fillTo, makeSmallDisk } from '../support/small-disk.ts';
import { Cleanup } from '../support/temp.ts';
import { connectCri, type Cri, type Pod } from './cri.ts';
import { index, makeBase, makeClientImage, push } from './images.ts';
import { newestContainerd } from './versions.ts';

const VERSION = newestContainerd();
const MIB = 1 << 20;
const DISK = 512 * MIB;
/** Percent. */
const KEEP_FREE = 40;
const NAMES = ['idle', 'running', 'pause'] as const;

const cleanup = new Cleanup();
const refs: Partial<Record<(typeof NAMES)[number], string>> = {};
const refOf = (name: (typeof NAMES)[number]) => refs[name] as string;
let work: string;
let disk: string;
let root: string;
let registry: RegistryServer;
let engine: Engine;
let containerd: Containerd;
let cri: Cri;
let running: { pod: Pod; container: string };

beforeAll(async () => {
  work = await cleanup.tempDir('pressure');
  disk = await makeSmallDisk(cleanup, DISK);
  root = join(disk, 'cofa');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const base = await makeBase(work);
  for (const [big, name] of NAMES.entries()) {
    const image = await makeClientImage(work, base, name, {
      big: big + 1,
      said: `I am ${name}`,
      config: { Env: ['PATH=/bin'], Cmd: ['/bin/wait'] },
      own: `only ${name} has this`,
    });
    refs[name] = await push(image, registry.host, name);
    if (name !== 'pause') await index(refOf(name));
  }
  engine = await startEngine({ root, workers: 1, args: ['--snapshotter', '--keep-free', String(KEEP_FREE)] });
  cleanup.defer(() => engine.stop());
  (await untilServed(join(root, 'run/snapshotter.sock'))).close();
  const path = (await containerdPath(VERSION)) as string;
  containerd = await startContainerd({
    path,
    configVersion: 3,
    sandboxImage: refOf('pause'),
    statsPeriod: 1,
    configure: async (config) => {
      const args = ['install', 'k8s', '--no-unit', '--containerd-config', config];
      expect(await engine.cli(args, { env: { PATH: path } })).toMatchObject({ code: 0, stderr: '' });
    },
  });
  cleanup.defer(() => containerd.stop());
  cri = connectCri(containerd.socket);
  cleanup.defer(() => cri.close());
  await eventually('CRI', async () => (await cri.runtime.version({})).runtimeVersion !== '');
  // An image stays mounted for half a minute after its pull, for a start that may come. That passes beside the first tests.
  await cri.pull(refOf('idle'));
}, 300_000);
afterAll(() => cleanup.run());

/** Bytes of an image that are on the disk. */
const present = async (name: (typeof NAMES)[number]) => {
  const { images } = await engine.status();
  return images.find(({ ref }) => ref.startsWith(refOf(name)))?.bytes.present;
};
async function start(name: 'idle' | 'running'): Promise<typeof running> {
  await cri.pull(refOf(name));
  const logs = join(work, `logs-${name}`);
  await mkdir(logs, { recursive: true });
  const pod = await cri.runPod(name, logs);
  const container = await pod.start('app', refOf(name), { command: ['/bin/wait'] });
  // Every byte comes to the node.
  expect(
    await cri.exec(container, 'sh', '-c', 'cat /data/big /data/deep/* /bin/* /own > /dev/null; cat /own'),
  ).toEqual({
    code: 0,
    stdout: `only ${name} has this`,
  });
  return { pod, container };
}

describe(`the image file system, containerd ${VERSION}`, () => {
  test('is the disk of cofa’s root, with what is here of lazy images', async () => {
    running = await start('running');
    const { imageFilesystems } = await cri.images.imageFsInfo({});
    const [images] = imageFilesystems;
    expect(images?.fsId?.mountpoint).toBe(root);
    await eventually('figures', async () => {
      const [first] = (await cri.images.imageFsInfo({})).imageFilesystems;
      return Number(first?.usedBytes?.value ?? 0) > 0 && Number(first?.inodesUsed?.value ?? 0) > 0;
    });
    const [first] = (await cri.images.imageFsInfo({})).imageFilesystems;
    // What it adds up is never more than the disk.
    expect(Number(first?.usedBytes?.value)).toBeLessThan(DISK);
  });

  test('counts what a container writes as its own', async () => {
    const used = async () => {
      const { stats } = await cri.runtime.containerStats({ containerId: running.container });
      expect(stats?.writableLayer?.fsId?.mountpoint).toBe(root);
      return Number(stats?.writableLayer?.usedBytes?.value ?? 0);
    };
    const before = await eventually('its figures', used);
    expect(before).toBeLessThan(MIB);
    await cri.exec(running.container, 'sh', '-c', 'cat /data/big /data/big > /mine');
    await eventually('what it wrote', async () => (await used()) >= before + 4 * MIB);
  });
});

test('the pause image is no image that cofa is still looking for', async () => {
  const { images } = await engine.status();
  expect(images.find(({ ref }) => ref.startsWith(refOf('pause')))?.state).toBe('unprepared');
});

describe('while others fill the disk', () => {
  test('what nothing runs from leaves, before a kubelet’s limits; pods keep what they have', {
    timeout: 240_000,
  }, async () => {
    const dir = join(work, 'whole');
    await mkdir(dir);
    await mountImage(engine, refOf('idle'), dir);
    await runCommand('sh', ['-c', 'cat "$0"/data/big "$0"/own > /dev/null', dir]);
    expect((await engine.cli(['unmount', dir])).code).toBe(0);
    const [idle, kept] = [(await present('idle')) as number, (await present('running')) as number];
    expect(idle).toBeGreaterThan(2 * MIB);
    await fillTo(disk, (DISK * KEEP_FREE) / 100 - 8 * MIB);
    await eventually(
      'less of the idle image',
      async () => ((await present('idle')) as number) < idle - 2 * MIB,
      120_000,
    );
    expect(await present('running')).toBeGreaterThanOrEqual(kept);
    expect(await cri.exec(running.container, 'cat', '/own')).toEqual({
      code: 0,
      stdout: 'only running has this',
    });
  });

  test('a kubelet that removes images takes names alone, and the image comes back when it is asked for', async () => {
    const ids = (await cri.images.listImages({})).images;
    const idle = ids.find(({ repoTags }) => repoTags.includes(refOf('idle')));
    // By this figure a kubelet reckons what it gains.
    expect(Number(idle?.size)).toBeGreaterThan(2 * MIB);
    await cri.images.removeImage({ image: { image: idle?.id ?? '' } });
    expect(await cri.exec(running.container, 'cat', '/own')).toMatchObject({
      stdout: 'only running has this',
    });
    const again = await start('idle');
    await again.pod.stop();
    await running.pod.stop();
  });
});
