/** The benchmark of many nodes that start one image: what it says of containerd, and that nothing of it stays. */
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, test } from 'vitest';
import { eventually } from '../support/engine.ts';
import { runCommand } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';

/** Of cgroup 1 and of cgroup 2. */
const GROUPS = ['/sys/fs/cgroup/cpuacct', '/sys/fs/cgroup'];
const BENCH = join(import.meta.dirname, '../../ops/bench/fleet-start.ts');

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

interface Running {
  pid: number;
  ended: Promise<number | null>;
  said(): string;
  /** Of its namespaces, links and group of the kernel, those that are there. */
  remains(): string[];
}

/** In a group of its own, as timeout(1) has it. */
function startBench(...args: string[]): Running {
  const command = [BENCH, '--nodes', '2', '--size', '4M', '--no-tuned', ...args];
  const child = spawn(process.execPath, command, { stdio: ['ignore', 'ignore', 'pipe'], detached: true });
  const ended = new Promise<number | null>((resolve) => void child.once('close', resolve));
  cleanup.defer(() => {
    child.kill('SIGTERM');
    return ended;
  });
  let said = '';
  child.stderr.on('data', (bytes: Buffer) => (said += bytes.toString()));
  const pid = child.pid as number;
  return {
    pid,
    ended,
    said: () => said,
    remains: () => {
      const name = /the machines are (\w+)-2 /.exec(said)?.[1];
      if (name === undefined) throw new Error(`it has no machines: ${said}`);
      return [
        ...namesIn('/run/netns').filter((one) => one.startsWith(`${name}-`)),
        ...namesIn('/sys/class/net').filter((one) => one.startsWith(`${name}-`)),
        ...GROUPS.flatMap(namesIn).filter((one) => one === `cofa-fleet-start-${pid}`),
      ];
    },
  };
}

const namesIn = (folder: string): string[] => (existsSync(folder) ? readdirSync(folder) : []);

test('containerd on each node: the registry sends the image to each, and nothing stays', async () => {
  const file = join(await cleanup.tempDir('rows'), 'rows.json');
  const bench = startBench('--ways', 'containerd, alone; containerd', '--json', file);
  expect(await bench.ended, bench.said()).toBe(0);
  const { rows } = JSON.parse(readFileSync(file, 'utf8')) as {
    rows: Array<{ way: string; nodes: number; images: number; cpu: number }>;
  };
  expect(rows.map(({ way, nodes }) => ({ way, nodes }))).toEqual([
    { way: 'containerd, alone', nodes: 1 },
    { way: 'containerd', nodes: 2 },
  ]);
  for (const { nodes, images, cpu } of rows) {
    expect(images).toBeGreaterThan(nodes * 0.99);
    expect(images).toBeLessThan(nodes * 1.1);
    expect(cpu).toBeGreaterThan(0.05);
  }
  expect(bench.remains()).toEqual([]);
});

// At 10 Mbit/s the registry needs 6 s for two images of 4 MB.
test('ended by timeout(1), which sends SIGTERM to it and then to its group, while nodes read: nothing stays', async () => {
  const way = 'containerd';
  const bench = startBench('--ways', way, '--rate', '10M');
  await eventually(
    'the nodes start',
    () => {
      if (/Error/.test(bench.said())) throw new Error(bench.said());
      return bench.said().includes(`${way}: 2 nodes start`);
    },
    110_000,
  );
  await sleep(2_000);
  expect(bench.remains()).not.toEqual([]);
  process.kill(bench.pid, 'SIGTERM');
  process.kill(-bench.pid, 'SIGTERM');
  expect(await bench.ended, bench.said()).toBe(128 + constants.signals.SIGTERM);
  expect(bench.said()).toContain('what was begun is taken down');
  expect(bench.remains()).toEqual([]);
});

test('processor time of a program and of what it has started and lost, by cgroup 2 as by cgroup 1', async () => {
  const second = await cleanup.tempDir('cgroup');
  await runCommand('mount', ['-t', 'cgroup2', 'none', second]);
  cleanup.defer(() => runCommand('umount', [second]));
  const roots = [second, ...(existsSync('/sys/fs/cgroup/cpuacct') ? ['/sys/fs/cgroup'] : [])];
  for (const root of roots) {
    const said = await runCommand(process.execPath, ['-e', SPEND, TIME_GROUP, root]);
    const { seconds, inside, left } = JSON.parse(said) as { seconds: number; inside: string; left: string };
    expect(inside, root).toContain(':/cofa-test-time-');
    expect(left, root).not.toContain('cofa-test-time-');
    expect(seconds, root).toBeGreaterThan(0.2);
    expect(seconds, root).toBeLessThan(5);
  }
});

const TIME_GROUP = join(import.meta.dirname, '../../ops/bench/time-group.ts');

/** A program that joins a group, has another one spend a fifth of a second of processor time and more, and leaves. */
const SPEND = `
  const { execFileSync } = require('node:child_process');
  const { readFileSync } = require('node:fs');
  const [file, root] = process.argv.slice(1);
  import(file).then(async ({ joinTimeGroup }) => {
    const group = await joinTimeGroup('cofa-test-time-' + process.pid, root);
    const inside = readFileSync('/proc/self/cgroup', 'utf8');
    const spin = 'const { cpuUsage } = process; while (cpuUsage().user < 200_000);';
    execFileSync(process.execPath, ['-e', spin]);
    const seconds = await group.seconds();
    await group.leave();
    console.log(JSON.stringify({ seconds, inside, left: readFileSync('/proc/self/cgroup', 'utf8') }));
  });`;
