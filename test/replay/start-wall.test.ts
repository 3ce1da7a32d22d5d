/**
 * `cofa replay why` accounts for the wall time of real starts: of images that come in different ways, with programs that sleep,
 * compute and read. The other side of each comparison is this process's clock, and what the program does is known.
 */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Relay, startRelay } from '../../ops/bench/relay.ts';
import { type StartPart, WhyStart } from '../../schemas/replay.ts';
import { type Engine, eventually, startEngine } from '../support/engine.ts';
import { pushPrograms } from '../support/program-image.ts';
import { startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
const MAIN = join(import.meta.dirname, '../../src/cli/main.ts');
const RTT_MS = 10;
/** Bits a second. */
const RATE = 40e6;
const FILES = 4;
const FILE_BYTES = 2 << 20;
let relay: Relay;
let engine: Engine;
const refs = { gzip: '', zstd: '', unprepared: '' };

beforeAll(async () => {
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  relay = await startRelay({ to: { host: '127.0.0.1', port: registry.port }, rttMs: RTT_MS, rate: RATE });
  cleanup.defer(() => relay.stop());
  engine = await startEngine();
  cleanup.defer(() => engine.stop());
  const sizes = { files: FILES, fileBytes: FILE_BYTES };
  // Only what is measured comes over the link.
  const push = async (name: string, variant: 'gzip' | 'zstd', seed: number, prepared = true) => {
    const near = await pushPrograms(await cleanup.tempDir(name), registry.host, name, {
      variant,
      seed,
      ...sizes,
    });
    if (prepared) expect((await engine.cli(['index', near])).code).toBe(0);
    return near.replace(registry.host, relay.host);
  };
  refs.gzip = await push('gzip', 'gzip', 100);
  refs.zstd = await push('zstd', 'zstd', 200);
  refs.unprepared = await push('unprepared', 'gzip', 300, false);
});
afterAll(() => cleanup.run());

interface Timed {
  /** ms since the epoch: the command was started, the program said its first and its last word, the command had ended. */
  spawned: number;
  first: number;
  last: number;
  ended: number;
}

/** `cofa run REF sh -c SCRIPT`, by the clock of this process. */
async function run(ref: string, script: string): Promise<Timed> {
  const spawned = Date.now();
  const words = ['run', '--no-prefetch', ref, '/bin/sh', '-c', `echo first; ${script}; echo last`];
  const child = spawn(process.execPath, [MAIN, ...words], {
    env: { ...process.env, COFA_CONFIG: '/dev/null', COFA_ROOT: engine.root },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let [text, errors, first, last] = ['', '', 0, 0];
  child.stdout.on('data', (chunk) => {
    text += chunk;
    if (first === 0) first = Date.now();
    if (text.includes('last\n') && last === 0) last = Date.now();
  });
  child.stderr.on('data', (chunk) => (errors += chunk));
  const code = await new Promise((resolve) => child.once('close', resolve));
  expect({ code, errors, text }).toMatchObject({ code: 0, text: expect.stringContaining('last') });
  return { spawned, first, last, ended: Date.now() };
}

/** What the log says of the last start, when all of it is there. */
async function why(): Promise<WhyStart> {
  return await eventually('the start was measured', async () => {
    const result = await engine.cli(['replay', 'why', '--start', '--json']);
    expect(result).toMatchObject({ code: 0 });
    const start = WhyStart.parse(JSON.parse(result.stdout));
    return start.wall.machine === undefined ? undefined : start;
  });
}

const partUs = ({ wall }: WhyStart, part: StartPart) => wall.parts.find((one) => one.part === part)?.us ?? 0;

/** What holds of every start. */
function expectAccounted(start: WhyStart, timed: Timed): void {
  const { wall } = start;
  const told = JSON.stringify(wall, undefined, 1);
  const wallUs = (timed.last - timed.spawned) * 1000;
  expect(wall.accountedUs / wallUs, told).toBeGreaterThanOrEqual(0.95);
  // No moment counts twice: all parts together are no longer than the command ran.
  const sum = wall.parts.reduce((all, { us }) => all + us, 0);
  expect(sum, told).toBeLessThanOrEqual(wall.us);
  expect(wall.us, told).toBeLessThanOrEqual((timed.ended - timed.spawned) * 1000);
  const steps = Object.values(wall.steps).reduce((all, us) => all + us, 0);
  expect(Math.abs(steps - partUs(start, 'reads')), told).toBeLessThan(1_000);
  // The program's own time is the program's: it began when it said its first word.
  const before = wall.parts.filter(({ part }) => part !== 'program' && part !== 'reads');
  const beforeUs = before.reduce((all, { us }) => all + us, 0);
  expect(beforeUs, told).toBeLessThanOrEqual((timed.first - timed.spawned + 20) * 1000);
  const names = wall.processes.map(({ name }) => name);
  expect(names).toEqual(expect.arrayContaining(['supervisor', 'front-end', 'fetcher-0', 'nats-server']));
}

describe('the wall time of a start is accounted for', () => {
  const kinds = ['gzip', 'zstd', 'unprepared'] as const;
  test.each(kinds)('%s, cold: a program that reads much', async (kind) => {
    const timed = await run(refs[kind], 'cat /data/noise-0 /data/noise-1 > /dev/null');
    const start = await why();
    expectAccounted(start, timed);
    // By the link alone 2 files of noise take so long.
    const linkUs = ((2 * FILE_BYTES * 8) / RATE) * 1e6;
    const waited = kind === 'unprepared' ? partUs(start, 'prepare') : partUs(start, 'reads');
    expect(waited).toBeGreaterThan(linkUs * 0.7);
    if (kind === 'unprepared') {
      // It has ended by now, and its work is the engine's all the same, not that of other programs.
      const indexer = start.wall.processes.find(({ name }) => name === 'indexer');
      expect(indexer?.cpuUs).toBeGreaterThan(30_000);
      return;
    }
    expect((start.wall.steps['transfer'] ?? 0) + (start.wall.steps['first-byte'] ?? 0)).toBeGreaterThan(
      linkUs * 0.5,
    );
  });

  test('a program that sleeps takes time and no processor', async () => {
    const timed = await run(refs.gzip, 'sleep 1.5');
    const start = await why();
    expectAccounted(start, timed);
    expect(partUs(start, 'program')).toBeGreaterThan(1_480_000);
    const program = start.wall.parts.find(({ part }) => part === 'program');
    expect(program?.cpuUs).toBeLessThan(1_000_000);
  });

  test('a program that computes takes a processor', async () => {
    const timed = await run(refs.zstd, `perl -e '1 while (times)[0] + (times)[1] < 1.5'`);
    const start = await why();
    expectAccounted(start, timed);
    const program = start.wall.parts.find(({ part }) => part === 'program');
    expect(program?.us).toBeGreaterThan(1_480_000);
    expect(program?.cpuUs).toBeGreaterThan(1_480_000);
  });

  test('one that reads, sleeps and reads again: the sleep is the program’s, the reads are not', async () => {
    const timed = await run(
      refs.gzip,
      'cat /data/noise-2 > /dev/null; sleep 1; cat /data/noise-3 > /dev/null',
    );
    const start = await why();
    expectAccounted(start, timed);
    expect(partUs(start, 'program')).toBeGreaterThan(980_000);
    expect(start.reads.count).toBeGreaterThan(2);
  });
});

describe('the programs of a container are named', () => {
  const programs = ({ wall }: WhyStart) => wall.programs ?? { seen: [], more: 0 };
  const named = (start: WhyStart, name: string) => programs(start).seen.find((one) => one.name === name);

  test('two that it starts, with when they began and what they worked', async () => {
    const computing = `perl -e '1 while (times)[0] + (times)[1] < 1.5'`;
    const timed = await run(refs.gzip, `${computing} & sleep 6; wait`);
    const start = await why();
    expectAccounted(start, timed);
    const told = JSON.stringify(start.wall, undefined, 1);
    const part = start.wall.parts.find((one) => one.part === 'program');
    expect(part?.command).toBe('sh');
    const before = start.wall.parts.filter((one) => one.part !== 'program' && one.part !== 'reads');
    const beganUs = before.reduce((all, { us }) => all + us, 0);
    const { seen } = programs(start);
    expect(seen.map(({ name }) => name).sort(), told).toEqual(
      expect.arrayContaining(['perl', 'sh', 'sleep']),
    );
    for (const { startUs, seenUs, lastUs } of seen) {
      expect(startUs, told).toBeGreaterThan(beganUs - 100_000);
      expect(seenUs, told).toBeGreaterThanOrEqual(startUs);
      expect(lastUs, told).toBeGreaterThanOrEqual(seenUs);
      expect(lastUs, told).toBeLessThanOrEqual(start.wall.us + 50_000);
    }
    const [perl, sleep] = [named(start, 'perl'), named(start, 'sleep')];
    expect(perl?.cpuUs, told).toBeGreaterThan(500_000);
    expect(perl?.cpuUs, told).toBeLessThan(1_700_000);
    expect(sleep?.cpuUs, told).toBeLessThan(300_000);
    expect((sleep?.lastUs ?? 0) - (sleep?.startUs ?? 0), told).toBeGreaterThan(1_000_000);
    const sum = seen.reduce((all, { cpuUs }) => all + cpuUs, 0);
    expect(sum + (start.wall.programs?.unseenUs ?? 0), told).toBeGreaterThanOrEqual(part?.cpuUs ?? 0);
    const { stdout } = await engine.cli(['replay', 'why', '--start']);
    expect(stdout).toMatch(/s worked {2}perl \(\d+\), from \+/);
    const fall = await engine.cli(['replay', 'why', '--start', '--waterfall']);
    expect(fall.stdout).toContain('sh and its children');
    expect(fall.stdout).toMatch(/^ {2}perl \(\d+\)/m);
  });

  test('a program with a newline and an escape in its name prints no control character', async () => {
    const names = String.raw`$0 = "a\n\e[2J\"x"; sleep 4`;
    const other = String.raw`$0 = "supervisor"; sleep 4`;
    await run(refs.gzip, `perl -e '${names}' & perl -e '${other}'; wait`);
    const start = await why();
    expect(programs(start).seen.map(({ name }) => name)).toEqual(
      expect.arrayContaining([String.raw`a\n\u{1b}[2J"x`, 'supervisor']),
    );
    // A process of the engine has no process of a container in it.
    expect(start.wall.processes.filter(({ name }) => name === 'supervisor')).toHaveLength(1);
    for (const words of [[], ['--waterfall']]) {
      const { stdout } = await engine.cli(['replay', 'why', '--start', ...words]);
      expect(stdout.replaceAll('\n', '')).not.toMatch(/\p{Cc}/u);
      expect(stdout).toContain(String.raw`a\n\u{1b}[2J"x`);
    }
  });

  test('one that forks without end is bounded', async () => {
    const fork =
      'for (1..2000) { last unless defined(my $pid = fork); unless ($pid) { sleep 9; exit } } sleep 3';
    await run(refs.gzip, `perl -e '${fork}'`);
    const { seen, more } = programs(await why());
    expect(seen.length).toBeGreaterThan(10);
    expect(seen.length).toBeLessThanOrEqual(256);
    expect(more).toBeGreaterThan(300);
  });
});
