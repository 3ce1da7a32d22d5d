/** Priorities of processes, for real, and how busy the machine is. */
import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { readPressure } from '../../src/kernel/pressure.ts';
import {
  isSibling,
  policyOf,
  type Priority,
  raiseBeforeEnd,
  setProcessPriority,
} from '../../src/kernel/priority.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

/** Lives until its input ends; a line makes it start a thread. */
const PROGRAM = `
  const { Worker } = require('node:worker_threads');
  process.stdin.on('data', () => {
    new Worker('require("node:worker_threads").parentPort.on("message", () => {})', { eval: true })
      .on('online', () => console.log('online'));
  });
  console.log('ready');`;

async function startNode(): Promise<{ pid: number; child: ChildProcess; word: () => Promise<void> }> {
  const child = spawn(process.execPath, ['-e', PROGRAM], { stdio: ['pipe', 'pipe', 'inherit'] });
  cleanup.defer(() => void child.kill('SIGKILL'));
  const word = () => new Promise<void>((resolve) => child.stdout?.once('data', () => resolve()));
  await word();
  return { pid: child.pid ?? 0, child, word };
}

const policiesOf = (pid: number) =>
  new Set(readdirSync(`/proc/${pid}/task`).map((tid) => policyOf(pid, Number(tid))));

test('every thread of a process is lowered and raised, and a thread that starts meanwhile is as the others', async () => {
  const { pid, child, word } = await startNode();
  const is = (priority: Priority) => expect([...policiesOf(pid)]).toEqual([priority]);
  is('normal');
  for (const priority of ['idle', 'low', 'idle'] as const) {
    expect(setProcessPriority(pid, priority)).toBe(true);
    is(priority);
  }
  const online = word();
  child.stdin?.write('a thread\n');
  await online;
  is('idle');
  expect(setProcessPriority(pid, 'normal')).toBe(true);
  is('normal');
});

test('only a process of the same parent is a sibling', async () => {
  const { pid } = await startNode();
  expect(isSibling(process.pid)).toBe(true);
  expect([pid, process.ppid, 1].map(isSibling)).toEqual([false, false, false]);
});

test('a process that has ended is passed over', async () => {
  const { pid, child } = await startNode();
  child.kill('SIGKILL');
  await new Promise((resolve) => child.once('exit', resolve));
  expect(setProcessPriority(pid, 'idle')).toBe(false);
});

test('a process that is to be killed is raised where it is idle or low', async () => {
  const { pid } = await startNode();
  for (const [before, after] of [
    ['idle', 'normal'],
    ['low', 'normal'],
    ['normal', 'normal'],
  ] as const) {
    setProcessPriority(pid, before);
    raiseBeforeEnd(pid);
    expect([...policiesOf(pid)]).toEqual([after]);
  }
  raiseBeforeEnd(2 ** 22 + 1);
});

test('pressure is what the kernel says, and undefined where it says nothing', async () => {
  const folder = await cleanup.tempDir('pressure');
  expect(readPressure(folder)).toBeUndefined();
  const some = (total: number) =>
    `some avg10=1.28 avg60=0.65 avg300=1.94 total=${total}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n`;
  await writeFile(join(folder, 'cpu'), some(17_305_794_007));
  await writeFile(join(folder, 'io'), some(2_500));
  expect(readPressure(folder)).toEqual({ cpuMs: 17_305_794.007, ioMs: 2.5 });
  await writeFile(join(folder, 'io'), 'another format');
  expect(readPressure(folder)).toBeUndefined();
});
