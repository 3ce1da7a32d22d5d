/**
 * SOCI as a peer, built with Go (ops/images/judges.ts): `soci`, which makes an index, and the snapshotter
 * `soci-snapshotter-grpc`, below a current containerd whose transfer service tells a snapshotter which image a layer
 * belongs to, as SOCI's page "Getting started" sets it up.
 *
 * Lazy: `soci convert` has made an image with an index (SOCI index manifest v2; no table of contents for layers below 10
 * MiB, spans of 4 MiB: its defaults), and the snapshotter mounts each layer by FUSE. Parallel: the image as it is; the
 * snapshotter fetches layers in pieces, several at a time, and unpacks several at a time.
 */
import { existsSync } from 'node:fs';
import { appendFile, mkdir, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { runCommand, startContainerd } from '../../test/support/services.ts';
import { Cleanup, mountsBelow } from '../../test/support/temp.ts';
import { builtJudge } from '../images/judges.ts';
import { timed } from './measure.ts';
import { NAMESPACE, startSnapshotter } from './peers.ts';
import {
  type BenchImage,
  CALM_MS,
  containerdNode,
  type FreshNode,
  PULL_LIMIT_MS,
  type Repositories,
  type Way,
} from './ways.ts';

const LAZY = 'SOCI, lazy';
const PARALLEL = 'SOCI, parallel';
export const SOCI_NAMES = [LAZY, PARALLEL];

const NAME = 'soci';
const DAEMON = 'soci-snapshotter-grpc';
const UNPIGZ = '/usr/bin/unpigz';

/** Folders of the programs. */
interface Programs {
  soci: string;
  containerd: string;
}

/** Both ways, or none where a program cannot be had: `say` hears why. */
export async function sociWays(
  say: (line: string) => void,
  built: (judge: 'soci' | 'containerd-2.4') => Promise<string | undefined> = (judge) =>
    builtJudge(judge, { onProgress: say }),
): Promise<Way[]> {
  const [soci, containerd] = [await built('soci'), await built('containerd-2.4')];
  if (soci === undefined || containerd === undefined) {
    say('no SOCI: it needs its own programs and a current containerd');
    return [];
  }
  const programs = { soci, containerd };
  return [
    {
      name: LAZY,
      peer: 'unoptimized',
      prepare: (image, at) => convert(programs, at, indexed(image)),
      onFreshNode: (image, _at, host, work) =>
        onFreshDaemon(programs, lazySettings, `${host}/${indexed(image)}:latest`, work),
    },
    {
      name: PARALLEL,
      peer: 'unoptimized',
      onFreshNode: (_image, at, host, work) =>
        onFreshDaemon(programs, parallelSettings, `${host}/${at.plain}:latest`, work),
    },
  ];
}

const indexed = ({ name }: BenchImage) => `${name}-soci`;

const searched = ({ soci, containerd }: Programs) => [containerd, soci, process.env.PATH].join(delimiter);

/** Puts the image with its index into the registry; its layers stay as they are. */
async function convert(programs: Programs, at: Repositories, repository: string): Promise<void> {
  const cleanup = new Cleanup();
  try {
    const folder = await cleanup.tempDir('soci');
    const containerd = await startContainerd({ path: searched(programs), configVersion: 3 });
    cleanup.defer(() => containerd.stop());
    const plain = `${at.registry}/${at.plain}:latest`;
    const converted = `${at.registry}/${repository}:latest`;
    const long = { timeoutMs: PULL_LIMIT_MS };
    await containerd.ctr(['images', 'pull', '--plain-http', plain], long);
    const options = ['--address', containerd.socket, '--namespace', NAMESPACE, '--root', folder];
    await timed(join(programs.soci, 'soci'), [...options, 'convert', plain, converted]);
    await containerd.ctr(['images', 'push', '--plain-http', converted], long);
  } finally {
    await cleanup.run();
  }
}

async function onFreshDaemon<T>(
  programs: Programs,
  settings: (containerd: string) => string,
  ref: string,
  work: (node: FreshNode) => Promise<T>,
): Promise<T> {
  const cleanup = new Cleanup();
  try {
    const folder = await cleanup.tempDir('soci');
    const [root, directory] = [join(folder, 'root'), join(folder, 'c')];
    for (const one of [root, directory]) await mkdir(one);
    const socket = join(folder, 's.sock');
    const config = join(folder, 'config.toml');
    await writeFile(config, settings(join(directory, 'c.sock')));
    // Told to end, it leaves its mounts to a successor.
    cleanup.defer(async () => {
      for (const point of mountsBelow(folder).toReversed()) await runCommand('umount', ['--', point]);
    });
    const path = searched(programs);
    const containerd = await startSnapshotter(cleanup, {
      name: NAME,
      folder,
      socket,
      command: [join(programs.soci, DAEMON), '--address', socket, '--root', root, '--config', config],
      containerd: {
        path,
        configVersion: 3,
        directory,
        configure: (file) => appendFile(file, containerdSettings(root)),
      },
    });
    await sleep(CALM_MS);
    const { start, shell } = containerdNode(containerd, NAME, ref, path);
    return await work({ start, shell });
  } finally {
    await cleanup.run();
  }
}

/** What follows the snapshotter's own section in containerd's configuration, as SOCI's page "Getting started" has it. */
export function containerdSettings(root: string): string {
  return [
    `[proxy_plugins.${NAME}.exports]`,
    '  enable_remote_snapshot_annotations = "true"',
    `  root = ${JSON.stringify(root)}`,
    '[[plugins."io.containerd.transfer.v1.local".unpack_config]]',
    '  platform = "linux"',
    `  snapshotter = "${NAME}"`,
    '',
  ].join('\n');
}

/**
 * Its defaults: indexes of version 2, spans fetched as they are read, the rest from half a minute on. `containerd`: its
 * socket, where the snapshotter reads the manifest for layers without a table; else it waits ten seconds for the machine's.
 */
export function lazySettings(containerd: string): string {
  return [
    '[content_store]',
    `  containerd_address = ${JSON.stringify(containerd)}`,
    '[pull_modes.soci_v2]',
    '  enable = true',
    '',
  ].join('\n');
}

/**
 * The example of SOCI's page "Parallel pull and unpack mode": of an image 10 downloads and 10 unpacks at a time, in pieces
 * of 8 MiB, inflated by unpigz where that is at hand. `containerd`: its socket.
 */
export function parallelSettings(containerd: string, unpigz = existsSync(UNPIGZ)): string {
  return [
    '[content_store]',
    '  type = "containerd"',
    `  containerd_address = ${JSON.stringify(containerd)}`,
    '[pull_modes.parallel_pull_unpack]',
    '  enable = true',
    '  max_concurrent_downloads = 50',
    '  max_concurrent_downloads_per_image = 10',
    '  concurrent_download_chunk_size = "8mb"',
    '  max_concurrent_unpacks = 20',
    '  max_concurrent_unpacks_per_image = 10',
    '  discard_unpacked_layers = true',
    ...(unpigz
      ? [
          '[pull_modes.parallel_pull_unpack.decompress_streams."gzip"]',
          `  path = "${UNPIGZ}"`,
          '  args = ["-d", "-c"]',
        ]
      : []),
    '',
  ].join('\n');
}
