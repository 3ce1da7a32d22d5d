/** Work that no reader waits for, on a machine whose processors others have taken: a real engine, and docker's registry. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { pushImage } from '../faults/fault-image.ts';
import { noise } from '../images/nasty.ts';
import { type Engine, imageOf, startEngine } from '../support/engine.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';

const MIB = 2 ** 20;
/** Other tests run beside this one: they keep the other processors. */
const ONE_PROCESSOR = ['taskset', '-c', '0'];
const FILES = 12;
const FILE_BYTES = 12 * MIB;
/** A reader waits for milliseconds of work, of which others leave a third. At idle priority it would wait for 17 s, ms. */
const SHORT_MS = 6_000;

const cleanup = new Cleanup();
let directory = '';
let registry: RegistryServer;
let engine: Engine;
vi.setConfig({ testTimeout: 240_000 });

beforeAll(async () => {
  directory = await cleanup.tempDir('idle');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  engine = await startEngine({ root: join(directory, 'root'), defers: true, through: ONE_PROCESSOR });
  cleanup.defer(() => engine.stop());
});
afterAll(() => cleanup.run());

/** Takes the engine's processor with processes that have a session each. */
function takeProcessor(): () => void {
  const hogs = Array.from(
    { length: 3 },
    (): ChildProcess =>
      spawn('taskset', [...ONE_PROCESSOR.slice(1), 'sh', '-c', 'while :; do :; done'], {
        stdio: 'ignore',
        detached: true,
      }),
  );
  const release = () => {
    for (const hog of hogs) hog.kill('SIGKILL');
  };
  cleanup.defer(release);
  return release;
}

/** How long a read of a block at this place takes, ms. */
async function readAt(path: string, at: number): Promise<number> {
  const file = await open(path, 'r');
  try {
    const began = performance.now();
    const { bytesRead } = await file.read(Buffer.alloc(4096), 0, 4096, at);
    expect(bytesRead).toBe(4096);
    return performance.now() - began;
  } finally {
    await file.close();
  }
}

test('readers are served, and the rest rests', async () => {
  const files = Object.fromEntries(
    Array.from({ length: FILES }, (_, n) => [`file-${n}`, noise(FILE_BYTES, n)]),
  );
  const { ref } = await pushImage(join(directory, 'image'), registry.host, 'idle', [files]);
  expect((await engine.cli(['index', ref])).code).toBe(0);
  const dir = join(directory, 'mounted');
  mkdirSync(dir);
  const absent = async () =>
    (await imageOf(engine, ref)).layers.reduce((sum, { blocks }) => sum + blocks.absent, 0);
  const release = takeProcessor();
  expect((await engine.cli(['mount', ref, dir])).code).toBe(0);
  const all = await absent();
  const waits: number[] = [];
  for (let n = FILES - 1; n >= 0; n--)
    waits.push(await readAt(join(dir, `file-${n}`), ((n * 5) % 11) * MIB + 4096 * n));
  console.log(`waits under load, ms: ${waits.map(Math.round).join(' ')}`);
  expect(Math.max(...waits)).toBeLessThan(SHORT_MS);
  // With all processors free it would have come meanwhile.
  expect(await absent()).toBeGreaterThan(all / 4);
  release();
});
