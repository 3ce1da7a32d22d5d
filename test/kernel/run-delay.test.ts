/** Whether a process that has no processor is told from one that waits for something else: real processes on a processor that is taken. */
import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, test } from 'vitest';
import { QueueWatch, queuedMs } from '../../src/kernel/run-delay.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

/** A process on the first processor. */
function onFirst(command: string[]): number {
  const child = spawn('taskset', ['-c', '0', ...command], { stdio: 'ignore' });
  cleanup.defer(() => void child.kill('SIGKILL'));
  return child.pid as number;
}

const LOOP = ['sh', '-c', 'while :; do :; done'];

test('of what computes the queue takes most where others compute, too; of what sleeps or has ended it takes nothing', async () => {
  for (let count = 0; count < 4; count++) onFirst(LOOP);
  const [busy, asleep] = [onFirst(LOOP), onFirst(['sleep', '100'])];
  const [queue, sleeper, all] = [
    new QueueWatch(queuedMs),
    new QueueWatch(queuedMs),
    new QueueWatch((pid) => queuedMs(pid, 'all')),
  ];
  await sleep(300);
  for (const [watch, pid] of [
    [queue, busy],
    [all, busy],
    [sleeper, asleep],
  ] as const)
    expect(watch.share(pid, performance.now())).toBe(0);
  await sleep(1_000);
  expect(queue.share(busy, performance.now())).toBeGreaterThan(0.5);
  expect(all.share(busy, performance.now())).toBeGreaterThan(0.5);
  expect(sleeper.share(asleep, performance.now())).toBeLessThan(0.2);
  expect(queuedMs(2 ** 22 + 1)).toBe(0);
});
