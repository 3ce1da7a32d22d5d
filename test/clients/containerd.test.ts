/**
 * containerd on cofa's snapshotter, of both Debian releases: what Kubernetes asks of it (CRI, with this test as the
 * kubelet) and what ctr(8) does.
 */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { NEWER_DOCKER, unpackedDebs } from '../../ops/images/debs.ts';
import { type Engine, eventually, startEngine } from '../support/engine.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { type Containerd, startContainerd } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';
import { untilServed } from '../snapshotter/served.ts';
import { connectCri, type Cri } from './cri.ts';
import { type ClientImage, index, makeBase, makeClientImage, push } from './images.ts';
import { startPods } from './pods.ts';

const cleanup = new Cleanup();
let work: string;
let registry: RegistryServer;
let newerPath: string;
let base: string;
const images: Record<string, ClientImage & { ref: string }> = {};
const refOf = (name: string) => images[name]?.ref as string;

beforeAll(async () => {
  work = await cleanup.tempDir('cri');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  newerPath = (await unpackedDebs(NEWER_DOCKER, { onProgress: (line) => console.log(line) })).path;
  base = await makeBase(work);
  for (const [name, big] of [
    ['lazy', 1],
    ['plain', 2],
    // Two layers of the lazy one, a third that nobody prepared.
    ['mixed', 1],
    ['pause', 3],
  ] as const) {
    const config = { Env: ['PATH=/bin'], Cmd: [name === 'pause' ? '/bin/wait' : '/bin/say'] };
    const image = await makeClientImage(work, base, name, { big, said: `I am ${name}`, config });
    images[name] = { ...image, ref: await push(image, registry.host, name) };
    if (name === 'lazy' || name === 'pause') await index(refOf(name));
  }
}, 300_000);
afterAll(() => cleanup.run());

describe.each(['1.6', '1.7'])('containerd %s', (version) => {
  const own = new Cleanup();
  let engine: Engine;
  let containerd: Containerd;
  let cri: Cri;
  let directory: string;

  const start = async () => {
    containerd = await startContainerd({
      ...(version === '1.7' ? { path: newerPath } : {}),
      configure: async (file) => {
        const args = ['--no-unit', '--containerd-config', file];
        expect(await engine.cli(['install', 'k8s', ...args])).toMatchObject({ code: 0, stderr: '' });
      },
      sandboxImage: refOf('pause'),
      directory,
    });
  };
  const connected = async () => {
    cri = connectCri(containerd.socket);
    await eventually('CRI', async () => (await cri.runtime.version({})).runtimeVersion !== '');
  };
  /** In the CRI plugin's namespace, or in one that it does not look at. */
  const ctr = (...args: string[]) =>
    containerd.ctr(['--namespace', 'k8s.io', ...args], { timeoutMs: 60_000 });
  const plainCtr = (...args: string[]) => containerd.ctr(args, { timeoutMs: 60_000 });
  /** What a container prints. ctr may end before it has copied that; then another one is asked. */
  const run = async (ref: string, id: string) => {
    for (let tries = 1; ; tries++) {
      const args = ['run', '--rm', '--net-host', '--snapshotter=cofa', ref, `${id}-${process.pid}-${tries}`];
      const out = await plainCtr(...args);
      if (out !== '' || tries === 10) return out;
    }
  };
  const snapshots = async (call = ctr) =>
    (await call('snapshots', '--snapshotter=cofa', 'ls')).trim().split('\n').slice(1);
  const blobsOf = async (name: string) => {
    const there = await ctr('content', 'ls', '--quiet');
    return (images[name] as ClientImage).blobs.filter((digest) => there.includes(digest));
  };

  beforeAll(async () => {
    engine = await startEngine({ workers: 1, args: ['--snapshotter'] });
    const first = engine;
    own.defer(() => first.stop());
    (await untilServed(join(engine.root, 'run/snapshotter.sock'))).close();
    directory = await own.tempDir('ctrd');
    await start();
    own.defer(() => containerd.stop());
    await connected();
    own.defer(() => cri.close());
    expect((await cri.runtime.version({})).runtimeVersion).toContain(version);
  });
  afterAll(() => own.run());

  test.each(['lazy', 'plain'])('a pod of a %s image', async (kind) => {
    const id = await cri.pull(refOf(kind));
    expect(await blobsOf(kind)).toEqual(
      // The base is the lazy image's.
      kind === 'lazy' ? [] : (images[kind] as ClientImage).blobs.slice(1),
    );
    const listed = (await cri.images.listImages({})).images.find((image) => image.id === id);
    expect(listed?.repoTags).toEqual([refOf(kind)]);

    const logs = join(work, `logs-${version}-${kind}`);
    await mkdir(logs);
    const pod = await cri.runPod(`pod-${kind}`, logs);
    const log = (name: string) =>
      existsSync(join(logs, name)) ? readFileSync(join(logs, name), 'utf8') : '';
    const first = await pod.start('app', refOf(kind), { command: ['/bin/wait'] });
    expect(await cri.exec(first, 'sh', '-c', 'cat /said; echo mine > /said; cat /said')).toEqual({
      code: 0,
      stdout: `I am ${kind}\nmine\n`,
    });
    expect((await cri.exec(first, 'sh', '-c', 'exit 3')).code).toBe(3);
    await cri.runtime.stopContainer({ containerId: first, timeout: 10n });
    expect(await cri.stateOf(first)).toBe('exited 0');
    expect(log('app-0.log')).toMatch(new RegExp(`stdout F I am ${kind}\\n.*stdout F ended\\n$`));

    // The kubelet's restart: another container of the same pod, which begins anew.
    const second = await pod.start('app', refOf(kind), { command: ['/bin/wait'], attempt: 1 });
    expect((await cri.exec(second, 'cat', '/said')).stdout).toBe(`I am ${kind}\n`);
    const third = await pod.start('job', refOf(kind));
    await eventually('the end of a job', async () => (await cri.stateOf(third)) === 'exited 0');
    expect(log('job-0.log')).toContain(`stdout F I am ${kind}\n`);
    for (const containerId of [first, third]) await cri.runtime.removeContainer({ containerId });
    await pod.stop();
  });

  test('ten pods of three images start side by side', async () => {
    const logs = join(work, `logs-${version}`);
    await mkdir(logs);
    const kinds = ['lazy', 'plain', 'mixed'];
    const pods = await startPods(
      cri,
      kinds.map((kind) => ({ ref: refOf(kind), said: `I am ${kind}` })),
      { count: 10, logs },
    );
    expect(pods.flatMap(({ failure }) => failure ?? [])).toEqual([]);
    const said = await Promise.all(pods.map((pod) => cri.exec(pod.container, 'cat', '/said')));
    expect(said.map(({ stdout }) => stdout)).toEqual(said.map((_, at) => `I am ${kinds[at % 3]}\n`));
    await Promise.all(pods.map((pod) => pod.stop()));
  });

  test('a pod goes on while containerd and the engine are killed and started again', async () => {
    const logs = join(work, `logs-${version}-killed`);
    await mkdir(logs);
    const pod = await cri.runPod('survivor', logs);
    const container = await pod.start('app', refOf('lazy'), { command: ['/bin/wait'] });
    await cri.exec(container, 'sh', '-c', 'echo mine > /mine');
    const before = (await snapshots()).toSorted();

    cri.close();
    process.kill(containerd.pid, 'SIGKILL');
    await start();
    await connected();
    expect(await cri.stateOf(container)).toBe('running');
    expect((await cri.exec(container, 'cat', '/said', '/mine')).stdout).toBe('I am lazy\nmine\n');

    const { root } = engine;
    for (const pid of Object.values(await engine.pids())) process.kill(pid, 'SIGKILL');
    await engine.ended;
    engine = await startEngine({ root, workers: 1, args: ['--snapshotter'] });
    const second = engine;
    own.defer(() => second.stop());
    expect((await eventually('snapshots', () => snapshots())).toSorted()).toEqual(before);
    expect((await cri.exec(container, 'cat', '/mine', '/said')).stdout).toBe('mine\nI am lazy\n');
    const other = await pod.start('other', refOf('lazy'), { command: ['/bin/wait'] });
    expect((await cri.exec(other, 'cat', '/said')).stdout).toBe('I am lazy\n');
    await pod.stop();
  });

  test('what is removed leaves nothing', async () => {
    for (const { id } of (await cri.images.listImages({})).images) {
      await cri.images.removeImage({ image: { image: id } });
    }
    await eventually('no snapshot', async () => (await snapshots()).length === 0);
  });

  test('ctr pulls and runs', async () => {
    // No label says what is pulled: everything is unpacked, but for what this node knows from others.
    for (const kind of ['plain', 'lazy']) {
      const ref = refOf(kind);
      await plainCtr('images', 'pull', '--plain-http', '--snapshotter=cofa', ref);
      expect(await run(ref, `say-${kind}`)).toBe(`I am ${kind}\n`);
      await plainCtr('images', 'rm', '--sync', ref);
    }
    await eventually('no snapshot', async () => (await snapshots(plainCtr)).length === 0);
  });

  describe('cofa pull', () => {
    const address = () => ['--address', containerd.socket, '--namespace', 'cofa-test'];
    const pull = async (...args: string[]) => {
      const { code, stdout, stderr } = await engine.cli(['pull', '--json', ...address(), ...args]);
      expect(stderr).toBe('');
      expect(code).toBe(0);
      return JSON.parse(stdout) as { name: string; target: string; fetchedLayers: number };
    };
    const blobs = async (name: string) => {
      const there = await plainCtr('content', 'ls', '--quiet');
      return (images[name] as ClientImage).blobs.filter((digest) => there.includes(digest));
    };

    test.each(['lazy', 'plain'])('a %s image comes without its layers and runs', async (kind) => {
      const { name } = await pull(refOf(kind));
      expect(name).toBe(refOf(kind));
      expect(await blobs(kind)).toEqual([]);
      expect(await run(name, `pulled-${kind}`)).toBe(`I am ${kind}\n`);
      // Again, which changes nothing.
      await pull(refOf(kind));
      // What the engine mounted to prepare it is gone.
      expect((await engine.status()).mounts.filter(({ dir }) => dir.includes('/pull-'))).toEqual([]);
    });

    test('garbage collection keeps what a name needs and takes the rest', async () => {
      const before = (await snapshots(plainCtr)).length;
      expect(before).toBe(5);
      await plainCtr('content', 'prune', 'references');
      expect((await snapshots(plainCtr)).length).toBe(before);
      expect(await run(refOf('lazy'), 'still')).toBe('I am lazy\n');
      await plainCtr('images', 'rm', '--sync', refOf('plain'));
      expect((await snapshots(plainCtr)).length).toBe(3);
    });

    test('with --layers the image can be exported', async () => {
      const file = join(work, `export-${version}.tar`);
      await expect(plainCtr('images', 'export', file, refOf('lazy'))).rejects.toThrow('not found');
      expect((await pull('--layers', refOf('lazy'))).fetchedLayers).toBe(3);
      expect(await blobs('lazy')).toHaveLength(3);
      await plainCtr('images', 'export', file, refOf('lazy'));
      await plainCtr('images', 'rm', '--sync', refOf('lazy'));
      expect(await blobs('lazy')).toEqual([]);
      await plainCtr('images', 'import', '--snapshotter=cofa', file);
      expect(await run(refOf('lazy'), 'imported')).toBe('I am lazy\n');
      await plainCtr('images', 'rm', '--sync', refOf('lazy'));
    });

    test('an image of several platforms keeps its index, and one by digest its digest', async () => {
      const { layout } = images.lazy as ClientImage;
      const index = await pushIndex(layout, 'lazy');
      const byTag = await pull(`${registry.host}/lazy:index`);
      expect(byTag.target).toBe(index);
      expect(await run(byTag.name, 'index')).toBe('I am lazy\n');
      const byDigest = await pull(`${registry.host}/lazy@${layout.manifest.digest}`);
      expect(byDigest.target).toBe(layout.manifest.digest);
      expect(await run(byDigest.name, 'digest')).toBe('I am lazy\n');
      await plainCtr('images', 'rm', '--sync', byTag.name, byDigest.name);
      await eventually('no snapshot', async () => (await snapshots(plainCtr)).length === 0);
      expect(await plainCtr('content', 'ls', '--quiet')).toBe('');
      expect(await plainCtr('leases', 'ls', '--quiet')).toBe('');
    });

    test.runIf(version === '1.7')('what fails is said', async () => {
      const fails = async (...args: string[]) => {
        const { code, stderr } = await engine.cli(['pull', ...args]);
        return `${code}: ${stderr}`;
      };
      expect(await fails(...address(), `${registry.host}/none:1`)).toMatch(/^3: .*none/);
      const other = ['--snapshotter', 'other'];
      expect(await fails(...address(), ...other, refOf('lazy'))).toContain('cofa install containerd');
      const local = ['--snapshotter', 'overlayfs'];
      expect(await fails(...address(), ...local, refOf('lazy'))).toContain('has to be a snapshotter of cofa');
      expect(await fails('--address', '/none.sock', refOf('lazy'))).toContain(
        'no containerd answers at /none.sock',
      );
      expect(await plainCtr('leases', 'ls', '--quiet')).toBe('');
    });
  });
});

/** As tag `index`; returns its digest. */
async function pushIndex(layout: ClientImage['layout'], repository: string): Promise<string> {
  const { mediaType: type, digest, size } = layout.manifest;
  const mediaType = 'application/vnd.oci.image.index.v1+json';
  const architecture = { x64: 'amd64' }[process.arch as 'x64'] ?? process.arch;
  const bytes = JSON.stringify({
    schemaVersion: 2,
    mediaType,
    manifests: [{ mediaType: type, digest, size, platform: { os: 'linux', architecture } }],
  });
  const put = await fetch(`http://${registry.host}/v2/${repository}/manifests/index`, {
    method: 'PUT',
    headers: { 'content-type': mediaType },
    body: bytes,
  });
  expect(put.status).toBe(201);
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}
