/**
 * containerd on cofa's snapshotter, of several versions: what Kubernetes asks of it (CRI, with this test as the kubelet)
 * and what ctr(8) does. Others than the usual ones are named (versions.ts).
 */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, rmSync, statSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type ContainerdVersion, containerdPath } from '../../ops/images/debs.ts';
import { noise } from '../images/nasty.ts';
import { type Engine, eventually, startEngine } from '../support/engine.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { type Containerd, startContainerd } from '../support/services.ts';
import { Cleanup, letThrough, mountsBelow } from '../support/temp.ts';
import { untilServed } from '../snapshotter/served.ts';
import { connectCri, type Cri } from './cri.ts';
import { crictlAt, findCrictl, podByCrictl } from './crictl.ts';
import { type ClientImage, index, makeBase, makeClientImage, push } from './images.ts';
import { startPods } from './pods.ts';
import { containerds, namedContainerds } from './versions.ts';

const cleanup = new Cleanup();
let work: string;
let registry: RegistryServer;
/** Where the programs of a version are; undefined: the machine's own. */
const paths: Record<string, string | undefined> = {};
const VERSIONS = containerds(['1.6', '1.7', '2.1', '2.4']);
const isTwo = (version: ContainerdVersion) => version.startsWith('2');
/**
 * What does not differ between versions is tried on the newest of each line, and on those that are named. 1.6 is out of support,
 * and what Debian 12 has.
 */
const crictlFolder = findCrictl();
const WHOLE = namedContainerds() ?? [VERSIONS.findLast((one) => !isTwo(one)), VERSIONS.findLast(isTwo)];
let base: string;
const images: Record<string, ClientImage & { ref: string }> = {};
const refOf = (name: string) => images[name]?.ref as string;

beforeAll(async () => {
  work = await cleanup.tempDir('cri');
  const storage = await cleanup.tempDir('cri-registry');
  registry = await startRegistry({ storage });
  cleanup.defer(() => registry.stop());
  const onProgress = (line: string) => console.log(line);
  for (const version of VERSIONS) paths[version] = await containerdPath(version, { onProgress });
  base = await makeBase(work);
  for (const [name, big] of [
    ['lazy', 1],
    ['plain', 2],
    // Two layers of the lazy one, a third without a span table.
    ['mixed', 1],
    ['pause', 3],
    // Prepared, and then its second layer is deleted from the registry: no client could copy it.
    ['gone', 4],
  ] as const) {
    const config = { Env: ['PATH=/bin'], Cmd: [name === 'pause' ? '/bin/wait' : '/bin/say'] };
    const image = await makeClientImage(work, base, name, { big, said: `I am ${name}`, config });
    images[name] = { ...image, ref: await push(image, registry.host, name) };
    if (name === 'lazy' || name === 'pause' || name === 'gone') await index(refOf(name));
    if (name === 'gone') removeBlob(storage, image.blobs[1] as string);
  }
}, 300_000);
afterAll(() => cleanup.run());

describe.each(VERSIONS)('containerd %s', (version) => {
  const own = new Cleanup();
  const isWhole = WHOLE.includes(version);
  let engine: Engine;
  let containerd: Containerd;
  let cri: Cri;
  let directory: string;

  const start = async () => {
    containerd = await startContainerd({
      ...(paths[version] === undefined ? {} : { path: paths[version] }),
      configVersion: isTwo(version) ? 3 : 2,
      configure: async (file) => {
        const args = ['--no-unit', '--containerd-config', file];
        // It looks which containerd there is.
        const env = paths[version] === undefined ? {} : { PATH: paths[version] };
        const installed = await engine.cli(['install', 'k8s', ...args], { env });
        expect(installed).toMatchObject({ code: 0, stderr: '' });
      },
      sandboxImage: refOf('pause'),
      emptyNetwork: true,
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
  /** containerd collects garbage when it likes, half a minute apart on a busy machine; this makes it do so at once. */
  const collect = async () => {
    await ctr('leases', 'create', '--id', 'collect');
    await ctr('leases', 'delete', '--sync', 'collect');
  };
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
    await letThrough(directory);
    await connected();
    own.defer(() => cri.close());
    expect((await cri.runtime.version({})).runtimeVersion).toMatch(new RegExp(`^v?${version}\\.`));
  });
  afterAll(() => own.run());

  test.each(['lazy', 'plain', 'mixed'])('a pod of a %s image', async (kind) => {
    const id = await cri.pull(refOf(kind));
    expect(await blobsOf(kind)).toEqual(
      // The plain one's base is the lazy image's, and so are two of the mixed one's layers.
      (images[kind] as ClientImage).blobs.slice({ lazy: 3, plain: 1, mixed: 2 }[kind]),
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
    // It ended by its own hand, as its exit code says. What it printed then containerd 1.7 loses on a busy machine: the
    // job below tells whether output arrives.

    // The kubelet's restart: another container of the same pod, which begins anew.
    const second = await pod.start('app', refOf(kind), { command: ['/bin/wait'], attempt: 1 });
    expect((await cri.exec(second, 'cat', '/said')).stdout).toBe(`I am ${kind}\n`);
    const third = await pod.start('job', refOf(kind));
    await eventually('the end of a job', async () => (await cri.stateOf(third)) === 'exited 0');
    await eventually('its log', () => log('job-0.log').includes(`stdout F I am ${kind}\n`));
    for (const containerId of [first, third]) await cri.runtime.removeContainer({ containerId });
    await pod.stop();
  });

  test.runIf(isWhole)('ten pods of three images start side by side', async () => {
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

  test.runIf(isWhole && isTwo(version) && crictlFolder !== undefined).each(['lazy', 'plain', 'mixed'])(
    'crictl pulls a %s image, and runs, looks into and removes a container',
    async (kind) => {
      const crictl = crictlAt(crictlFolder as string, containerd.socket);
      const said = `I am ${kind}\n`;
      expect(await podByCrictl(crictl, refOf(kind), join(work, `crictl-${version}-${kind}`))).toEqual({
        isListed: true,
        said,
        log: said,
        inStats: 1,
        left: 0,
      });
    },
  );

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

  // A kubelet has user namespaces for pods with containerd 2 alone.
  test.runIf(isTwo(version)).each(['lazy', 'plain', 'mixed', 'gone'])(
    'a pod of a %s image with users of its own (hostUsers: false)',
    async (kind) => {
      await cri.pull(refOf(kind));
      const logs = join(work, `logs-users-${version}-${kind}`);
      await mkdir(logs);
      const pod = await cri.runPod(`users-${kind}`, logs, { rootId: 300_000 });
      const container = await pod.start('app', refOf(kind), { command: ['/bin/wait'] });
      const sh = async (script: string) =>
        (await cri.exec(container, 'sh', '-c', script)).stdout.replace(/ +/g, ' ');
      expect(await sh('cat /proc/self/uid_map; stat -c "%n %u %g" / /said /data/big; cat /said')).toBe(
        ` 0 300000 65536\n/ 0 0\n/said 0 0\n/data/big 0 0\nI am ${kind}\n`,
      );
      expect(await sh('echo mine > /said; cat /said')).toBe('mine\n');
      if (kind !== 'gone') {
        const { stdout } = await cri.runtime.execSync({ containerId: container, cmd: ['cat', '/data/big'] });
        expect(noise(2 << 20, kind === 'plain' ? 2 : 1).equals(stdout)).toBe(true);
      }
      expect(mountsBelow(join(engine.root, 'mapped')).length).toBeGreaterThan(0);
      // The kubelet's restart.
      await cri.runtime.stopContainer({ containerId: container, timeout: 10n });
      const again = await pod.start('app', refOf(kind), { command: ['/bin/wait'], attempt: 1 });
      expect((await cri.exec(again, 'cat', '/said')).stdout).toBe(`I am ${kind}\n`);
      await pod.stop();
      await collect();
      await eventually('no mount of theirs', () => mountsBelow(join(engine.root, 'mapped')).length === 0);
    },
  );

  test('what is removed leaves nothing', async () => {
    for (const { id } of (await cri.images.listImages({})).images) {
      await cri.images.removeImage({ image: { image: id } });
    }
    await collect();
    await eventually('no snapshot', async () => (await snapshots()).length === 0);
  });

  test('ctr pulls and runs', async () => {
    // No label of an older one says what is pulled: everything is unpacked, but for what this node knows from others.
    const layers = (kind: string) => new RegExp((images[kind] as ClientImage).blobs.join('|'));
    for (const kind of ['plain', 'lazy', 'mixed']) {
      const ref = refOf(kind);
      await plainCtr('images', 'pull', '--plain-http', '--snapshotter=cofa', ref);
      // containerd 2 says what is pulled.
      if (isTwo(version) && kind === 'lazy')
        expect(await plainCtr('content', 'ls', '--quiet')).not.toMatch(layers(kind));
      expect(await run(ref, `say-${kind}`)).toBe(`I am ${kind}\n`);
      await plainCtr('images', 'rm', '--sync', ref);
    }
    await eventually('no snapshot', async () => (await snapshots(plainCtr)).length === 0);
  });

  const mapped = () => mountsBelow(join(engine.root, 'mapped'));

  test.runIf(isWhole).each(['lazy', 'plain', 'mixed', 'gone'])(
    'a container of a %s image in a user namespace',
    async (kind) => {
      const maps = ['--remap-labels', '--uidmap', '0:100000:65536', '--gidmap', '0:200000:65536'];
      const ref = refOf(kind);
      const pulled = ['pull', '--json', '--address', containerd.socket, '--namespace', 'cofa-test', ref];
      expect(await engine.cli(pulled)).toMatchObject({ code: 0, stderr: '' });
      const before = await snapshots(plainCtr);
      const id = `userns-${kind}`;
      const script =
        'echo mine > /mine; stat -c "%n %u %g" /said /mine /data/big /; cat /said /proc/self/uid_map';
      const args = ['run', ...maps, '--snapshotter=cofa', ref, id, '/bin/sh', '-c', script];
      const out = await plainCtr(...args);
      expect(out.replace(/ +/g, ' ')).toBe(
        `/said 0 0\n/mine 0 0\n/data/big 0 0\n/ 0 0\nI am ${kind}\n 0 100000 65536\n`,
      );
      // No copy: the container's own snapshot is all that came, with what it wrote, and containerd has fetched nothing.
      expect(await snapshots(plainCtr)).toHaveLength(before.length + 1);
      expect((await plainCtr('content', 'ls', '--quiet')).split('\n')).not.toContain(
        (images[kind] as ClientImage).blobs[1],
      );
      const [, used = ''] =
        new RegExp(`^${id} +(.*?) +\\d+ *$`, 'm').exec(
          await plainCtr('snapshots', '--snapshotter=cofa', 'usage'),
        ) ?? [];
      expect(used).toMatch(/KiB$/);
      const [upper = ''] =
        /upperdir=([^ ,]*)/
          .exec(await plainCtr('snapshots', '--snapshotter=cofa', 'mounts', '/x', id))
          ?.slice(1) ?? [];
      const { uid, gid } = statSync(join(upper, 'mine'));
      expect({ uid, gid }).toEqual({ uid: 100_000, gid: 200_000 });
      expect(mapped().length).toBeGreaterThan(0);
      await plainCtr('containers', 'rm', id);
      await plainCtr('images', 'rm', '--sync', ref);
      await eventually('no snapshot', async () => (await snapshots(plainCtr)).length === 0);
      await eventually('no mount of theirs', () => mapped().length === 0);
    },
  );

  // What a containerd does that knows nothing of cofa's capability, and all of them without that option: it fetches all.
  test.runIf(isWhole)('without labels containerd makes a copy of the image for them', async () => {
    const maps = ['--uidmap', '0:100000:65536', '--gidmap', '0:200000:65536'];
    const ref = refOf('lazy');
    await engine.cli(['pull', '--address', containerd.socket, '--namespace', 'cofa-test', ref]);
    const id = 'userns-copy';
    const command = ['/bin/sh', '-c', 'echo mine > /mine; stat -c "%n %u %g" /said /mine /; cat /said'];
    const args = ['run', ...maps, '--snapshotter=cofa', ref, id, ...command];
    expect(await plainCtr(...args)).toBe('/said 0 0\n/mine 0 0\n/ 0 0\nI am lazy\n');
    expect(mapped()).toEqual([]);
    await plainCtr('containers', 'rm', id);
    await plainCtr('images', 'rm', '--sync', ref);
    await eventually('no snapshot', async () => (await snapshots(plainCtr)).length === 0);
  });

  describe.runIf(isWhole)('cofa pull', () => {
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

    test.each(['lazy', 'mixed', 'plain'])('a %s image comes without its layers and runs', async (kind) => {
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
      // Two images of three layers with one base, and one that adds a layer to two of the first.
      expect(before).toBe(6);
      await plainCtr('content', 'prune', 'references');
      expect((await snapshots(plainCtr)).length).toBe(before);
      expect(await run(refOf('lazy'), 'still')).toBe('I am lazy\n');
      await plainCtr('images', 'rm', '--sync', refOf('plain'));
      expect((await snapshots(plainCtr)).length).toBe(4);
      await plainCtr('images', 'rm', '--sync', refOf('mixed'));
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

function removeBlob(storage: string, digest: string): void {
  const hex = digest.slice('sha256:'.length);
  rmSync(join(storage, 'docker/registry/v2/blobs/sha256', hex.slice(0, 2), hex), { recursive: true });
}

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
