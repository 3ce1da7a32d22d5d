/**
 * One huge file in one layer, read in order by a first reader: how long the reading takes beside the download of the
 * same blob to the disk, and, on request, beside another checkout and containerd's pull and reading.
 *
 *     node ops/bench/huge.ts [--bytes 1G] [--kinds none,gzip,zstd] [--rounds 3] [--against CHECKOUT] [--pull]
 *                            [--rate RATE] [--rtt MS] [--mapped] [--jumps N] [--cache DIRECTORY]
 *
 * Every round is interleaved: curl, this checkout, the other one, containerd. Page cache and every local byte are gone
 * before each. The mount is not part of the reading; its time has a column of its own. Processor time is that of the
 * whole machine, the registry's share beside it. `--mapped`: cofa's reader maps the file and touches each page in order, as
 * loaders of safetensors do. `--jumps`: so many reads of 4 KiB at random places on a fresh node
 * instead, one after the other: their times, and what crossed the link for each.
 */
import { mkdir, readFile, rm, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { statFields } from '../../src/kernel/proc.ts';
import { startRegistry } from '../../test/support/registry-server.ts';
import { startContainerd } from '../../test/support/services.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { HUGE_FILE, hugeImage } from '../images/huge.ts';
import { type LayerFile, layoutLayers, pushLayout } from '../images/layout.ts';
import { programOptions } from '../program-options.ts';
import { COFA, dropCaches, median, onLink, percentile, textTable, timed } from './measure.ts';
import { parseRate } from './relay.ts';
import { onFreshEngine, PULL_LIMIT_MS } from './ways.ts';

const { values } = programOptions(import.meta.filename, {
  options: {
    bytes: { type: 'string', default: '1G' },
    kinds: { type: 'string', default: 'none,gzip,zstd' },
    rounds: { type: 'string', default: '3' },
    against: { type: 'string' },
    pull: { type: 'boolean', default: false },
    rate: { type: 'string' },
    rtt: { type: 'string', default: '0' },
    mapped: { type: 'boolean', default: false },
    jumps: { type: 'string', default: '0' },
    cache: { type: 'string' },
  },
});
/** Whole MiB. */
const BYTES = Math.ceil(parseRate(values.bytes) / 2 ** 20) * 2 ** 20;
const TICKS_PER_SECOND = 100;
const link = {
  rate: values.rate === undefined ? undefined : parseRate(values.rate),
  rttMs: Number(values.rtt),
};
const jumps = Number(values.jumps);
const say = (line: string) => console.error(`huge: ${line}`);

/** What one reading took: s, s of the processors, and of the engine's processes by name. */
interface Reading {
  mountS: number;
  readS: number;
  machineS: number;
  registryS: number;
  parts: Record<string, number>;
  /** That crossed the link. */
  bytes: number;
  /** That the registry answered. */
  requests: number;
}

interface At {
  host: string;
  /** Process of the registry. */
  pid: number;
  repository: string;
  digest: string;
  /** Its answers so far, and their bytes. */
  answers: () => number;
  sent: () => number;
}

const busyOf = async (): Promise<number> => {
  const [line = ''] = (await readFile('/proc/stat', 'utf8')).split('\n');
  const [user = 0, nice = 0, system = 0, , , irq = 0, soft = 0] = line.split(/\s+/).slice(1).map(Number);
  return (user + nice + system + irq + soft) / TICKS_PER_SECOND;
};

const cpuOf = async (pid: number): Promise<number> => {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  const fields = statFields(stat);
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
};

async function cpuOfAll(pids: Record<string, number>): Promise<Record<string, number>> {
  const all = await Promise.all(
    Object.entries(pids).map(async ([name, pid]) => [name, await cpuOf(pid)] as const),
  );
  return Object.fromEntries(all);
}

/** `work` against the registry itself, or behind an emulated link where one is asked for; a relay takes a processor's time. */
async function near<T>(at: At, work: (host: string, came: () => number) => Promise<T>): Promise<T> {
  if (link.rate !== undefined || link.rttMs > 0)
    return await onLink(at.host, link, (relay) => work(relay.host, () => relay.counters().toClient));
  return await work(at.host, () => at.sent());
}

/** Runs `read` between two looks at the processors. */
async function watched(at: At, pids: Record<string, number>, read: () => Promise<unknown>) {
  const before = { machine: await busyOf(), registry: await cpuOf(at.pid), parts: await cpuOfAll(pids) };
  const answers = at.answers();
  const began = performance.now();
  await read();
  const readS = (performance.now() - began) / 1000;
  const parts = await cpuOfAll(pids);
  for (const [name, s] of Object.entries(before.parts)) parts[name] = (parts[name] ?? 0) - s;
  return {
    readS,
    machineS: (await busyOf()) - before.machine,
    registryS: (await cpuOf(at.pid)) - before.registry,
    requests: at.answers() - answers,
    parts,
  };
}

const CAT = 'cat "$1" >/dev/null';
/** One byte of each page. */
const MAPPED = `
import mmap, sys
with open(sys.argv[1], 'rb') as file:
    pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    for at in range(0, len(pages), 1 << 24):
        pages[at:at + (1 << 24):4096]
`;

async function byCurl(at: At, directory: string): Promise<Reading> {
  return await near(at, async (host, came) => {
    await dropCaches();
    const before = came();
    const file = join(directory, 'curl');
    const url = `http://${host}/v2/${at.repository}/blobs/${at.digest}`;
    const found = await watched(at, {}, () => timed('curl', ['-sSf', '-o', file, url]));
    await rm(file);
    return { mountS: 0, bytes: came() - before, ...found };
  });
}

async function byCofa(at: At, program: string): Promise<Reading> {
  return await near(at, (host, came) =>
    onFreshEngine(async (cofa, root) => {
      const dir = join(root, 'image');
      await mkdir(dir);
      await dropCaches();
      const status = JSON.parse((await cofa('status', '--json')).output) as {
        processes: Array<{ name: string; pid: number }>;
      };
      const before = came();
      const pids = Object.fromEntries(status.processes.map(({ name, pid }) => [name, pid]));
      const { totalMs } = await cofa('mount', `${host}/${at.repository}:latest`, dir);
      const file = join(dir, HUGE_FILE);
      const found = await watched(at, pids, async () => {
        await (values.mapped ? timed('python3', ['-c', MAPPED, file]) : timed('sh', ['-c', CAT, 'sh', file]));
      });
      const { size } = await stat(file);
      if (size !== BYTES) throw new Error(`the file has ${size} bytes`);
      await cofa('unmount', dir);
      return { mountS: totalMs / 1000, bytes: came() - before, ...found };
    }, program),
  );
}

async function byContainerd(at: At): Promise<Reading> {
  return await near(at, async (host, came) => {
    const containerd = await startContainerd();
    const cleanup = new Cleanup();
    try {
      const before = came();
      const dir = await cleanup.tempDir('huge-pull');
      await dropCaches();
      const ref = `${host}/${at.repository}:latest`;
      const found = await watched(at, {}, async () => {
        await containerd.ctr(['images', 'pull', '--plain-http', '--snapshotter', 'overlayfs', ref], {
          timeoutMs: PULL_LIMIT_MS,
        });
        await containerd.ctr(['images', 'mount', '--snapshotter', 'overlayfs', ref, dir]);
        await timed('sh', ['-c', CAT, 'sh', join(dir, HUGE_FILE)]);
      });
      await containerd.ctr(['images', 'unmount', dir]);
      return { mountS: 0, bytes: came() - before, ...found };
    } finally {
      await containerd.stop();
      await cleanup.run();
    }
  });
}

/** The time of each read of 4 KiB, ms: the header's two first, then places at random. */
const JUMP = `
import os, random, sys, time
file = os.open(sys.argv[1], os.O_RDONLY)
size = os.fstat(file).st_size
chance = random.Random(1)
for at in [0, 8] + [chance.randrange(size // 4096) * 4096 for _ in range(int(sys.argv[2]))]:
    began = time.monotonic()
    assert len(os.pread(file, 4096, at)) == 4096
    print((time.monotonic() - began) * 1000)
`;

async function byJumps(at: At, program: string): Promise<{ ms: number[]; bytes: number }> {
  return await near(at, (host, came) =>
    onFreshEngine(async (cofa, root) => {
      const dir = join(root, 'image');
      await mkdir(dir);
      await dropCaches();
      await cofa('mount', '--no-prefetch', `${host}/${at.repository}:latest`, dir);
      const before = came();
      const { output } = await timed('python3', ['-c', JUMP, join(dir, HUGE_FILE), `${jumps}`]);
      const bytes = came() - before;
      await cofa('unmount', dir);
      return { ms: output.trim().split('\n').map(Number), bytes };
    }, program),
  );
}

function tableOf(rounds: ReadonlyArray<Map<string, Reading>>): string[][] {
  const names = [...(rounds[0]?.keys() ?? [])];
  const of = (name: string) => rounds.flatMap((round) => round.get(name) ?? []);
  const parts = [...new Set(names.flatMap((name) => of(name).flatMap(({ parts }) => Object.keys(parts))))];
  const number = (name: string, get: (reading: Reading) => number) => median(of(name).map(get)).toFixed(2);
  const head = ['', 'mount s', 'read s', 'of curl', 'MB', 'requests', 'CPU s', 'registry', ...parts];
  return [
    head,
    ...names.map((name) => [
      name,
      number(name, ({ mountS }) => mountS),
      number(name, ({ readS }) => readS),
      median(rounds.map((round) => (round.get('curl')?.readS ?? 0) / (round.get(name)?.readS ?? 1))).toFixed(
        2,
      ),
      (median(of(name).map(({ bytes }) => bytes)) / 1e6).toFixed(0),
      median(of(name).map(({ requests }) => requests)).toFixed(0),
      number(name, ({ machineS }) => machineS),
      number(name, ({ registryS }) => registryS),
      ...parts.map((part) => number(name, ({ parts: of }) => of[part] ?? 0)),
    ]),
  ];
}

async function measure(at: At, directory: string, title: string): Promise<void> {
  const programs = new Map([['this', COFA]]);
  if (values.against !== undefined) programs.set('other', join(resolve(values.against), 'ops/cofa'));
  if (jumps > 0) {
    const rows = [['', 'header ms', 'median ms', '95 % ms', 'KB a read']];
    for (const [name, program] of programs) {
      const { ms, bytes } = await byJumps(at, program);
      const [header = 0, , ...others] = ms;
      rows.push([
        name,
        header.toFixed(1),
        median(others).toFixed(1),
        percentile(others, 0.95).toFixed(1),
        (bytes / 1000 / others.length).toFixed(0),
      ]);
    }
    console.log(`\n${title}, reads at random\n\n${textTable(rows)}`);
    return;
  }
  const rounds: Array<Map<string, Reading>> = [];
  for (let round = 1; round <= Number(values.rounds); round++) {
    const found = new Map([['curl', await byCurl(at, directory)]]);
    const order = round % 2 === 1 ? [...programs] : [...programs].toReversed();
    for (const [name, program] of order) found.set(name, await byCofa(at, program));
    if (values.pull) found.set('pull and cat', await byContainerd(at));
    rounds.push(found);
    const line = [...found].map(([name, { readS }]) => `${name} ${readS.toFixed(2)} s`).join(', ');
    say(`${title}, round ${round} of ${values.rounds}: ${line}`);
  }
  console.log(`\n${title}\n\n${textTable(tableOf(rounds))}`);
}

const cleanup = new Cleanup();
try {
  const directory = await cleanup.tempDir('huge');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  for (const kind of values.kinds.split(',') as Array<LayerFile['compression']>) {
    const folder = join(values.cache ?? directory, `huge-${kind}-${BYTES}`);
    await mkdir(folder, { recursive: true });
    say(`${kind}: building`);
    const layout = await hugeImage(folder, BYTES, kind);
    const repository = `huge-${kind}`;
    await pushLayout(layout, registry.host, repository, 'latest');
    say(`${kind}: cofa index`);
    await timed(COFA, ['--json', 'index', `${registry.host}/${repository}:latest`]);
    const [layer] = await layoutLayers(layout);
    if (layer === undefined) throw new Error('an image without a layer');
    const answers = () => registry.requests().length;
    const sent = () => registry.requests().reduce((sum, { bytes }) => sum + bytes, 0);
    const at = { host: registry.host, pid: registry.pid, repository, digest: layer.digest, answers, sent };
    const title = `${(BYTES / 1e9).toFixed(2)} GB, ${kind}, ${(layer.size / 1e9).toFixed(2)} GB in the registry`;
    await measure(at, directory, title);
  }
} finally {
  await cleanup.run();
}
