/** What the tests of a cluster play with: its node, registries with images, and questions about them. */
import { statfsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import type { Status } from '../../schemas/api.ts';
import { containerdPath, hasContainerd } from '../../ops/images/debs.ts';
import { judgeAtHand } from '../../ops/images/judges.ts';
import { type Relay, startRelay } from '../../ops/bench/relay.ts';
import { makeBase, makeClientImage, push } from '../clients/images.ts';
import { eventually, runCofa } from '../support/engine.ts';
import { type FaultRegistry, startFaultRegistry } from '../support/fault-registry.ts';
import { type Account, dockerConfigOf, keepApart } from '../support/private-registry.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import type { Cleanup } from '../support/temp.ts';
import { type ControlPlane, startControlPlane } from './control-plane.ts';
import { pushEngineImages } from './engine-image.ts';
import { kubeletOf } from './kubelet.ts';
import { type ClusterNode, makeNode } from './node.ts';
import { takeTokens, tokenObjects, tokenProvider } from './provider.ts';

/** The API server reaches the kubelet by this name. */
const NAME = 'localhost';
/** Manifests name it; where it is, /etc/containerd/certs.d says. */
const REGISTRY = 'registry.example';
/** In ops/kubernetes/cofa.yaml: --keep-free 20. */
const KEPT_FREE = 0.2;
/** The same registry behind a link on which the image takes a minute. */
const FAR = 'far.example';
const FAR_RATE = 2e6;
const FAR_BYTES = 16 << 20;
const ROBOT: Account = { username: 'robot', password: 'right', repositories: ['team/private'] };

const NAMES = ['pause', 'plain', 'early', 'lazy', 'other', 'private', 'far'] as const;
const LAZY: ReadonlySet<string> = new Set(['lazy', 'other', 'private', 'far']);

interface Condition {
  type: string;
  status: string;
  lastHeartbeatTime?: string;
}

interface Pod {
  metadata: { name: string };
  status: {
    conditions?: Condition[];
    containerStatuses?: Array<{
      restartCount: number;
      ready: boolean;
      containerID?: string;
      state: { waiting?: { reason?: string } };
    }>;
  };
}

interface DaemonSet {
  status: { desiredNumberScheduled: number; currentNumberScheduled: number; numberReady: number };
}

/** Undefined where this machine lacks what it takes; `onProgress` hears what. */
export function prepareScene(o: {
  cleanup: Cleanup;
  onProgress: (line: string) => void;
}): (() => Promise<Scene>) | undefined {
  const programs = judgeAtHand('kubernetes', o);
  if (programs === undefined || !hasContainerd('2.4', o)) return undefined;
  if (!hasRoom(o.onProgress)) return undefined;
  return () => Scene.start(programs, o.cleanup);
}

/** The DaemonSet keeps a fifth of the disk free for the kubelet: with less nothing is fetched ahead, and no image becomes whole. */
function hasRoom(onProgress: (line: string) => void): boolean {
  const { bavail, blocks } = statfsSync(tmpdir());
  if (bavail / blocks > KEPT_FREE + 0.01) return true;
  onProgress(`skipped: less than a fifth of the disk of ${tmpdir()} is free`);
  return false;
}

export class Scene {
  readonly name = NAME;
  /** By the short name of an image. */
  readonly refs: Record<string, string> = {};
  /** Digests of its layers. */
  readonly blobs: Record<string, string[]> = {};
  /** Public key that vouches for its sidecar. */
  readonly key: string;
  readonly #work: string;
  readonly #cleanup: Cleanup;
  readonly #storage: string;
  #registry!: RegistryServer;
  #private!: FaultRegistry;
  #far!: Relay;
  #cluster!: ControlPlane;
  #node!: ClusterNode;
  /** Containers of pods before the node was started again. */
  #before = new Set<string>();

  private constructor(work: string, storage: string, cleanup: Cleanup) {
    this.#work = work;
    this.#storage = storage;
    this.#cleanup = cleanup;
    this.key = join(work, 'signer.pub');
  }

  static async start(programs: string, cleanup: Cleanup): Promise<Scene> {
    const scene = new Scene(await cleanup.tempDir('cluster'), await cleanup.tempDir('storage'), cleanup);
    await scene.#pushImages();
    scene.#cluster = await startControlPlane({ programs, node: NAME, cleanup });
    scene.#node = await makeNode({
      path: [programs, (await containerdPath('2.4')) as string].join(delimiter),
      ...(await kubeletOf(NAME, scene.#cluster, tokenProvider(scene.#private.host))),
      dropIn: await readFile(
        join(import.meta.dirname, '../../ops/kubernetes/containerd-images.conf'),
        'utf8',
      ),
      sandboxImage: `${REGISTRY}/pause:1`,
      mirrors: { [REGISTRY]: `http://${scene.#registry.host}`, [FAR]: `http://${scene.#far.host}` },
      cleanup,
    });
    await scene.#node.boot();
    return scene;
  }

  async #pushImages(): Promise<void> {
    this.#registry = await startRegistry({ storage: this.#storage });
    this.#cleanup.defer(() => this.#registry.stop());
    const { port } = this.#registry;
    this.#far = await startRelay({ to: { host: '127.0.0.1', port }, rate: FAR_RATE, rttMs: 5 });
    this.#cleanup.defer(() => this.#far.stop());
    this.#private = await startFaultRegistry();
    this.#cleanup.defer(() => this.#private.stop());
    // While it is built this process does nothing else, and requests would run out of time.
    await pushEngineImages(this.#work, this.#registry.host, this.#cleanup);
    const sign = join(this.#work, 'signer');
    await cofa('key', 'create', '--out', sign);
    const base = await makeBase(this.#work);
    for (const [big, name] of NAMES.entries()) {
      const config = { Env: ['PATH=/bin'], Cmd: ['/bin/wait'] };
      const image = await makeClientImage(this.#work, base, name, {
        big: big + 1,
        said: `I am ${name}`,
        config,
        ...(name === 'far' ? { bytes: FAR_BYTES } : {}),
      });
      this.blobs[name] = image.blobs;
      const isPrivate = name === 'private';
      const host = isPrivate ? this.#private.host : this.#registry.host;
      const repository = isPrivate ? (ROBOT.repositories[0] as string) : name;
      await push(image, host, repository);
      this.refs[name] = `${isPrivate ? host : name === 'far' ? FAR : REGISTRY}/${repository}:1`;
      if (LAZY.has(name)) await cofa('index', '--sign', `${sign}.key`, `${host}/${repository}:1`);
    }
    keepApart(this.#private, [ROBOT]);
  }

  // --- the cluster --------------------------------------------------------------------------------------------------

  async kubectl(...args: string[]): Promise<string> {
    return await this.#cluster.kubectl(args);
  }

  async apply(object: object): Promise<void> {
    await this.#cluster.apply(object);
  }

  async get<T>(...args: string[]): Promise<T> {
    return await this.#cluster.get<T>(...args);
  }

  /** A pod of an image, by its name; the pod's is the same, but for `as`. */
  async run(
    name: string,
    spec: object = {},
    {
      annotations = {},
      as = name,
      args = [],
    }: { annotations?: Record<string, string>; as?: string; args?: string[] } = {},
  ): Promise<void> {
    const overrides = JSON.stringify({ apiVersion: 'v1', metadata: { annotations }, spec });
    await this.kubectl('run', as, `--image=${this.refs[name]}`, `--overrides=${overrides}`, ...args);
  }

  /** Of a pod of an image: its container, which finds what its `/data/big` is to be at `/expected`. */
  comparing(name: string): { containers: object[]; volumes: object[] } {
    const volumeMounts = [{ name: 'expected', mountPath: '/expected' }];
    return {
      containers: [{ name: 'app', image: this.refs[name], volumeMounts }],
      volumes: [{ name: 'expected', hostPath: { path: this.#bigOf(name), type: 'File' } }],
    };
  }

  #bigOf(name: string): string {
    return join(this.#work, `image-${name}/2/data/big`);
  }

  /** docker's configuration with the account of the private image. */
  credentials(): string {
    return dockerConfigOf({ [this.#private.host]: ROBOT });
  }

  /** Two pods `web` of an image, with the image `other` and the expected bytes as volumes. */
  deployment(image: string): object {
    const labels = { app: 'web' };
    const sh = (script: string) => ({ exec: { command: ['sh', '-c', script] } });
    const often = { periodSeconds: 1, failureThreshold: 3, timeoutSeconds: 10 };
    const hostPath = (path: string) => ({ hostPath: { path, type: 'File' } });
    const names = ['lazy', 'other'] as const;
    const app = {
      name: 'app',
      image,
      startupProbe: { ...sh('test -f /said'), periodSeconds: 1, failureThreshold: 60, timeoutSeconds: 10 },
      readinessProbe: { ...sh('test -f /said'), ...often },
      livenessProbe: { ...sh('test ! -e /dead'), ...often },
      volumeMounts: [
        { name: 'model', mountPath: '/model' },
        ...names.map((name) => ({ name, mountPath: `/expected/${name}`, readOnly: true })),
      ],
    };
    const volumes = [
      { name: 'model', image: { reference: this.refs.other, pullPolicy: 'IfNotPresent' } },
      ...names.map((name) => ({ name, ...hostPath(this.#bigOf(name)) })),
    ];
    const template = {
      metadata: { labels },
      spec: { containers: [app], volumes, terminationGracePeriodSeconds: 5 },
    };
    const spec = { replicas: 2, selector: { matchLabels: labels }, template };
    return {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata: { name: 'web', namespace: 'default' },
      spec,
    };
  }

  /** So many pods that say what they are, and end. */
  job(image: string, completions: number): object {
    const containers = [{ name: 'say', image, command: ['/bin/say'] }];
    const template = { spec: { containers, restartPolicy: 'Never' } };
    const spec = { completions, parallelism: 2, template };
    return { apiVersion: 'batch/v1', kind: 'Job', metadata: { name: 'say', namespace: 'default' }, spec };
  }

  /** `pod/NAME` of those of a deployment that are not about to end. */
  async podsOf(app: string): Promise<string[]> {
    const { items } = await this.get<{ items: Array<Pod & { metadata: { deletionTimestamp?: string } }> }>(
      'pods',
      '-l',
      `app=${app}`,
    );
    return items
      .filter(({ metadata }) => metadata.deletionTimestamp === undefined)
      .map(({ metadata }) => `pod/${metadata.name}`);
  }

  async untilSaid(pod: string, line: string): Promise<void> {
    await eventually(`${pod} says its line`, async () => (await this.kubectl('logs', pod)) === line, 60_000);
  }

  async restarts(pod: string): Promise<number> {
    return (await this.get<Pod>(pod)).status.containerStatuses?.[0]?.restartCount ?? 0;
  }

  /** Why its container has not started; empty where it has. */
  async waitingFor(pod: string): Promise<string> {
    return (await this.get<Pod>('pod', pod)).status.containerStatuses?.[0]?.state.waiting?.reason ?? '';
  }

  /** Until the kubelet has said so after that moment. */
  async untilReady(since: Date, timeoutMs: number): Promise<void> {
    const isReady = async () => {
      const { status } = await this.get<{ status: { conditions?: Condition[] } }>('node', NAME);
      // In whole seconds.
      return status.conditions?.some(
        (one) =>
          one.type === 'Ready' &&
          one.status === 'True' &&
          Date.parse(one.lastHeartbeatTime ?? '') > since.getTime(),
      );
    };
    await this.#timed('the node is Ready', isReady, timeoutMs);
  }

  async untilRolledOut(daemonSet: string, timeoutMs: number): Promise<void> {
    const isOut = async () => {
      const { status } = await this.get<DaemonSet>('-n', 'kube-system', 'daemonset', daemonSet);
      return status.numberReady === 1 && status.desiredNumberScheduled === 1;
    };
    await this.#timed(`the DaemonSet ${daemonSet} is there`, isOut, timeoutMs);
  }

  async scheduled(daemonSet: string): Promise<number> {
    return (await this.get<DaemonSet>('-n', 'kube-system', 'daemonset', daemonSet)).status
      .currentNumberScheduled;
  }

  async #timed(what: string, check: () => Promise<boolean | undefined>, timeoutMs: number): Promise<void> {
    const began = performance.now();
    try {
      await eventually(what, check, timeoutMs);
      console.log(`cluster: ${what} after ${((performance.now() - began) / 1000).toFixed(1)} s`);
    } catch (error) {
      const pods = await this.kubectl('get', 'pods', '-A', '-o', 'wide');
      const events = await this.kubectl('get', 'events', '-A', '--sort-by=.lastTimestamp');
      throw new Error(`${String(error)}\n${pods}\n${events.slice(-5000)}`, { cause: error });
    }
  }

  // --- the node -----------------------------------------------------------------------------------------------------

  /** Everything on it is killed; it starts again. The moment at which it did. */
  async reboot(): Promise<Date> {
    this.#before = new Set((await this.#containers()).map(({ id }) => id));
    await this.#node.kill();
    const began = new Date();
    await this.#node.boot();
    return began;
  }

  /** Until all pods are ready, on containers of their own. */
  async untilBack(timeoutMs: number): Promise<void> {
    const areBack = async () => {
      const all = await this.#containers();
      return all.length > 0 && all.every(({ id, isReady }) => isReady && !this.#before.has(id));
    };
    await this.#timed('all pods are back', areBack, timeoutMs);
  }

  async #containers(): Promise<Array<{ id: string; isReady: boolean }>> {
    const { items } = await this.get<{ items: Pod[] }>(
      'pods',
      '-A',
      '--field-selector=status.phase!=Succeeded',
    );
    return items.map(({ status }) => {
      const [one] = status.containerStatuses ?? [];
      return { id: one?.containerID ?? '', isReady: one?.ready ?? false };
    });
  }

  /** The far registry's link is fast from now on. */
  async bringNear(): Promise<void> {
    const { port: listen } = this.#far;
    await this.#far.stop();
    this.#far = await startRelay({ to: { host: '127.0.0.1', port: this.#registry.port }, listen });
  }

  /** The private registry takes tokens of this service account, which there is from now on. */
  async takeTokensOf(account: string): Promise<void> {
    await this.#cluster.apply(...tokenObjects(account));
    const jwks = await this.kubectl('get', '--raw', '/openid/v1/jwks');
    takeTokens(this.#private, { account, robot: ROBOT, jwks });
  }

  /** And the private one takes another password from now on. */
  takeRegistryAway(): void {
    this.#registry.kill();
    keepApart(this.#private, [{ ...ROBOT, password: 'changed' }]);
  }

  async bringRegistryBack(): Promise<void> {
    const { port } = this.#registry;
    await this.#registry.stop();
    this.#registry = await startRegistry({ storage: this.#storage, port });
  }

  /** An image's own layers whose blobs containerd has: all of one that it unpacks, none of a lazy one. The base is the pause image's, too. */
  async blobsOnNode(name: string): Promise<string[]> {
    const all = await this.#node.run('ctr', ['--namespace', 'k8s.io', 'content', 'ls', '--quiet']);
    return (this.blobs[name] ?? []).slice(1).filter((digest) => all.includes(digest));
  }

  // --- cofa ---------------------------------------------------------------------------------------------------------

  /** What the engine in its pod says of an image. */
  async imageOf(name: string): Promise<Status['images'][number] | undefined> {
    const args = ['-n', 'kube-system', 'exec', 'daemonset/cofa', '--', 'cofa', 'status', '--json'];
    const { images } = JSON.parse(await this.kubectl(...args)) as Status;
    return images.find(({ ref }) => ref.startsWith((this.refs[name] as string).replace(/:1$/, '')));
  }

  /** The pod of the engine. */
  async engine(): Promise<string> {
    const pods = await this.get<{ items: Pod[] }>(
      '-n',
      'kube-system',
      'pods',
      '-l',
      'app.kubernetes.io/name=cofa',
    );
    return pods.items.map(({ metadata }) => metadata.name).join(' ');
  }

  /** Until another pod has the engine, and that one is gone. */
  async untilReplaced(pod: string, timeoutMs: number): Promise<void> {
    await this.#timed(
      'the engine is in another pod',
      async () => {
        const now = await this.engine();
        return now !== '' && !now.includes(pod) && !now.includes(' ');
      },
      timeoutMs,
    );
    await this.untilRolledOut('cofa', timeoutMs);
  }

  /** Until no byte of it is in the registry alone. */
  async untilWhole(name: string): Promise<void> {
    await eventually(`${name} is whole`, async () => (await this.imageOf(name))?.blocks.absent === 0, 60_000);
  }
}

async function cofa(...args: string[]): Promise<void> {
  const { code, stderr } = await runCofa(args, { timeoutMs: 180_000 });
  if (code !== 0) throw new Error(stderr);
}
