/**
 * The same start by a kubelet's calls (CRI): pull, create, start, in a pod whose sandbox is up, as a kubelet has it by then. On
 * overlayfs, and on cofa's snapshotter with the image's sidecar and pack in the registry; containerd 2.4, set up as
 * `cofa install k8s` does it.
 */
import { readFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Cri, connectCri, type Pod } from '../../test/clients/cri.ts';
import { makeBase, makeClientImage, push } from '../../test/clients/images.ts';
import { eventually } from '../../test/support/engine.ts';
import { type ContainerdOptions, startContainerd } from '../../test/support/services.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { builtJudge } from '../images/judges.ts';
import {
  CALM_MS,
  onFreshSnapshotter,
  PULL_LIMIT_MS,
  type Ran,
  type Repositories,
  untilWhole,
  type Way,
} from './ways.ts';

export interface CriWays {
  overlayfs: Way;
  onCofa: Way;
}

/** Undefined where containerd 2.4 cannot be built: `say` hears why. */
export async function criWays(say: (line: string) => void): Promise<CriWays | undefined> {
  const folder = await builtJudge('containerd-2.4', { onProgress: say });
  if (folder === undefined) return undefined;
  const path = [folder, process.env.PATH].join(delimiter);
  return {
    overlayfs: {
      name: 'a pod on overlayfs',
      prepare: pushPause,
      onFreshNode: async (_image, at, host, work) =>
        await withPod({ path }, host, async (cri, pod) => {
          const ref = `${host}/${at.plain}:latest`;
          return await work(podNode(cri, pod, ref, async () => {}));
        }),
    },
    onCofa: {
      name: 'a pod on cofa',
      prepare: pushPause,
      onFreshNode: (_image, at, host, work) =>
        onFreshSnapshotter(
          async (cofa) => {
            const configure = async (file: string) => {
              await cofa('install', 'k8s', '--no-unit', '--containerd-config', file);
            };
            return await withPod({ path, configure }, host, async (cri, pod) => {
              const ref = `${host}/${at.packed}:latest`;
              return await work(podNode(cri, pod, ref, () => untilWhole(cofa, { limitMs: PULL_LIMIT_MS })));
            });
          },
          { PATH: path },
        ),
    },
  };
}

const PAUSE = 'pause';
/** How often it is looked whether a container has ended, ms; a kubelet hears of it. */
const LOOK_MS = 10;

/** The image of a pod's sandbox. */
async function pushPause(_image: unknown, { registry }: Repositories): Promise<void> {
  const cleanup = new Cleanup();
  try {
    const work = await cleanup.tempDir('pause');
    const config = { Env: ['PATH=/bin'], Cmd: ['/bin/wait'] };
    const image = await makeClientImage(work, await makeBase(work), PAUSE, { big: 1, said: 'up', config });
    await push(image, registry, PAUSE);
  } finally {
    await cleanup.run();
  }
}

/** containerd with a pod, up for as long as any other way's daemons. */
async function withPod<T>(
  options: ContainerdOptions,
  host: string,
  work: (cri: Cri, pod: Pod) => Promise<T>,
): Promise<T> {
  const cleanup = new Cleanup();
  try {
    const containerd = await startContainerd({
      ...options,
      configVersion: 3,
      sandboxImage: `${host}/${PAUSE}:1`,
      emptyNetwork: true,
    });
    cleanup.defer(() => containerd.stop());
    const cri = connectCri(containerd.socket, { timeoutMs: PULL_LIMIT_MS });
    cleanup.defer(() => cri.close());
    await eventually('CRI', async () => (await cri.runtime.version({})).runtimeVersion !== '');
    const pod = await cri.runPod('bench', await cleanup.tempDir('logs'));
    cleanup.defer(() => pod.stop());
    await sleep(CALM_MS);
    return await work(cri, pod);
  } finally {
    await cleanup.run();
  }
}

function podNode(cri: Cri, pod: Pod, ref: string, untilHere: () => Promise<void>) {
  let count = 0;
  const run = async (command: string[] = []): Promise<Ran> => {
    const name = `c${count++}`;
    const began = performance.now();
    await pod.pull(ref);
    const containerId = await pod.start(name, ref, { command });
    while ((await cri.stateOf(containerId)) === 'running') await sleep(LOOK_MS);
    const totalMs = performance.now() - began;
    const output = await readFile(join(pod.logs, `${name}-0.log`), 'utf8');
    // The container stays for as long as its pod: the rest of an image comes while something stands on it.
    return { firstOutputMs: totalMs, totalMs, output };
  };
  return {
    start: () => run(),
    warm: async () => {
      await untilHere();
      await run();
      return await run();
    },
    shell: (line: string) => run(['sh', '-c', line]),
  };
}
