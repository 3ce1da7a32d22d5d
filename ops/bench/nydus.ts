/**
 * Nydus as a peer, where its programs are on PATH: `nydusd`, `nydus-image` and `nydusify` of dragonflyoss/nydus, the
 * snapshotter `containerd-nydus-grpc` of containerd/nydus-snapshotter, and `ctr-remote` of the stargz-snapshotter,
 * since a ctr of containerd 1.6 does not tell a snapshotter to which image a layer belongs.
 *
 * Without prefetch nydusd fetches what is read. With a list the image was converted with a list of the files that a
 * start reads; these stand in front of each layer, and nydusd prefetches them from the mount on. The list is what
 * `ctr-remote images optimize` learns by fanotify of a start as it is measured, so that eStargz and Nydus know the same
 * of it.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { endProcesses, runCommand } from '../../test/support/services.ts';
import { Cleanup, mountsBelow } from '../../test/support/temp.ts';
import { timed } from './measure.ts';
import { client, filesOfStart, onPath, startSnapshotter } from './peers.ts';
import { after, type BenchImage, CALM_MS, type FreshNode, type Repositories, type Way } from './ways.ts';

const DAEMON = 'containerd-nydus-grpc';

/** Both ways, or none where one of the programs is missing. */
export function nydusWays(): Way[] {
  if (!onPath(DAEMON, 'nydusd', 'nydus-image', 'nydusify', 'ctr-remote')) return [];
  return [
    {
      name: 'Nydus, no prefetch',
      peer: 'unoptimized',
      prepare: (image, at) => convert(at, unlisted(image)),
      onFreshNode: (image, _at, host, work) =>
        onFreshDaemon(`${host}/${unlisted(image)}:latest`, false, work),
    },
    {
      name: 'Nydus, list',
      peer: 'optimized',
      prepare: async (image, at) => convert(at, listed(image), await filesOfStart(at)),
      onFreshNode: (image, _at, host, work) => onFreshDaemon(`${host}/${listed(image)}:latest`, true, work),
    },
  ];
}

const unlisted = ({ name }: BenchImage) => `${name}-nydus`;
const listed = ({ name }: BenchImage) => `${name}-nydus-list`;

/** Puts the converted image into the registry, as nydusify makes it by itself (RAFS 6, zstd); `files` are absolute. */
async function convert(at: Repositories, repository: string, files: readonly string[] = []): Promise<void> {
  const cleanup = new Cleanup();
  try {
    const folder = await cleanup.tempDir('nydusify');
    const list = join(folder, 'list');
    await writeFile(list, files.map((file) => `${file}\n`).join(''));
    const args = ['convert', '--work-dir', join(folder, 'work'), '--plain-http'];
    args.push('--source', `${at.registry}/${at.plain}:latest`, '--source-insecure');
    args.push('--target', `${at.registry}/${repository}:latest`, '--target-insecure');
    if (files.length > 0) args.push('--prefetch-patterns');
    await timed('sh', ['-c', 'exec nydusify "$@" <"$0"', list, ...args]);
  } finally {
    await cleanup.run();
  }
}

async function onFreshDaemon<T>(
  ref: string,
  prefetch: boolean,
  work: (node: FreshNode) => Promise<T>,
): Promise<T> {
  const cleanup = new Cleanup();
  try {
    // Its sockets lie deep below it.
    const folder = await cleanup.tempDir('nyd');
    const socket = join(folder, 's.sock');
    const config = join(folder, 'config.toml');
    const nydusd = join(folder, 'nydusd.json');
    const program = join(folder, 'nydusd');
    await writeFile(config, snapshotterConfig(folder, socket, program, nydusd));
    await writeFile(nydusd, JSON.stringify(nydusdConfig(prefetch)));
    // nydusd asks for a million descriptors, which some machines deny, and then ends.
    await writeFile(program, '#!/bin/sh\nexec nydusd "$@" --rlimit-nofile 0\n', { mode: 0o755 });
    await mkdir(join(folder, 'root'));
    // Processes that it has started may outlive it.
    cleanup.defer(async () => {
      await endProcesses((_pid, commandLine) => commandLine.includes(folder));
      for (const point of mountsBelow(folder).toReversed()) await runCommand('umount', ['--', point]);
    });
    const containerd = await startSnapshotter(cleanup, {
      name: 'nydus',
      folder,
      socket,
      command: [DAEMON, '--config', config],
    });
    await sleep(CALM_MS);
    const snapshotter = ['--snapshotter', 'nydus'];
    const run = (...command: string[]) =>
      client('ctr', containerd, 'run', '--rm', ...snapshotter, ref, 'bench', ...command);
    const pull = ['images', 'rpull', '--plain-http', '--use-containerd-labels', ...snapshotter, ref];
    return await work({
      start: async () => {
        const began = performance.now();
        await client('ctr-remote', containerd, ...pull);
        return after(performance.now() - began, await run());
      },
      shell: (line) => run('sh', '-c', line),
    });
  } finally {
    await cleanup.run();
  }
}

/** As the project gives it: each image has a nydusd of its own, which starts with the first container. */
function snapshotterConfig(folder: string, socket: string, program: string, nydusd: string): string {
  const quoted = JSON.stringify;
  return [
    'version = 1',
    `root = ${quoted(join(folder, 'root'))}`,
    `address = ${quoted(socket)}`,
    'daemon_mode = "dedicated"',
    'cleanup_on_close = true',
    '[system]',
    'enable = false',
    '[daemon]',
    'fs_driver = "fusedev"',
    `nydusd_path = ${quoted(program)}`,
    `nydusd_config = ${quoted(nydusd)}`,
    'recover_policy = "none"',
    'threads_number = 4',
    '[cgroup]',
    'enable = false',
    '[log]',
    'log_to_stdout = true',
    '[metrics]',
    'address = ""',
    '',
  ].join('\n');
}

/** As the snapshotter's project gives it for FUSE, but for the prefetch. */
function nydusdConfig(prefetch: boolean): object {
  return {
    device: {
      backend: {
        type: 'registry',
        config: { scheme: 'http', timeout: 5, connect_timeout: 5, retry_limit: 2 },
      },
      cache: { type: 'blobcache' },
    },
    mode: 'direct',
    digest_validate: false,
    iostats_files: false,
    enable_xattr: true,
    amplify_io: 1 << 20,
    fs_prefetch: { enable: prefetch, threads_count: 8, merging_size: 1 << 20, prefetch_all: false },
  };
}
