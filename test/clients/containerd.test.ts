/**
 * containerd on cofa's snapshotter, of both Debian releases: what Kubernetes asks of it (CRI, with this test as the
 * kubelet) and what ctr(8) does.
 */
import { existsSync, readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { NEWER_DOCKER, unpackedDebs } from '../../ops/images/debs.ts';
import { type Engine, eventually, runCofa, startEngine } from '../support/engine.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { type Containerd, startContainerd } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';
import { untilServed } from '../snapshotter/served.ts';
import { connectCri, type Cri } from './cri.ts';
import { type ClientImage, makeBase, makeClientImage, push } from './images.ts';

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
    ['pause', 3],
  ] as const) {
    const config = { Env: ['PATH=/bin'], Cmd: [name === 'pause' ? '/bin/wait' : '/bin/say'] };
    const image = await makeClientImage(work, base, name, { big, said: `I am ${name}`, config });
    images[name] = { ...image, ref: await push(image, registry.host, name) };
    if (name === 'plain') continue;
    const indexed = await runCofa(['index', refOf(name)]);
    if (indexed.code !== 0) throw new Error(indexed.stderr);
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
      snapshotter: join(engine.root, 'run/snapshotter.sock'),
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

  test('ten pods start side by side', async () => {
    const logs = join(work, `logs-${version}`);
    await mkdir(logs);
    const kinds = ['lazy', 'plain'];
    const said = await Promise.all(
      Array.from({ length: 10 }, async (_, at) => {
        const kind = kinds[at % 2] as string;
        const pod = await cri.runPod(`many-${at}`, logs);
        const container = await pod.start(`many-${at}`, refOf(kind), { command: ['/bin/wait'] });
        const { stdout } = await cri.exec(container, 'cat', '/said');
        await pod.stop();
        return stdout;
      }),
    );
    expect(said).toEqual(said.map((_, at) => `I am ${kinds[at % 2]}\n`));
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
      const run = ['run', '--rm', '--net-host', '--snapshotter=cofa'];
      expect(await plainCtr(...run, ref, `say-${kind}`)).toBe(`I am ${kind}\n`);
      await plainCtr('images', 'rm', '--sync', ref);
    }
    await eventually('no snapshot', async () => (await snapshots(plainCtr)).length === 0);
  });
});
