/**
 * Bytes that go bad on the disk: of layers that are served lazily, that the kernel reads by itself, that nothing mounts,
 * and of those that came shortly before a crash. Readers compare every byte.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, fsyncSync, openSync, readdirSync, readSync, writeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { ScrubReply, Status } from '../../schemas/api.ts';
import type { EventOf } from '../../schemas/events.ts';
import { Layout } from '../../src/store/layout.ts';
import { type FaultImage, offsetInTar, pushImage, readPieces, twoLayers } from '../faults/fault-image.ts';
import { rootOf } from '../support/roots.ts';
import { type Engine, errorOf, eventually, imageOf, mountImage, startEngine } from '../support/engine.ts';
import { readInParallel } from '../support/readers.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';

const run = promisify(execFile);
const BLOCK = 65_536;
const cleanup = new Cleanup();
let afterTest = new Cleanup();
let directory = '';
let registry: RegistryServer;
let image: FaultImage;
let count = 0;

beforeAll(async () => {
  directory = await cleanup.tempDir('scrub');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  image = await pushImage(directory, registry.host, 'app', twoLayers(5500));
});
afterEach(async () => {
  const steps = afterTest;
  afterTest = new Cleanup();
  await steps.run();
});
afterAll(() => cleanup.run());

async function up(root: string, ...args: string[]): Promise<Engine> {
  const engine = await startEngine({ root, args });
  afterTest.defer(() => engine.stop());
  return engine;
}

async function prepare(prefetch: boolean): Promise<{ engine: Engine; dir: string; root: string }> {
  const root = await afterTest.tempDir('root');
  const engine = await up(root);
  expect((await engine.cli(['index', image.ref])).code).toBe(0);
  const dir = join(directory, `mnt-${++count}`);
  await mountImage(engine, image.ref, dir, { prefetch });
  return { engine, dir, root };
}

const file = (name: string): Buffer => image.files.get(name) as Buffer;

/** `root`: block root of the layer, which names it in the log. */
interface Place {
  diffId: string;
  root: string;
  block: number;
}

/** The block of a layer device that byte `at` of a file lies in. */
function placeOf(name: string, at: number): Place & { offset: number } {
  const tar = image.tars.find((bytes) => bytes.indexOf(file(name)) >= 0) as Buffer;
  const offset = offsetInTar(tar, file(name)) + at;
  const diffId = `sha256:${createHash('sha256').update(tar).digest('hex')}`;
  return { diffId, root: rootOf(tar), offset, block: Math.floor(offset / BLOCK) };
}

/** Turns bits of one byte over, as a disk may. */
function damage(folder: string, name: string, at: number): Place {
  const { diffId, root, offset, block } = placeOf(name, at);
  const device = openSync(new Layout(folder).device(root), 'r+');
  const byte = Buffer.alloc(1);
  expect(readSync(device, byte, 0, 1, offset)).toBe(1);
  writeSync(device, Buffer.from([(byte[0] as number) ^ 0x40]), 0, 1, offset);
  fsyncSync(device);
  closeSync(device);
  return { diffId, root, block };
}

async function scrub(engine: Engine, ...args: string[]): Promise<{ code: number | null; reply: ScrubReply }> {
  const { code, stdout, stderr } = await engine.cli(['scrub', '--json', '--rate', '0', ...args]);
  expect(stderr).toBe('');
  return { code, reply: JSON.parse(stdout) as ScrubReply };
}

async function eventsOf<T extends 'layer.blocks' | 'layer.scrubbed' | 'layer.evicted' | 'layer.taken-back'>(
  engine: Engine,
  type: T,
): Promise<Array<EventOf<T> & { id: string }>> {
  const found: Array<EventOf<T> & { id: string }> = [];
  for await (const event of engine.client.events({ from: 'start', follow: false }))
    if (event.type === type) found.push({ ...event.data, id: event.subject.split('.').at(-1) } as never);
  return found;
}

const alarms = ({ degraded }: Status): string[] => degraded.filter((line) => line.includes('damaged'));

/** Reads files past the page cache, again and again until told to stop; what went wrong. */
function keepReading(dir: string, names: readonly string[]): { stop(): Promise<string[]> } {
  let isOver = false;
  const wrong: string[] = [];
  const loops = names.map(async (name) => {
    while (!isOver)
      wrong.push(
        ...(await readPieces(join(dir, name), file(name), { pieceSize: BLOCK })).filter(
          (one) => one !== 'ok',
        ),
      );
  });
  return {
    stop: async () => {
      isOver = true;
      await Promise.all(loops);
      return wrong;
    },
  };
}

/** The first byte that can be had of a place in a file, past the page cache, however long that takes. */
async function firstByte(path: string, offset: number): Promise<number> {
  const { stdout } = await run(process.execPath, ['-e', SPIN, path, String(offset)], {
    cwd: import.meta.dirname,
    timeout: 60_000,
    killSignal: 'SIGKILL',
  });
  return Number(stdout);
}

const SPIN = `
  const fs = require('node:fs');
  const [path, offset] = process.argv.slice(1);
  const advise = require('koffi').load('libc.so.6').func('int posix_fadvise(int fd, long offset, long length, int advice)');
  const byte = Buffer.alloc(1);
  for (let tries = 0; tries < 1e7; tries++) {
    try {
      const fd = fs.openSync(path, 'r');
      try {
        advise(fd, 0, 0, 4);
        if (fs.readSync(fd, byte, 0, 1, +offset) === 1) break;
      } finally {
        fs.closeSync(fd);
      }
    } catch {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2);
    }
  }
  console.log(byte[0]);`;

const readAll = (dir: string) =>
  readInParallel({ root: dir, expected: image.expected, readers: 4, copies: 1, pieceSize: BLOCK });

describe('a scrub', () => {
  it('finds damaged blocks of a layer that is read, which are then fetched again; the alarm stays until one finds all right', async () => {
    const { engine, dir, root } = await prepare(false);
    expect(
      new Set(await readPieces(join(dir, 'app/noise'), file('app/noise'), { pieceSize: BLOCK })),
    ).toEqual(new Set(['ok']));
    // What has come is in the log a moment later.
    const first = await scrub(engine);
    expect(first.code).toBe(0);
    expect(first.reply).toMatchObject({ bad: 0, repaired: 0, kept: 0, stopped: false });
    expect(first.reply.blocks).toBeGreaterThan(60);
    expect(first.reply.layers.every(({ whole }) => !whole)).toBe(true);
    expect(alarms(await engine.status())).toEqual([]);

    const readers = keepReading(dir, ['lib/noise', 'lib/prose']);
    const [one, two] = [damage(root, 'app/noise', 500_000), damage(root, 'app/noise', 3_000_000)];
    const present = async () => (await imageOf(engine, image.ref)).layers;
    const { code, reply } = await scrub(engine, '--image', image.ref);
    expect(code).toBe(6);
    expect(reply).toMatchObject({ bad: 2, repaired: 0, kept: 0 });
    expect(reply.layers.find(({ diffId }) => diffId === one.diffId)).toMatchObject({
      bad: 2,
      refs: [image.ref],
      whole: false,
    });
    expect((await present()).find(({ diffId }) => diffId === one.diffId)?.blocks.absent).toBeGreaterThan(0);
    // No reader gets the damaged bytes, past the page cache or not.
    expect(await readFile(join(dir, 'app/noise'))).toEqual(file('app/noise'));
    expect(
      new Set(await readPieces(join(dir, 'app/noise'), file('app/noise'), { pieceSize: BLOCK })),
    ).toEqual(new Set(['ok']));
    expect(await readers.stop()).toEqual([]);

    const evicted = await eventsOf(engine, 'layer.evicted');
    expect(evicted.map(({ reason, ranges }) => ({ reason, ranges }))).toEqual([
      {
        reason: 'scrub',
        ranges: [
          [one.block, 1],
          [two.block, 1],
        ],
      },
    ]);
    const scrubbed = await eventsOf(engine, 'layer.scrubbed');
    expect(scrubbed.at(-2)?.bad === 2 || scrubbed.at(-1)?.bad === 2).toBe(true);
    const [alarm] = alarms(await engine.status());
    expect(alarm).toContain(one.diffId);
    expect(alarm).toContain('2 blocks');

    // Another front end knows of it, too: it is a fact.
    const front = (await engine.pids())['front-end'] as number;
    process.kill(front, 'SIGKILL');
    await eventually(
      'another front end says it, too',
      async () => (await engine.pids())['front-end'] !== front && alarms(await engine.status())[0] === alarm,
    );
    expect((await scrub(engine)).code).toBe(0);
    expect(alarms(await engine.status())).toEqual([]);
    expect((await engine.cli(['unmount', dir])).code).toBe(0);
  }, 120_000);

  it('takes a device back that the kernel reads, repairs it, and drops the pages that a reader got from it', async () => {
    const { engine, dir, root } = await prepare(true);
    await readFile(join(dir, 'lib/small-0'));
    const isDirect = async () =>
      (await imageOf(engine, image.ref)).layers.every(({ state }) => state === 'handed-over');
    await eventually('the kernel reads all layers itself', isDirect, 60_000);
    const whole = await scrub(engine);
    expect(whole.code).toBe(0);
    expect(whole.reply.layers.map((layer) => layer.whole)).toEqual([true, true]);

    const { diffId, root: id, block } = damage(root, 'app/noise', 1_000_000);
    // The kernel itself gave it to a reader before anybody could know.
    expect(
      (await readPieces(join(dir, 'app/noise'), file('app/noise'))).filter((one) => one !== 'ok'),
    ).toEqual(['wrong']);
    const readers = keepReading(dir, ['app/prose', 'lib/noise']);
    const { code, reply } = await scrub(engine, '--layer', diffId.slice(7, 19), '--repair');
    expect([code, reply.bad, reply.repaired, reply.kept]).toEqual([0, 1, 1, 0]);
    expect(reply.layers).toMatchObject([{ diffId, whole: true }]);
    // Not past the page cache: what was in it is gone.
    expect(await readFile(join(dir, 'app/noise'))).toEqual(file('app/noise'));
    expect(await readers.stop()).toEqual([]);
    expect((await eventsOf(engine, 'layer.taken-back')).map((event) => `sha256:${event.id}`)).toEqual([id]);
    expect(await eventsOf(engine, 'layer.evicted')).toMatchObject([
      { reason: 'scrub', ranges: [[block, 1]] },
    ]);
    expect((await eventsOf(engine, 'layer.scrubbed')).at(-1)).toMatchObject({ bad: 1, repaired: 1 });
    expect(alarms(await engine.status())[0]).toContain('fetched again since');
    await eventually('the kernel reads it again', isDirect, 60_000);
    expect((await readAll(dir)).failures).toEqual([]);
    expect((await engine.cli(['unmount', dir])).code).toBe(0);
  }, 120_000);

  it('also of what nothing mounts; repaired or fetched again with the next mount', async () => {
    const { engine, dir, root } = await prepare(false);
    await readFile(join(dir, 'app/noise'));
    await readFile(join(dir, 'lib/noise'));
    await eventually('what has come is in the log', async () => {
      const { layers } = await imageOf(engine, image.ref);
      return layers.every(({ blocks }) => blocks.present > 0 && blocks.fetching === 0);
    });
    expect((await engine.cli(['unmount', dir])).code).toBe(0);
    const [one, two] = [damage(root, 'app/noise', 700_000), damage(root, 'lib/noise', 700_000)];
    const repaired = await scrub(engine, '--layer', one.diffId, '--repair');
    expect([repaired.code, repaired.reply.bad, repaired.reply.repaired]).toEqual([0, 1, 1]);
    const found = await scrub(engine);
    expect([found.code, found.reply.bad, found.reply.repaired]).toEqual([6, 1, 0]);
    expect(
      (await eventsOf(engine, 'layer.evicted')).map(({ id, ranges }) => [`sha256:${id}`, ranges]),
    ).toEqual([
      [one.root, [[one.block, 1]]],
      [two.root, [[two.block, 1]]],
    ]);
    // Another loop stands on the device: its bytes cannot be punched, which is an alarm until they can.
    const { stdout } = await run('losetup', ['-r', '-f', '--show', new Layout(root).device(two.root)]);
    const detach = () => run('losetup', ['-d', stdout.trim()]);
    afterTest.defer(() => detach().catch(() => {}));
    const third = damage(root, 'lib/noise', 1_500_000);
    const kept = await scrub(engine, '--layer', third.diffId, '--repair');
    expect([kept.code, kept.reply.bad, kept.reply.repaired, kept.reply.kept]).toEqual([6, 1, 0, 1]);
    expect(alarms(await engine.status()).join()).toContain('cannot be taken out');
    await detach();
    expect((await scrub(engine, '--layer', third.diffId, '--repair')).reply).toMatchObject({
      bad: 1,
      repaired: 1,
    });
    const text = await engine.cli(['scrub', '--rate', '0']);
    expect([text.code, text.stdout]).toEqual([0, expect.stringContaining('no block is damaged')]);
    await mountImage(engine, image.ref, dir);
    expect((await readAll(dir)).failures).toEqual([]);
    // Errors that a script can tell apart.
    const unknown = await engine.cli(['scrub', '--json', '--layer', 'ffffffffffff']);
    expect([errorOf(unknown).code, unknown.code]).toEqual(['not-found', 3]);
    const begun = Promise.withResolvers<void>();
    const slow = engine.client.call(
      'scrub',
      { bytesPerSecond: 100_000 },
      { onProgress: () => begun.resolve(), timeoutMs: 100_000 },
    );
    await begun.promise;
    const second = await engine.cli(['scrub', '--json', '--rate', '0']);
    expect([errorOf(second).code, second.code]).toEqual(['busy', 7]);
    expect(JSON.parse((await engine.cli(['scrub', '--stop', '--json'])).stdout)).toEqual({ stopped: true });
    expect(await slow).toMatchObject({ stopped: true, bad: 0 });
    expect((await eventsOf(engine, 'layer.scrubbed')).at(-1)?.scope).toBe('part');
    expect((await engine.cli(['unmount', dir])).code).toBe(0);
  }, 120_000);
});

describe('a layer whose last block arrives', () => {
  it('is not given up for a block that the disk lost before: that one is fetched again', async () => {
    const { engine, dir, root } = await prepare(false);
    await readFile(join(dir, 'app/noise'));
    await eventually('its blocks are on the disk', async () => {
      const { blocks } = await imageOf(engine, image.ref);
      return blocks.present > 60 && blocks.fetching === 0;
    });
    const { root: id, block } = damage(root, 'app/noise', 1_234_567);
    expect((await engine.cli(['unmount', dir])).code).toBe(0);
    await mountImage(engine, image.ref, dir, { prefetch: true });
    // A start that reads something is over sooner than one that is waited for.
    await readFile(join(dir, 'lib/small-0'));
    await eventually(
      'the kernel reads all layers itself',
      async () => (await imageOf(engine, image.ref)).layers.every(({ state }) => state === 'handed-over'),
      90_000,
    );
    expect((await eventsOf(engine, 'layer.evicted')).map(({ id, ranges }) => [id, ranges])).toEqual([
      [id.slice(7), [[block, 1]]],
    ]);
    expect((await eventsOf(engine, 'layer.scrubbed')).map(({ bad }) => bad)).toEqual([1]);
    expect(alarms(await engine.status())).toHaveLength(1);
    expect((await readAll(dir)).failures).toEqual([]);
    expect((await engine.cli(['unmount', dir])).code).toBe(0);
  }, 120_000);
});

describe('after an unclean stop', () => {
  it('the newest blocks are compared before they are served; what is damaged is fetched again', async () => {
    const { engine, dir, root } = await prepare(false);
    await readFile(join(dir, 'app/noise'));
    await readFile(join(dir, 'lib/noise'));
    await eventually('what has come is in the log', async () => {
      const { fetching, present } = (await imageOf(engine, image.ref)).blocks;
      const told = (await eventsOf(engine, 'layer.blocks')).flatMap(({ ranges }) => ranges);
      return fetching === 0 && told.reduce((sum, [, count]) => sum + (count ?? 0), 0) >= present;
    });
    const pids = Object.values(await engine.pids());
    for (const pid of pids) process.kill(pid, 'SIGKILL');
    await engine.ended;
    await eventually('its processes have ended', () =>
      pids.every((pid) => !readdirSync('/proc').includes(String(pid))),
    );
    const places = [damage(root, 'app/noise', 900_000), damage(root, 'lib/noise', 2_000_000)];
    // A reader that waits for the mount gets the right byte as its first.
    const readers = [
      firstByte(join(dir, 'app/noise'), 900_000),
      firstByte(join(dir, 'lib/noise'), 2_000_000),
    ];
    const again = await up(root);
    expect(await Promise.all(readers)).toEqual([file('app/noise')[900_000], file('lib/noise')[2_000_000]]);
    for (const name of ['app/noise', 'lib/noise'])
      expect(new Set(await readPieces(join(dir, name), file(name), { pieceSize: BLOCK }))).toEqual(
        new Set(['ok']),
      );
    const scrubbed = await eventually('it is in the log', async () => {
      // A front end that was asked twice compares twice; the second time all is right.
      const found = (await eventsOf(again, 'layer.scrubbed')).filter(({ bad }) => bad > 0);
      return found.length === 2 ? found : undefined;
    });
    expect(scrubbed.map(({ bad, scope }) => [bad, scope])).toEqual([
      [1, 'newest'],
      [1, 'newest'],
    ]);
    const evicted = await eventsOf(again, 'layer.evicted');
    expect(new Set(evicted.map(({ id, ranges, reason }) => `${id} ${ranges.join()} ${reason}`))).toEqual(
      new Set(places.map(({ root: id, block }) => `${id.slice(7)} ${block},1 scrub`)),
    );
    expect(alarms(await again.status())).toHaveLength(2);
    expect((await readAll(dir)).failures).toEqual([]);
    expect((await again.cli(['unmount', dir])).code).toBe(0);
  }, 120_000);

  it('a clean stop compares nothing', async () => {
    const { engine, dir, root } = await prepare(false);
    await readFile(join(dir, 'lib/prose'));
    expect((await engine.cli(['down'])).code).toBe(0);
    await engine.ended;
    const again = await up(root);
    expect(await readFile(join(dir, 'lib/prose'))).toEqual(file('lib/prose'));
    expect(await eventsOf(again, 'layer.scrubbed')).toEqual([]);
    expect((await again.cli(['unmount', dir])).code).toBe(0);
  }, 60_000);
});
