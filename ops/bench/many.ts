/**
 * A node that knows many images: how long an engine takes to start, what its processes hold, what `status` and `ps`
 * cost, and what one more mount costs beside all the others. The images are made up (made-up.ts); the further mounts are
 * of small images in a registry, of which the node has nothing.
 *
 *     node ops/bench/many.ts [--images 1000] [--mounts 200] [--layers 4] [--more 10] [--program COFA] [--root DIR] [--json FILE]
 *
 * `--program` is the `cofa` of another checkout. A root that was given stays, and the next run with the same numbers
 * uses it again.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Cleanup } from '../../test/support/temp.ts';
import { startRegistry } from '../../test/support/registry-server.ts';
import { pushLayout } from '../images/layout.ts';
import { syntheticImage } from '../images/synthetic.ts';
import { programOptions } from '../program-options.ts';
import { COFA, median, textTable, timed } from './measure.ts';
import { makeRoot } from './made-up.ts';
import { memoryOf, type ProcessMemory } from './memory.ts';
import type { Cofa } from './ways.ts';

export interface Many {
  images: number;
  mounts: number;
  /** `cofa up` until it has ended, ms; processor time of all processes of the engine by then, ms. */
  upMs: number;
  upCpuMs: number;
  processes: Array<ProcessMemory & { descriptors: number; threads: number }>;
  /** Medians of the command, ms; processor time of the engine for each, ms; bytes of the answer as JSON. */
  status: Call;
  ps: Call;
  /** Medians of a mount of another image, ms, and of its unmount. */
  mountMs: number;
  unmountMs: number;
  /** Processor time of the engine for each mount and unmount, ms. */
  mountCpuMs: number;
  /** Processor time of the engine while nothing is asked of it, ms a second. */
  idleCpuMs: number;
  /** `cofa down`, which also stores a snapshot of the log, ms; and the next `cofa up`. */
  downMs: number;
  againMs: number;
}

interface Call {
  ms: number;
  cpuMs: number;
  bytes: number;
}

const NODE = 'many';
/** Calls of which a median is taken. */
const CALLS = 5;
/** The engine's rehearsals are over, and the collector has had its time, ms. */
const CALM_MS = 15_000;
const IDLE_MS = 10_000;
/** Of /proc/PID/stat, a second. */
const TICKS = 100;

interface Options {
  images: number;
  mounts: number;
  layers: number;
  /** Mounts of images beside them. */
  more: number;
  program: string;
  root: string;
  say: (line: string) => void;
}

export async function measureMany(options: Options): Promise<Many> {
  const { images, mounts, layers, more, program, root, say } = options;
  const made = join(root, 'made.json');
  if (!existsSync(made)) {
    await makeRoot({ root, node: NODE, images, mounts, layers, blocks: 16, events: 4, onProgress: say });
    writeFileSync(made, JSON.stringify({ images, mounts, layers }));
  }
  const cleanup = new Cleanup();
  const cofa: Cofa = (...args) => timed(program, ['--root', root, ...args]);
  const up = async () =>
    (await cofa('up', '--node', NODE, '--no-snapshotter', '--trust', 'registry', '--json')).totalMs;
  try {
    const registry = await startRegistry();
    cleanup.defer(() => registry.stop());
    const refs = await pushMore(cleanup, registry.host, more, program);
    say('cofa up');
    cleanup.defer(() => cofa('down', '--force').catch(() => undefined));
    const upMs = await up();
    const pids = (await memoryOf(cofa)).map(({ pid }) => pid);
    const upCpuMs = cpuOf(pids);
    await sleep(CALM_MS);
    say('idle');
    const before = cpuOf(pids);
    await sleep(IDLE_MS);
    const idleCpuMs = ((cpuOf(pids) - before) * 1000) / IDLE_MS;
    say('calls');
    const status = await callOf(cofa, pids, 'status');
    const ps = await callOf(cofa, pids, 'ps');
    const processes = (await memoryOf(cofa)).map((one) => ({ ...one, ...countsOf(one.pid) }));
    say(`${more} further mounts`);
    const mounted = await mountMore(cofa, pids, root, refs);
    say('cofa down');
    const { totalMs: downMs } = await cofa('down', '--force');
    const againMs = await up();
    return { images, mounts, upMs, upCpuMs, processes, status, ps, ...mounted, idleCpuMs, downMs, againMs };
  } finally {
    await cleanup.run();
  }
}

async function pushMore(
  cleanup: Cleanup,
  registry: string,
  count: number,
  program: string,
): Promise<string[]> {
  const refs: string[] = [];
  for (let n = 0; n < count; n++) {
    const size = { layers: 2, filesPerLayer: 10 + n, fileBytes: 4096 };
    const layout = await syntheticImage(await cleanup.tempDir('many-image'), size, () => {});
    await pushLayout(layout, registry, `more-${n}`, 'latest');
    const ref = `${registry}/more-${n}:latest`;
    await timed(program, ['index', ref]);
    refs.push(ref);
  }
  return refs;
}

async function mountMore(
  cofa: Cofa,
  pids: readonly number[],
  root: string,
  refs: readonly string[],
): Promise<Pick<Many, 'mountMs' | 'unmountMs' | 'mountCpuMs'>> {
  const before = cpuOf(pids);
  const mountMs: number[] = [];
  const unmountMs: number[] = [];
  for (const [n, ref] of refs.entries()) {
    const dir = join(root, `more-${n}`);
    await mkdir(dir, { recursive: true });
    mountMs.push((await cofa('mount', '--no-prefetch', ref, dir)).totalMs);
    unmountMs.push((await cofa('unmount', dir)).totalMs);
  }
  const mountCpuMs = (cpuOf(pids) - before) / refs.length;
  return { mountMs: median(mountMs), unmountMs: median(unmountMs), mountCpuMs };
}

async function callOf(cofa: Cofa, pids: readonly number[], operation: string): Promise<Call> {
  const before = cpuOf(pids);
  const ms: number[] = [];
  let bytes = 0;
  for (let n = 0; n < CALLS; n++) {
    const { totalMs, output } = await cofa(operation, '--json');
    ms.push(totalMs);
    bytes = output.length;
  }
  return { ms: median(ms), cpuMs: (cpuOf(pids) - before) / CALLS, bytes };
}

/** Processor time of the processes so far, ms. */
function cpuOf(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
    return sum + ((Number(fields[11]) + Number(fields[12])) * 1000) / TICKS;
  }, 0);
}

const countsOf = (pid: number): { descriptors: number; threads: number } => ({
  descriptors: readdirSync(`/proc/${pid}/fd`).length,
  threads: readdirSync(`/proc/${pid}/task`).length,
});

function tableOf(many: Many): string {
  const ms = (value: number) => value.toFixed(0);
  const mb = (value: number) => (value / 1e6).toFixed(1);
  const call = (name: string, { ms: time, cpuMs, bytes }: Call) => [
    `${name}: ms, of the engine's processors ms, MB of JSON`,
    `${ms(time)}, ${ms(cpuMs)}, ${mb(bytes)}`,
  ];
  const rows = [
    ['images, mounted', `${many.images}, ${many.mounts}`],
    ['cofa up after a crash: ms, processors ms', `${ms(many.upMs)}, ${ms(many.upCpuMs)}`],
    ...many.processes.map(({ name, rss, pss, descriptors, threads }) => [
      `${name}: RSS, PSS MB, descriptors, threads`,
      `${mb(rss)}, ${mb(pss)}, ${descriptors}, ${threads}`,
    ]),
    ['idle: processors, ms a second', many.idleCpuMs.toFixed(1)],
    call('status', many.status),
    call('ps', many.ps),
    ['one more mount: ms', ms(many.mountMs)],
    ['its unmount: ms', ms(many.unmountMs)],
    ['both: processors ms', ms(many.mountCpuMs)],
    ['cofa down with a snapshot of the log: ms', ms(many.downMs)],
    ['cofa up afterwards: ms', ms(many.againMs)],
  ];
  return textTable(rows);
}

if (import.meta.main) {
  const { values } = programOptions(import.meta.filename, {
    options: {
      images: { type: 'string', default: '1000' },
      mounts: { type: 'string', default: '200' },
      layers: { type: 'string', default: '4' },
      more: { type: 'string', default: '10' },
      program: { type: 'string', default: COFA },
      root: { type: 'string' },
      json: { type: 'string' },
    },
  });
  const cleanup = new Cleanup();
  try {
    const many = await measureMany({
      images: Number(values.images),
      mounts: Number(values.mounts),
      layers: Number(values.layers),
      more: Number(values.more),
      program: values.program,
      root: values.root ?? (await cleanup.tempDir('many')),
      say: (line) => process.stderr.write(`${line}\n`),
    });
    process.stdout.write(`${tableOf(many)}\n`);
    if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(many, null, 2)}\n`);
  } finally {
    await cleanup.run();
  }
}
