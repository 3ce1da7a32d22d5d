/** Nodes of `cluster-pods.ts`: one at a time in a cluster of Kubernetes' own programs, each with a disk of its own. */
import { appendFile, readFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import type { Status } from '../../schemas/api.ts';
import { type ControlPlane, startControlPlane } from '../../test/cluster/control-plane.ts';
import { kubeletOf } from '../../test/cluster/kubelet.ts';
import { CGROUP, type ClusterNode, makeNode } from '../../test/cluster/node.ts';
import { eventually } from '../../test/support/engine.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { containerdPath } from '../images/debs.ts';
import { TUNED } from './current-containerd.ts';
import type { Side } from './pod-times.ts';
import { groupSeconds, untilCalm } from './time-group.ts';

/** The API server reaches the kubelet by this name. */
const NAME = 'localhost';
/** Names of the registry as it is, which manifests have, and behind the link. */
const NEAR = 'registry.example';
const FAR = 'far.example';
const CONTAINERD = '2.4';
export const CONTAINERD_JUDGE = `containerd-${CONTAINERD}` as const;
/** Addresses of pods; the cluster of the tests has others. */
const SUBNET = '192.0.2.0/24';
const MANIFESTS = join(import.meta.dirname, '../kubernetes');
const KUBE = ['-n', 'kube-system'];
/** A node is Ready, and what it runs for itself is there, ms. */
const READY_MS = 180_000;
const CALM_LIMIT_MS = 90_000;

export interface Place {
  cluster: ControlPlane;
  /** Folder of Kubernetes' programs. */
  programs: string;
  /** HOST:PORT of the registry, which has cofa's image and the pause image, and of the link before it. */
  near: string;
  far: string;
  /** For the DaemonSet, in place of what ops/kubernetes says: the engine leaves so many hundredths of the disk free. */
  keepFree: string;
  /** Processor time of this program and of what it has started, but for pods, s. */
  seconds(): Promise<number>;
  interrupted: AbortSignal;
  say(line: string): void;
}

export interface BenchNode {
  /** Of all that this program has started, pods included, s. */
  seconds(): Promise<number>;
  /** Of the engine, which must have mounted the images by their sidecars: what said before what the starts would read, by manifest. */
  ahead(images: readonly string[]): Promise<Map<string, string>>;
}

/** Starts the control plane; `key` may vouch for sidecars on its nodes. */
export async function startCluster(programs: string, key: string, cleanup: Cleanup): Promise<ControlPlane> {
  const cluster = await startControlPlane({ programs, node: NAME, cleanup });
  await cluster.kubectl([...KUBE, 'create', 'configmap', 'cofa-keys', `--from-file=${key}`]);
  return cluster;
}

/** A pod that runs an image of the registry behind the link to its end, once. */
export function podOf(name: string, image: string): object {
  return pod(name, { image: `${FAR}/${image}:1` });
}

function pod(name: string, container: { image: string; command?: string[] }): object {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace: 'default' },
    spec: { restartPolicy: 'Never', containers: [{ name: 'app', ...container }] },
  };
}

/**
 * A node that is new: it is Ready, has cofa where the side says so, has run a small pod, and is at rest. Nothing of it stays when
 * `work` is over.
 */
export async function onNewNode<T>(
  place: Place,
  side: Side,
  work: (node: BenchNode) => Promise<T>,
): Promise<T> {
  const cleanup = new Cleanup();
  try {
    // When the node is dead.
    cleanup.defer(() => forget(place.cluster));
    const node = await bootNode(place, side, cleanup);
    const seconds = async () => (await place.seconds()) + (await groupSeconds(CGROUP));
    const calm = async (what: string) => {
      if (!(await untilCalm(seconds, { limitMs: CALM_LIMIT_MS, signal: place.interrupted })))
        place.say(`${side}: ${what}, and the node is still busy with itself`);
    };
    if (side === 'cofa') {
      await addCofa(place);
      // The first pod would end its rehearsals.
      await calm('the engine has rehearsed');
    }
    await runSmallPod(place);
    await calm('a pod has run');
    place.interrupted.throwIfAborted();
    const bench: BenchNode = { seconds, ahead: (images) => aheadOf(place, images) };
    const done = await work(bench).catch((error: unknown) => {
      throw new Error(`${String(error)}\n${logsOf(node)}`, { cause: error });
    });
    await cleanup.run();
    return done;
  } catch (error) {
    // What went wrong first explains what could not be removed after it.
    await cleanup.run().catch((further: unknown) => place.say(String(further)));
    throw error;
  }
}

async function bootNode(place: Place, side: Side, cleanup: Cleanup): Promise<ClusterNode> {
  const { cluster, programs, near, far } = place;
  const node = await makeNode({
    path: [programs, await containerdPath(CONTAINERD)].join(delimiter),
    ...(await kubeletOf(NAME, cluster, { args: [], etc: {} })),
    ...(side === 'cofa' && { dropIn: await readFile(join(MANIFESTS, 'containerd-images.conf'), 'utf8') }),
    sandboxImage: `${NEAR}/pause:1`,
    subnet: SUBNET,
    mirrors: { [NEAR]: `http://${near}`, [FAR]: `http://${far}` },
    cleanup,
  });
  if (side === 'overlayfs, tuned')
    await appendFile(join(node.disk, 'etc/upper/containerd/config.toml'), TUNED);
  await node.boot();
  const isReady = async () => {
    const { status } = await cluster.get<{
      status: { conditions?: Array<{ type: string; status: string }> };
    }>('node', NAME);
    return status.conditions?.some((one) => one.type === 'Ready' && one.status === 'True');
  };
  await until(place, 'the node is Ready', isReady);
  return node;
}

/** By ops/kubernetes as it stands, but for the room on this machine's disk. */
async function addCofa(place: Place): Promise<void> {
  const { cluster, keepFree } = place;
  for (const name of ['cofa', 'configure']) {
    const input = (await readFile(join(MANIFESTS, `${name}.yaml`), 'utf8')).replace(
      /(?<=--keep-free, ')\d+(?=')/,
      keepFree,
    );
    await cluster.kubectl(['apply', '-f', '-'], { input });
  }
  for (const name of ['cofa', 'cofa-configure'])
    await until(place, `the DaemonSet ${name} is there`, async () => {
      const { status } = await cluster.get<{
        status: { numberReady: number; desiredNumberScheduled: number };
      }>(...KUBE, 'daemonset', name);
      return status.numberReady === 1 && status.desiredNumberScheduled === 1;
    });
}

/** What any node has run before: the pause image is there, and programs have been read. */
async function runSmallPod(place: Place): Promise<void> {
  const { cluster } = place;
  await cluster.apply(pod('small', { image: `${NEAR}/pause:1`, command: ['/bin/say'] }));
  await until(place, 'a small pod has run', async () => {
    const { status } = await cluster.get<{ status: { phase?: string } }>('pod', 'small');
    return status.phase === 'Succeeded';
  });
  await cluster.kubectl(['delete', 'pod', 'small', '--now']);
}

async function until(
  { interrupted, cluster }: Place,
  what: string,
  check: () => Promise<boolean | undefined>,
): Promise<void> {
  try {
    // An interruption ends the wait; what comes next sees it.
    await eventually(what, async () => interrupted.aborted || (await check()), READY_MS);
  } catch (error) {
    throw new Error(`${String(error)}\n${await eventsOf(cluster)}`, { cause: error });
  }
  interrupted.throwIfAborted();
}

/** What the cluster says of its pods, and of what happened to them last. */
export async function eventsOf(cluster: ControlPlane): Promise<string> {
  const pods = await cluster.kubectl(['get', 'pods', '-A', '-o', 'wide']);
  const events = await cluster.kubectl(['get', 'events', '-A', '--sort-by=.lastTimestamp']);
  return `${pods}\n${events.slice(-3000)}`;
}

const logsOf = (node: ClusterNode): string =>
  ['containerd', 'kubelet'].map((name) => `${name}:\n${node.log(name).slice(-2000)}`).join('\n');

/** The cluster knows nothing of the node, nor of what ran there. */
async function forget({ kubectl }: ControlPlane): Promise<void> {
  const gone = ['--all', '--ignore-not-found'];
  await kubectl(['delete', 'daemonset', ...KUBE, ...gone]);
  await kubectl(['delete', 'pod', '-A', ...gone, '--force', '--grace-period=0']);
  await kubectl(['delete', 'node', ...gone]);
}

async function aheadOf({ cluster }: Place, images: readonly string[]): Promise<Map<string, string>> {
  const inEngine = (...args: string[]) =>
    cluster.kubectl([...KUBE, 'exec', 'daemonset/cofa', '--', 'cofa', ...args]);
  const status = JSON.parse(await inEngine('status', '--json')) as Status;
  for (const name of images) {
    const image = status.images.find(({ ref }) => ref.startsWith(`${FAR}/${name}`));
    if (image?.state !== 'ready' || image.origin !== 'sidecar')
      throw new Error(`${name} was not mounted by its sidecar: ${JSON.stringify(image)}`);
  }
  const known = new Map<string, string>();
  const haveAll = async () => {
    const log = await inEngine('events', '--json', '--since-start', '--no-follow', '--type', 'layer.started');
    for (const line of log.split('\n').filter((one) => one !== '')) {
      const { data } = JSON.parse(line) as { data: { manifest: string; ahead: string } };
      known.set(data.manifest, data.ahead);
    }
    return known.size >= images.length;
  };
  // A recording ends some seconds after the last first read.
  await eventually('the log has the starts', haveAll, 90_000);
  return known;
}
