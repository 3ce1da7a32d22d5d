/** Secrets that outlive a process, with processes that are really killed and a stand-in for systemd. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { afterEach, expect, test } from 'vitest';
import { startServiceManager } from '../support/service-manager.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

const MODULE = new URL('../../src/registry/kept-secrets.ts', import.meta.url).href;
/** Says what was kept, keeps each word of its arguments, and waits for its end. */
const SERVICE = `
  const { KeptSecrets } = await import(${JSON.stringify(MODULE)});
  const kept = new KeptSecrets('test');
  console.log(kept.load()?.toString() ?? 'nothing');
  for (const word of process.argv.slice(1)) kept.save(Buffer.from(word));
  console.log('kept', kept.load()?.toString() ?? 'nothing more', process.env.LISTEN_FDS ?? 'taken');
  setInterval(() => {}, 1000);`;

/** One life, which ends by a kill. Returns what the one before has kept. */
async function live(prefix: string[], ...words: string[]): Promise<string> {
  const [program = '', ...args] = [
    ...prefix,
    process.execPath,
    '--input-type=module',
    '-e',
    SERVICE,
    ...words,
  ];
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const lines: string[] = [];
  for await (const line of createInterface({ input: child.stdout })) {
    lines.push(line);
    if (lines.length === 2) child.kill('SIGKILL');
  }
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  expect(lines[1]).toBe('kept nothing more taken');
  return lines[0] ?? '';
}

test('a service that is killed has in its next life what it kept last', async () => {
  const { start } = await startServiceManager(cleanup);
  expect(await live(start, 'first', 'second', 'third')).toBe('nothing');
  expect(await live(start)).toBe('third');
  expect(await live(start, 'fourth')).toBe('third');
  expect(await live(start, 'fifth', 'sixth')).toBe('fourth');
  expect(await live(start)).toBe('sixth');
});
