/**
 * A disk that fills below a kubelet: cofa's cache gives way before the kubelet's limits, then the kubelet removes images, and
 * pods read on. All that the node writes is on one small disk: the roots of containerd, of the kubelet and of cofa.
 *
 * By default the kubelet's eviction manager removes images, which looks each ten seconds. With COFA_IMAGE_GC=1 its image collection
 * does, at 85 % as kubelets have it. That one looks each five minutes, so that the test takes more than ten.
 */
import { delimiter, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { containerdPath, hasContainerd } from '../../ops/images/debs.ts';
import { judgeAtHand } from '../../ops/images/judges.ts';
import type { Status } from '../../schemas/api.ts';
import { index, makeBase, makeClientImage, push } from '../clients/images.ts';
import { eventually } from '../support/engine.ts';
import { startRegistry } from '../support/registry-server.ts';
import { fillTo, freeOn } from '../support/small-disk.ts';
import { Cleanup } from '../support/temp.ts';
import { type ControlPlane, startControlPlane } from './control-plane.ts';
import { cofaOn, engineService, installInto } from './installed.ts';
import { type KubeletOptions, kubeletOf } from './kubelet.ts';
import { type ClusterNode, makeNode } from './node.ts';

const MIB = 1 << 20;
const DISK = 512 * MIB;
const percent = (share: number) => (DISK * share) / 100;
/** Of the disk: what `cofa install k8s` tells the engine to keep free. */
const KEEP_FREE = 20;

/** The part of the kubelet that removes images: its settings, and what its log says of it, each time that it has looked. */
const BY =
  process.env.COFA_IMAGE_GC === undefined
    ? {
        name: 'eviction manager',
        limits: { 'nodefs.available': '15%', 'imagefs.available': '15%' },
        looked: /Eviction manager: no resources are starved/g,
        // It may have been looking when they were asked for.
        looks: 2,
        lookMs: 30_000,
        // It says so, and then removes images.
        worries: ['EvictionThresholdMet', 'NodeHasDiskPressure'],
      }
    : {
        name: 'image collection',
        limits: { 'nodefs.available': '1%', 'imagefs.available': '1%' },
        looked: /Image garbage collection succeeded/g,
        looks: 1,
        lookMs: 330_000,
        worries: [],
      };
const KUBELET: KubeletOptions = {
  // In a file 0 stands for two minutes, in which no image is removed.
  args: ['--minimum-image-ttl-duration=0s', '--vmodule=eviction_manager=3,kubelet=4'],
  settings: {
    evictionHard: { 'memory.available': '50Mi', ...BY.limits },
    evictionPressureTransitionPeriod: '1s',
    imageGCHighThresholdPercent: 85,
    imageGCLowThresholdPercent: 80,
  },
};

const WORRIES = [
  'ContainerGCFailed',
  'Evicted',
  'EvictionThresholdMet',
  'FreeDiskSpaceFailed',
  'ImageGCFailed',
  'NodeHasDiskPressure',
] as const;

const NODE = 'localhost';
const REGISTRY = 'registry.example';
/** Name and MiB of what only the image has. A pod of `idle` has ended; `unpacked` is in no sidecar, and its pod has ended as well. */
const IMAGES = { pause: 1, idle: 16, unpacked: 40, whole: 4, lazy: 4 } as const;
type Name = keyof typeof IMAGES;
const LAZY: ReadonlySet<string> = new Set<Name>(['idle', 'whole', 'lazy']);
const UNUSED = ['idle', 'unpacked'] as const;
const refOf = (name: Name) => `${REGISTRY}/${name}:1`;

const cleanup = new Cleanup();
const onProgress = (line: string) => console.log(`disk pressure: ${line}`);
const programs = hasContainerd('2.4', { onProgress }) ? judgeAtHand('kubernetes', { onProgress }) : undefined;
let work: string;
let cluster: ControlPlane;
let node: ClusterNode;

describe.runIf(programs)(`a disk that fills, and the kubelet’s ${BY.name}`, () => {
  beforeAll(async () => {
    work = await cleanup.tempDir('pressure');
    const registry = await startRegistry();
    cleanup.defer(() => registry.stop());
    const base = await makeBase(work);
    for (const [big, [name, size]] of Object.entries(IMAGES).entries()) {
      const config = { Env: ['PATH=/bin'], Cmd: ['/bin/wait'] };
      const image = { big: big + 1, said: `I am ${name}`, bytes: size * MIB, config };
      const ref = await push(await makeClientImage(work, base, name, image), registry.host, name);
      if (LAZY.has(name)) await index(ref);
    }
    cluster = await startControlPlane({ programs: programs as string, node: NODE, cleanup });
    const { services, ...ofKubelet } = await kubeletOf(NODE, cluster, KUBELET);
    node = await makeNode({
      path: [programs, (await containerdPath('2.4')) as string].join(delimiter),
      services: {
        ...services,
        cofa: engineService('--snapshotter', '--no-defer', '--keep-free', String(KEEP_FREE)),
      },
      ...ofKubelet,
      sandboxImage: refOf('pause'),
      // Beside other tests with nodes.
      subnet: '192.0.2.0/24',
      mirrors: { [REGISTRY]: `http://${registry.host}` },
      diskBytes: DISK,
      cleanup,
    });
    await node.boot();
    await installInto(node);
    await eventually('the node is Ready', async () => (await condition('Ready')) === 'True');
    for (const name of UNUSED) {
      await start(name);
      await cluster.kubectl(['delete', 'pod', name, '--now']);
    }
    await start('whole');
    for (const name of ['idle', 'whole'] as const)
      await eventually(`${name} is whole`, async () => (await imageOf(name)).blocks.absent === 0);
  }, 400_000);
  afterAll(() => cleanup.run());

  test('at first the cache alone gives way: no image, no pod, no word of the kubelet', {
    timeout: BY.lookMs + 240_000,
  }, async () => {
    const before = { idle: await imageOf('idle'), whole: await imageOf('whole'), cache: await cache() };
    expect(before.idle.bytes.present).toBeGreaterThan(IMAGES.idle * MIB);
    await fillTo(node.disk, percent(16));
    // An image that a container had is a mounted one for half a minute.
    // The lowest layer is that of others, too.
    const isGone = async () =>
      (await imageOf('idle')).bytes.present < before.idle.bytes.present - (IMAGES.idle - 1) * MIB;
    await eventually('nothing is left of what nothing runs from', isGone, 120_000);
    expect(await cache()).toBeLessThan(before.cache - (IMAGES.idle - 1) * MIB);
    expect((await imageOf('whole')).bytes.present).toBe(before.whole.bytes.present);
    // So little is left that nothing is fetched ahead.
    expect(freeOn(node.disk)).toBeGreaterThan(percent(17));
    expect(freeOn(node.disk)).toBeLessThan(percent(KEEP_FREE));
    await start('lazy');
    expect((await imageOf('lazy')).blocks.absent).toBeGreaterThan(0);

    await untilLooked();
    expect(await condition('DiskPressure')).toBe('False');
    expect(await worries()).toEqual([]);
    expect(await imagesOnNode()).toEqual(Object.keys(IMAGES).toSorted());
  });

  test('then the kubelet removes what nothing runs from, and no pod is evicted', {
    timeout: BY.lookMs + 120_000,
  }, async () => {
    const before = looks();
    await fillTo(node.disk, percent(10));
    expect((await imageOf('lazy')).blocks.absent).toBeGreaterThan(0);
    await compare('lazy');
    const left = Object.keys(IMAGES).filter((name) => !UNUSED.some((one) => one === name));
    await eventually(
      'the images that nothing runs from are gone',
      async () => String(await imagesOnNode()) === String(left.toSorted()),
      BY.lookMs + 60_000,
    );
    expect(node.log('kubelet')).toMatch(/Removing image to free bytes/);
    await eventually('their room is free', () => freeOn(node.disk) > percent(20));
    await untilLooked(before);
    expect(await condition('DiskPressure')).toBe('False');
    expect(await worries()).toEqual(BY.worries);
  });

  test('every byte of the pods is right all the while', async () => {
    for (const name of ['whole', 'lazy'] as const) {
      const { status } = await cluster.get<Pod>('pod', name);
      expect(status).toMatchObject({ phase: 'Running', containerStatuses: [{ restartCount: 0 }] });
      await compare(name);
      expect((await imageOf(name)).reads.errors).toBe(0);
    }
  });
});

interface Pod {
  status: { phase: string; containerStatuses: Array<{ restartCount: number }> };
}

/** A pod of an image, by its name, which finds what its `/data/big` is to be at `/expected`. Returns when it has said its line. */
async function start(name: Name): Promise<void> {
  const containers = [
    { name, image: refOf(name), volumeMounts: [{ name: 'expected', mountPath: '/expected' }] },
  ];
  const path = join(work, `image-${name}/2/data/big`);
  const volumes = [{ name: 'expected', hostPath: { path, type: 'File' } }];
  const overrides = JSON.stringify({ apiVersion: 'v1', spec: { containers, volumes } });
  await cluster.kubectl(['run', name, `--image=${refOf(name)}`, `--overrides=${overrides}`]);
  const said = async () => (await cluster.kubectl(['logs', name])) === `I am ${name}\n`;
  await eventually(`${name} says its line`, said, 90_000);
}

/** In its pod every byte of `/data/big` is right. */
async function compare(name: Name): Promise<void> {
  const script = 'cmp /data/big /expected && cat /said';
  expect(await cluster.kubectl(['exec', name, '--', 'sh', '-c', script])).toBe(`I am ${name}\n`);
}

async function status(): Promise<Status> {
  return JSON.parse(await cofaOn(node, 'status', '--json')) as Status;
}

/** Bytes of cofa's cache. */
const cache = async () => (await status()).cache.usedBytes;

/** What the engine says of an image. */
async function imageOf(name: Name): Promise<Status['images'][number]> {
  const image = (await status()).images.find(({ ref }) => ref.startsWith(`${REGISTRY}/${name}`));
  if (image === undefined) throw new Error(`status knows no image ${name}`);
  return image;
}

/** Short names of containerd's images. */
async function imagesOnNode(): Promise<string[]> {
  const refs = await node.run('ctr', ['--namespace', 'k8s.io', 'images', 'ls', '--quiet']);
  return Object.keys(IMAGES)
    .filter((name) => refs.includes(`${REGISTRY}/${name}:1`))
    .toSorted();
}

/** How often the kubelet has looked, and found nothing to do any more. */
const looks = () => node.log('kubelet').match(BY.looked)?.length ?? 0;

/** Until it has looked since it had done so `before` times. */
const untilLooked = (before = looks()) =>
  eventually('the kubelet has looked', () => looks() >= before + BY.looks, BY.lookMs + 30_000);

async function condition(type: string): Promise<string | undefined> {
  const { status } = await cluster.get<{ status: { conditions?: Array<{ type: string; status: string }> } }>(
    'node',
    NODE,
  );
  return status.conditions?.find((one) => one.type === type)?.status;
}

/** What kubelets say of a disk that is too full, where this one has said so. */
async function worries(): Promise<string[]> {
  const { items } = await cluster.get<{ items: Array<{ reason: string }> }>('events', '--all-namespaces');
  return WORRIES.filter((one) => items.some(({ reason }) => reason === one));
}
