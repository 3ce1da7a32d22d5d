/**
 * How long until an engine is ready again: `cofa up` after every process was killed, with the mounts still in the
 * kernel, and after a reboot, without mounts and loop devices. The images are made up on the disk, without a registry:
 * one layer each, half of its blocks present, recorded by many events.
 *
 *     node ops/bench/recovery.ts [--mounts 100] [--blocks 10000] [--events 100] [--rounds 3] [--root DIR] [--json FILE]
 *
 * Making the images hashes mounts × blocks × 64 KiB and writes half as much (33 GB by default). A root that was given
 * stays, and the next run with the same numbers uses it again.
 */
import { execFile } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { connectEngine } from '../../src/client/client.ts';
import { Cleanup, mountsBelow } from '../../test/support/temp.ts';
import { runCofa } from '../../test/support/engine.ts';
import { programOptions } from '../program-options.ts';
import { makeRoot } from './made-up.ts';

export interface RecoveryOptions {
  mounts: number;
  /** Of 64 KiB, in each image. */
  blocks: number;
  /** Events that tell each layer's present blocks. */
  events: number;
  rounds: number;
  root: string;
  onProgress: (line: string) => void;
}

export interface Recovery {
  /** After a kill of every process: from `cofa up` until it has ended, ms. */
  killedMs: number[];
  /** The same after a reboot. */
  rebootMs: number[];
  /** All processes of the engine together, afterwards. */
  rssBytes: number;
}

const NODE = 'recovery';
const run = promisify(execFile);

export async function measureRecovery(options: RecoveryOptions): Promise<Recovery> {
  const { root, rounds, onProgress } = options;
  const made = join(root, 'made.json');
  const { mounts, blocks, events } = options;
  const wanted = JSON.stringify({ mounts, blocks, events });
  if (!existsSync(made) || readFileSync(made, 'utf8') !== wanted) {
    if (existsSync(made)) throw new Error(`${root} was made with other numbers`);
    await makeRoot({ ...options, node: NODE, images: mounts, layers: 1 });
    writeFileSync(made, wanted);
  }
  const result: Recovery = { killedMs: [], rebootMs: [], rssBytes: 0 };
  try {
    for (let round = 1; round <= rounds; round++) {
      result.rebootMs.push(await up(options));
      onProgress(`round ${round}: after a reboot ${Math.round(result.rebootMs.at(-1) ?? 0)} ms`);
      await killAll(root);
      result.killedMs.push(await up(options));
      onProgress(`round ${round}: after a kill ${Math.round(result.killedMs.at(-1) ?? 0)} ms`);
      result.rssBytes = await memory(root);
      if (round < rounds) {
        await killAll(root);
        await forget(root);
      }
    }
  } finally {
    await runCofa(['--root', root, 'down', '--force'], { timeoutMs: 120_000 });
  }
  return result;
}

/** `cofa up`, and a look whether everything is back. */
async function up({ root, mounts }: RecoveryOptions): Promise<number> {
  const since = performance.now();
  const result = await runCofa(['--root', root, 'up', '--node', NODE, '--trust', 'registry', '--json'], {
    timeoutMs: 300_000,
  });
  const ms = performance.now() - since;
  if (result.code !== 0) throw new Error(`cofa up: ${result.stdout}${result.stderr}`);
  const client = await connectEngine(root);
  try {
    const status = await client.call('status', {}, { timeoutMs: 60_000 });
    const back = status.mounts.filter(({ state }) => state === 'mounted').length;
    if (back !== mounts || status.degraded.length > 0)
      throw new Error(`${back} of ${mounts} mounts are back; ${status.degraded.join('; ')}`);
  } finally {
    await client.close();
  }
  return ms;
}

async function killAll(root: string): Promise<void> {
  const pids = (await processes(root)).map(({ pid }) => pid).filter((pid) => pid > 0);
  for (const pid of pids) process.kill(pid, 'SIGKILL');
  while (pids.some((pid) => readdirSync('/proc').includes(String(pid)))) await sleep(10);
}

async function processes(root: string): Promise<Array<{ pid: number; rssBytes?: number | undefined }>> {
  const client = await connectEngine(root);
  try {
    return (await client.call('status', {}, { timeoutMs: 60_000 })).processes;
  } finally {
    await client.close();
  }
}

const memory = async (root: string): Promise<number> =>
  (await processes(root)).reduce((sum, { rssBytes }) => sum + (rssBytes ?? 0), 0);

/** As a reboot does: removes mounts and loop devices. */
async function forget(root: string): Promise<void> {
  for (const point of mountsBelow(root).toReversed()) await run('umount', ['-l', '--', point]);
  for (const name of readdirSync('/sys/block')) {
    const file = name.startsWith('loop') ? backingOf(name) : '';
    if (file.startsWith(`${root}/`) || /^\/[0-9a-f]{64}$/.test(file))
      await run('losetup', ['-d', `/dev/${name}`]);
  }
}

function backingOf(name: string): string {
  try {
    return readFileSync(`/sys/block/${name}/loop/backing_file`, 'utf8').trim();
  } catch {
    return '';
  }
}

if (import.meta.main) {
  const { values } = programOptions(import.meta.filename, {
    options: {
      mounts: { type: 'string', default: '100' },
      blocks: { type: 'string', default: '10000' },
      events: { type: 'string', default: '100' },
      rounds: { type: 'string', default: '3' },
      root: { type: 'string' },
      json: { type: 'string' },
    },
  });
  const cleanup = new Cleanup();
  try {
    const result = await measureRecovery({
      mounts: Number(values.mounts),
      blocks: Number(values.blocks),
      events: Number(values.events),
      rounds: Number(values.rounds),
      root: values.root ?? (await cleanup.tempDir('recovery')),
      onProgress: (line) => process.stderr.write(`${line}\n`),
    });
    const text = `${JSON.stringify(result, null, 2)}\n`;
    process.stdout.write(text);
    if (values.json !== undefined) writeFileSync(values.json, text);
  } finally {
    await cleanup.run();
  }
}
