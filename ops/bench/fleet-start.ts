/**
 * Many nodes start one image at once, with a fleet, without, and by containerd's pull: each in a network namespace behind a
 * link of its own, the registry behind one, three nats-servers as a cluster. Engines have rehearsed, as those that are up
 * have. Needs root, some 450 MB of memory for each engine, and 100 MB for each containerd.
 *
 *     node ops/bench/fleet-start.ts [--nodes 5] [--rate 1G] [--size 24M] [--kill 5] [--ways 'fleet; containerd'] [--json FILE]
 *
 * Ways, each with an image of its own that no node has:
 *
 *     alone               one engine without a fleet, the others at rest
 *     no fleet            all engines at once, without a fleet
 *     fleet               all engines at once, with one
 *     fleet, faults       the same, and 300 ms after the beginning one server of NATS and `--kill` engines are killed
 *     containerd, alone   one containerd, the others at rest
 *     containerd          all at once: `ctr images pull`, which unpacks, and `ctr images mount`
 *
 * containerd is a current, tuned one where Go can build it (current-containerd.ts), else, and with `--no-tuned`, Debian's.
 *
 * Says of each when the middle and the last node had mounted the image and read all of it (with the right bytes), what the
 * registry sent, in images, and the processor time of all that this program started: on a machine of few cores that is what
 * the time is bounded by, and `at least` is that time over the cores. A node that fails is counted, and makes the exit code 1;
 * wrong bytes end all of it. Ctrl-C and timeout(1) end it as the last way does: nothing stays.
 */
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { accountsText, newNodeUsers } from '../../src/bus/user-files.ts';
import { byteOption } from '../../src/cli/byte-option.ts';
import { pushImage } from '../../test/faults/fault-image.ts';
import { fleetOf } from '../../test/fleet/support.ts';
import { eventually, runCofa } from '../../test/support/engine.ts';
import { startRegistry } from '../../test/support/registry-server.ts';
import {
  type ContainerdOptions,
  type NatsServer,
  runCommand,
  startNats,
} from '../../test/support/services.ts';
import { Cleanup, mountsBelow } from '../../test/support/temp.ts';
import { programOptions } from '../program-options.ts';
import { TUNED_NAME, tunedContainerd } from './current-containerd.ts';
import { byProcess, engineTime, timeBetween } from './engine-time.ts';
import {
  allOf,
  containerdNode,
  type EngineNode,
  engineNode,
  type Node,
  startNodes,
  stopNodes,
} from './fleet-nodes.ts';
import { interruption } from './interruption.ts';
import { type Links, type Machine, makeLinks } from './links.ts';
import { textTable } from './measure.ts';
import { parseRate } from './relay.ts';
import { joinTimeGroup, untilCalm } from './time-group.ts';
import { CONTAINERD } from './ways.ts';

const WAYS = ['alone', 'no fleet', 'fleet', 'fleet, faults', 'containerd, alone', 'containerd'] as const;
type Way = (typeof WAYS)[number];

const { values } = programOptions(import.meta.filename, {
  options: {
    nodes: { type: 'string', default: '5' },
    rate: { type: 'string', default: '1G' },
    size: { type: 'string', default: '24M' },
    kill: { type: 'string', default: '5' },
    ways: { type: 'string', default: WAYS.join('; ') },
    tuned: { type: 'boolean', default: true },
    json: { type: 'string' },
  },
  allowNegative: true,
});
const NODES = Number(values.nodes);
const KILL = Math.min(Number(values.kill), Math.floor(NODES / 3));
const SIZE = byteOption('--size')(values.size);
const CHOSEN = values.ways.split(';').map((name) => wayOf(name.trim()));
const CORES = availableParallelism();
const FAULT_MS = 300;
/** Thirty engines rehearse for some minutes on two cores. */
const CALM_LIMIT_MS = 400_000;
/** A mount or a read that takes longer has failed. */
const LIMIT_MS = 180_000;

const say = (line: string) => console.error(`fleet-start: ${line}`);
const interrupted = interruption(say);

interface Row {
  way: string;
  nodes: number;
  /** That were killed. */
  killed: number;
  /** Of the others, those whose mount or read failed. */
  failed: number;
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
  /** Processor time of all engines by process, s; what is left of `cpu` are NATS, the registry, the readers and the links. */
  byProcess: Record<string, number>;
}

interface Image {
  ref: string;
  /** Compressed, bytes. */
  size: number;
  /** SHA-256 of its files, in the order of their names. */
  sum: string;
}

/** What all ways share. */
interface Place {
  directory: string;
  links: Links;
  /** Of the nodes. */
  machines: Machine[];
  registryMachine: Machine;
  registry: string;
  images: ReadonlyMap<Way, Image>;
  /** Of the nodes, the registry, NATS and the readers, s. */
  cpuTime(): Promise<number>;
  rows: Row[];
}

function wayOf(name: string): Way {
  const way = WAYS.find((one) => one === name);
  if (way === undefined) throw new Error(`--ways: ${name} is none of: ${WAYS.join('; ')}`);
  return way;
}

async function main(): Promise<void> {
  const cleanup = new Cleanup();
  const failures: unknown[] = [];
  const note = (error: unknown) => void failures.push(error);
  await measure(cleanup)
    // What fails since this program is to end is no news.
    .catch((error: unknown) => (interrupted.aborted ? undefined : note(error)));
  await cleanup.run().catch(note);
  for (const failure of failures) console.error(failure);
  if (failures.length > 0) process.exitCode = 1;
}

async function measure(cleanup: Cleanup): Promise<void> {
  const containerd = CHOSEN.some(isOfContainerd) ? await chosenContainerd() : undefined;
  const group = await joinTimeGroup(`cofa-fleet-start-${process.pid}`);
  cleanup.defer(() => group.leave());
  const directory = await cleanup.tempDir('fleet-start');
  // Mounts of engines that were killed.
  cleanup.defer(async () => {
    for (const point of mountsBelow(directory).toReversed()) await runCommand('umount', ['-l', '--', point]);
  });
  const links = await makeLinks('cofafs', parseRate(values.rate));
  cleanup.defer(() => links.close());
  say(`the machines are ${links.name}-2 and further`);
  const registryMachine = await links.machine();
  const registry = await startRegistry({ at: registryMachine });
  cleanup.defer(() => registry.stop());
  const machines: Machine[] = [];
  while (machines.length < NODES) {
    interrupted.throwIfAborted();
    machines.push(await links.machine());
  }
  const images = await makeImages(directory, registry.host);
  const rows: Row[] = [];
  const shared = { directory, links, machines, registryMachine, registry: registry.host, images, rows };
  const place: Place = { ...shared, cpuTime: group.seconds };
  try {
    if (CHOSEN.some((way) => !isOfContainerd(way))) await measureEngines(place, cleanup);
    if (containerd !== undefined) await measureContainerd(place, containerd);
  } finally {
    await publish(rows);
  }
}

const isOfContainerd = (way: Way): boolean => way.startsWith('containerd');

async function chosenContainerd(): Promise<{ name: string; options: ContainerdOptions }> {
  const options = values.tuned ? await tunedContainerd(say) : undefined;
  return options === undefined ? { name: CONTAINERD.name, options: {} } : { name: TUNED_NAME, options };
}

async function measureEngines(place: Place, cleanup: Cleanup): Promise<void> {
  const { directory, machines } = place;
  const users = machines.map((_, at) => newNodeUsers(`node-${at}`));
  for (const one of users)
    await writeFile(join(directory, `${one.node}.json`), JSON.stringify(one), { mode: 0o600 });
  const servers = await startCluster(place.links, accountsText(users), cleanup);
  let again = 0;
  const start = async (kind: string, extra: string[]) => {
    const nodes = await startNodes(
      machines,
      async (machine, at) => {
        const name = `node-${at}`;
        const args = [
          '--nats',
          (servers[at % 3] as NatsServer).url,
          '--nats-users',
          join(directory, `${name}.json`),
        ];
        args.push('--node', name, '--insecure-registry', place.registry, ...extra);
        return await engineNode({
          name,
          machine,
          limitMs: LIMIT_MS,
          interrupted,
          args,
          directory: join(directory, kind),
          onAgain: () => (again += 1),
        });
      },
      { interrupted, say },
    );
    try {
      await untilAllRun(nodes);
      say('the engines rehearse');
      if (!(await untilCalm(place.cpuTime, { limitMs: CALM_LIMIT_MS, signal: interrupted })))
        say('the engines are still busy with themselves');
    } catch (error) {
      await stopNodes(nodes);
      throw error;
    }
    return nodes;
  };
  const run = async (way: Way, nodes: EngineNode[], kill = 0) => {
    again = 0;
    const doomed = nodes.slice(nodes.length - kill);
    const row = await startOn(place, way, {
      nodes: nodes.slice(0, nodes.length - kill),
      doomed,
      fault: async () => {
        say(`a server of NATS and ${kill} engines are killed`);
        process.kill((servers[2] as NatsServer).pid, 'SIGKILL');
        for (const node of doomed) node.kill();
      },
    });
    keep(place, { ...row, again });
  };

  if (isWanted('alone') || isWanted('no fleet')) {
    const plain = await start('plain', []);
    try {
      if (isWanted('alone')) await run('alone', plain.slice(0, 1));
      if (isWanted('no fleet')) await run('no fleet', plain);
    } finally {
      await stopNodes(plain);
    }
  }
  if (!isWanted('fleet') && !isWanted('fleet, faults')) return;
  const fleet = await start('fleet', ['--fleet', 'bench']);
  try {
    await untilMet(fleet);
    if (isWanted('fleet')) await run('fleet', fleet);
    if (isWanted('fleet, faults')) await run('fleet, faults', fleet, KILL);
    const stayed = isWanted('fleet, faults') ? fleet.slice(0, NODES - KILL) : fleet;
    const asked = await Promise.all(stayed.map(async ({ engine }) => (await fleetOf(engine)).asked));
    say(`asked: ${JSON.stringify(asked)}`);
  } finally {
    await stopNodes(fleet);
  }
}

const isWanted = (way: Way): boolean => CHOSEN.includes(way);

/** The last ones still have fetchers that begin when their engine is ready. */
async function untilAllRun(nodes: readonly EngineNode[]): Promise<void> {
  const allRun = async () => {
    if (interrupted.aborted) return true;
    const all = await Promise.all(nodes.map(({ engine }) => engine.status()));
    return all.every(
      ({ processes, degraded }) =>
        degraded.length === 0 && processes.every(({ state }) => state === 'running'),
    );
  };
  await eventually('all processes of all engines run', allRun, 120_000);
  interrupted.throwIfAborted();
}

async function untilMet(fleet: readonly EngineNode[]): Promise<void> {
  const haveMet = async () => {
    if (interrupted.aborted) return true;
    const sizes = await Promise.all(fleet.map(async ({ engine }) => (await fleetOf(engine)).members.length));
    return sizes.every((size) => size === fleet.length);
  };
  await eventually('the members have met', haveMet, 120_000);
  interrupted.throwIfAborted();
}

async function measureContainerd(
  place: Place,
  { name, options }: { name: string; options: ContainerdOptions },
): Promise<void> {
  const nodes = await startNodes(
    place.machines,
    (machine, at) =>
      containerdNode({ name: `node-${at}`, machine, limitMs: LIMIT_MS, interrupted, containerd: options }),
    { interrupted, say },
  );
  try {
    for (const way of ['containerd, alone', 'containerd'] as const) {
      if (!isWanted(way)) continue;
      const those = way === 'containerd' ? nodes : nodes.slice(0, 1);
      const row = await startOn(place, way, { nodes: those });
      keep(place, { ...row, way: way.replace('containerd', name), again: 0 });
    }
  } finally {
    await stopNodes(nodes);
  }
}

function keep({ rows }: Place, row: Row): void {
  rows.push(row);
  say(JSON.stringify(row));
}

/** All nodes mount the way's image at once and read all of it; `fault`, after FAULT_MS, kills those that are doomed. */
async function startOn(
  { images, registryMachine, cpuTime }: Place,
  way: Way,
  { nodes, doomed = [], fault }: { nodes: Node[]; doomed?: Node[]; fault?: () => Promise<void> },
): Promise<Omit<Row, 'again'>> {
  const image = images.get(way) as Image;
  say(`${way}: ${nodes.length + doomed.length} nodes start`);
  const sent = async () => (await registryMachine.counters()).sent;
  const engines = nodes.flatMap((node) => ('engine' in node ? [(node as EngineNode).engine.root] : []));
  const timesBefore = engines.map(engineTime);
  const [before, cpuBefore, begun] = [await sent(), await cpuTime(), performance.now()];
  const times: number[] = [];
  const read = async (node: Node) =>
    await readAll(await node.mount(image.ref), AbortSignal.any([AbortSignal.timeout(LIMIT_MS), interrupted]));
  let failed = 0;
  const start = async (node: Node, isDoomed: boolean) => {
    let sum: string;
    try {
      sum = await read(node);
    } catch (error) {
      interrupted.throwIfAborted();
      // What a killed engine's reader gets is an error, and never a wrong byte.
      if (isDoomed) return;
      failed += 1;
      process.exitCode = 1;
      say(`${node.name}: ${String(error)}\n${node.logs?.() ?? ''}`);
      return;
    }
    if (sum !== image.sum) throw new Error(`${node.name} has read wrong bytes`);
    times.push((performance.now() - begun) / 1000);
  };
  await allOf([
    ...nodes.map((node) => start(node, false)),
    ...doomed.map((node) => start(node, true)),
    ...(fault === undefined || doomed.length === 0 ? [] : [sleep(FAULT_MS).then(fault)]),
  ]);
  const sorted = times.toSorted((a, b) => a - b);
  const cpu = (await cpuTime()) - cpuBefore;
  const where = new Map<string, number>();
  for (const [at, root] of engines.entries())
    for (const [name, seconds] of byProcess(timeBetween(timesBefore[at] ?? new Map(), engineTime(root))))
      where.set(name, (where.get(name) ?? 0) + seconds);
  return {
    way,
    nodes: nodes.length + doomed.length,
    killed: doomed.length,
    failed,
    median: sorted[sorted.length >> 1] ?? Number.NaN,
    last: sorted.at(-1) ?? Number.NaN,
    images: ((await sent()) - before) / image.size,
    cpu,
    atLeast: cpu / CORES,
    byProcess: Object.fromEntries(where),
  };
}

/**
 * SHA-256 of the image's files, in the order of their names. Errors: what `cat` says of a read that failed. When it returns,
 * no process has a file open.
 */
async function readAll(dir: string, signal: AbortSignal): Promise<string> {
  signal.throwIfAborted();
  const child = spawn('bash', ['-o', 'pipefail', '-c', `cat ${dir}/app/* | sha256sum`], {
    stdio: ['ignore', 'pipe', 'pipe'],
    // A group of its own: a shell that is killed would leave its programs behind.
    detached: true,
  });
  const end = () => {
    try {
      if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
    } catch {
      // It has ended meanwhile.
    }
  };
  signal.addEventListener('abort', end, { once: true });
  let said = '';
  let errors = '';
  child.stdout.on('data', (bytes: Buffer) => (said += bytes.toString()));
  child.stderr.on('data', (bytes: Buffer) => (errors += bytes.toString()));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  signal.removeEventListener('abort', end);
  signal.throwIfAborted();
  if (code !== 0) throw new Error(`not all of ${dir} could be read: ${errors.trim()}`);
  return said.slice(0, 64);
}

async function startCluster(links: Links, accounts: string, cleanup: Cleanup): Promise<NatsServer[]> {
  const port = (at: number) => 14_222 + at;
  const routes = [0, 1, 2].map((at) => `"nats-route://${links.address}:${port(at) + 100}"`).join(', ');
  const servers: NatsServer[] = [];
  cleanup.defer(() => allOf(servers.map((one) => one.stop())));
  await allOf(
    [0, 1, 2].map(async (at) => {
      servers[at] = await startNats({
        address: links.address,
        port: port(at),
        config: `${accounts}
server_name: bench-${at}
max_payload: 8MB
cluster { name: bench, listen: "${links.address}:${port(at) + 100}", routes: [${routes}] }
`,
      });
    }),
  );
  return servers;
}

/** For each way an image of the same size: some files of bytes that nothing compresses. */
async function makeImages(directory: string, host: string): Promise<Map<Way, Image>> {
  const images = new Map<Way, Image>();
  for (const [at, way] of CHOSEN.entries()) {
    interrupted.throwIfAborted();
    const files = Array.from(
      { length: 24 },
      (_, file) => [`app/file-${String(file).padStart(2, '0')}`, randomBytes(Math.floor(SIZE / 24))] as const,
    );
    const name = `image-${at}`;
    const { ref, blobs } = await pushImage(join(directory, name), host, name, [Object.fromEntries(files)]);
    if (!isOfContainerd(way)) {
      const { code, stderr } = await runCofa(['index', '--insecure-registry', host, ref]);
      if (code !== 0) throw new Error(`the image is not indexed: ${stderr}`);
    }
    const hash = createHash('sha256');
    for (const [, bytes] of files) hash.update(bytes);
    images.set(way, { ref, size: blobs[0]?.size ?? 1, sum: hash.digest('hex') });
  }
  return images;
}

/** As a table, and as JSON where that is wanted. */
async function publish(rows: readonly Row[]): Promise<void> {
  if (rows.length === 0) return;
  const seconds = (value: number) => value.toFixed(2);
  const head = ['way', 'nodes', 'killed', 'failed', 'mounts asked again'];
  console.log(
    textTable([
      [...head, 'median s', 'last s', 'images sent', 'processor s', 'at least s'],
      ...rows.map((row) => [
        row.way,
        String(row.nodes),
        String(row.killed),
        String(row.failed),
        String(row.again),
        ...[row.median, row.last, row.images, row.cpu, row.atLeast].map(seconds),
      ]),
    ]),
  );
  if (values.json === undefined) return;
  const machine = { kernel: (await readFile('/proc/sys/kernel/osrelease', 'utf8')).trim(), cores: CORES };
  const results = { machine, rate: values.rate, size: SIZE, rows };
  await writeFile(values.json, `${JSON.stringify(results, undefined, 2)}\n`);
}

await main();
