/**
 * eStargz as a peer, where its programs are found on PATH: `ctr-remote` (Debian's stargz-snapshotter) and the daemon
 * `containerd-stargz-grpc`, which Debian does not package (the releases of containerd/stargz-snapshotter have both).
 *
 * Unoptimized: no start was recorded. Optimized: `ctr-remote images optimize` has run the image as it is measured
 * and put the files that it read in front of each layer, where the daemon prefetches them.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { appendFile, mkdir, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Containerd, startContainerd } from '../../test/support/services.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { timed } from './measure.ts';
import { after, type BenchImage, CALM_MS, type FreshNode, type Way } from './ways.ts';

const DAEMON = 'containerd-stargz-grpc';
const NAMESPACE = 'cofa-test';

/** How long the optimizer watches a start, s: longer than it takes. */
const WATCH_S = 30;

/** Programs of these names are there. */
export function onPath(...names: string[]): boolean {
  const folders = (process.env.PATH ?? '').split(delimiter);
  return names.every((name) => folders.some((folder) => existsSync(join(folder, name))));
}

/** Both, or none where its programs are missing. */
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
        await remote(containerd, 'images', 'optimize', '--oci', ...options, plain, converted);
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
    const args = ['--address', socket, '--root', join(folder, 'root'), '--config', config];
    const daemon = spawn(DAEMON, args, { stdio: 'ignore' });
    cleanup.defer(async () => {
      if (daemon.exitCode === null) daemon.kill('SIGTERM');
      if (daemon.exitCode === null) await once(daemon, 'exit');
    });
    for (let tries = 0; tries < 200 && !existsSync(socket); tries++) await sleep(50);
    const containerd = await startContainerd({
      configure: (file) =>
        appendFile(file, `[proxy_plugins.stargz]\n  type = "snapshot"\n  address = "${socket}"\n`),
    });
    cleanup.defer(() => containerd.stop());
    await sleep(CALM_MS);
    const run = (...command: string[]) =>
      remote(containerd, 'run', '--rm', '--snapshotter=stargz', ref, 'bench', ...command);
    return await work({
      start: async () => {
        const began = performance.now();
        await remote(containerd, 'images', 'rpull', '--plain-http', ref);
        return after(performance.now() - began, await run());
      },
      shell: (line) => run('sh', '-c', line),
    });
  } finally {
    await cleanup.run();
  }
}

const remote = (containerd: Containerd, ...args: string[]) =>
  timed('ctr-remote', ['--address', containerd.socket, '--namespace', NAMESPACE, ...args]);
