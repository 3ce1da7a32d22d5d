/**
 * Is what no reader waits for felt by others? Four measurements, of this checkout and of another one in turns:
 *
 *   processes  processor time of each process in the first seconds of an engine that has nothing to do
 *   rest       processor time by process and priority while a large image is fetched, hashed and proven, and how long that takes
 *   early      a start with a pack soon after `cofa up`, and late after it: what rehearsals cost a start
 *   beside     containers of an image that is all local, and work that has nothing to do with cofa, on a node that fetches,
 *              hashes and proves another image meanwhile, and on the same node before
 *
 *     node ops/bench/idle.ts [--only rest,beside] [--against CHECKOUT] [--rounds 3] [--containers 8] [--large 1G]
 *
 * CHECKOUT is another work tree with its dependencies installed. Prints medians, and the medians of each round's ratios.
 */
import { spawn } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startRegistry } from '../../test/support/registry-server.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { realImage } from '../images/debian.ts';
import { layoutLayers, pushLayout } from '../images/layout.ts';
import { syntheticImage } from '../images/synthetic.ts';
import { programOptions } from '../program-options.ts';
import { byProcess, engineTime, type EngineTime, TimeByPriority, timeBetween } from './engine-time.ts';
import { COFA, dropCaches, median, onLink, textTable, timed } from './measure.ts';
import { parseRate } from './relay.ts';
import { CALM_MS, type Cofa, onFreshEngine, prepare, type Repositories, untilWhole } from './ways.ts';

const PARTS = ['processes', 'rest', 'early', 'beside'] as const;
const { values } = programOptions(import.meta.filename, {
  options: {
    only: { type: 'string', default: PARTS.join(',') },
    against: { type: 'string' },
    rounds: { type: 'string', default: '3' },
    containers: { type: 'string', default: '8' },
    large: { type: 'string', default: '1G' },
  },
});
const rounds = Number(values.rounds);
const containers = Number(values.containers);
const say = (line: string) => console.error(`idle: ${line}`);

/** A start is early so long after `cofa up` has returned, ms, and late then. */
const EARLY_MS = 5_000;
const LATE_MS = 20_000;
/** What is fetched beside has begun by then, ms. */
const BEGUN_MS = 1_500;
/** Priorities are looked at so often, ms. */
const SAMPLE_MS = 50;
/** Files of the synthetic image, bytes, and its layers. */
const FILE_BYTES = 262_144;
const LAYERS = 4;
/** Work without cofa: one process for each core. */
const STRANGER = 'import hashlib\nfor _ in range(60): hashlib.sha256(b"x" * 8000000)';

/** A checkout under measurement. */
interface Program {
  name: string;
  cofa: string;
}

const programs: Program[] = [
  { name: 'this', cofa: COFA },
  ...(values.against === undefined
    ? []
    : [{ name: 'other', cofa: join(resolve(values.against), 'ops/cofa') }]),
];

/** By row: what each round measured, by program. */
class Rows {
  readonly #rows = new Map<string, Map<string, number[]>>();

  add(row: string, program: string, value: number): void {
    const of = this.#rows.get(row) ?? new Map<string, number[]>();
    this.#rows.set(row, of);
    of.set(program, [...(of.get(program) ?? []), value]);
    say(`${program}: ${row}: ${value.toFixed(2)}`);
  }

  print(title: string): void {
    const names = programs.map(({ name }) => name);
    const body = [...this.#rows].map(([row, of]) => [
      row,
      ...names.map((name) => median(of.get(name) ?? []).toFixed(2)),
      ...names.map((name) => (of.get(name) ?? []).map((value) => value.toFixed(2)).join(' ')),
    ]);
    console.log(
      `\n${title}\n\n${textTable([['', ...names, ...names.map((name) => `${name}, rounds`)], ...body])}`,
    );
  }
}

async function inTurns(work: (program: Program) => Promise<void>): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    for (const program of round % 2 === 0 ? programs : programs.toReversed()) await work(program);
    say(`round ${round + 1} of ${rounds}`);
  }
}

// ── processes ──

async function processes(rows: Rows): Promise<void> {
  await inTurns(async ({ name, cofa }) => {
    await onFreshEngine(async (_, root) => {
      await sleep(LATE_MS);
      addTimes(rows, name, engineTime(root), '');
    }, cofa);
  });
}

function addTimes(rows: Rows, program: string, times: EngineTime, prefix: string): void {
  let sum = 0;
  for (const [process, seconds] of byProcess(times)) {
    rows.add(`${prefix}${process}, s`, program, seconds);
    sum += seconds;
  }
  rows.add(`${prefix}all, s`, program, sum);
}

// ── rest ──

async function rest(rows: Rows, registry: string, large: string): Promise<void> {
  await inTurns(async ({ name, cofa: program }) => {
    await onFreshEngine(async (cofa, root) => {
      const dir = join(root, 'large');
      await mkdir(dir);
      await sleep(LATE_MS - CALM_MS);
      const times = new TimeByPriority(root);
      const timer = setInterval(() => times.look(), SAMPLE_MS);
      const began = performance.now();
      try {
        await cofa('mount', `${registry}/${large}:latest`, dir);
        // Each look is a process of its own.
        await untilWhole(cofa, { everyMs: 3_000 });
      } finally {
        clearInterval(timer);
      }
      rows.add('whole after, s', name, (performance.now() - began) / 1000);
      for (const [of, seconds] of times.seconds) rows.add(`${of}, s`, name, seconds);
      await cofa('unmount', dir);
    }, program);
  });
}

// ── early ──

async function early(rows: Rows, at: Repositories): Promise<void> {
  await inTurns(async ({ name, cofa: program }) => {
    const took: number[] = [];
    for (const waitMs of [EARLY_MS, LATE_MS]) {
      const ms = await onLink(at.registry, { rate: parseRate('1G'), rttMs: 5 }, (relay) =>
        onFreshEngine(async (cofa) => {
          await dropCaches();
          await sleep(waitMs - CALM_MS);
          const { firstOutputMs } = await cofa('run', `${relay.host}/${at.packed}:latest`);
          return firstOutputMs;
        }, program),
      );
      rows.add(waitMs === EARLY_MS ? 'early, ms' : 'late, ms', name, ms);
      took.push(ms);
    }
    rows.add('early / late', name, (took[0] ?? 0) / (took[1] ?? 1));
  });
}

// ── beside ──

async function beside(rows: Rows, at: Repositories, large: string): Promise<void> {
  await inTurns(async ({ name, cofa: program }) => {
    // What is to be local comes at once, on a busy machine too.
    const help = await timed(program, ['up', '--help']);
    const atOnce = help.output.includes('--no-defer') ? ['--no-defer'] : [];
    await onFreshEngine(
      async (cofa, root) => {
        const near = `${at.registry}/${at.packed}:latest`;
        const dirs = ['whole', 'rest'].map((folder) => join(root, folder));
        for (const dir of dirs) await mkdir(dir);
        await cofa('mount', near, dirs[0] ?? '');
        await untilWhole(cofa);
        await cofa('unmount', dirs[0] ?? '');
        await cofa('down');
        await cofa('up', '--no-snapshotter', '--trust', 'always');
        await cofa('mount', near, dirs[0] ?? '');
        await sleep(LATE_MS);
        await crowd(cofa, near);
        const calm = await both(cofa, near, root);
        await cofa('mount', `${at.registry}/${large}:latest`, dirs[1] ?? '');
        await sleep(BEGUN_MS);
        const before = await absentOf(cofa);
        const busy = await both(cofa, near, root);
        for (const [row, value] of Object.entries(calm.took)) {
          const beside = busy.took[row] ?? Number.NaN;
          rows.add(`${row}: alone, ms`, name, value);
          rows.add(`${row}: beside, ms`, name, beside);
          rows.add(`${row}: ratio`, name, beside / value);
        }
        rows.add('beside: absent before, share', name, before);
        rows.add('beside: absent behind, share', name, await absentOf(cofa));
        addTimes(rows, name, busy.times, 'beside: ');
        for (const dir of dirs) await cofa('unmount', dir);
      },
      program,
      atOnce,
    );
  });
}

async function both(
  cofa: Cofa,
  ref: string,
  root: string,
): Promise<{ took: Record<string, number>; times: EngineTime }> {
  const from = engineTime(root);
  const ends = await crowd(cofa, ref);
  const strangers = await Promise.all(Array.from({ length: availableParallelism() }, stranger));
  const took = {
    'containers, median': median(ends),
    'containers, last': Math.max(...ends),
    'work without cofa': median(strangers),
  };
  return { took, times: timeBetween(from, engineTime(root)) };
}

/** Containers that start at once: from the call to the end of each, ms. */
async function crowd(cofa: Cofa, ref: string): Promise<number[]> {
  const began = performance.now();
  return await Promise.all(
    Array.from({ length: containers }, async () => {
      await cofa('run', ref);
      return performance.now() - began;
    }),
  );
}

/** A session of its own, as a service has; ms. */
async function stranger(): Promise<number> {
  const began = performance.now();
  const child = spawn('python3', ['-c', STRANGER], { stdio: 'inherit', detached: true });
  await new Promise((done) => child.once('exit', done));
  return performance.now() - began;
}

/** Share of all blocks of all images. */
async function absentOf(cofa: Cofa): Promise<number> {
  const { images } = JSON.parse((await cofa('status', '--json')).output) as {
    images: Array<{ blocks: { absent: number; present: number } }>;
  };
  const sum = (of: 'absent' | 'present') => images.reduce((all, { blocks }) => all + blocks[of], 0);
  return sum('absent') / (sum('absent') + sum('present'));
}

async function main(cleanup: Cleanup): Promise<void> {
  const parts = values.only.split(',');
  say(programs.map(({ name, cofa }) => `${name}: ${cofa}`).join(', '));
  const tables = new Map(PARTS.map((part) => [part, new Rows()]));
  const print = () => {
    for (const [part, rows] of tables) if (parts.includes(part)) rows.print(part);
  };
  const rowsOf = (part: (typeof PARTS)[number]) => tables.get(part) ?? new Rows();
  if (parts.includes('processes')) await processes(rowsOf('processes'));
  if (parts.some((part) => part !== 'processes')) {
    const registry = await startRegistry();
    cleanup.defer(() => registry.stop());
    if (parts.includes('rest') || parts.includes('beside')) {
      const filesPerLayer = Math.ceil(parseRate(values.large) / LAYERS / FILE_BYTES);
      const size = { layers: LAYERS, filesPerLayer, fileBytes: FILE_BYTES };
      const large = await syntheticImage(await cleanup.tempDir('large'), size, say);
      await pushLayout(large, registry.host, 'large', 'latest');
      await timed(COFA, ['--json', 'index', `${registry.host}/large:latest`]);
    }
    if (parts.includes('rest')) await rest(rowsOf('rest'), registry.host, 'large');
    if (!parts.includes('early') && !parts.includes('beside')) return print();
    const layout = await realImage('demo', { onProgress: say });
    const bytes = (await layoutLayers(layout)).reduce((sum, { size }) => sum + size, 0);
    const at = await prepare({ name: 'demo', bytes }, registry.host, async (repository) => {
      await pushLayout(layout, registry.host, repository, 'latest');
    });
    if (parts.includes('early')) await early(rowsOf('early'), at);
    if (parts.includes('beside')) await beside(rowsOf('beside'), at, 'large');
  }
  print();
}

const cleanup = new Cleanup();
try {
  await main(cleanup);
} finally {
  await cleanup.run();
}
