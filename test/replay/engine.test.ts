/** A real start, recorded by a real engine, and replayed: live, exported, and after the engine has stopped. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startRelay } from '../../ops/bench/relay.ts';
import type { Status } from '../../schemas/api.ts';
import {
  ExportResult,
  ReplayDiff,
  ReplayEventLine,
  ReplayState,
  WhyRead,
  WhyStart,
} from '../../schemas/replay.ts';
import { subjects } from '../../schemas/subjects.ts';
import { connectBus } from '../../src/bus/connection.ts';
import { unmount } from '../../src/kernel/mount.ts';
import { digestOfNodeState } from '../../src/store/node-codec.ts';
import { loadNode } from '../../src/store/snapshots.ts';
import { type FaultImage, pushImage, readPieces, twoLayers } from '../faults/fault-image.ts';
import { type Engine, errorOf, eventually, mountImage, runCofa, startEngine } from '../support/engine.ts';
import { startRegistry } from '../support/registry-server.ts';
import { Cleanup, mountsBelow } from '../support/temp.ts';
import { expectGivenBack, runInTerminal } from './in-terminal.ts';

const cleanup = new Cleanup();
let directory = '';
let root = '';
let image: FaultImage;
let engine: Engine;
let dir = '';
let status: Status;

/** Everything waits this long on the way to the registry and back: what is measured can be told from nothing. */
const RTT_MS = 25;

beforeAll(async () => {
  directory = await cleanup.tempDir('replay');
  root = await cleanup.tempDir('replay-root');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const relay = await startRelay({ to: { host: '127.0.0.1', port: registry.port }, rttMs: RTT_MS });
  cleanup.defer(() => relay.stop());
  image = await pushImage(directory, relay.host, 'app', twoLayers(7000));
  engine = await startEngine({ root });
  cleanup.defer(() => engine.stop());
  expect((await engine.cli(['index', image.ref])).code).toBe(0);
  dir = join(directory, 'mount');
  await mountImage(engine, image.ref, dir);
  for (const name of ['app/noise', 'lib/prose']) {
    const outcomes = await readPieces(join(dir, name), image.files.get(name) as Buffer);
    expect(outcomes.filter((outcome) => outcome !== 'ok')).toEqual([]);
  }
  // Blocks and traces are in the log a moment after they were read.
  status = await engine.status();
  await eventually('all present blocks are in the log', async () => {
    const state = await stateOf([]);
    return state.layers.reduce((sum, layer) => sum + layer.presentCount, 0) === presentIn(status);
  });
});
afterAll(() => cleanup.run());

const presentIn = (now: Status) => now.images.reduce((sum, one) => sum + one.blocks.present, 0);

async function json(args: string[]): Promise<unknown> {
  const result = await engine.cli([...args, '--json']);
  if (result.code !== 0) throw new Error(`cofa ${args.join(' ')}: ${result.stdout}${result.stderr}`);
  return JSON.parse(result.stdout);
}

const stateOf = async (args: string[]) => ReplayState.parse(await json(['replay', ...args, '--at', 'end']));

/** What a state and `cofa status` both say. */
const ofStatus = (now: Status) => ({
  mounts: now.mounts.map(({ id, dir, manifest, state }) => ({ id, dir, manifest, state })),
  images: now.images.map(({ manifest, ref, origin }) => ({ manifest, ref, origin })),
  layers: now.images
    .flatMap(({ layers }) => layers)
    .map(({ diffId, state, blocks }) => ({ diffId, state, present: blocks.present }))
    .sort((a, b) => (a.diffId < b.diffId ? -1 : 1)),
});
const ofState = (now: ReplayState) => ({
  mounts: now.mounts.map(({ id, dir, manifest, state }) => ({ id, dir, manifest, state })),
  images: now.images.map(({ manifest, ref, origin }) => ({ manifest, ref, origin })),
  layers: now.layers
    .map(({ diffId, state, presentCount }) => ({ diffId, state, present: presentCount }))
    .sort((a, b) => (a.diffId < b.diffId ? -1 : 1)),
});

describe('the log of a running engine', () => {
  it('replays to what status says', async () => {
    const state = await stateOf([]);
    expect(state.running).toBe(true);
    expect(ofState(state)).toEqual(ofStatus(status));
  });

  it('replays to what the engine itself would begin with', async () => {
    const { endpoint } = engine.client;
    const bus = await connectBus(endpoint.log ?? endpoint.nats, { name: 'test' });
    const { fold } = await loadNode(bus, subjects(endpoint.node)).finally(() => bus.close());
    const state = ReplayState.parse(await json(['replay', '--at', String(fold.seq)]));
    expect(state).toMatchObject({ seq: fold.seq, digest: digestOfNodeState(fold.state) });
  });

  it('exported, gives the identical state; twice is a conflict', async () => {
    const file = join(directory, 'all.cofa-log');
    const result = ExportResult.parse(await json(['events', 'export', file]));
    expect(result).toMatchObject({ node: status.node, beginning: 0 });
    // The engine may have told the log something since.
    const live = ReplayState.parse(await json(['replay', '--at', String(result.lastSeq)]));
    const replayed = await stateOf([file]);
    expect(replayed).toEqual(live);
    expect(errorOf(await engine.cli(['events', 'export', file, '--json']))).toMatchObject({
      code: 'conflict',
    });
    // Of the mount alone there is less, and the same about it.
    const part = join(directory, 'mount.cofa-log');
    await json(['events', 'export', part, '--mount', dir, '--from', '+0s']);
    expect(ofState(await stateOf([part]))).toEqual(ofState(live));
  });

  it('says why a read and the start took so long, with the names of files', async () => {
    const read = WhyRead.parse(await json(['replay', 'why', '--read', 'slowest']));
    expect(read.steps.reduce((sum, { us }) => sum + us, 0)).toBe(read.us);
    expect(read.us).toBeGreaterThan(RTT_MS * 1000);
    expect(read.jobs[0]?.steps.find(({ step }) => step === 'first-byte')?.us).toBeGreaterThan(RTT_MS * 900);
    const start = WhyStart.parse(await json(['replay', 'why', '--mount', dir]));
    expect(start.phases.map(({ phase }) => phase)).toEqual(
      expect.arrayContaining(['prepare', 'attach', 'mount', 'reads']),
    );
    expect(start.reads.count).toBeGreaterThan(5);
    expect(start.reads.waitedUs).toBeGreaterThanOrEqual(start.reads.blockedUs);
    expect(start.criticalUs).toBeLessThanOrEqual(start.us);
    const names = start.files.map(({ path }) => path);
    expect(names).toEqual(expect.arrayContaining(['/app/noise']));
    // The file knows the names too, without the node.
    const file = join(directory, 'why.cofa-log');
    await json(['events', 'export', file]);
    const away = await runCofa(['replay', 'why', file, '--start', '--json'], {
      env: { COFA_ROOT: join(directory, 'elsewhere') },
    });
    expect(WhyStart.parse(JSON.parse(away.stdout))).toEqual(start);
  });

  it('finds events, and says what changed', async () => {
    const layer = status.images[0]?.layers[0]?.diffId.slice(7, 19);
    const found = ReplayEventLine.parse(
      await json(['replay', '--break', `read > ${RTT_MS / 2}ms and layer ${layer}`]),
    );
    expect(found.type).toBe('layer.trace');
    const none = await engine.cli(['replay', '--break', 'event no.such', '--json']);
    expect(none.code).toBe(3);
    const mounted = ReplayEventLine.parse(await json(['replay', '--break', 'event mount.mounted']));
    const diff = ReplayDiff.parse(await json(['replay', '--diff', `${mounted.seq - 1}`, `${mounted.seq}`]));
    expect(diff.mounts).toEqual([
      expect.objectContaining({ change: 'changed', fields: { state: { from: 'requested', to: 'mounted' } } }),
    ]);
    const events = await engine.cli([
      'events',
      '--type',
      'mount.*',
      '--no-follow',
      '--from',
      '-1h',
      '--json',
    ]);
    expect(
      events.stdout
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line).type),
    ).toEqual(['mount.requested', 'mount.mounted']);
  });

  it('is followed in a terminal, with keys, and comes back to it', async () => {
    const other = join(directory, 'other');
    const watching = runInTerminal(
      [
        ['wait', 'live'],
        ['type', 'f'],
        ['wait', 'following the engine'],
        ['wait', '/other'],
        ['wait', 'mount.mounted'],
        // What the engine does of itself may have come behind it: back to the mount.
        ['type', 'f'],
        ['type', '/mount.mounted\r'],
        ['pause', 500],
        ['type', 'N'],
        ['pause', 500],
        ['type', 'w'],
        ['wait', 'why the start of'],
        ['type', 'qq'],
      ],
      [],
      { COFA_ROOT: root },
    );
    // Of a mount before the view follows only the end may be seen: then there is another one.
    let isOver = false;
    const over = watching.finally(() => {
      isOver = true;
    });
    while (!isOver) {
      await Promise.race([over, sleep(2_000)]);
      await mountImage(engine, image.ref, other);
      await Promise.race([over, sleep(5_000)]);
      expect((await engine.cli(['unmount', other])).code).toBe(0);
    }
    expectGivenBack(await watching, 0);
  });
});

describe('the log of an engine that has stopped', () => {
  it('is read from its files, also for an export', async () => {
    const live = await stateOf([]);
    await engine.stop();
    const stopped = await runCofa(['replay', '--at', 'end', '--json'], { env: { COFA_ROOT: root } });
    const state = ReplayState.parse(JSON.parse(stopped.stdout));
    expect(state.seq).toBeGreaterThan(live.seq);
    expect(state).toMatchObject({ running: false });
    expect(ofState(state).layers).toEqual(ofState(live).layers);
    const file = join(directory, 'stopped.cofa-log');
    const exported = await runCofa(['events', 'export', file, '-q'], { env: { COFA_ROOT: root } });
    expect(exported.code).toBe(0);
    expect((await readFile(file)).length).toBeGreaterThan(500);
    const none = await runCofa(['replay', '--at', 'end', '--json'], {
      env: { COFA_ROOT: join(directory, 'nothing') },
    });
    expect(none.code).toBe(9);
  });

  it('also of one that was killed during a replay', async () => {
    // What a killed engine has mounted stays, should the test not come to its end.
    cleanup.defer(async () => {
      for (const point of mountsBelow(directory)) await unmount(point, { lazy: true });
    });
    const killed = await startEngine({ root });
    cleanup.defer(() => killed.stop());
    const watching = runInTerminal(
      [
        ['wait', 'live'],
        ['type', 'f'],
        ['wait', 'following'],
        ['kill-other', killed.pid],
        ['wait', 'nothing is added'],
        ['type', 'q'],
      ],
      [],
      { COFA_ROOT: root },
    );
    expectGivenBack(await watching, 0);
    await killed.ended;
    const after = await runCofa(['replay', '--at', 'end', '--json'], { env: { COFA_ROOT: root } });
    expect(ReplayState.parse(JSON.parse(after.stdout))).toMatchObject({ running: true });
    // The next one takes over what is there, and takes it away when it ends.
    await (await startEngine({ root })).stop();
    expect(mountsBelow(directory)).toEqual([]);
  });
});
