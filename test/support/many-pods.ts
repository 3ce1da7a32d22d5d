/**
 * A node that gets many pods at once: pods of five images, prepared, unprepared and mixed, are started side by side
 * over CRI. When all run, each compares the bytes of its image. Then all are stopped, the images removed, and nothing
 * may be left.
 */
import { mkdir, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectCri, type Cri } from '../clients/cri.ts';
import {
  makeBase,
  makeClientImage,
  type PushedImage,
  index,
  push,
  pushFiveImages,
} from '../clients/images.ts';
import { type StartedPod, startPods } from '../clients/pods.ts';
import { untilServed } from '../snapshotter/served.ts';
import { type Engine, eventually, runCofa, startEngine } from './engine.ts';
import { startRegistry } from './registry-server.ts';
import { type Containerd, listProcesses, startContainerd } from './services.ts';
import { loopsBelow } from './soak-machine.ts';
import { Cleanup, mountsBelow } from './temp.ts';

export interface ManyPodsOptions {
  pods: number;
  /** `overlayfs` for comparison: containerd's own, without an engine. */
  snapshotter: 'cofa' | 'overlayfs';
  /** Programs of containerd: a PATH. */
  path?: string;
  onProgress?: (line: string) => void;
  /** As an operator has it: the engine has been up for a while, rehearses starts, and gives way to others. */
  asInstalled?: boolean;
  /** Seconds of processor time of what works for the pods, by name; undefined: on containerd's own snapshotter. */
  times?: (root: string | undefined, containerd: number) => Map<string, number>;
}

export interface ManyPodsReport {
  pods: number;
  images: number;
  snapshotter: string;
  containerd: string;
  /** From the request for all pods until the first line of each was in its log, ms. */
  readyMs: { first: number; median: number; last: number };
  /** The same by image, its last pod, ms. */
  lastOfImageMs: Record<string, number>;
  /** Processor time until all were ready, s, as `times` names it. */
  processorS: Record<string, number>;
  /** Stopping and removing all pods, ms. */
  stopMs: number;
  /** Pods that did not start, or whose image had wrong bytes. */
  failures: string[];
  /** Leftovers after pods and images were removed. */
  left: string[];
}

/** As the kubelet's runtimeRequestTimeout. */
const CALL_MS = 120_000;
/** Rehearsals of an engine's first seconds are over, ms. */
const CALM_MS = 15_000;

export async function manyPods(options: ManyPodsOptions): Promise<ManyPodsReport> {
  const cleanup = new Cleanup();
  try {
    return await measure(options, cleanup);
  } finally {
    await cleanup.run();
  }
}

async function measure(options: ManyPodsOptions, cleanup: Cleanup): Promise<ManyPodsReport> {
  const { pods: count, snapshotter, path, onProgress = () => {} } = options;
  const work = await cleanup.tempDir('pods');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const base = await makeBase(work);
  const images = await pushFiveImages(work, base, registry.host);
  const config = { Env: ['PATH=/bin'], Cmd: ['/bin/wait'] };
  const pause = await makeClientImage(work, base, 'pause', { big: 4, said: 'I am pause', config });
  const sandboxImage = await push(pause, registry.host, 'pause');
  await index(sandboxImage);

  const { asInstalled = false, times: timesOf = () => new Map<string, number>() } = options;
  const how = { args: ['--snapshotter'], rehearses: asInstalled, defers: asInstalled };
  const engine = snapshotter === 'cofa' ? await startEngine(how) : undefined;
  if (engine !== undefined) {
    cleanup.defer(() => engine.stop());
    (await untilServed(join(engine.root, 'run/snapshotter.sock'))).close();
  }
  const directory = await cleanup.tempDir('ctrd');
  const containerd = await startContainerd({
    directory,
    sandboxImage,
    ...(path === undefined ? {} : { path }),
    ...(engine === undefined ? {} : { configure: (file) => install(engine, file, path) }),
  });
  cleanup.defer(() => containerd.stop());
  const cri = connectCri(containerd.socket, { timeoutMs: CALL_MS });
  cleanup.defer(() => cri.close());
  const version = await eventually('CRI', async () => (await cri.runtime.version({})).runtimeVersion);

  const logs = join(work, 'logs');
  await mkdir(logs);
  if (asInstalled) await sleep(CALM_MS);
  onProgress(`${count} pods of ${images.length} images`);
  const before = timesOf(engine?.root, containerd.pid);
  const pods = await startPods(cri, images, { count, logs });
  const spent = [...timesOf(engine?.root, containerd.pid)].map(
    ([name, seconds]) => [name, Math.round((seconds - (before.get(name) ?? 0)) * 100) / 100] as const,
  );
  onProgress('all have started');
  const failures = pods.flatMap(({ failure }) => failure ?? []);
  failures.push(...(await wrongImages(cri, pods, images)));

  const stopping = performance.now();
  await Promise.all(
    pods.map(({ stop, image }) =>
      stop().catch((error: unknown) => failures.push(`a pod of ${image.ref} stays: ${String(error)}`)),
    ),
  );
  const stopMs = performance.now() - stopping;
  onProgress('all have stopped');
  const left = await remaining({ cri, containerd, directory, engine });
  const times = pods.map(({ readyMs }) => readyMs).sort((a, b) => a - b);
  const last = (image: PushedImage) =>
    Math.max(...pods.filter((pod) => pod.image.ref === image.ref).map(({ readyMs }) => readyMs));
  return {
    pods: count,
    images: images.length,
    snapshotter,
    containerd: version,
    readyMs: {
      first: round(times[0]),
      median: round(times[Math.floor(times.length / 2)]),
      last: round(times.at(-1)),
    },
    lastOfImageMs: Object.fromEntries(images.map((image) => [image.name, round(last(image))])),
    processorS: Object.fromEntries(spent),
    stopMs: round(stopMs),
    failures,
    left,
  };
}

async function install(engine: Engine, file: string, path: string | undefined): Promise<void> {
  const args = ['install', 'k8s', '--no-unit', '--containerd-config', file];
  // It finds out which containerd the machine has.
  const env = { COFA_ROOT: engine.root, ...(path === undefined ? {} : { PATH: path }) };
  const { code, stderr } = await runCofa(args, { env });
  if (code !== 0) throw new Error(stderr);
}

/** Compares every byte of the file that no start reads, in every container, all at once. */
async function wrongImages(
  cri: Cri,
  pods: readonly StartedPod[],
  images: readonly PushedImage[],
): Promise<string[]> {
  const expected = new Map(
    await Promise.all(images.map(async ({ ref, expected: file }) => [ref, await readFile(file)] as const)),
  );
  const wrong = await Promise.all(
    pods.map(async ({ container, image }) => {
      if (container === '') return [];
      try {
        const cmd = ['cat', '/data/big'];
        const { stdout } = await cri.runtime.execSync({ containerId: container, cmd, timeout: 60n });
        return expected.get(image.ref)?.equals(stdout) === true
          ? []
          : [`${image.ref} is not as it should be`];
      } catch (error) {
        return [`${image.ref} cannot be read: ${String(error)}`];
      }
    }),
  );
  return wrong.flat();
}

/** Removes the images, as the kubelet's garbage collection does, and returns what is left. */
async function remaining({
  cri,
  containerd,
  directory,
  engine,
}: {
  cri: Cri;
  containerd: Containerd;
  directory: string;
  engine: Engine | undefined;
}): Promise<string[]> {
  for (const { id } of (await cri.images.listImages({})).images)
    await cri.images.removeImage({ image: { image: id } });
  const left: string[] = [];
  const shims = () =>
    listProcesses().filter(
      ({ commandLine }) => commandLine.includes('containerd-shim') && commandLine.includes(containerd.socket),
    );
  await eventually('no shim', () => shims().length === 0).catch(() =>
    left.push(...shims().map(({ commandLine }) => commandLine)),
  );
  left.push(...mountsBelow(directory).map((point) => `mount ${point}`));
  if (engine === undefined) return left;
  const client = await untilServed(join(engine.root, 'run/snapshotter.sock'));
  try {
    let names: string[] = [];
    await eventually('no snapshot', async () => {
      names = (await client.walk()).map(({ name }) => name);
      return names.length === 0;
    }).catch(() => left.push(...names.map((name) => `snapshot ${name}`)));
    await client.api.cleanup({ snapshotter: 'cofa' });
  } finally {
    client.close();
  }
  left.push(...(await readdir(join(engine.root, 'snapshots'))).map((name) => `folder of snapshot ${name}`));
  // They stay mounted for half a minute after their last snapshot.
  await eventually('no flat image', async () => (await engine.status()).mounts.length === 0, 60_000).catch(
    async () => left.push(...(await engine.status()).mounts.map(({ dir }) => `flat image at ${dir}`)),
  );
  const loops = () => loopsBelow(engine.root);
  await eventually('no loop', () => loops().length === 0).catch(() =>
    left.push(...loops().map(({ name, backing }) => `${name} on ${backing}`)),
  );
  const { processes } = await engine.status();
  left.push(...processes.filter(({ restarts }) => restarts > 0).map(({ name }) => `${name} was restarted`));
  return left;
}

const round = (ms: number | undefined): number => Math.round(ms ?? 0);
