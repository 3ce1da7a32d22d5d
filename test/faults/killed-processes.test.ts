/** Processes of the engine that are killed with SIGKILL while verifying readers are at work. */
import { readdirSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { startRelay, type Relay } from '../../ops/bench/relay.ts';
import type { EventOf } from '../../schemas/events.ts';
import { EXPENDABLE } from '../../src/kernel/oom-score.ts';
import { type Engine, eventually, imageOf, mountImage, startEngine, untilWell } from '../support/engine.ts';
import { readInParallel } from '../support/readers.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup, mountsBelow } from '../support/temp.ts';
import { type FaultImage, pushImage, readPieces, twoLayers } from './fault-image.ts';

const cleanup = new Cleanup();
const afterTest: Array<() => Promise<unknown>> = [];
let directory = '';
let registry: RegistryServer;
let relay: Relay;
let seed = 3000;

beforeAll(async () => {
  directory = await cleanup.tempDir('killed');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  // 30 Mbit/s: reading an image takes seconds, in which processes die.
  relay = await startRelay({ to: { host: '127.0.0.1', port: registry.port }, rate: 30e6, rttMs: 2 });
  cleanup.defer(() => relay.stop());
});
afterEach(async () => {
  for (const step of afterTest.splice(0).toReversed()) await step();
});
afterAll(() => cleanup.run());

interface Scene {
  engine: Engine;
  image: FaultImage;
  dir: string;
}

async function prepare(options: Parameters<typeof startEngine>[0] = {}): Promise<Scene> {
  seed += 50;
  const name = `image-${seed}`;
  const image = await pushImage(join(directory, name), registry.host, name, twoLayers(seed));
  const engine = await startEngine({ workers: 2, ...options });
  afterTest.push(() => engine.stop());
  expect((await engine.cli(['index', image.ref])).code).toBe(0);
  image.ref = image.ref.replace(registry.host, relay.host);
  const dir = join(directory, `mnt-${seed}`);
  await mountImage(engine, image.ref, dir);
  return { engine, image, dir };
}

const readAll = ({ dir, image }: Scene) =>
  readInParallel({ root: dir, expected: image.expected, readers: 16, copies: 1, pieceSize: 64 * 1024 });

/** Waits until so many blocks have come. */
const presence = ({ engine, image }: Scene, blocks: number) =>
  eventually(`${blocks} blocks are present`, async () => {
    const status = await imageOf(engine, image.ref);
    return status.blocks.present >= blocks;
  });

const oomScoreOf = (pid: number | undefined): number =>
  Number(readFileSync(`/proc/${pid}/oom_score_adj`, 'latin1'));

const kill = (pid: number | undefined) => {
  if (pid === undefined || pid === 0) throw new Error('no such process');
  process.kill(pid, 'SIGKILL');
};

/** From 6.9 on the kernel sends again what a dead front end had taken. */
const [major = 0, minor = 0] = release().split('.').map(Number);
const resends = major > 6 || (major === 6 && minor >= 9);

describe('a process of the engine killed during reads', () => {
  it('fetchers, one after the other: no read fails, they come back', async () => {
    const scene = await prepare();
    const reading = readAll(scene);
    await presence(scene, 8);
    const before = await scene.engine.pids();
    // The kernel kills them too, rather than what the containers' reads depend on.
    expect(['fetcher-0', 'fetcher-1'].map((name) => oomScoreOf(before[name]))).toEqual([
      EXPENDABLE,
      EXPENDABLE,
    ]);
    expect(['front-end', 'nats-server'].map((name) => oomScoreOf(before[name]))).toEqual([
      oomScoreOf(process.pid),
      oomScoreOf(process.pid),
    ]);
    kill(before['fetcher-0']);
    await sleep(600);
    kill(before['fetcher-1']);
    expect(await reading).toMatchObject({ failures: [] });
    expect((await imageOf(scene.engine, scene.image.ref)).reads.errors).toBe(0);
    const status = await eventually('all run again', async () => {
      const now = await scene.engine.status();
      return now.processes.every(({ state }) => state === 'running') && now;
    });
    const fetchers = status.processes.filter(({ role }) => role === 'fetcher');
    expect(fetchers.map(({ restarts }) => restarts)).toEqual([1, 1]);
    expect(fetchers.map(({ pid }) => pid)).not.toContain(before['fetcher-0']);
    await untilWell(scene.engine);
  });

  it.runIf(resends)('the front end, three times: no read fails, none is wrong', async () => {
    const scene = await prepare();
    const reading = readAll(scene);
    for (const blocks of [8, 60, 120]) {
      await presence(scene, blocks);
      const pid = (await scene.engine.pids())['front-end'];
      kill(pid);
      // Until the supervisor has seen the end the number is that of the dead one.
      await eventually('another front end', async () => (await scene.engine.pids())['front-end'] !== pid);
    }
    expect(await reading).toMatchObject({ failures: [] });
    await eventually('the third one runs', async () => {
      const { processes } = await scene.engine.status();
      const front = processes.find(({ name }) => name === 'front-end');
      expect(front).toMatchObject({ state: 'running', restarts: 3 });
      return true;
    });
    // What had come before each death was not forgotten: nothing is absent after everything was read.
    expect((await imageOf(scene.engine, scene.image.ref)).reads.errors).toBe(0);
    expect((await scene.engine.cli(['unmount', scene.dir])).code).toBe(0);
  });

  it('nats-server: present blocks are served meanwhile, it comes back, reads go on, the log holds', async () => {
    const scene = await prepare();
    const { engine, image, dir } = scene;
    const content = image.files.get('lib/prose') as Buffer;
    expect(new Set(await readPieces(join(dir, 'lib/prose'), content))).toEqual(new Set(['ok']));
    const before = (await engine.pids())['nats-server'];
    const reading = readAll(scene);
    await sleep(300);
    kill(before);
    expect(new Set(await readPieces(join(dir, 'lib/prose'), content))).toEqual(new Set(['ok']));
    expect(await reading).toMatchObject({ failures: [] });
    await eventually('nats-server runs again', async () => {
      const { processes } = await engine.status();
      const server = processes.find(({ name }) => name === 'nats-server');
      expect(server).toMatchObject({ state: 'running', restarts: 1 });
      return true;
    });
    await untilWell(engine);
    // The log takes events again: another mount, and the end of both.
    const second = join(directory, `mnt-second-${seed}`);
    await mountImage(engine, image.ref, second);
    for (const one of [dir, second]) expect(await engine.cli(['unmount', one])).toMatchObject({ code: 0 });
    expect(engine.log('front-end')).not.toMatch(/another engine has written/);
  });

  it('the supervisor: reads of what is absent fail, none hangs; up again brings the mount back with what it had', async () => {
    const root = await cleanup.tempDir('supervised');
    const scene = await prepare({ root });
    const { engine, image, dir } = scene;
    const content = image.files.get('lib/prose') as Buffer;
    expect(new Set(await readPieces(join(dir, 'lib/prose'), content))).toEqual(new Set(['ok']));
    const present = await eventually('what has come is in the log', async () => {
      const { blocks } = await imageOf(engine, image.ref);
      let told = 0;
      for await (const event of engine.client.events({ from: 'start', follow: false }))
        if (event.type === 'layer.blocks')
          for (const [, count] of (event.data as EventOf<'layer.blocks'>).ranges) told += count;
      return blocks.fetching === 0 && told >= blocks.present && blocks.present;
    });
    const pids = await engine.pids();
    const reading = readAll(scene);
    await sleep(200);
    kill(engine.pid);
    const { failures } = await reading;
    expect(failures.filter((text) => !/EIO|ENOTCONN|ECONNABORTED/.test(text))).toEqual([]);
    await eventually('its processes have ended with it', () =>
      Object.values(pids).every((pid) => !readdirSync('/proc').includes(String(pid))),
    );

    const again = await startEngine({ root, workers: 2 });
    afterTest.push(() => again.stop());
    const status = await imageOf(again, image.ref);
    expect(status.blocks.present).toBeGreaterThanOrEqual(present);
    expect((await again.status()).mounts).toMatchObject([{ dir, state: 'mounted' }]);
    expect(mountsBelow(dir)).toEqual([dir]);
    expect(await readAll({ ...scene, engine: again })).toMatchObject({ failures: [] });
    expect((await again.cli(['unmount', dir])).code).toBe(0);
  });
});
