/**
 * What readers see while something around the engine is broken: real docker-registry and nats-server behind relays that
 * cut, slow down, silence or spoil what passes; and a full disk. For each fault this mounts a fresh image, begins many
 * reads of absent blocks at once, and heals the fault after a while. The table says how the reads ended, how long the
 * slowest one took, what `status` said, and how long it took until everything could be read again. Root and NATS have
 * small disks of their own, which the cases fill. For the case in which the registry's name is unknown, the mount
 * namespace has an /etc/hosts of its own.
 *
 *     engine ── relay (TCP) ── proxy (HTTP) ── docker-registry          engine ── relay (TCP) ── nats-server
 *
 *     node ops/bench/faults.ts [--deadline 20] [--reads 400] [--lasts 8] [--only WORD] [--json FILE]
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmdirSync, writeFileSync } from 'node:fs';
import { rm, statfs, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Status } from '../../schemas/api.ts';
import { type FaultImage, pushImage, twoLayers } from '../../test/faults/fault-image.ts';
import { type Engine, mountImage, startEngine } from '../../test/support/engine.ts';
import { type ManyReads, readAtOnce } from '../../test/support/many-reads.ts';
import { readInParallel } from '../../test/support/readers.ts';
import { type RegistryServer, startRegistry } from '../../test/support/registry-server.ts';
import { type NatsServer, runCommand, startNats } from '../../test/support/services.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { programOptions } from '../program-options.ts';
import { type FaultProxy, startFaultProxy } from './fault-proxy.ts';
import { type Relay, startRelay } from './relay.ts';

/** Everything that a fault may break. */
export interface Scene {
  directory: string;
  engine: Engine;
  registry: RegistryServer;
  proxy: FaultProxy;
  relay: Relay;
  nats: NatsServer;
  natsRelay: Relay;
  disk: SmallDisk;
  natsDisk: SmallDisk;
}

/** A small file system for one folder. */
interface SmallDisk {
  folder: string;
  fill(): Promise<void>;
  empty(): Promise<void>;
}

export interface FaultCase {
  name: string;
  /**
   * `passes`: the engine serves every read although something is broken. `fails`: reads that cannot be served end with
   * EIO.
   */
  readers: 'passes' | 'fails';
  begin(scene: Scene): void | Promise<void>;
  end(scene: Scene): void | Promise<void>;
  /** Heal only after the readers have ended. */
  isLong?: boolean;
  /** The engine uses the registry's name, which only an /etc/hosts of our own knows. */
  byName?: boolean;
}

export interface FaultResult {
  name: string;
  readers: FaultCase['readers'];
  reads: ManyReads;
  /** What `status` said while the fault lasted. */
  degraded: string[];
  /** Resident memory of the front end at that moment. */
  rssBytes: number;
  /** After it was healed: ms until every byte of the image was read right. */
  againMs: number;
}

const tcp = (
  name: string,
  readers: FaultCase['readers'],
  fault: Parameters<Relay['fail']>[0],
): FaultCase => ({
  name,
  readers,
  begin: ({ relay }) => relay.fail(fault),
  end: ({ relay }) => relay.heal(),
});
const http = (
  name: string,
  readers: FaultCase['readers'],
  fault: Parameters<FaultProxy['fail']>[0],
): FaultCase => ({
  name,
  readers,
  begin: ({ proxy }) => proxy.fail(fault),
  end: ({ proxy }) => proxy.heal(),
});
const bus = (name: string, fault: Parameters<Relay['fail']>[0]): FaultCase => ({
  name,
  readers: 'passes',
  begin: ({ natsRelay }) => natsRelay.fail(fault),
  end: ({ natsRelay }) => natsRelay.heal(),
});
const long = (one: FaultCase): FaultCase => ({
  ...one,
  name: `${one.name}, for long`,
  readers: 'fails',
  isLong: true,
});

const dead = tcp('registry: connections are reset', 'passes', { kind: 'reset' });
const silent = tcp('registry: silent', 'passes', { kind: 'stall' });
const errors = http('registry: 500', 'passes', { kind: 'status', status: 500 });

export const FAULT_CASES: readonly FaultCase[] = [
  dead,
  long(dead),
  silent,
  long(silent),
  {
    name: 'registry: connections are refused',
    readers: 'passes',
    begin: ({ relay }) => relay.stop(),
    end: async (scene) => {
      scene.relay = await registryRelay(scene.proxy, scene.relay.port);
    },
  },
  http('registry: 60 kB a second for each request', 'passes', { kind: 'slow', bytesPerS: 60_000 }),
  tcp('registry: a second away', 'passes', { kind: 'delay', rttMs: 1_000 }),
  tcp('registry: each connection cut after 200 kB', 'passes', { kind: 'cut', afterBytes: 200_000 }),
  errors,
  long(errors),
  http('registry: 429, Retry-After 1 s', 'passes', { kind: 'status', status: 429, retryAfterS: 1 }),
  http('registry: tokens expire every 0.3 s', 'passes', { kind: 'expire', lifeMs: 300 }),
  http('registry: redirects good for 0.3 s', 'passes', { kind: 'redirect', lifeMs: 300 }),
  http('registry: bodies end half way', 'passes', { kind: 'short' }),
  // A read does not wait for a block with wrong bytes: the bytes have arrived, and they are wrong.
  http('registry: a wrong byte in each answer', 'fails', { kind: 'flip' }),
  {
    name: 'registry: its name is not known (DNS)',
    readers: 'passes',
    byName: true,
    begin: async ({ relay }) => {
      await writeFile('/etc/hosts', HOSTS);
      relay.fail({ kind: 'reset' });
      relay.heal();
    },
    end: () => writeFile('/etc/hosts', `${HOSTS}127.0.0.1 ${REGISTRY_NAME}\n`),
  },
  {
    name: 'node: its disk is full',
    readers: 'passes',
    begin: ({ disk }) => disk.fill(),
    end: ({ disk }) => disk.empty(),
  },
  bus('NATS: connections are reset', { kind: 'reset' }),
  bus('NATS: half a second away', { kind: 'delay', rttMs: 500 }),
  bus('NATS: silent', { kind: 'stall' }),
  {
    name: 'NATS: nats-server stopped (SIGSTOP)',
    readers: 'passes',
    begin: ({ nats }) => void process.kill(nats.pid, 'SIGSTOP'),
    end: ({ nats }) => void process.kill(nats.pid, 'SIGCONT'),
  },
  {
    name: 'NATS: nats-server killed, started again',
    readers: 'passes',
    begin: ({ nats }) => nats.stop(),
    end: restartNats,
  },
  {
    // nats-server takes no more events afterwards, also with room, until it is started again (seen with 2.9.10).
    name: 'NATS: its disk is full, then a restart',
    readers: 'passes',
    begin: ({ natsDisk }) => natsDisk.fill(),
    end: async (scene) => {
      await scene.natsDisk.empty();
      await scene.nats.stop();
      await restartNats(scene);
    },
  },
  {
    name: 'every fetcher stopped (SIGSTOP)',
    readers: 'passes',
    begin: async ({ engine }) => signalFetchers(engine, 'SIGSTOP'),
    end: async ({ engine }) => signalFetchers(engine, 'SIGCONT'),
  },
];

/** Looks at the status while a fault lasts. */
const STATUS_TRIES = 10;
const REGISTRY_NAME = 'registry.cofa.test';
const HOSTS = '127.0.0.1 localhost\n';

async function restartNats(scene: Scene): Promise<void> {
  const { natsDisk, nats } = scene;
  scene.nats = await startNats({ store: natsDisk.folder, port: Number(new URL(nats.url).port) });
}

async function signalFetchers(engine: Engine, signal: NodeJS.Signals): Promise<void> {
  for (const { role, pid } of (await engine.status()).processes)
    if (role === 'fetcher') process.kill(pid, signal);
}

/** Registry, NATS, relays and an engine; taken down by `cleanup`. */
export async function setScene(cleanup: Cleanup, options: { readDeadlineMs: number }): Promise<Scene> {
  const directory = await cleanup.tempDir('faults');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const proxy = await startFaultProxy(registry.port);
  cleanup.defer(() => proxy.stop());
  const relay = await registryRelay(proxy, 0);
  const disk = await smallDisk(cleanup, directory, 'disk', 1024);
  const natsDisk = await smallDisk(cleanup, directory, 'nats', 4096);
  const nats = await startNats({ store: natsDisk.folder });
  const natsRelay = await startRelay({ to: { host: '127.0.0.1', port: Number(new URL(nats.url).port) } });
  const scene: Omit<Scene, 'engine'> = { directory, registry, proxy, relay, nats, natsRelay, disk, natsDisk };
  cleanup.defer(() => scene.nats.stop());
  cleanup.defer(() => natsRelay.stop());
  const named = ['--insecure-registry', `${REGISTRY_NAME}:${relay.port}`];
  const args = ['--nats', `nats://${natsRelay.host}`, '--node', 'faults', ...named];
  const root = join(disk.folder, 'root');
  mkdirSync(root);
  const engine = await startEngine({ root, workers: 2, readDeadlineMs: options.readDeadlineMs, args });
  cleanup.defer(() => engine.stop());
  cleanup.defer(() => scene.relay.stop());
  return Object.assign(scene, { engine });
}

async function smallDisk(
  cleanup: Cleanup,
  directory: string,
  name: string,
  megabytes: number,
): Promise<SmallDisk> {
  const folder = join(directory, name);
  const file = `${folder}.img`;
  mkdirSync(folder);
  await writeFile(file, '');
  await truncate(file, megabytes * 2 ** 20);
  await runCommand('mkfs.ext4', ['-q', '-m', '0', '-F', file]);
  await runCommand('mount', ['-o', 'loop', file, folder]);
  cleanup.defer(() => runCommand('umount', ['--', folder]));
  const ballast = join(folder, 'ballast');
  return {
    folder,
    fill: async () => {
      const { bavail, bsize } = await statfs(folder);
      // dd fails when the disk is full; the rest is filled block by block.
      const script = 'fallocate -l "$1" "$0"; dd if=/dev/zero bs=4K >>"$0"; true';
      await runCommand('sh', ['-c', script, ballast, String(bavail * bsize)]);
    },
    empty: () => rm(ballast, { force: true }),
  };
}

/** Slow enough that a fault falls into the midst of reads. */
const registryRelay = (proxy: FaultProxy, listen: number): Promise<Relay> =>
  startRelay({ to: { host: '127.0.0.1', port: proxy.port }, rate: 100e6, rttMs: 5, listen });

let images = 0;

/** An image of its own, prepared and mounted, with all blocks absent. `host`: where the registry is reached. */
export async function mountFresh(
  { engine, registry, directory }: Scene,
  host: string,
): Promise<{ image: FaultImage; dir: string }> {
  const number = ++images;
  const name = `case-${number}`;
  const image = await pushImage(join(directory, name), registry.host, name, twoLayers(60_000 + 100 * number));
  image.ref = image.ref.replace(registry.host, host);
  const indexed = await engine.cli(['index', '--insecure-registry', host, image.ref]);
  if (indexed.code !== 0) throw new Error(`index failed: ${indexed.stderr}`);
  const dir = join(directory, `mnt-${number}`);
  await mountImage(engine, image.ref, dir);
  return { image, dir };
}

/** `status` names a fault that readers notice within a second: fetches are repeated before one has failed. */
async function statusWhile(
  engine: Engine,
  fault: FaultCase,
): Promise<Pick<Status, 'degraded' | 'processes'>> {
  for (let tries = 1; ; tries++) {
    const { stdout } = await engine.cli(['status', '--json']);
    const status = JSON.parse(stdout) as Pick<Status, 'degraded' | 'processes'>;
    if (fault.readers !== 'fails' || status.degraded.length > 0 || tries === STATUS_TRIES) return status;
    await sleep(100);
  }
}

/**
 * Runs one case on a fresh image. `lastsMs`: how long the fault lasts; `answers`: it lasts at least until so many
 * answers of the registry were spoilt.
 */
export async function runFault(
  scene: Scene,
  fault: FaultCase,
  options: { reads: number; lastsMs: number; answers?: number },
): Promise<FaultResult> {
  const { engine } = scene;
  const host = fault.byName === true ? `${REGISTRY_NAME}:${scene.relay.port}` : scene.relay.host;
  if (fault.byName === true) await fault.end(scene);
  const { image, dir } = await mountFresh(scene, host);
  const truth = image.expected.root;
  let isBroken = true;
  const heal = async () => {
    if (isBroken) await fault.end(scene);
    isBroken = false;
  };
  try {
    await fault.begin(scene);
    const reading = readAtOnce({ root: dir, truth, names: FILES, count: options.reads, timeoutMs: 300_000 });
    if (fault.isLong === true) await reading;
    else await untilEnough(scene, options);
    const { degraded, processes } = await statusWhile(engine, fault);
    const rssBytes = processes.find(({ role }) => role === 'front-end')?.rssBytes ?? 0;
    await heal();
    const reads = await reading;
    const againMs = await untilRead(dir, image);
    await unmount(engine, dir);
    return { name: fault.name, readers: fault.readers, reads, degraded, rssBytes, againMs };
  } finally {
    await heal();
  }
}

async function untilEnough(scene: Scene, { lastsMs, answers = 0 }: { lastsMs: number; answers?: number }) {
  await sleep(lastsMs);
  for (const end = performance.now() + PATIENCE_MS; scene.proxy.faults() < answers; await sleep(20)) {
    if (performance.now() > end) throw new Error('the fault met no request');
  }
}

export const FILES = ['app/prose', 'app/noise', 'lib/prose', 'lib/noise'];
const PATIENCE_MS = 90_000;

async function untilRead(dir: string, image: FaultImage): Promise<number> {
  const started = performance.now();
  for (;;) {
    const { failures } = await readInParallel({ root: dir, expected: image.expected, readers: 8, copies: 1 });
    const ms = Math.round(performance.now() - started);
    if (failures.length === 0) return ms;
    if (ms > PATIENCE_MS) throw new Error(`reads still fail ${ms} ms after the fault: ${failures[0]}`);
    await sleep(200);
  }
}

async function unmount(engine: Engine, dir: string): Promise<void> {
  for (let tries = 1; ; tries++) {
    const result = await engine.cli(['unmount', dir]);
    if (result.code === 0) return;
    if (tries === 20) throw new Error(`unmount failed: ${result.stderr}`);
    await sleep(500);
  }
}

/** A Markdown table. */
export function faultTable(results: readonly FaultResult[]): string {
  const seconds = (ms: number) => `${(ms / 1000).toFixed(1)} s`;
  const rows = results.map(({ name, reads, againMs, degraded, rssBytes }) => {
    const { ok = 0, EIO = 0, ...other } = reads.outcomes;
    const rest = Object.entries(other).map(([word, count]) => `${count} ${word}`);
    const said = (degraded[0] ?? '').replaceAll('|', ' ').slice(0, 90);
    const cells = [
      name,
      ok,
      EIO,
      rest.join(', ') || 0,
      seconds(reads.medianMs),
      seconds(reads.worstMs),
      seconds(againMs),
      `${Math.round(rssBytes / 1e6)} MB`,
      said,
    ];
    return `| ${cells.join(' | ')} |`;
  });
  const head = [
    'fault',
    'served',
    'EIO',
    'other',
    'median',
    'slowest',
    'all right again',
    'front end',
    'status',
  ];
  return [`| ${head.join(' | ')} |`, `| ${head.map(() => '---').join(' | ')} |`, ...rows].join('\n');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.env.COFA_OWN_HOSTS === undefined) inNamespace();
  else await main();
}

/** Runs this program again in a namespace with an /etc/hosts of its own. Mounts and loops end with the namespace. */
function inNamespace(): void {
  const script =
    'mount -t tmpfs cofa "$0" && : >"$0/hosts" && mount --bind "$0/hosts" /etc/hosts && exec "$@"';
  const place = mkdtempSync(join(tmpdir(), 'cofa-hosts-'));
  const again = [process.execPath, ...process.argv.slice(1)];
  try {
    execFileSync('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', script, place, ...again], {
      stdio: 'inherit',
      env: { ...process.env, COFA_OWN_HOSTS: '1' },
    });
  } catch (error) {
    process.exitCode = (error as { status?: number | null }).status ?? 1;
  } finally {
    rmdirSync(place);
  }
}

async function main(): Promise<void> {
  const { values } = programOptions(import.meta.filename, {
    options: {
      deadline: { type: 'string', default: '20' },
      reads: { type: 'string', default: '400' },
      lasts: { type: 'string', default: '8' },
      only: { type: 'string', default: '' },
      json: { type: 'string' },
    },
  });
  const cleanup = new Cleanup();
  const results: FaultResult[] = [];
  try {
    const scene = await setScene(cleanup, { readDeadlineMs: Number(values.deadline) * 1000 });
    for (const fault of FAULT_CASES.filter(({ name }) => name.includes(values.only))) {
      console.error(fault.name);
      results.push(
        await runFault(scene, fault, { reads: Number(values.reads), lastsMs: Number(values.lasts) * 1000 }),
      );
      console.error(JSON.stringify(results.at(-1)));
    }
  } finally {
    await cleanup.run();
  }
  console.log(faultTable(results));
  if (values.json !== undefined) writeFileSync(values.json, JSON.stringify(results, null, 1));
}
