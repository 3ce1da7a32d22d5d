/**
 * Many engines start one image at once, with a fleet and without: each in a network namespace behind a link of its own, the
 * registry behind one, three nats-servers as a cluster. Needs root and some 450 MB of memory for each engine.
 *
 *     node ops/bench/fleet-start.ts [--nodes 5] [--rate 1G] [--size 24M] [--kill 5] [--no-plain] [--json FILE]
 *
 * Ways, each with an image of its own that no engine has:
 *
 *     alone          one node without a fleet, the others at rest
 *     no fleet       all nodes at once, without a fleet
 *     fleet          all nodes at once, with one
 *     fleet, faults  the same, and 300 ms after the beginning one server of NATS and `--kill` engines are killed
 *
 * `--no-plain` leaves out the first two. Says of each when the middle and the last node had mounted the image and read all of
 * it (with the right bytes), what the registry sent, in images, and the processor time of all that this program started: on a
 * machine of few cores that is what the time is bounded by, and `at least` is that time over the cores.
 */
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { toErrorRecord } from '../../schemas/errors.ts';
import { accountsText, newNodeUsers } from '../../src/bus/user-files.ts';
import { byteOption } from '../../src/cli/byte-option.ts';
import { unmount } from '../../src/kernel/mount.ts';
import { type FaultImage, pushImage } from '../../test/faults/fault-image.ts';
import { fleetOf, LIGHT } from '../../test/fleet/support.ts';
import { endEngine, type Engine, eventually, runCofa, startEngine } from '../../test/support/engine.ts';
import { startRegistry } from '../../test/support/registry-server.ts';
import { type NatsServer, startNats } from '../../test/support/services.ts';
import { Cleanup, mountsBelow } from '../../test/support/temp.ts';
import { type Links, type Machine, makeLinks } from './links.ts';
import { textTable } from './measure.ts';
import { parseRate } from './relay.ts';

const { values } = parseArgs({
  options: {
    nodes: { type: 'string', default: '5' },
    rate: { type: 'string', default: '1G' },
    size: { type: 'string', default: '24M' },
    kill: { type: 'string', default: '5' },
    plain: { type: 'boolean', default: true },
    json: { type: 'string' },
  },
  allowNegative: true,
});
const NODES = Number(values.nodes);
const KILL = Math.min(Number(values.kill), Math.floor(NODES / 3));
const SIZE = byteOption('--size')(values.size);
/** Engines that start at a time. */
const AT_ONCE = 3;
const FAULT_MS = 300;
/** A read that takes longer has failed. */
const LIMIT_MS = 180_000;
/** Of a log that is shown. */
const LOG_CHARS = 4_000;

const say = (line: string) => console.error(`fleet-start: ${line}`);

interface Node {
  name: string;
  machine: Machine;
  engine: Engine;
}

interface Row {
  way: string;
  nodes: number;
  /** That were killed. */
  killed: number;
  /** Mounts that were asked for again, since the log had no leader for longer than an engine waits. */
  again: number;
  /** s */
  median: number;
  last: number;
  /** Of the registry, in images. */
  images: number;
  /** Processor time, s; and that over the cores, s. */
  cpu: number;
  atLeast: number;
}

/** A group of the kernel that this program and all that it starts belong to. */
const GROUP = `/sys/fs/cgroup/cpuacct/cofa-fleet-start-${process.pid}`;

async function openGroup(cleanup: Cleanup): Promise<void> {
  await mkdir(GROUP);
  cleanup.defer(async () => {
    await writeFile('/sys/fs/cgroup/cpuacct/cgroup.procs', String(process.pid));
    // Of a process that has just ended the kernel may still know.
    await sleep(500);
    await rmdir(GROUP).catch(() => {});
  });
  await writeFile(join(GROUP, 'cgroup.procs'), String(process.pid));
}

/** Processor time of the engines, the registry, NATS and the readers, s. */
const cpuTime = async (): Promise<number> =>
  Number(await readFile(join(GROUP, 'cpuacct.usage'), 'utf8')) / 1e9;

/** SHA-256 of the image's files, in the order of their names. Errors: what `cat` says of a read that failed. */
async function readAll(dir: string, signal: AbortSignal): Promise<string> {
  const child = spawn('bash', ['-o', 'pipefail', '-c', `cat ${dir}/app/* | sha256sum`], {
    stdio: ['ignore', 'pipe', 'pipe'],
    signal,
  });
  let said = '';
  let errors = '';
  child.stdout.on('data', (bytes: Buffer) => (said += bytes.toString()));
  child.stderr.on('data', (bytes: Buffer) => (errors += bytes.toString()));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  if (code !== 0) throw new Error(`not all of ${dir} could be read: ${errors.trim()}`);
  return said.slice(0, 64);
}

async function main(): Promise<void> {
  const cleanup = new Cleanup();
  try {
    await openGroup(cleanup);
    await measure(cleanup);
  } finally {
    await cleanup.run();
  }
}

async function measure(cleanup: Cleanup): Promise<void> {
  const directory = await cleanup.tempDir('fleet-start');
  // Those of engines that were killed.
  cleanup.defer(async () => {
    for (const point of mountsBelow(directory).toReversed()) await unmount(point, { lazy: true });
  });
  const links = await makeLinks('cofafs', parseRate(values.rate));
  cleanup.defer(() => links.close());
  const registryMachine = await links.machine();
  const registry = await startRegistry({ at: registryMachine });
  cleanup.defer(() => registry.stop());
  const names = Array.from({ length: NODES }, (_, at) => `node-${at}`);
  const users = names.map(newNodeUsers);
  for (const one of users)
    await writeFile(join(directory, `${one.node}.json`), JSON.stringify(one), { mode: 0o600 });
  const servers = await startCluster(links, accountsText(users));
  cleanup.defer(() => Promise.all(servers.map((one) => one.stop())));
  const images = await makeImages(directory, registry.host);
  const machines: Machine[] = [];
  for (const _ of names) machines.push(await links.machine());

  const start = async (extra: string[]): Promise<Node[]> => {
    const nodes: Node[] = [];
    const left = names.map((name, at) => ({ name, at }));
    const lane = async () => {
      for (let next = left.shift(); next !== undefined; next = left.shift()) {
        const { name, at } = next;
        const machine = machines[at] as Machine;
        const args = [
          '--nats',
          (servers[at % 3] as NatsServer).url,
          '--nats-users',
          join(directory, `${name}.json`),
        ];
        args.push('--node', name, '--insecure-registry', registry.host, ...extra);
        const engine = await startEngine({ ...LIGHT, through: machine.through, args });
        nodes.push({ name, machine, engine });
        say(`${nodes.length} of ${NODES} engines run`);
      }
    };
    try {
      await Promise.all(Array.from({ length: AT_ONCE }, lane));
    } catch (error) {
      await stop(nodes);
      throw error;
    }
    return nodes;
  };
  const stop = async (nodes: Node[]) => void (await Promise.all(nodes.map(({ engine }) => engine.stop())));
  const rows: Row[] = [];
  const run = async (way: string, nodes: Node[], image: FaultImage & { sum: string }, kill = 0) => {
    rows.push(await startAll({ way, nodes, image, kill, directory, registryMachine, servers }));
    say(JSON.stringify(rows.at(-1)));
  };

  const plain = values.plain ? await start([]) : [];
  try {
    if (plain.length > 0) await run('alone', plain.slice(0, 1), images[0] as never);
    if (plain.length > 0) await run('no fleet', plain, images[1] as never);
  } finally {
    await stop(plain);
  }
  const fleet = await start(['--fleet', 'bench']);
  try {
    await eventually(
      'the members have met',
      async () => {
        const sizes = await Promise.all(
          fleet.map(async ({ engine }) => (await fleetOf(engine)).members.length),
        );
        return sizes.every((size) => size === NODES);
      },
      120_000,
    );
    await run('fleet', fleet, images[2] as never);
    await run('fleet, faults', fleet, images[3] as never, KILL);
    const asked = await Promise.all(
      fleet.slice(0, NODES - KILL).map(async ({ engine }) => (await fleetOf(engine)).asked),
    );
    say(`asked: ${JSON.stringify(asked)}`);
  } finally {
    await stop(fleet);
  }
  const seconds = (value: number) => value.toFixed(2);
  console.log(
    textTable([
      [
        'way',
        'nodes',
        'killed',
        'mounts asked again',
        'median s',
        'last s',
        'images sent',
        'processor s',
        'at least s',
      ],
      ...rows.map((row) => [
        row.way,
        String(row.nodes),
        String(row.killed),
        String(row.again),
        ...[row.median, row.last, row.images, row.cpu, row.atLeast].map(seconds),
      ]),
    ]),
  );
  const machine = { kernel: (await readFile('/proc/sys/kernel/osrelease', 'utf8')).trim(), cores: CORES };
  if (values.json !== undefined)
    await writeFile(
      values.json,
      `${JSON.stringify({ machine, rate: values.rate, size: SIZE, rows }, undefined, 2)}\n`,
    );
}

const CORES = availableParallelism();

async function startCluster(links: Links, accounts: string): Promise<NatsServer[]> {
  const port = (at: number) => 14_222 + at;
  const routes = [0, 1, 2].map((at) => `"nats-route://${links.address}:${port(at) + 100}"`).join(', ');
  return await Promise.all(
    [0, 1, 2].map((at) =>
      startNats({
        address: links.address,
        port: port(at),
        config: `${accounts}
server_name: bench-${at}
max_payload: 8MB
cluster { name: bench, listen: "${links.address}:${port(at) + 100}", routes: [${routes}] }
`,
      }),
    ),
  );
}

/** Four images of the same size: some files of bytes that nothing compresses, and their sum. */
async function makeImages(directory: string, host: string): Promise<Array<FaultImage & { sum: string }>> {
  const images: Array<FaultImage & { sum: string }> = [];
  for (let at = 0; at < 4; at++) {
    const files = Array.from(
      { length: 24 },
      (_, file) => [`app/file-${String(file).padStart(2, '0')}`, randomBytes(Math.floor(SIZE / 24))] as const,
    );
    const image = await pushImage(join(directory, `image-${at}`), host, `image-${at}`, [
      Object.fromEntries(files),
    ]);
    const { code, stderr } = await runCofa(['index', '--insecure-registry', host, image.ref]);
    if (code !== 0) throw new Error(`the image is not indexed: ${stderr}`);
    const hash = createHash('sha256');
    for (const [, bytes] of files) hash.update(bytes);
    images.push({ ...image, sum: hash.digest('hex') });
  }
  return images;
}

/** As a kubelet does: a mount that fails since NATS is in trouble is asked for again. */
async function mounted(
  { client }: Engine,
  request: { ref: string; dir: string; prefetch: boolean },
  onAgain: () => void,
): Promise<void> {
  for (const end = performance.now() + LIMIT_MS; ; onAgain())
    try {
      return void (await client.call('mount', request, { timeoutMs: LIMIT_MS }));
    } catch (error) {
      const isLate = performance.now() > end;
      if (isLate || !['unavailable', 'timeout'].includes(toErrorRecord(error).code)) throw error;
      await sleep(1_000);
    }
}

async function startAll(given: {
  way: string;
  nodes: Node[];
  image: FaultImage & { sum: string };
  kill: number;
  directory: string;
  registryMachine: Machine;
  servers: NatsServer[];
}): Promise<Row> {
  const { way, nodes, image, kill, directory, registryMachine, servers } = given;
  const stays = nodes.slice(0, nodes.length - kill);
  const [before, cpuBefore, begun] = [await registryMachine.counters(), await cpuTime(), performance.now()];
  const times: number[] = [];
  let again = 0;
  const start = async ({ name, engine }: Node, isDoomed: boolean) => {
    const dir = join(directory, 'mounts', `${way.replaceAll(/\W+/g, '-')}-${name}`);
    await mkdir(dir, { recursive: true });
    try {
      await mounted(engine, { ref: image.ref, dir, prefetch: false }, () => (again += 1));
      const sum = await readAll(dir, AbortSignal.timeout(LIMIT_MS));
      if (sum !== image.sum) throw new Error(`${name} has read wrong bytes`);
      times.push((performance.now() - begun) / 1000);
    } catch (error) {
      // What a killed engine's reader gets is an error, and never a wrong byte.
      if (isDoomed) return;
      for (const log of ['supervisor', 'front-end', 'fetcher-0', 'fleet'])
        say(`${name}, the end of the log of ${log}:\n${engine.log(log).slice(-LOG_CHARS)}`);
      throw error;
    }
  };
  const fault = async () => {
    if (kill === 0) return;
    await sleep(FAULT_MS);
    say(`a server of NATS and ${kill} engines are killed`);
    process.kill((servers[2] as NatsServer).pid, 'SIGKILL');
    const doomed = nodes.slice(nodes.length - kill).map(({ engine }) => engine);
    // First the supervisors, which would start the others again.
    for (const { pid } of doomed) process.kill(pid, 'SIGKILL');
    await Promise.all(doomed.map(({ root }) => endEngine(root)));
  };
  const results = await Promise.allSettled([
    ...stays.map((node) => start(node, false)),
    ...nodes.slice(nodes.length - kill).map((node) => start(node, true)),
    fault(),
  ]);
  for (const result of results) if (result.status === 'rejected') throw result.reason;
  const sorted = times.toSorted((a, b) => a - b);
  const cpu = (await cpuTime()) - cpuBefore;
  return {
    way,
    nodes: nodes.length,
    killed: kill,
    again,
    median: sorted[sorted.length >> 1] ?? Number.NaN,
    last: sorted.at(-1) ?? Number.NaN,
    images: ((await registryMachine.counters()).sent - before.sent) / (image.blobs[0]?.size ?? 1),
    cpu,
    atLeast: cpu / CORES,
  };
}

await main();
