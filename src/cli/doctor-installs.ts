/** The checks of `cofa doctor` that are about containerd, docker and the service, where cofa was installed into them. */
import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { Code } from '@connectrpc/connect';
import { connectContainerd, findSocket, isCode } from '../containerd/client.ts';
import { DEFAULT_PATHS, exportedRoot, hasCri, isEmbedded, saysMapsIds, UNIT_MARK } from '../install/plans.ts';
import { isEdited } from '../install/toml-edit.ts';
import { type Check, existingParent } from './doctor-checks.ts';
import { findKubelet, imageEndpointOf } from './kubelet.ts';
import { DEFAULT_ROOT } from './context.ts';
import { untilAnswered } from './service.ts';

/** What was found; undefined where there is nothing to say. */
export interface Found {
  /** Contents of the configuration files and the unit; undefined: there is none. */
  containerd: string | undefined;
  docker: string | undefined;
  unit: string | undefined;
  /** The engine's. */
  root: string;
  /** cofa's socket for containerd. */
  socket: string;
  /** What a running containerd says of cofa. */
  running: 'loaded' | 'unknown to it' | 'not reached' | 'no containerd';
  /** Whether the unit is started with the machine, as `systemctl is-enabled` says it. */
  enabled: string | undefined;
  /** What lies below the root can be mounted with the ids of user namespaces. */
  mapsIds: boolean;
  /** cofa's image service. */
  images: {
    /** Its socket. */
    socket: string;
    isAnswered: boolean;
    /** Where the kubelet of this machine has its images from: a path, empty for where it has its containers from; undefined: there is no kubelet. */
    kubelet: string | undefined;
  };
}

/** Says nothing of programs that cofa was not installed into. */
export async function checkInstalls(root: string): Promise<Check[]> {
  const socket = join(root, 'run/snapshotter.sock');
  const [containerd, docker, unit] = await Promise.all(
    [DEFAULT_PATHS.containerd, DEFAULT_PATHS.docker, DEFAULT_PATHS.unit].map((path) =>
      readFile(path, 'utf8').catch(() => undefined),
    ),
  );
  const isInstalled = containerd !== undefined && isEdited(containerd);
  const running = isInstalled ? await askContainerd(socket) : 'no containerd';
  const images = join(root, 'run/image-service.sock');
  const { canMapIds } = await import('../kernel/id-mapped.ts');
  const kubelet = await findKubelet();
  return judgeInstalls({
    containerd,
    docker,
    unit,
    root,
    socket,
    running,
    enabled: await enabledState(unit),
    mapsIds: await canMapIds(await existingParent(root)).catch(() => false),
    images: {
      socket: images,
      isAnswered: await untilAnswered(images, 0),
      kubelet: kubelet && (await imageEndpointOf(kubelet)),
    },
  });
}

/** Pure: what `checkInstalls` makes of what it found. */
export function judgeInstalls(found: Found): Check[] {
  return [
    checkContainerd(found),
    checkImageDisk(found),
    checkUserNamespaces(found),
    checkImageService(found),
    checkDocker(found),
    checkUnit(found),
  ].filter((one) => one !== undefined);
}

function checkContainerd({ containerd, socket, running }: Found): Check | undefined {
  if (containerd === undefined || !isEdited(containerd)) return undefined;
  const name = 'containerd';
  const section = containerd.slice(containerd.indexOf('[proxy_plugins.cofa]'));
  const address = /^\s*address\s*=\s*"([^"]*)"/m.exec(section)?.[1] ?? 'nowhere';
  const off = { means: 'containerd cannot start images by cofa' };
  if (address !== socket) {
    const found = `its configuration looks for cofa at ${address}; this engine serves ${socket}`;
    return { name, state: 'warn', found, ...off, fix: 'cofa install containerd, with the same --root' };
  }
  switch (running) {
    case 'loaded':
      return { name, state: 'ok', found: 'knows the snapshotter cofa, and reaches it' };
    case 'unknown to it':
      return {
        name,
        state: 'warn',
        found: 'configured, but it was started before',
        ...off,
        fix: 'systemctl restart containerd',
      };
    case 'not reached':
      return {
        name,
        state: 'warn',
        found: `knows the snapshotter cofa, and no process answers at ${socket}`,
        ...off,
        fix: 'systemctl start cofa, or cofa up --snapshotter',
      };
    default:
      return {
        name,
        state: 'warn',
        found: 'configured, not running',
        ...off,
        fix: 'systemctl start containerd',
      };
  }
}

/** A kubelet alone asks for it. */
function checkImageDisk({ containerd, root }: Found): Check | undefined {
  if (containerd === undefined || !hasCri(containerd)) return undefined;
  const name = 'disk of images';
  const told = exportedRoot(containerd);
  if (told === root) return { name, state: 'ok', found: `the kubelet measures that of ${root}` };
  return {
    name,
    state: 'warn',
    found:
      told === undefined
        ? 'containerd does not tell the kubelet where images are'
        : `the kubelet looks for images at ${told}; this engine has them at ${root}`,
    means: 'it has no figures of that disk: it removes no images and evicts no pods when the disk fills',
    fix: `cofa${root === DEFAULT_ROOT ? '' : ` --root ${root}`} install k8s, then restart containerd and the kubelet`,
  };
}

function checkUserNamespaces({ containerd, mapsIds }: Found): Check | undefined {
  if (containerd === undefined || !isEdited(containerd)) return undefined;
  const name = 'user namespaces';
  const isTold = saysMapsIds(containerd);
  if (isTold && mapsIds) return { name, state: 'ok', found: 'images are mounted with the ids of containers' };
  if (!isTold && mapsIds) {
    return {
      name,
      state: 'warn',
      found: 'containerd is not told that images can be mounted with other ids',
      means: 'containers in user namespaces run on copies of their images, which are fetched whole',
      fix: 'cofa install containerd',
    };
  }
  if (!isTold) {
    return { name, state: 'ok', found: 'containers in them run on copies of their images' };
  }
  return {
    name,
    state: 'warn',
    found: 'containerd is told that images can be mounted with other ids, and they cannot here',
    means: 'containers in user namespaces do not start',
    fix: 'cofa install containerd, which takes it back; or have the root on ext4, xfs or btrfs, and see sysctl user.max_user_namespaces',
  };
}

/** Without a kubelet no process asks it; a kubelet that was not told of it may have its reasons. */
function checkImageService({ images: { socket, isAnswered, kubelet } }: Found): Check | undefined {
  if (kubelet === undefined) return undefined;
  const name = 'image service';
  const off = { means: 'no pod of this node gets its image' };
  if (kubelet === socket) {
    if (isAnswered) return { name, state: 'ok', found: `the kubelet pulls through ${socket}` };
    return {
      name,
      state: 'warn',
      found: `the kubelet pulls through ${socket}, where no process answers`,
      ...off,
      fix: 'image-service = true in /etc/cofa/config.toml, then cofa upgrade --engine (without a service: cofa up --snapshotter --image-service); or take imageServiceEndpoint out of the kubelet’s configuration',
    };
  }
  if (basename(kubelet) === basename(socket)) {
    return {
      name,
      state: 'warn',
      found: `the kubelet pulls through ${kubelet}; this engine serves ${socket}`,
      ...off,
      fix: `imageServiceEndpoint: unix://${socket}`,
    };
  }
  if (!isAnswered) return undefined;
  return {
    name,
    state: 'warn',
    found: 'is served, and the kubelet does not use it',
    means: 'private images are not lazy with imagePullSecrets alone',
    fix: `in the kubelet’s configuration: imageServiceEndpoint: unix://${socket}`,
  };
}

function checkDocker({ docker, containerd }: Found): Check | undefined {
  let config: { 'storage-driver'?: unknown; features?: Record<string, unknown> };
  try {
    config = JSON.parse(docker ?? '{}') as typeof config;
  } catch {
    return undefined;
  }
  if (config['storage-driver'] !== 'cofa') return undefined;
  const name = 'docker';
  if (isEmbedded(config.features)) {
    return {
      name,
      state: 'warn',
      found: 'is to use cofa, and a containerd inside dockerd, which does not know it',
      means: 'dockerd does not start',
      fix: `take embedded-containerd out of features in ${DEFAULT_PATHS.docker}, then restart docker`,
    };
  }
  const isStore = config.features?.['containerd-snapshotter'] === true;
  const isKnown = containerd !== undefined && isEdited(containerd);
  if (isStore && isKnown) return { name, state: 'ok', found: 'keeps its images on cofa' };
  return {
    name,
    state: 'warn',
    found: isStore
      ? 'is to use cofa, of which its containerd does not know'
      : 'is to use cofa, and is not told to keep its images in containerd',
    means: isStore
      ? 'dockerd does not start'
      : 'dockerd does not start, before docker 29 or where it has a store of its own',
    fix: 'cofa install docker',
  };
}

function checkUnit({ unit, enabled }: Found): Check | undefined {
  if (unit === undefined || !unit.includes(UNIT_MARK)) return undefined;
  if (enabled === undefined || enabled === 'enabled') {
    return { name: 'service', state: 'ok', found: DEFAULT_PATHS.unit };
  }
  return {
    name: 'service',
    state: 'warn',
    found: `cofa.service is ${enabled}`,
    means: 'the engine does not start with the machine',
    fix: 'systemctl enable --now cofa',
  };
}

async function askContainerd(socket: string): Promise<Found['running']> {
  let address: string;
  try {
    address = findSocket(undefined);
  } catch {
    return 'no containerd';
  }
  const client = connectContainerd(address, 'default');
  try {
    const call = { snapshotter: 'cofa', filters: ['name==none'] };
    for await (const _ of client.snapshots.list(call, { timeoutMs: 10_000 }));
  } catch (error) {
    return isCode(error, Code.InvalidArgument) ? 'unknown to it' : 'no containerd';
  } finally {
    client.close();
  }
  // containerd answers from a list of its own, which does not say whether the socket answers.
  return (await untilAnswered(socket, 0)) ? 'loaded' : 'not reached';
}

async function enabledState(unit: string | undefined): Promise<string | undefined> {
  if (unit === undefined) return undefined;
  const { exec, findProgram } = await import('../container/exec.ts');
  const systemctl = findProgram('systemctl');
  if (systemctl === undefined) return undefined;
  const { stdout } = await exec(systemctl, ['is-enabled', 'cofa'], 10_000);
  return stdout.trim() === '' ? undefined : stdout.trim();
}
