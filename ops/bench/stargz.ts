/**
 * eStargz as a peer, where its programs are found on PATH: `ctr-remote` (Debian's stargz-snapshotter) and the daemon
 * `containerd-stargz-grpc`, which Debian does not package. Unoptimized: no start was recorded.
 */
import { existsSync } from 'node:fs';
import { appendFile, mkdir, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { startContainerd } from '../../test/support/services.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { dropCaches, type Start, throughLink, timed } from './measure.ts';
import type { BenchImage, Repositories, Way } from './ways.ts';

const DAEMON = 'containerd-stargz-grpc';
const NAMESPACE = 'cofa-test';
const repositoryOf = (image: BenchImage) => `${image.name}-estargz`;

/** Whether its programs are there. */
export function hasStargz(): boolean {
  const folders = (process.env.PATH ?? '').split(delimiter);
  return [DAEMON, 'ctr-remote'].every((name) => folders.some((folder) => existsSync(join(folder, name))));
}

/** Puts the image as eStargz beside the others. */
export async function prepareStargz(image: BenchImage, at: Repositories): Promise<void> {
  const containerd = await startContainerd();
  try {
    const plain = `${at.registry}/${at.plain}:latest`;
    const converted = `${at.registry}/${repositoryOf(image)}:latest`;
    await containerd.ctr(['images', 'pull', '--plain-http', '--all-platforms', plain]);
    const remote = ['--address', containerd.socket, '--namespace', NAMESPACE];
    await timed('ctr-remote', [...remote, 'images', 'convert', '--estargz', '--oci', plain, converted]);
    await containerd.ctr(['images', 'push', '--plain-http', converted]);
  } finally {
    await containerd.stop();
  }
}

export const STARGZ: Way = {
  name: 'eStargz, unoptimized',
  run: async (image, at, link) => {
    const cleanup = new Cleanup();
    try {
      const folder = await cleanup.tempDir('sgz');
      const socket = join(folder, 's.sock');
      const cold = await throughLink(at.registry, link, async (host) => {
        const config = join(folder, 'config.toml');
        const mirror = `[[resolver.host."${host}".mirrors]]\nhost = "${host}"\ninsecure = true\n`;
        await writeFile(config, mirror);
        await mkdir(join(folder, 'root'));
        const args = ['--address', socket, '--root', join(folder, 'root'), '--config', config];
        const daemon = spawn(DAEMON, args, { stdio: 'ignore' });
        cleanup.defer(async () => {
          if (daemon.exitCode === null) daemon.kill('SIGTERM');
          if (daemon.exitCode === null) await once(daemon, 'exit');
        });
        for (let tries = 0; tries < 200 && !existsSync(socket); tries++)
          await new Promise((resolve) => setTimeout(resolve, 50));
        const containerd = await startContainerd({
          configure: (file) =>
            appendFile(file, `[proxy_plugins.stargz]\n  type = "snapshot"\n  address = "${socket}"\n`),
        });
        cleanup.defer(() => containerd.stop());
        await dropCaches();
        const remote = ['--address', containerd.socket, '--namespace', NAMESPACE];
        const ref = `${host}/${repositoryOf(image)}:latest`;
        const began = performance.now();
        await timed('ctr-remote', [...remote, 'images', 'rpull', '--plain-http', ref]);
        const before = performance.now() - began;
        const run = ['run', '--rm', '--snapshotter=stargz', ref, 'bench', ...image.command];
        const first = await timed('ctr-remote', [...remote, ...run]);
        return { firstOutputMs: before + first.firstOutputMs, totalMs: before + first.totalMs };
      });
      return { cold: cold satisfies Start };
    } finally {
      await cleanup.run();
    }
  },
};
