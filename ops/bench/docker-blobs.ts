/**
 * What it costs docker that layers of a lazy image stay in the registry: seconds, bytes from the registry, and bytes on the disk
 * as blobs, while it saves the image, pushes it to another registry or exports it; and with `cofa pull --layers`, which keeps
 * them. The image is whole on the node before, so that no other fetch is counted. Blobs are what containerd has as files, and what
 * cofa's snapshotter has for a reader, in files without a name.
 *
 *     node ops/bench/docker-blobs.ts [--image java] [--rate 1G] [--rtt 5]
 */
import { readdir, readlink, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { untilAnswered } from '../../src/cli/service.ts';
import { startRegistry } from '../../test/support/registry-server.ts';
import { startContainerd, startDockerd } from '../../test/support/services.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { realImage } from '../images/debian.ts';
import { NEWER_DOCKER, unpackedDebs } from '../images/debs.ts';
import { layoutLayers, pushLayout } from '../images/layout.ts';
import { programOptions } from '../program-options.ts';
import { COFA, dropCaches, textTable, timed } from './measure.ts';
import { parseRate, startRelay } from './relay.ts';
import { type Cofa, untilWhole } from './ways.ts';

const { values } = programOptions(import.meta.filename, {
  options: {
    image: { type: 'string', default: 'java' },
    rate: { type: 'string', default: '1G' },
    rtt: { type: 'string', default: '5' },
  },
});
/** An unread blob is given up after a minute, and looked at now and then. */
const GIVEN_UP_MS = 90_000;
const LOOK_MS = 100;
const DISK_BLOCK = 512;
const say = (line: string) => console.error(`docker-blobs: ${line}`);
const mb = (bytes: number) => (bytes / 1e6).toFixed(1);

/** Bytes on the disk of the regular files below a folder. */
async function sizeOf(folder: string): Promise<number> {
  const names = await readdir(folder, { withFileTypes: true, recursive: true }).catch(() => []);
  const sizes = names
    .filter((one) => one.isFile())
    .map(async (one) => (await stat(join(one.parentPath, one.name)).catch(() => undefined))?.blocks ?? 0);
  return (await Promise.all(sizes)).reduce((sum, blocks) => sum + blocks * DISK_BLOCK, 0);
}

/** Bytes on the disk of files without a name that a process has open. */
async function namelessOf(pid: number): Promise<number> {
  const folder = `/proc/${pid}/fd`;
  const sizes = new Map<string, number>();
  for (const fd of await readdir(folder).catch(() => [])) {
    const target = await readlink(join(folder, fd)).catch(() => '');
    if (!target.startsWith('/') || !target.endsWith(' (deleted)')) continue;
    const { dev, ino, blocks } = (await stat(join(folder, fd)).catch(() => undefined)) ?? {};
    // A file may have two descriptors.
    if (blocks !== undefined) sizes.set(`${dev}:${ino}`, blocks * DISK_BLOCK);
  }
  return [...sizes.values()].reduce((sum, size) => sum + size, 0);
}

const cleanup = new Cleanup();
for (const signal of ['SIGTERM', 'SIGINT'] as const)
  process.once(signal, () => void cleanup.run().finally(() => process.exit(1)));
try {
  const { path } = await unpackedDebs(NEWER_DOCKER, { onProgress: say });
  const layout = await realImage(values.image, { onProgress: say });
  const layers = await layoutLayers(layout);
  const [registry, other] = [await startRegistry(), await startRegistry()];
  for (const one of [registry, other]) cleanup.defer(() => one.stop());
  const to = { host: '127.0.0.1', port: registry.port };
  const relay = await startRelay({ to, rttMs: Number(values.rtt), rate: parseRate(values.rate) });
  cleanup.defer(() => relay.stop());
  const ref = `${relay.host}/${values.image}:latest`;
  await pushLayout(layout, registry.host, values.image, 'latest');
  await timed(COFA, ['index', `${registry.host}/${values.image}:latest`]);

  const directory = await cleanup.tempDir('ctrd');
  const [work, root] = [await cleanup.tempDir('docker'), await cleanup.tempDir('bench')];
  const socket = join(directory, 'c.sock');
  const cofa: Cofa = (...args) => timed(COFA, ['--root', root, ...args], { PATH: path });
  await cofa('up', '--snapshotter', '--trust', 'registry', '--containerd', socket, '--no-rehearsal');
  cleanup.defer(() => timed(COFA, ['--root', root, 'down', '--force'], {}, { cleansUp: true }));
  await untilAnswered(join(root, 'run/snapshotter.sock'), 60_000);
  let config = '';
  const install = (...args: string[]) => cofa('install', 'docker', '--no-unit', ...args);
  const containerd = await startContainerd({
    path,
    directory,
    configure: async (file) => {
      config = file;
      await install('--containerd-config', file, '--daemon-json', join(work, 'none.json'));
    },
  });
  cleanup.defer(() => containerd.stop());
  const dockerd = await startDockerd({
    path,
    containerd,
    configure: async (file) => void (await install('--containerd-config', config, '--daemon-json', file)),
  });
  cleanup.defer(() => dockerd.stop());
  const docker = (...args: string[]) => dockerd.docker(args, { timeoutMs: 600_000 });
  const status = JSON.parse((await cofa('status', '--json')).output) as {
    processes: Array<{ role: string; pid: number }>;
  };
  const { pid = 0 } = status.processes.find(({ role }) => role === 'snapshotter') ?? {};
  const content = join(directory, 'root/io.containerd.content.v1.content/blobs');
  const onDisk = async () => (await sizeOf(content)) + (await namelessOf(pid));

  const rows = [
    [
      `${values.image}, ${mb(layers.reduce((sum, { size }) => sum + size, 0))} MB`,
      's',
      'MB fetched',
      'MB of blobs, most',
      'MB of blobs, after',
    ],
  ];
  async function measured(name: string, call: () => Promise<unknown>, quietMs = GIVEN_UP_MS): Promise<void> {
    await dropCaches();
    const came = relay.counters().toClient;
    let most = await onDisk();
    const began = performance.now();
    let ended = 0;
    const done = call().finally(() => (ended = performance.now()));
    done.catch(() => {});
    while (ended === 0) {
      most = Math.max(most, await onDisk());
      await sleep(LOOK_MS);
    }
    await done;
    most = Math.max(most, await onDisk());
    const fetched = relay.counters().toClient - came;
    if (quietMs > 0) await sleep(quietMs);
    const row = [name, ((ended - began) / 1000).toFixed(2), mb(fetched), mb(most), mb(await onDisk())];
    say(row.join('; '));
    rows.push(row);
  }

  await measured('docker pull', () => docker('pull', '--quiet', ref), 0);
  // What is mounted becomes whole.
  await docker('run', '--detach', '--name', 'whole', '--network=host', '--entrypoint', 'sleep', ref, '600');
  await untilWhole(cofa, { limitMs: 240_000 });
  await docker('rm', '--force', 'whole');
  const elsewhere = `${other.host}/${values.image}:latest`;
  await docker('tag', ref, elsewhere);
  const save = () => docker('save', '--output', join(work, 'saved.tar'), ref);
  await measured('docker save', save, 0);
  await measured('docker save, at once again', save);
  await measured('docker push to another registry', () => docker('push', '--quiet', elsewhere));
  const exported = ['images', 'export', join(work, 'exported.tar'), ref];
  await measured('ctr images export', () => containerd.ctr(['--namespace', 'moby', ...exported]));
  const pull = ['pull', '--address', socket, '--namespace', 'moby', '--layers', ref];
  await measured('cofa pull --layers', () => cofa(...pull), 0);
  await measured('docker save after it', save, 0);
  console.log(textTable(rows));
} finally {
  await cleanup.run();
}
