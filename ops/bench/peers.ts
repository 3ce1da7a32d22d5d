/** What the peers that are containerd snapshotters have in common. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs';
import { appendFile, readFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Containerd, type ContainerdOptions, startContainerd } from '../../test/support/services.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { timed } from './measure.ts';
import type { Repositories } from './ways.ts';

/** Of all that a peer does in its containerd. */
export const NAMESPACE = 'cofa-test';

/** How long the optimizer watches a start, s: longer than it takes. */
export const WATCH_S = 30;

/** Whether programs of these names exist. */
export function onPath(...names: string[]): boolean {
  const folders = (process.env.PATH ?? '').split(delimiter);
  return names.every((name) => folders.some((folder) => existsSync(join(folder, name))));
}

/** Runs ctr, or what has its options, against a containerd to its end. */
export const client = (program: 'ctr' | 'ctr-remote', containerd: Containerd, ...args: string[]) =>
  timed(program, ['--address', containerd.socket, '--namespace', NAMESPACE, ...args]);

/** A snapshotter's daemon, its log below `folder`, and a containerd that knows it by `name`; `cleanup` ends both. */
export async function startSnapshotter(
  cleanup: Cleanup,
  {
    name,
    folder,
    socket,
    command,
    containerd: options = {},
  }: {
    name: string;
    folder: string;
    socket: string;
    command: [string, ...string[]];
    /** What `configure` appends comes after the snapshotter's section. */
    containerd?: ContainerdOptions;
  },
): Promise<Containerd> {
  const file = join(folder, 'log');
  const log = openSync(file, 'a');
  const [program, ...args] = command;
  const daemon = spawn(program, args, { stdio: ['ignore', log, log] });
  closeSync(log);
  cleanup.defer(async () => {
    if (daemon.exitCode !== null || daemon.signalCode !== null) return;
    daemon.kill('SIGTERM');
    await once(daemon, 'exit');
  });
  for (let tries = 0; !existsSync(socket); tries++) {
    if (tries === 200)
      throw new Error(`${program} did not start: ${readFileSync(file, 'utf8').slice(-2000)}`);
    await sleep(50);
  }
  const containerd = await startContainerd({
    ...options,
    configure: async (config) => {
      await appendFile(config, `[proxy_plugins.${name}]\n  type = "snapshot"\n  address = "${socket}"\n`);
      await options.configure?.(config);
    },
  });
  cleanup.defer(() => containerd.stop());
  return containerd;
}

/**
 * Absolute paths of the image's files that a start of it opens, in that order, as the optimizer sees them (fanotify).
 */
export async function filesOfStart(at: Repositories): Promise<string[]> {
  const cleanup = new Cleanup();
  try {
    const record = join(await cleanup.tempDir('record'), 'record.json');
    const containerd = await startContainerd();
    cleanup.defer(() => containerd.stop());
    const plain = `${at.registry}/${at.plain}:latest`;
    await containerd.ctr(['images', 'pull', '--plain-http', plain]);
    // It converts the image as well, and no one fetches the result: the cheapest compression will do.
    const options = [`--record-out=${record}`, `--period=${WATCH_S}`, '--estargz-compression-level=1'];
    await client(
      'ctr-remote',
      containerd,
      'images',
      'optimize',
      '--oci',
      ...options,
      plain,
      'recorded:latest',
    );
    const lines = (await readFile(record, 'utf8')).trim().split('\n');
    return lines.map((line) => `/${(JSON.parse(line) as { path: string }).path}`);
  } finally {
    await cleanup.run();
  }
}
