/**
 * What readers notice when a front end is killed, when it is upgraded, and when the supervisor is killed and started
 * again: the longest read, the number of failed reads, and for how long reads failed. Blocks are present, and each read
 * bypasses the page cache.
 *
 *     node ops/bench/pauses.ts [--rounds 3] [--readers 4] [--json FILE]
 */
import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pushImage, twoLayers } from '../../test/faults/fault-image.ts';
import { type Engine, mountImage, runCofa, startEngine } from '../../test/support/engine.ts';
import { startRegistry } from '../../test/support/registry-server.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { programOptions } from '../program-options.ts';

export interface Pause {
  /** The longest read that succeeded, ms. */
  longestMs: number;
  reads: number;
  failed: number;
  /** From the first failed read to the end of the last one, ms. */
  failingMs: number;
}

export interface Pauses {
  /** No kill: the pauses of this machine itself. */
  idle: Pause[];
  frontEndKilled: Pause[];
  upgraded: Pause[];
  /** The supervisor is killed, and `cofa up` follows at once. */
  supervisorKilled: Pause[];
}

/** Before and after, ms. */
const MARGIN_MS = 1_000;

export async function measurePauses(rounds: number, readers: number): Promise<Pauses> {
  const cleanup = new Cleanup();
  const result: Pauses = { idle: [], frontEndKilled: [], upgraded: [], supervisorKilled: [] };
  try {
    const directory = await cleanup.tempDir('pauses');
    const registry = await startRegistry();
    cleanup.defer(() => registry.stop());
    const image = await pushImage(directory, registry.host, 'app', twoLayers(1));
    const root = await cleanup.tempDir('pauses-root');
    let engine = await startEngine({ root });
    cleanup.defer(() => engine.stop());
    await runCofa(['index', image.ref]);
    const dir = join(directory, 'mnt');
    await mountImage(engine, image.ref, dir);
    // This file alone: the kernel itself reads a complete layer, and readers would notice nothing.
    await readFile(join(dir, 'app/noise'));
    const during = async (what: () => Promise<unknown>): Promise<Pause> => {
      const reading = startReading(join(dir, 'app/noise'), readers);
      await sleep(MARGIN_MS);
      await what();
      await sleep(MARGIN_MS);
      return reading.stop();
    };
    const kill = async (of: Engine, name: string) =>
      process.kill((await of.pids())[name] as number, 'SIGKILL');
    for (let round = 0; round < rounds; round++) {
      result.idle.push(await during(() => sleep(500)));
      result.frontEndKilled.push(await during(() => kill(engine, 'front-end')));
      result.upgraded.push(await during(() => engine.client.call('upgrade', {})));
      result.supervisorKilled.push(
        await during(async () => {
          await kill(engine, 'supervisor');
          await engine.ended;
          await engine.client.close().catch(() => {});
          engine = await startEngine({ root });
        }),
      );
    }
    return result;
  } finally {
    await cleanup.run();
  }
}

/** Reads pieces of a file, past the page cache, until it is stopped. */
function startReading(path: string, readers: number): { stop(): Promise<Pause> } {
  const child = spawn(process.execPath, ['-e', READERS, path, String(readers)], {
    stdio: ['pipe', 'pipe', 'inherit'],
    cwd: import.meta.dirname,
  });
  let text = '';
  child.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()));
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
  return {
    stop: async () => {
      child.stdin.end();
      await ended;
      const parts = text
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as Pause & { first: number; last: number });
      const first = Math.min(...parts.map((part) => part.first));
      const last = Math.max(...parts.map((part) => part.last));
      return {
        longestMs: Math.round(Math.max(...parts.map((part) => part.longestMs))),
        reads: parts.reduce((sum, part) => sum + part.reads, 0),
        failed: parts.reduce((sum, part) => sum + part.failed, 0),
        failingMs: Math.max(0, Math.round(last - first)),
      };
    },
  };
}

const READERS = `
  const { Worker, isMainThread, workerData } = require('node:worker_threads');
  const fs = require('node:fs');
  const [path, readers] = process.argv.slice(1);
  if (isMainThread) {
    const stop = new Int32Array(new SharedArrayBuffer(4));
    const source = process._eval;
    for (let i = 0; i < +readers; i++) new Worker(source, { eval: true, workerData: { stop, seed: i, path } });
    process.stdin.on('end', () => Atomics.store(stop, 0, 1)).resume();
  } else {
    const koffi = require('koffi');
    const advise = koffi.load('libc.so.6').func('int posix_fadvise(int fd, long offset, long length, int advice)');
    const { stop, seed, path } = workerData;
    const fd = fs.openSync(path, 'r');
    advise(fd, 0, 0, 1);
    const size = fs.fstatSync(fd).size, bytes = Buffer.alloc(4096);
    const now = () => performance.timeOrigin + performance.now();
    let longestMs = 0, reads = 0, failed = 0, first = Infinity, last = -Infinity, at = seed * 977;
    while (Atomics.load(stop, 0) === 0) {
      at = (at * 1103515245 + 12345) % 2147483648;
      const offset = Math.floor((at % size) / 4096) * 4096;
      advise(fd, offset, 4096, 4);
      const since = now();
      try {
        fs.readSync(fd, bytes, 0, 4096, offset);
        longestMs = Math.max(longestMs, now() - since);
      } catch {
        failed++;
        first = Math.min(first, since);
        last = Math.max(last, now());
        Atomics.wait(stop, 0, 0, 1);
      }
      reads++;
    }
    fs.writeSync(1, JSON.stringify({ longestMs, reads, failed, first: first === Infinity ? 1e15 : first, last: last === -Infinity ? -1e15 : last }) + '\\n');
  }`;

if (import.meta.main) {
  const { values } = programOptions(import.meta.filename, {
    options: {
      rounds: { type: 'string', default: '3' },
      readers: { type: 'string', default: '4' },
      json: { type: 'string' },
    },
  });
  const result = await measurePauses(Number(values.rounds), Number(values.readers));
  for (const [what, pauses] of Object.entries(result) as Array<[string, Pause[]]>) {
    for (const { longestMs, reads, failed, failingMs } of pauses)
      console.log(
        `${what.padEnd(18)} longest read ${longestMs} ms, ${reads} reads, ${failed} failed over ${failingMs} ms`,
      );
  }
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(result, null, 2)}\n`);
}
