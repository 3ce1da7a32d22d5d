/**
 * An engine whose processes are all gone, and what the next one makes of it: mounts that are in use go on where they are.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, open, readFile } from 'node:fs/promises';
import { existsSync, readdirSync, readFileSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type Engine, eventually, imageOf, mountImage, startEngine, untilWell } from '../support/engine.ts';
import { readInParallel } from '../support/readers.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { listLoops } from '../../src/kernel/loop.ts';
import { Cleanup, listMounts } from '../support/temp.ts';
import { type FaultImage, pushImage, readPieces, twoLayers } from './fault-image.ts';

const run = promisify(execFile);
const cleanup = new Cleanup();
let afterTest = new Cleanup();
let directory = '';
let registry: RegistryServer;
let image: FaultImage;
let count = 0;

beforeAll(async () => {
  directory = await cleanup.tempDir('recovery');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  image = await pushImage(directory, registry.host, 'app', twoLayers(7000));
});
afterEach(async () => {
  const steps = afterTest;
  afterTest = new Cleanup();
  await steps.run();
});
afterAll(() => cleanup.run());

interface Scene {
  engine: Engine;
  root: string;
  dir: string;
}

async function prepare(prefetch = false): Promise<Scene> {
  const root = await afterTest.tempDir('root');
  const engine = await up(root);
  expect((await engine.cli(['index', image.ref])).code).toBe(0);
  const dir = join(directory, `mnt-${++count}`);
  await mountImage(engine, image.ref, dir, { prefetch });
  return { engine, root, dir };
}

async function up(root: string): Promise<Engine> {
  const engine = await startEngine({ root, rehearses: true });
  afterTest.defer(() => engine.stop());
  return engine;
}

/** Kills every process of the engine at once, or the supervisor alone; the others then end with it. */
async function kill(engine: Engine, what: 'all' | 'supervisor'): Promise<void> {
  const pids = Object.values(await engine.pids());
  process.kill(engine.pid, 'SIGKILL');
  if (what === 'all') for (const pid of pids) if (pid !== engine.pid) process.kill(pid, 'SIGKILL');
  await engine.ended;
  await eventually('its processes have ended', () =>
    pids.every((pid) => !readdirSync('/proc').includes(String(pid))),
  );
}

const mountAt = (dir: string) => listMounts().findLast(({ point }) => point === dir);

/** Loops of an engine, by number, with the files behind them; those of a FUSE mount that was detached lack its path, and maybe their label. */
async function loopsOf(root: string): Promise<string[]> {
  const names = image.tars.map((tar) => `/${createHash('sha256').update(tar).digest('hex')}`);
  const engine = `cofa:${readFileSync(join(root, 'run/label'), 'utf8').trim().split(' ')[1]}/`;
  const loops = await listLoops((file) => file.startsWith(root) || names.includes(file));
  // Another test's engine may have the same layers.
  return loops
    .filter(
      ({ backingFile, label }) => backingFile.startsWith(root) || label === '' || label.startsWith(engine),
    )
    .map(({ number, backingFile }) => `loop${number} ${backingFile}`);
}

const readAll = (dir: string) =>
  readInParallel({ root: dir, expected: image.expected, readers: 16, copies: 1, pieceSize: 64 * 1024 });

interface Container {
  rootfs: string;
  /** What the open file has at 1 MiB. */
  readOpen(): Buffer;
  close(): Promise<void>;
}

/** An overlay over the mount, as a container has it, with a file of it open. */
async function useLikeContainer(dir: string): Promise<Container> {
  const base = await afterTest.tempDir('overlay');
  const [upper, work, rootfs] = ['upper', 'work', 'rootfs'].map((name) => join(base, name)) as [
    string,
    string,
    string,
  ];
  for (const path of [upper, work, rootfs]) await mkdir(path);
  const options = `lowerdir=${dir},upperdir=${upper},workdir=${work}`;
  await run('mount', ['-t', 'overlay', 'overlay', '-o', options, rootfs]);
  afterTest.defer(() => run('umount', ['-l', rootfs]).catch(() => {}));
  const file = await open(join(rootfs, 'app/noise'), 'r');
  afterTest.defer(() => file.close().catch(() => {}));
  return {
    rootfs,
    close: () => file.close(),
    readOpen: () => {
      const bytes = Buffer.alloc(4096);
      readSync(file.fd, bytes, 0, 4096, 1 << 20);
      return bytes;
    },
  };
}

describe('recovery', () => {
  it('killed twice, the second time with all its processes: the mount that a container uses is repaired where it is', async () => {
    const { engine, root, dir } = await prepare();
    const noise = image.files.get('app/noise') as Buffer;
    const container = await useLikeContainer(dir);
    const before = { mount: mountAt(dir), loops: await loopsOf(root) };
    let last = engine;
    for (const [round, what] of (['supervisor', 'all'] as const).entries()) {
      await kill(last, what);
      // No server is there: an error at once, never a wait.
      const place = { from: 40 + round, count: 1, timeoutMs: 10_000 };
      expect(await readPieces(join(container.rootfs, 'app/noise'), noise, place)).toEqual(['EIO']);
      last = await up(root);
      expect(mountAt(dir)).toEqual(before.mount);
      expect(await loopsOf(root)).toEqual(before.loops);
    }
    expect(container.readOpen()).toEqual(noise.subarray(1 << 20, (1 << 20) + 4096));
    expect(await readAll(container.rootfs)).toMatchObject({ failures: [] });
    expect(await last.status()).toMatchObject({ degraded: [], mounts: [{ dir, state: 'mounted' }] });
    expect(last.log('supervisor')).toContain('"kept":1');
    await run('umount', ['-l', container.rootfs]);
    // The file is closed and the overlay unmounted: with the mount the engine removes the folder made for it two engines ago.
    await container.close();
    await eventually('it can be unmounted', async () => (await last.cli(['unmount', dir])).code === 0);
    expect(existsSync(dir)).toBe(false);
  });

  it('a layer that had been handed over stays so, and its reads never fail', async () => {
    const { engine, root, dir } = await prepare(true);
    // A layer is handed over when the image's start has been seen.
    await readFile(join(dir, 'lib/small-0'));
    await eventually('the kernel reads all layers itself', async () => {
      const { layers } = await imageOf(engine, image.ref);
      // The front end says so before the loop is moved.
      const isMoved = (await loopsOf(root)).every((line) => !line.includes('/run/devices/'));
      return isMoved && layers.every(({ state }) => state === 'handed-over');
    });
    const before = { mount: mountAt(dir), loops: await loopsOf(root) };
    const container = await useLikeContainer(dir);
    await kill(engine, 'all');
    expect(await readAll(container.rootfs)).toMatchObject({ failures: [] });
    const again = await up(root);
    expect(mountAt(dir)).toEqual(before.mount);
    expect(await loopsOf(root)).toEqual(before.loops);
    expect((await imageOf(again, image.ref)).layers.map(({ state }) => state)).toEqual([
      'handed-over',
      'handed-over',
    ]);
  });

  it('after a reboot, with mounts and loops gone, it is mounted anew', async () => {
    const { engine, root, dir } = await prepare();
    const prose = image.files.get('lib/prose') as Buffer;
    expect(new Set(await readPieces(join(dir, 'lib/prose'), prose))).toEqual(new Set(['ok']));
    await eventually('what has come is in the log', async () => {
      const { stdout } = await engine.cli(['events', '--json', '--since-start', '--no-follow']);
      return stdout.includes('layer.blocks');
    });
    const present = (await imageOf(engine, image.ref)).blocks.present;
    await kill(engine, 'all');
    await run('umount', [dir]);
    await run('umount', ['-l', join(root, 'run/devices')]);
    for (const line of await loopsOf(root)) await run('losetup', ['-d', `/dev/${line.split(' ')[0]}`]);
    // A process that has one open for a moment keeps it for so long.
    await eventually('the loops are free', async () => (await loopsOf(root)).length === 0);
    const again = await up(root);
    expect((await imageOf(again, image.ref)).blocks.present).toBeGreaterThan(present / 2);
    expect(await readAll(dir)).toMatchObject({ failures: [] });
    expect(again.log('supervisor')).toContain('"anew":1');
    expect(await loopsOf(root)).toHaveLength(3);
  });

  it('loops that are about to be detached are repaired for their users, and replaced for others', async () => {
    const { engine, root, dir } = await prepare();
    const container = await useLikeContainer(dir);
    const before = await loopsOf(root);
    await kill(engine, 'supervisor');
    // In use, so the kernel detaches each with its last user.
    for (const line of before) await run('losetup', ['-d', `/dev/${line.split(' ')[0]}`]);
    const again = await up(root);
    expect(await loopsOf(root)).toHaveLength(2 * before.length);
    for (const path of [container.rootfs, dir]) expect(await readAll(path)).toMatchObject({ failures: [] });
    await untilWell(again);
    await run('umount', ['-l', container.rootfs]);
    const file = await readFile(join(dir, 'lib/small-0'));
    expect(file).toEqual(image.files.get('lib/small-0'));
  });
});
