import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { mkdir, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { abortConnection, connectionOf } from '../../src/fuse/connection.ts';
import { findMount, unmount } from '../../src/kernel/mount.ts';
import { Cleanup } from '../support/temp.ts';
import { until } from './acceptance.ts';

let cleanup: Cleanup;
let target: string;
beforeEach(async () => {
  cleanup = new Cleanup();
  target = join(await cleanup.tempDir('guard'), 'mount');
  await mkdir(target);
  cleanup.defer(async () => {
    const connection = connectionOf(target);
    if (connection !== undefined) abortConnection(connection);
    if (findMount(target) !== undefined) await unmount(target, { lazy: true });
  });
});
afterEach(() => cleanup.run());

/** Whether a thread of the process is still in the kernel, or it runs. Zombies without threads count as gone. */
function isThere(pid: number): boolean {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    return !/^State:\s+Z/m.test(status) || !/^Threads:\s+1$/m.test(status);
  } catch {
    return false;
  }
}

async function startWaiting(guarded: 'guarded' | 'alone'): Promise<ChildProcess> {
  const script = fileURLToPath(new URL('./guarded-child.ts', import.meta.url));
  const child = spawn(process.execPath, [script, target, guarded], { stdio: ['ignore', 'pipe', 'inherit'] });
  cleanup.defer(() => child.kill('SIGKILL'));
  await once(child.stdout as NonNullable<ChildProcess['stdout']>, 'data');
  return child;
}

test('a process that is killed while it waits for its own mount ends, and no other process waits', async () => {
  const child = await startWaiting('guarded');
  child.kill('SIGKILL');
  await until(() => !isThere(child.pid as number));
  await expect(statfs(target)).rejects.toThrow(/ENOTCONN|ECONNABORTED/);
});

test('without the guard it stays, which is why there is one', async () => {
  const child = await startWaiting('alone');
  child.kill('SIGKILL');
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect(isThere(child.pid as number)).toBe(true);
  abortConnection(connectionOf(target) ?? 0);
  await until(() => !isThere(child.pid as number));
});
