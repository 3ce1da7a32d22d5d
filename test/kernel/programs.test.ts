/** What the kernel says of the processes of a cgroup: real ones, with names that they chose, and more of them than are read. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, rmdirSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { programIn, programsOf } from '../../src/kernel/programs.ts';
import { eventually } from '../support/engine.ts';

const MOUNT = ['/sys/fs/cgroup/cgroup.procs', '/sys/fs/cgroup/pids/cgroup.procs']
  .filter((path) => existsSync(path))
  .map((path) => path.slice(0, path.lastIndexOf('/')))[0];
const CGROUP = `/cofa-test-${process.pid}`;
let children: ChildProcess[] = [];

describe.skipIf(MOUNT === undefined)('a cgroup', () => {
  beforeEach(() => mkdirSync(`${MOUNT}${CGROUP}`));
  afterEach(async () => {
    for (const { pid } of children) if (pid !== undefined) process.kill(-pid, 'SIGKILL');
    children = [];
    await eventually('its processes have ended', () => {
      try {
        rmdirSync(`${MOUNT}${CGROUP}`);
        return true;
      } catch {
        return undefined;
      }
    });
  });

  /** Runs a Perl program in the cgroup, and all that it starts. Resolves when it has said so. */
  async function run(script: string): Promise<number> {
    const words = ['-e', `$| = 1; <STDIN>; ${script}; print "up\\n"; sleep 60`];
    const child = spawn('perl', words, { detached: true, stdio: ['pipe', 'pipe', 'inherit'] });
    children.push(child);
    const pid = child.pid as number;
    writeFileSync(`${MOUNT}${CGROUP}/cgroup.procs`, String(pid));
    const up = new Promise((resolve) => child.stdout.once('data', resolve));
    child.stdin.write('now\n');
    await up;
    return pid;
  }

  test('has its processes with name, beginning and processor time', async () => {
    const before = Date.now();
    const pid = await run('1 while (times)[0] + (times)[1] < 0.3');
    const { list, more, uptimeMs } = programsOf(CGROUP, 64) ?? { list: [], more: -1, uptimeMs: 0 };
    expect(list).toMatchObject([{ pid, name: 'perl', childrenUs: 0 }]);
    expect(more).toBe(0);
    expect(list[0]?.cpuUs).toBeGreaterThanOrEqual(290_000);
    const age = uptimeMs - (list[0]?.beganMs ?? 0);
    expect(Math.abs(age - (Date.now() - before))).toBeLessThan(1_500);
  });

  test('a child that has ended is its parent’s', async () => {
    const pid = await run('unless (fork) { 1 while (times)[0] + (times)[1] < 0.3; exit } wait');
    const list = programsOf(CGROUP, 64)?.list ?? [];
    expect(list.map((one) => one.pid)).toEqual([pid]);
    expect(list[0]?.childrenUs).toBeGreaterThanOrEqual(290_000);
    expect(list[0]?.cpuUs).toBeLessThan(290_000);
  });

  test('a name of newlines, escapes, quotes and brackets is one name', async () => {
    const pid = await run('$0 = "a) R 1\\n\\e[2J\\"x"');
    expect(programsOf(CGROUP, 64)?.list).toMatchObject([{ pid, name: 'a) R 1\n\u{1b}[2J"x' }]);
  });

  test('of a thousand processes some are read, and the others counted', async () => {
    await run('for (1..1000) { unless (fork) { sleep 60; exit } }');
    const began = performance.now();
    const found = programsOf(CGROUP, 64);
    const ms = performance.now() - began;
    expect(found?.list).toHaveLength(64);
    expect(found?.more).toBeGreaterThan(300);
    // One page of the list, and 64 files: far from what a thousand would cost.
    console.log(`64 of 1001 processes: ${ms.toFixed(2)} ms`);
    expect(ms).toBeLessThan(250);
  });

  test('ten processes cost little', async () => {
    await run('for (1..9) { unless (fork) { sleep 60; exit } }');
    const times = Array.from({ length: 200 }, () => {
      const began = performance.now();
      expect(programsOf(CGROUP, 64)?.list).toHaveLength(10);
      return performance.now() - began;
    }).sort((a, b) => a - b);
    const [middle, late] = [times[100] ?? Number.NaN, times[180] ?? Number.NaN];
    console.log(`10 processes: ${middle.toFixed(3)} ms in the median, ${late.toFixed(3)} ms in nine of ten`);
    expect(middle).toBeLessThan(5);
  });

  test('without processes has none, and one that is not there is told apart', () => {
    expect(programsOf(CGROUP, 64)).toMatchObject({ list: [], more: 0 });
    expect(programsOf(`${CGROUP}-not`, 64)).toBe(undefined);
  });
});

test('a line of stat that is cut off, or none, says nothing wrong', () => {
  expect(programIn(7, '7 (sh) S 1')).toEqual({ pid: 7, name: 'sh', beganMs: 0, cpuUs: 0, childrenUs: 0 });
  expect(programIn(7, 'x')).toMatchObject({ pid: 7, cpuUs: 0 });
  const bytes = Buffer.from([0x37, 0x20, 0x28, 0xc3, 0xa4, 0xc3, 0x29, 0x20, 0x53]).toString('latin1');
  expect(programIn(7, bytes).name).toBe('ä\u{fffd}');
});
