/** Processes that live and do not answer, that do not start, and that are swapped for new ones, under verifying readers. */
import { execFile } from 'node:child_process';
import { rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { startRelay, type Relay } from '../../ops/bench/relay.ts';
import { abortConnection, connectionOf } from '../../src/fuse/connection.ts';
import {
  type Engine,
  errorOf,
  eventually,
  imageOf,
  mountImage,
  startEngine,
  untilWell,
} from '../support/engine.ts';
import { readInParallel } from '../support/readers.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup, listMounts } from '../support/temp.ts';
import { type FaultImage, pushImage, readPieces, twoLayers } from './fault-image.ts';

const run = promisify(execFile);
const cleanup = new Cleanup();
let afterTest = new Cleanup();
let directory = '';
let registry: RegistryServer;
let relay: Relay;
let image: FaultImage;
/** The same image, not over the link. */
let near = '';
let count = 0;
/** How long an engine whose processes stand still takes to end, ms. */
let ending: Promise<number>;

beforeAll(async () => {
  directory = await cleanup.tempDir('supervision');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  // Reading the image takes seconds, in which things happen.
  relay = await startRelay({ to: { host: '127.0.0.1', port: registry.port }, rate: 30e6, rttMs: 2 });
  cleanup.defer(() => relay.stop());
  image = await pushImage(directory, registry.host, 'app', twoLayers(8000));
  near = image.ref;
  image.ref = near.replace(registry.host, relay.host);
  // That is half a minute: it ends beside the tests.
  const still = await startEngine({ workers: 2 });
  cleanup.defer(() => still.stop());
  const pids = await still.pids();
  for (const name of ['front-end', 'fetcher-1', 'nats-server']) process.kill(pids[name] as number, 'SIGSTOP');
  const began = performance.now();
  process.kill(still.pid, 'SIGTERM');
  ending = still.ended.then(() => performance.now() - began);
});
afterEach(async () => {
  const steps = afterTest;
  afterTest = new Cleanup();
  await steps.run();
});
afterAll(() => cleanup.run());

interface Scene {
  engine: Engine;
  dir: string;
}

async function prepare(options: Parameters<typeof startEngine>[0] = {}): Promise<Scene> {
  const engine = await startEngine({ workers: 2, ...options });
  afterTest.defer(() => engine.stop());
  expect((await engine.cli(['index', near])).code).toBe(0);
  const dir = join(directory, `mnt-${++count}`);
  await mountImage(engine, image.ref, dir);
  return { engine, dir };
}

const readAll = (dir: string) =>
  readInParallel({ root: dir, expected: image.expected, readers: 16, copies: 1, pieceSize: 64 * 1024 });

const presence = (engine: Engine, blocks: number) =>
  eventually(
    `${blocks} blocks are present`,
    async () => (await imageOf(engine, image.ref)).blocks.present >= blocks,
  );

/** One cold read. */
const readOne = async (dir: string, from: number) =>
  (
    await readPieces(join(dir, 'app/noise'), image.files.get('app/noise') as Buffer, {
      from,
      count: 1,
      exact: true,
      timeoutMs: 30_000,
    })
  )[0];

const processOf = async (engine: Engine, name: string) =>
  (await engine.status()).processes.find((one) => one.name === name);

/** A front end that starts finds something else than its settings. */
async function spoilStart(engine: Engine, how: 'nonsense' | 'hang'): Promise<() => Promise<void>> {
  const file = join(engine.root, 'run/engine.json');
  await rename(file, `${file}.good`);
  // A process that opens a pipe without a writer waits.
  if (how === 'hang') await run('mkfifo', [file]);
  else await writeFile(file, 'nonsense');
  return () => rename(`${file}.good`, file);
}

describe('a process that stands still', () => {
  it('is killed and started again, whichever it is; no read fails', async () => {
    const { engine, dir } = await prepare({ args: ['--hang-deadline', '2'] });
    // On a busy machine a process may just be started again; its number is 0 then, which to kill(2) is this very group.
    const before = await eventually('every process runs', async () => {
      const pids = await engine.pids();
      return Object.values(pids).every((pid) => pid > 0) && pids;
    });
    const reading = readAll(dir);
    await presence(engine, 8);
    for (const names of [['front-end', 'fetcher-0'], ['nats-server']]) {
      for (const name of names) process.kill(before[name] as number, 'SIGSTOP');
      for (const name of names) {
        const after = await eventually(`${name} runs again`, async () => {
          const one = await processOf(engine, name);
          return one !== undefined && one.restarts > 0 && one.state === 'running' && one;
        });
        expect(after.pid).not.toBe(before[name]);
        expect(after.lastEnd?.reason).toMatch(/SIGKILL.*did not answer for 2(\.\d)? s/);
      }
    }
    expect(await reading).toMatchObject({ failures: [] });
    await eventually('all is well', async () => {
      const { ready, degraded } = await engine.status();
      return ready && degraded.length === 0;
    });
    await eventually('the log tells it', async () => {
      const { stdout } = await engine.cli(['events', '--json', '--since-start', '--no-follow']);
      const lines = stdout.trim().split('\n');
      const ended = lines
        .map((line) => JSON.parse(line) as { type: string; data: { name?: string; pid?: number } })
        .filter(({ type }) => type === 'process.ended');
      return ['front-end', 'fetcher-0', 'nats-server'].every((name) =>
        ended.some(({ data }) => data.name === name && data.pid === before[name]),
      );
    });
  });
});

describe('a front end that does not start', () => {
  it('crashing, then hanging: readers get EIO by their deadline, and their data when it is over', async () => {
    const { engine, dir } = await prepare({ readDeadlineMs: 2_000, args: ['--hang-deadline', '2'] });
    for (const [from, how] of [
      [10, 'nonsense'],
      [100, 'hang'],
    ] as const) {
      const mend = await spoilStart(engine, how);
      process.kill((await engine.pids())['front-end'] as number, 'SIGKILL');
      const began = performance.now();
      expect(await readOne(dir, from)).toBe('EIO');
      const waited = performance.now() - began;
      const status = await engine.status();
      expect(status).toMatchObject({ ready: false });
      expect(status.degraded.join()).toMatch(/front end/);
      // Not for ever: the readers' deadline, and what a busy machine adds.
      expect(waited).toBeLessThan(20_000);
      await mend();
      await eventually('it is ready again', async () => (await engine.status()).ready, 60_000);
      expect(await readOne(dir, from)).toBe('ok');
      await untilWell(engine);
    }
  });
});

describe('upgrade', () => {
  it('swaps the front end and the fetchers under readers: no read fails; one that does not start leaves the old one', async () => {
    const { engine, dir } = await prepare();
    const before = await engine.pids();
    const reading = readAll(dir);
    await presence(engine, 8);
    const result = await engine.cli(['upgrade', '--json']);
    expect(result).toMatchObject({ code: 0 });
    const after = await engine.pids();
    expect(JSON.parse(result.stdout)).toMatchObject({
      frontEnd: { from: before['front-end'], to: after['front-end'] },
      fetchers: 2,
    });
    for (const name of ['front-end', 'fetcher-0', 'fetcher-1']) expect(after[name]).not.toBe(before[name]);
    expect(after.supervisor).toBe(before.supervisor);
    const mend = await spoilStart(engine, 'nonsense');
    const refused = await engine.cli(['upgrade', '--json']);
    expect(refused.code).toBe(8);
    expect(errorOf(refused)).toMatchObject({
      code: 'environment',
      message: expect.stringMatching(/old one stays/),
    });
    expect((await engine.pids())['front-end']).toBe(after['front-end']);
    await mend();
    expect(await reading).toMatchObject({ failures: [] });
    expect((await imageOf(engine, image.ref)).reads.errors).toBe(0);
    expect((await engine.cli(['unmount', dir])).code).toBe(0);
    await untilWell(engine);
  });
});

describe('a FUSE connection that an administrator aborts', () => {
  it('is made anew under the mounts: EIO, then the same kernel mount is right again', async () => {
    const { engine, dir } = await prepare();
    const mount = listMounts().findLast(({ point }) => point === dir);
    const reading = readAll(dir);
    await presence(engine, 8);
    abortConnection(connectionOf(join(engine.root, 'run/devices')) ?? 0);
    const { failures } = await reading;
    expect(failures.length).toBeGreaterThan(0);
    expect(failures.filter((text) => !/EIO/.test(text))).toEqual([]);
    await eventually('all is right again', async () => (await readAll(dir)).failures.length === 0);
    expect(listMounts().findLast(({ point }) => point === dir)).toEqual(mount);
    expect((await engine.cli(['unmount', dir])).code).toBe(0);
    await untilWell(engine);
  });
});

describe('a kernel that sends nothing again', () => {
  it('a front end that dies takes its mount along: EIO, then the same kernel mount is right again', async () => {
    const { engine, dir } = await prepare({ env: { COFA_FUSE_RESEND: '0' } });
    const mount = listMounts().findLast(({ point }) => point === dir);
    const reading = readAll(dir);
    await presence(engine, 8);
    process.kill((await engine.pids())['front-end'] as number, 'SIGKILL');
    const { failures } = await reading;
    expect(failures.filter((text) => !/EIO/.test(text))).toEqual([]);
    await eventually('it is ready again', async () => (await engine.status()).ready);
    expect(await readAll(dir)).toMatchObject({ failures: [] });
    expect(listMounts().findLast(({ point }) => point === dir)).toEqual(mount);
    expect((await engine.cli(['upgrade', '--json'])).code).toBe(6);
    expect((await engine.cli(['unmount', dir])).code).toBe(0);
  });
});

describe('processes that stand still', () => {
  it('do not keep the engine from its end', async () => {
    expect(await ending).toBeLessThan(45_000);
  });
});
