/**
 * eStargz as a peer, where its programs are found on PATH: `ctr-remote` (Debian's stargz-snapshotter) and the daemon
 * `containerd-stargz-grpc`, which Debian does not package (the releases of containerd/stargz-snapshotter have both).
 *
 * Unoptimized: no start was recorded. Optimized: `ctr-remote images optimize` has run the image as it is measured
 * and put the files that it read in front of each layer, where the daemon prefetches them.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startContainerd } from '../../test/support/services.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { client, onPath, startSnapshotter, WATCH_S } from './peers.ts';
import { after, type BenchImage, CALM_MS, type FreshNode, type Way } from './ways.ts';

const DAEMON = 'containerd-stargz-grpc';

/** Both ways, or none where a program is missing. */
export function stargzWays(): Way[] {
  if (!onPath(DAEMON, 'ctr-remote')) return [];
  return [
    way('eStargz, unoptimized', 'unoptimized', (image) => `${image.name}-estargz`, ['--no-optimize']),
    way('eStargz, optimized', 'optimized', (image) => `${image.name}-estargz-optimized`, [
      `--period=${WATCH_S}`,
    ]),
  ];
}

function way(
  name: string,
  peer: 'optimized' | 'unoptimized',
  repositoryOf: (image: BenchImage) => string,
  options: string[],
): Way {
  return {
    name,
    peer,
    prepare: async (image, at) => {
      const containerd = await startContainerd();
      try {
        const plain = `${at.registry}/${at.plain}:latest`;
        const converted = `${at.registry}/${repositoryOf(image)}:latest`;
        await containerd.ctr(['images', 'pull', '--plain-http', plain]);
        await client('ctr-remote', containerd, 'images', 'optimize', '--oci', ...options, plain, converted);
        await containerd.ctr(['images', 'push', '--plain-http', converted]);
      } finally {
        await containerd.stop();
      }
    },
    onFreshNode: (image, _at, host, work) =>
      onFreshDaemon(`${host}/${repositoryOf(image)}:latest`, host, work),
  };
}

async function onFreshDaemon<T>(
  ref: string,
  host: string,
  work: (node: FreshNode) => Promise<T>,
): Promise<T> {
  const cleanup = new Cleanup();
  try {
    const folder = await cleanup.tempDir('sgz');
    const socket = join(folder, 's.sock');
    const config = join(folder, 'config.toml');
    await writeFile(config, `[[resolver.host."${host}".mirrors]]\nhost = "${host}"\ninsecure = true\n`);
    await mkdir(join(folder, 'root'));
    const containerd = await startSnapshotter(cleanup, {
      name: 'stargz',
      folder,
      socket,
      command: [DAEMON, '--address', socket, '--root', join(folder, 'root'), '--config', config],
    });
    await sleep(CALM_MS);
    const run = (...command: string[]) =>
      client('ctr-remote', containerd, 'run', '--rm', '--snapshotter=stargz', ref, 'bench', ...command);
    return await work({
      start: async () => {
        const began = performance.now();
        await client('ctr-remote', containerd, 'images', 'rpull', '--plain-http', ref);
        return after(performance.now() - began, await run());
      },
      shell: (line) => run('sh', '-c', line),
    });
  } finally {
    await cleanup.run();
  }
}
