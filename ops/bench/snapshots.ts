/**
 * What one snapshot costs in processor time, in each process: cofa's snapshotter behind containerd, and containerd's
 * overlayfs beside it, in turns. Two sequences through containerd's snapshots API:
 *
 *   container   Prepare on an image, Mounts, Remove: what a container's start and end ask for
 *   layer       Prepare on nothing, Mounts, Commit, Remove: what a layer's unpacking asks for
 *
 *     node ops/bench/snapshots.ts [--count 200] [--at-once 1] [--rounds 3] [--strace] [--program COFA] [--containerd 1.6|1.7|2.1|2.2|2.3|2.4]
 *
 * `--strace` counts system calls of the same work instead, which takes longer. `--program` is the `cofa` of another checkout,
 * measured in turns with this one's.
 */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { untilAnswered } from '../../src/cli/service.ts';
import { connectContainerd, type ContainerdClient } from '../../src/containerd/client.ts';
import { startRegistry } from '../../test/support/registry-server.ts';
import { type Containerd, startContainerd } from '../../test/support/services.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { containerdPath } from '../images/debs.ts';
import { layoutLayers, pushLayout } from '../images/layout.ts';
import { syntheticImage } from '../images/synthetic.ts';
import { programOptions } from '../program-options.ts';
import { COFA, median, textTable, timed } from './measure.ts';
import { memoryOf } from './memory.ts';
import { processSeconds } from './process-time.ts';
import { CALM_MS, type Cofa } from './ways.ts';

const { values } = programOptions(import.meta.filename, {
  options: {
    count: { type: 'string', default: '200' },
    'at-once': { type: 'string', default: '1' },
    rounds: { type: 'string', default: '3' },
    strace: { type: 'boolean', default: false },
    program: { type: 'string' },
    'no-overlayfs': { type: 'boolean', default: false },
    containerd: { type: 'string', default: '1.6' },
  },
});
const count = Number(values.count);
const atOnce = Number(values['at-once']);
const rounds = Number(values.rounds);
const say = (line: string) => console.error(`snapshots: ${line}`);

const NAMESPACE = 'cofa-test';
/** System calls that `--strace` counts. */
const COUNTED = ['fdatasync', 'fsync', 'execve', 'mount', 'umount2', 'futex', 'read', 'write', 'writev'];
const COUNTED_ALSO = [
  'epoll_wait',
  'epoll_pwait',
  'sendto',
  'recvfrom',
  'readv',
  'openat',
  'mkdir',
  'newfstatat',
];

/** A snapshotter of a running containerd, and the processes that work for it. */
interface Side {
  name: string;
  snapshotter: string;
  client: ContainerdClient;
  /** Name of the committed snapshot of the image. */
  parent: string;
  processes: ReadonlyArray<{ name: string; pid: number }>;
}

type Sequence = (side: Side, n: number) => Promise<void>;

let serial = 0;
/** Garbage collection runs beside, and leaves these alone. */
const labels = { 'containerd.io/gc.root': 'bench' };
const SEQUENCES: Record<string, Sequence> = {
  container: async ({ client: { snapshots }, snapshotter, parent }) => {
    const key = `container-${++serial}`;
    await snapshots.prepare({ snapshotter, key, parent, labels });
    await snapshots.mounts({ snapshotter, key });
    await snapshots.remove({ snapshotter, key });
  },
  layer: async ({ client: { snapshots }, snapshotter }) => {
    const key = `layer-${++serial}`;
    await snapshots.prepare({ snapshotter, key, labels });
    await snapshots.mounts({ snapshotter, key });
    await snapshots.commit({ snapshotter, name: `${key}-done`, key, labels });
    await snapshots.remove({ snapshotter, key: `${key}-done` });
  },
};

async function inParallel(sequence: Sequence, side: Side, times: number): Promise<number> {
  const began = performance.now();
  let left = times;
  await Promise.all(
    Array.from({ length: atOnce }, async () => {
      while (left-- > 0) await sequence(side, left);
    }),
  );
  return performance.now() - began;
}

/** ms of each sequence: wall, and processor time by process. */
async function measure(side: Side, sequence: Sequence): Promise<Map<string, number>> {
  const before = side.processes.map(({ pid }) => processSeconds(pid) * 1000);
  const wall = await inParallel(sequence, side, count);
  const rows = new Map([['wall', wall / count]]);
  let sum = 0;
  for (const [at, { name, pid }] of side.processes.entries()) {
    const spent = (processSeconds(pid) * 1000 - (before[at] ?? 0)) / count;
    rows.set(name, (rows.get(name) ?? 0) + spent);
    sum += spent;
  }
  rows.set('all processes', sum);
  return rows;
}

/** System calls of each sequence, by process. */
async function countCalls(side: Side, sequence: Sequence, dir: string): Promise<Map<string, number>> {
  const tracers = side.processes.map(({ name, pid }) => {
    const file = join(dir, `${pid}.strace`);
    const calls = [...COUNTED, ...COUNTED_ALSO].join(',');
    const args = ['-f', '-c', '-qq', '-e', `trace=${calls}`, '-o', file, '-p', `${pid}`];
    return { name, file, child: spawn('strace', args, { stdio: 'inherit' }) };
  });
  await sleep(1_000);
  await inParallel(sequence, side, count);
  for (const { child } of tracers) child.kill('SIGINT');
  await Promise.all(tracers.map(({ child }) => new Promise((done) => child.once('exit', done))));
  const rows = new Map<string, number>();
  for (const { name, file } of tracers) {
    for (const line of readFileSync(file, 'utf8').split('\n')) {
      const words = line.trim().split(/\s+/);
      const call = words.at(-1) ?? '';
      if (/^\d/.test(words[0] ?? '') && call !== 'total')
        rows.set(`${name} ${call}`, (rows.get(`${name} ${call}`) ?? 0) + Number(words[3]) / count);
    }
    await rm(file, { force: true });
  }
  return rows;
}

async function withSide<T>(
  program: { name: string; cofa: string } | undefined,
  ref: string,
  work: (side: Side) => Promise<T>,
): Promise<T> {
  const cleanup = new Cleanup();
  try {
    let engine: { cofa: Cofa; root: string } | undefined;
    if (program !== undefined) {
      const root = await cleanup.tempDir('bench');
      const cofa: Cofa = (...args) => timed(program.cofa, ['--root', root, ...args]);
      await cofa('up', '--snapshotter', '--trust', 'registry');
      cleanup.defer(() => timed(program.cofa, ['--root', root, 'down', '--force'], {}, { cleansUp: true }));
      await untilAnswered(join(root, 'run/snapshotter.sock'), 60_000);
      engine = { cofa, root };
    }
    const path = await containerdPath(values.containerd);
    const daemon = await startContainerd({
      ...(path === undefined ? {} : { path }),
      configure: async (file) => {
        await engine?.cofa('install', 'containerd', '--no-unit', '--containerd-config', file);
      },
    });
    cleanup.defer(() => daemon.stop());
    const client = connectContainerd(daemon.socket, NAMESPACE);
    cleanup.defer(() => client.close());
    const snapshotter = engine === undefined ? 'overlayfs' : 'cofa';
    await pull(daemon, engine, ref);
    const parent = await topOf(client, snapshotter);
    // Rehearsals of an engine's first seconds are none of this.
    await sleep(CALM_MS * 3);
    const processes = [{ name: 'containerd', pid: daemon.pid }];
    if (engine !== undefined)
      for (const { name, pid } of await memoryOf(engine.cofa))
        processes.push({ name: name.startsWith('fetcher') ? 'fetchers' : name, pid });
    return await work({ name: program?.name ?? 'overlayfs', snapshotter, client, parent, processes });
  } finally {
    await cleanup.run();
  }
}

async function pull(daemon: Containerd, engine: { cofa: Cofa } | undefined, ref: string): Promise<void> {
  if (engine === undefined) await daemon.ctr(['images', 'pull', '--plain-http', ref]);
  else await engine.cofa('pull', '--address', daemon.socket, '--namespace', NAMESPACE, ref);
}

/** The committed snapshot on which no other stands. */
async function topOf({ snapshots }: ContainerdClient, snapshotter: string): Promise<string> {
  const all: Array<{ name: string; parent: string }> = [];
  for await (const { info } of snapshots.list({ snapshotter })) all.push(...info);
  const top = all.find(({ name }) => !all.some(({ parent }) => parent === name));
  if (top === undefined) throw new Error(`${snapshotter} has no snapshot of the image`);
  return top.name;
}

function print(
  title: string,
  names: readonly string[],
  tables: ReadonlyMap<string, Array<Map<string, number>>>,
): void {
  const rows = new Set([...tables.values()].flat().flatMap((table) => [...table.keys()]));
  const cell = (name: string, row: string) => {
    const found = (tables.get(name) ?? []).flatMap((table) => table.get(row) ?? []);
    return found.length === 0 ? '' : median(found).toFixed(2);
  };
  const body = [...rows].map((row) => [row, ...names.map((name) => cell(name, row))]);
  console.log(`\n${title}\n\n${textTable([['', ...names], ...body])}`);
}

const cleanup = new Cleanup();
try {
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const work = await cleanup.tempDir('snapshots');
  const layout = await syntheticImage(work, { layers: 5, filesPerLayer: 20, fileBytes: 4096 }, () => {});
  say(`an image of ${(await layoutLayers(layout)).length} layers`);
  await pushLayout(layout, registry.host, 'snapshots', 'latest');
  const ref = `${registry.host}/snapshots:latest`;
  await timed(COFA, ['index', ref]);
  const sides = [
    ...(values['no-overlayfs'] ? [] : [undefined]),
    { name: 'cofa', cofa: COFA },
    ...(values.program === undefined ? [] : [{ name: 'other', cofa: values.program }]),
  ];
  const names = sides.map((side) => side?.name ?? 'overlayfs');
  const results = new Map(
    Object.keys(SEQUENCES).map((name) => [name, new Map<string, Array<Map<string, number>>>()]),
  );
  for (let round = 0; round < (values.strace ? 1 : rounds); round++) {
    for (const program of round % 2 === 0 ? sides : sides.toReversed()) {
      await withSide(program, ref, async (side) => {
        for (const [name, sequence] of Object.entries(SEQUENCES)) {
          await inParallel(sequence, side, Math.min(count, 50));
          const found = values.strace
            ? await countCalls(side, sequence, work)
            : await measure(side, sequence);
          const of = results.get(name);
          of?.set(side.name, [...(of.get(side.name) ?? []), found]);
          say(
            `${side.name}, ${name}: ${[...found].map(([row, value]) => `${row} ${value.toFixed(2)}`).join(', ')}`,
          );
        }
      });
    }
    say(`round ${round + 1}`);
  }
  const unit = values.strace ? 'system calls each' : 'ms each';
  for (const [name, tables] of results)
    print(`${name}, ${count} times, ${atOnce} at once, ${unit}`, names, tables);
} finally {
  await cleanup.run();
}
