/** Every command of `cofa`: how it is called, what it is for, and where its code is. */
import type { CommandModule } from './context.ts';

export interface CommandEntry {
  name: string;
  /** Arguments as commander writes them. */
  args: string;
  summary: string;
  group: string;
  load: () => Promise<CommandModule>;
}

const ENGINE = 'Engine:';
const IMAGES = 'Images:';
const CONTAINERS = 'Containers and mounts:';

export const COMMANDS: readonly CommandEntry[] = [
  entry('up', '', 'start the engine in the background', ENGINE, () => import('./up.ts')),
  entry('down', '', 'stop the engine; mounts come back with it', ENGINE, () => import('./down.ts')),
  entry('upgrade', '', 'swap its processes for new ones under load', ENGINE, () => import('./upgrade.ts')),
  entry(
    'config',
    '<command>',
    'show or check the settings of up in a file',
    ENGINE,
    () => import('./config.ts'),
  ),
  entry(
    'status',
    '',
    'show the engine: processes, images, blocks, hit rate',
    ENGINE,
    () => import('./status.ts'),
  ),
  entry('events', '', 'follow the event log, or export it', ENGINE, () => import('./events.ts')),
  entry(
    'replay',
    '[file]',
    'step through the event log, in a terminal view',
    ENGINE,
    () => import('./replay.ts'),
  ),
  entry(
    'console',
    '',
    'serve a page that shows the node and its event log',
    ENGINE,
    () => import('./console.ts'),
  ),
  entry(
    'incidents',
    '<command>',
    'what went wrong, with the stretch of the log around it',
    ENGINE,
    () => import('./incidents.ts'),
  ),
  entry(
    'support',
    '',
    'pack what helps to find out what is wrong, without secrets',
    ENGINE,
    () => import('./support.ts'),
  ),
  entry('doctor', '', 'check what this machine has and lacks', ENGINE, () => import('./doctor.ts')),
  entry(
    'install',
    '<target>',
    'make containerd, docker, podman, CRI-O or Kubernetes use cofa',
    ENGINE,
    () => import('./install.ts'),
  ),
  entry(
    'uninstall',
    '[target...]',
    'take back what install has written',
    ENGINE,
    () => import('./uninstall.ts'),
  ),
  entry(
    'completion',
    '<shell>',
    'print what completes cofa in bash, zsh or fish',
    ENGINE,
    () => import('./completion.ts'),
  ),
  entry(
    'nats-config',
    '<node...>',
    'make users for nodes that share a NATS',
    ENGINE,
    () => import('./nats-config.ts'),
  ),
  entry('fleet', '', 'show the fleet that this machine is a member of', ENGINE, () => import('./fleet.ts')),
  entry(
    'fetcher',
    '',
    'run a member of a fleet without an engine: a cache for all nodes',
    ENGINE,
    () => import('./fetcher.ts'),
  ),
  entry(
    'index',
    '<ref>',
    'prepare an image: put its sidecar into the registry',
    IMAGES,
    () => import('./index.ts'),
  ),
  entry(
    'inspect',
    '<ref>',
    'show an image, its layers and its sidecar',
    IMAGES,
    () => import('./inspect.ts'),
  ),
  entry('key', '<command>', 'make key pairs that sign sidecars', IMAGES, () => import('./key.ts')),
  entry('trust', '<command>', 'say whose signatures this machine trusts', IMAGES, () => import('./trust.ts')),
  entry(
    'pack',
    '<command>',
    'list startup packs, or put one beside its image',
    IMAGES,
    () => import('./pack.ts'),
  ),
  entry('pull', '<ref>', 'put an image into containerd, lazily', IMAGES, () => import('./pull.ts')),
  entry(
    'podman',
    '<command>',
    'images that podman and CRI-O start lazily',
    IMAGES,
    () => import('./podman.ts'),
  ),
  entry('images', '', 'list the images of this node', IMAGES, () => import('./images.ts')),
  entry('rmi', '<ref...>', 'remove images from this node', IMAGES, () => import('./rmi.ts')),
  entry('prune', '', 'give back the disk space of what no mount needs', IMAGES, () => import('./prune.ts')),
  entry('scrub', '', 'compare the blocks on the disk with their digests', IMAGES, () => import('./scrub.ts')),
  entry('run', '<ref> [command...]', 'run a container from an image', CONTAINERS, () => import('./run.ts')),
  entry('ps', '', 'list containers and mounts', CONTAINERS, () => import('./ps.ts')),
  entry('rm', '<container...>', 'remove containers that ended', CONTAINERS, () => import('./rm.ts')),
  entry('mount', '<ref> <dir>', 'mount an image', CONTAINERS, () => import('./mount.ts')),
  entry('unmount', '<dir>', 'take a mount away', CONTAINERS, () => import('./unmount.ts')),
];

function entry(
  name: string,
  args: string,
  summary: string,
  group: string,
  load: () => Promise<CommandModule>,
): CommandEntry {
  return { name, args, summary, group, load };
}
