/** The lock on an engine's root, between containers: each has pids of its own. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, test } from 'vitest';
import { takeLock, takeLockInTurn } from '../../src/store/lock.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

test('an engine in a new container waits for one that was killed in another, whatever its pid was there', async () => {
  const file = join(await cleanup.tempDir('lock'), 'lock');
  const module = new URL('../../src/store/lock.ts', import.meta.url);
  const script = `import('${module}').then(({ takeLock }) => { takeLock('${file}', '/'); console.log('has it'); setInterval(() => {}, 1e6); })`;
  const args = ['--pid', '--fork', '--mount-proc', '--kill-child=KILL', process.execPath, '-e', script];
  const other = spawn('unshare', args, { stdio: ['ignore', 'pipe', 'inherit'] });
  cleanup.defer(() => void other.kill('SIGKILL'));
  await once(other.stdout, 'data');
  // The pid of a process that lives here, too.
  expect(readFileSync(file, 'utf8')).toMatch(/^1 pid:/);
  expect(() => takeLock(file, '/srv/cofa')).toThrow('(pid 1 of another container)');
  const killed = sleep(300).then(() => other.kill('SIGKILL'));
  const release = await takeLockInTurn(file, '/srv/cofa', () => {});
  await killed;
  await expect(takeLockInTurn(file, '/srv/cofa', () => {})).rejects.toThrow('running already');
  release();
}, 60_000);
