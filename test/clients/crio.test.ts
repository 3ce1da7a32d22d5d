/**
 * CRI-O on cofa's additional image store, with this test as the kubelet: what it does with a lazy image, through kills of the
 * engine and of CRI-O itself, and without the engine. The judges are CRI-O's own pull, and umoci.
 */
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { runFolder } from '../../src/supervisor/podman/files.ts';
import { type Crio, findCrio, startCrio } from '../support/crio.ts';
import { type Engine, eventually, imageOf, startEngine } from '../support/engine.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup, mountsBelow } from '../support/temp.ts';
import { assertSameTree, readTree } from '../support/tree.ts';
import { unpackWithUmoci } from '../support/unpack.ts';
import type { Pod, PodOptions } from './cri.ts';
import { crictlAt, findCrictl, podByCrictl } from './crictl.ts';
import {
  bigOfFiveLayers,
  type FiveLayers,
  makeBase,
  makeClientImage,
  push,
  pushFiveLayers,
  wholeGetsOf,
} from './images.ts';

const found = findCrio();
if ('missing' in found) console.log(`crio.test.ts is skipped: ${found.missing}`);
const crictlFolder = findCrictl();

let cleanup: Cleanup;
let work: string;
let logs: string;
let registry: RegistryServer;
let engine: Engine;
let crio: Crio;
let lazy: FiveLayers;
let plain: { ref: string; blobs: string[] };
/** Requests for each blob as a whole before `countFetches`, by others than CRI-O. */
let before: Map<string, number>;
/** A container that waits, and its pod. */
let pod: Pod;
let waiting: string;

const run = () => dirname(runFolder(engine.root));
const podman = async (...args: string[]) => {
  const done = await engine.cli(['podman', ...args, '--storage-conf', crio.storageConf]);
  return { ...done, text: `${done.stdout}${done.stderr}` };
};
const add = async (ref: string) =>
  expect(await podman('add', '--no-prefetch', ref)).toMatchObject({ code: 0 });

async function start(): Promise<void> {
  const { root } = engine ?? { root: await cleanup.tempDir('engine-root') };
  engine = await startEngine({ workers: 1, root, args: ['--no-snapshotter'] });
  cleanup.defer(() => engine.stop());
}

const wholeGets = (blob: string) => wholeGetsOf(registry, { blobs: [blob] });
const countFetches = () => {
  before = new Map([...lazy.blobs, ...plain.blobs].map((blob) => [blob, wholeGets(blob)]));
};
/** How often each blob was fetched as a whole since `countFetches`. */
const fetched = (blobs: readonly string[]) => blobs.map((blob) => wholeGets(blob) - (before.get(blob) ?? 0));
/** Names, each once: CRI-O lists an image of cofa again when it has pulled it. */
const listed = async () => {
  const { images } = await crio.cri.images.listImages({});
  return [...new Set(images.flatMap(({ repoTags }) => repoTags))].toSorted();
};
const removeFromCrio = (ref: string) => crio.cri.images.removeImage({ image: { image: ref } });
/** A pod’s container runs its command to the end: what it said, and how it ended. */
async function runOnce(ref: string, name: string, options: PodOptions = {}): Promise<string> {
  const own = await crio.cri.runPod(name, logs, { ownPids: true, ...options });
  try {
    const id = await own.start(name, ref);
    const ended = await eventually('the container has ended', async () => {
      const state = await crio.cri.stateOf(id);
      return state === 'running' ? undefined : state;
    });
    const log = await readFile(join(logs, `${name}-0.log`), 'utf8');
    return `${Array.from(log.matchAll(/ stdout F (.*)/g), ([, line]) => line).join('\n')}: ${ended}`;
  } finally {
    await own.stop();
  }
}
/** The large file, as the waiting container reads it. */
const readBig = async () => await readFile(join(await rootOf(waiting), 'data/big'));
const Config = z.object({ root: z.object({ path: z.string() }) });
/** Where a container's files are, as CRI-O says to runc. */
async function rootOf(id: string): Promise<string> {
  const file = join(crio.runroot, 'overlay-containers', id, 'userdata/config.json');
  return Config.parse(JSON.parse(await readFile(file, 'utf8'))).root.path;
}

describe.skipIf('missing' in found)('CRI-O with images of cofa', () => {
  beforeAll(async () => {
    cleanup = new Cleanup();
    work = await cleanup.tempDir('crio-images');
    logs = join(work, 'logs');
    await mkdir(logs);
    registry = await startRegistry();
    cleanup.defer(() => registry.stop());
    await start();
    const base = await makeBase(work);
    lazy = await pushFiveLayers(work, base, registry.host);
    const other = await makeClientImage(work, base, 'plain', { big: 2, said: 'I am plain' });
    plain = { ref: await push(other, registry.host, 'plain'), blobs: other.blobs };
    crio = await startCrio(cleanup, {
      folder: 'folder' in found ? found.folder : '',
      pauseImage: plain.ref,
      configure: async (storageConf, crioFolder) => {
        const files = ['--storage-conf', storageConf, '--crio-folder', crioFolder];
        const done = await engine.cli(['install', 'crio', '--no-unit', ...files]);
        if (done.code !== 0) throw new Error(done.stderr);
      },
    });
  }, 120_000);
  afterAll(() => cleanup.run(), 60_000);

  test('an image that was added is there at once; a pull of it fetches no layer', async () => {
    expect(await listed()).toEqual([]);
    await add(lazy.ref);
    expect(await listed()).toEqual([lazy.ref]);
    const { image } = await crio.cri.images.imageStatus({ image: { image: lazy.ref } });
    expect(image?.repoTags).toEqual([lazy.ref]);
    countFetches();
    const requests = registry.requests().length;
    await crio.cri.pull(lazy.ref);
    expect(fetched(lazy.blobs)).toEqual([0, 0, 0, 0, 0]);
    const bytes = registry
      .requests()
      .slice(requests)
      .reduce((sum, one) => sum + one.bytes, 0);
    expect(bytes).toBeLessThan(20_000);
  });

  test('a pod’s container runs to its end, and most of the image stays in the registry', async () => {
    expect(await runOnce(lazy.ref, 'first')).toBe('I am lazy: exited 0');
    expect(fetched(lazy.blobs)).toEqual([0, 0, 0, 0, 0]);
    const { bytes } = await imageOf(engine, lazy.ref);
    expect(bytes.present).toBeLessThan(bytes.total / 2);
  });

  test('the next one asks the registry for nothing', async () => {
    const requests = registry.requests().length;
    expect(await runOnce(lazy.ref, 'second')).toBe('I am lazy: exited 0');
    expect(registry.requests().slice(requests)).toEqual([]);
  });

  test('an image without a sidecar is pulled by CRI-O, but for the layers that cofa has', async () => {
    // Pods have it as their own container's image already.
    expect(await runOnce(plain.ref, 'plain')).toBe('I am plain: exited 0');
    expect(fetched(plain.blobs)).toEqual([0, 1, 1]);
  });

  test.skipIf(crictlFolder === undefined)(
    'crictl pulls it and runs, looks into and removes a container; the same with an image that has layers in common',
    async () => {
      const crictl = crictlAt(crictlFolder as string, crio.socket);
      countFetches();
      for (const { ref, said } of [
        { ref: lazy.ref, said: 'I am lazy\n' },
        { ref: plain.ref, said: 'I am plain\n' },
      ])
        expect(await podByCrictl(crictl, ref, join(work, 'crictl', said.trim()))).toEqual({
          isListed: true,
          said,
          log: said,
          inStats: 1,
          left: 0,
        });
      expect(fetched(lazy.blobs)).toEqual([0, 0, 0, 0, 0]);
    },
  );

  test('a pod with users of its own does not start on layers of cofa', async () => {
    for (const ref of [lazy.ref, plain.ref])
      await expect(runOnce(ref, 'mapped', { rootId: 200_000 })).rejects.toThrow('permission denied');
  });

  test('a container on it sees every byte as umoci unpacks it', async () => {
    pod = await crio.cri.runPod('waits', logs, { ownPids: true });
    waiting = await pod.start('waits', lazy.ref, { command: ['/bin/waits'] });
    const judge = await readTree(await unpackWithUmoci(lazy.ref, join(work, 'umoci')));
    const tree = await readTree(await rootOf(waiting));
    // Places for what CRI-O mounts.
    const isChanged = (path: string) => ['', 'etc', 'run'].includes(path);
    assertSameTree(judge, tree, {
      ignore: ({ field, path }, node) =>
        field === 'extra' || (field === 'nlink' && node.type === 'dir') || isChanged(path.toString()),
    });
  });

  test('its container reads on after every process of the engine was killed, and new ones start', async () => {
    // What it reads from now on comes from the registry.
    expect((await engine.cli(['prune', '--all'])).code).toBe(0);
    for (const pid of Object.values(await engine.pids())) process.kill(pid, 'SIGKILL');
    await engine.ended;
    await start();
    expect((await readBig()).equals(bigOfFiveLayers())).toBe(true);
    expect(await runOnce(lazy.ref, 'third')).toBe('I am lazy: exited 0');
  });

  test('CRI-O that was killed finds its pods and images again', async () => {
    await crio.kill();
    await crio.start();
    expect(await crio.cri.stateOf(waiting)).toBe('running');
    expect((await readBig()).equals(bigOfFiveLayers())).toBe(true);
    expect(await listed()).toEqual([lazy.ref, plain.ref]);
    expect(crio.log()).not.toMatch(/Wiping storage|Attempting to repair/);
    expect(await runOnce(lazy.ref, 'fourth')).toBe('I am lazy: exited 0');
  });

  test('neither CRI-O nor cofa removes it while a container stands on it', async () => {
    await expect(removeFromCrio(lazy.ref)).rejects.toThrow('image used by');
    const refused = await podman('rm', lazy.ref);
    expect(refused).toMatchObject({ code: 7 });
    expect(refused.stderr).toMatch(/is below .*the container/);
  });

  test('cofa down refuses while a container needs it; afterwards pods wait for the engine', async () => {
    expect((await engine.cli(['prune', '--all'])).code).toBe(0);
    expect((await engine.cli(['down'])).code).toBe(7);
    // Its shell would not hear of a friendlier end.
    await crio.cri.runtime.stopContainer({ containerId: waiting, timeout: 0n });
    await pod.stop();
    expect(await engine.cli(['down'])).toMatchObject({ code: 0 });
    await engine.ended;
    // As after a reboot, when /run is empty.
    expect(mountsBelow(run())).toEqual([]);
    await rm(run(), { recursive: true, force: true });
    await expect(runOnce(lazy.ref, 'down')).rejects.toThrow('no such file or directory');
    await start();
    expect(await runOnce(lazy.ref, 'up')).toBe('I am lazy: exited 0');
  });

  test('a removed image leaves nothing: no mount, no layer, no image; CRI-O pulls it as any other', async () => {
    // It forgets what it noted at the pull, and fails at the layer, which is not its own.
    await expect(removeFromCrio(lazy.ref)).rejects.toThrow('layer not known');
    expect(await listed()).toEqual([lazy.ref, plain.ref]);
    await expect(removeFromCrio(lazy.ref)).rejects.toThrow('identifier is not an image');
    // This one stands on a layer of it.
    expect((await podman('rm', lazy.ref)).stderr).toContain(`the image ${plain.ref}`);
    await expect(removeFromCrio(plain.ref)).rejects.toThrow('layer not known');
    expect((await podman('rm', lazy.ref)).stderr).toBe('');
    expect(await listed()).toEqual([]);
    expect(mountsBelow(run())).toEqual([]);
    countFetches();
    await crio.cri.pull(lazy.ref);
    expect(fetched(lazy.blobs)).toEqual([1, 1, 1, 1, 1]);
    expect(await runOnce(lazy.ref, 'last')).toBe('I am lazy: exited 0');
    // Pulled by CRI-O alone it may have users of its own.
    expect(await runOnce(lazy.ref, 'last-mapped', { rootId: 200_000 })).toBe('I am lazy: exited 0');
  });

  test('cofa uninstall crio takes back what install has written', async () => {
    const files = ['--no-unit', '--storage-conf', crio.storageConf, '--crio-folder', crio.dropIns];
    const conf = await readFile(crio.storageConf, 'utf8');
    const shown = await engine.cli(['uninstall', 'crio', '--dry-run', ...files]);
    expect(shown.stdout).toContain('99-cofa.conf (removed');
    expect(shown.stdout).toContain('systemctl restart crio');
    expect(await readFile(crio.storageConf, 'utf8')).toBe(conf);
    expect((await engine.cli(['uninstall', 'crio', ...files])).code).toBe(0);
    expect(await readdir(crio.dropIns)).toEqual([]);
    expect(await readFile(crio.storageConf, 'utf8')).not.toContain('additionalimagestores');
    await crio.kill();
    await crio.start();
    // Images of its own, as pods had them last.
    expect(await listed()).toEqual([lazy.ref, plain.ref]);
  });
});
