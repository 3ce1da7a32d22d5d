/** Snapshots that bound the log: real streams on a real nats-server. */
import { randomBytes } from 'node:crypto';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/nats-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { pino } from 'pino';
import type { NewEvent } from '../../schemas/events.ts';
import { SNAPSHOT_STREAM, STREAM, type Subjects, subjects } from '../../schemas/subjects.ts';
import { connectBus, decode, encode } from '../../src/bus/connection.ts';
import { Conditions } from '../../src/process/conditions.ts';
import { LogKeeper } from '../../src/supervisor/log/log-keeper.ts';
import { EventLog, readLog } from '../../src/store/event-log.ts';
import { LiveFold } from '../../src/store/live-fold.ts';
import { digestOfNodeState } from '../../src/store/node-codec.ts';
import { NodeFold } from '../../src/store/node-fold.ts';
import {
  decodeSnapshot,
  encodeSnapshot,
  loadNode,
  prepareSnapshots,
  snapshotSequences,
  writeSnapshot,
} from '../../src/store/snapshots.ts';
import { eventually } from '../support/engine.ts';
import { type HistoryEvent, nodeHistory, take } from '../support/node-history.ts';
import { type NatsServer, startNats } from '../support/services.ts';

let server: NatsServer;
let bus: NatsConnection;
let number = 0;
const log = pino({ level: process.env.COFA_TEST_LOG ?? 'silent' });
const conditions = new Conditions(log);
const started = { type: 'engine.started', pid: 1, version: '0', transport: 'kernel', root: 'r' } as const;

beforeAll(async () => {
  server = await startNats();
  bus = await connectBus({ url: server.url }, { name: 'test' });
  await EventLog.prepare(bus, { maxBytes: 64 << 20 });
  await prepareSnapshots(bus);
});
afterAll(async () => {
  await bus?.close();
  await server?.stop();
});

interface TestNode {
  names: Subjects;
  events: EventLog;
  history: Iterator<HistoryEvent>;
}

async function newNode(options: { layers?: number; blocks?: number } = {}): Promise<TestNode> {
  const node = `node-${number++}`;
  const names = subjects(node);
  const events = new EventLog(bus, () => 1);
  await events.claim(names.event('engine', 'main'), started);
  return { names, events, history: nodeHistory({ seed: number, node, ...options }) };
}

async function grow({ events, history }: TestNode, count: number, to = bus): Promise<void> {
  void to;
  await Promise.all(take(history, count).map(({ subject, event }) => events.append(subject, event)));
}

/** Everything that is in the log, folded without snapshots. */
async function foldAll(names: Subjects): Promise<NodeFold> {
  const fold = new NodeFold();
  for await (const record of readLog(bus, names.allEvents, { from: 'start', follow: false }))
    fold.apply(record);
  return fold;
}

async function snapshotNow(names: Subjects): Promise<NodeFold> {
  const { fold } = await loadNode(bus, names);
  await writeSnapshot(bus, names, fold);
  return fold;
}

const keeperOf = (node: TestNode, fold: NodeFold, options: { limit: number }): LogKeeper =>
  new LogKeeper({
    bus,
    names: node.names,
    events: node.events,
    live: new LiveFold({ events: node.events, names: node.names, fold }),
    files: undefined,
    conditions,
    log,
    ...options,
  });

async function replacePart(
  names: Subjects,
  seq: number,
  part: number,
  change: (fields: Record<string, unknown>) => void,
) {
  const manager = await jetstreamManager(bus);
  const subject = names.fold(seq, part);
  const stored = await manager.streams.getMessage(SNAPSHOT_STREAM, { last_by_subj: subject });
  const fields = decode<Record<string, unknown>>(stored?.data ?? Buffer.alloc(0));
  change(fields);
  await jetstream(bus).publish(subject, encode(fields));
}

describe('a start from a snapshot', () => {
  test('is the fold of the whole log, with its sequences, whenever the snapshot was taken', async () => {
    const node = await newNode({ layers: 6, blocks: 800 });
    for (const count of [10, 300, 1, 500]) {
      await grow(node, count);
      await snapshotNow(node.names);
      await grow(node, 50);
      const { fold, problems } = await loadNode(bus, node.names);
      const whole = await foldAll(node.names);
      expect(problems).toEqual([]);
      expect(digestOfNodeState(fold.state)).toBe(digestOfNodeState(whole.state));
      const { seq, id, epoch, events, bytes, sequences } = whole;
      expect(fold).toMatchObject({ seq, id, epoch, events, bytes, sequences });
      // A new writer that knows these sequences alone conflicts with none.
      const next = new EventLog(bus, () => 1);
      next.rememberAll(node.names, fold);
      await next.append(node.names.event('engine', 'main'), { type: 'engine.stopped' });
      node.events.rememberAll(node.names, await foldAll(node.names));
    }
  });

  test('of many blocks is cut into parts that fit into a message', async () => {
    const node = await newNode({ layers: 60, blocks: 160_000 });
    await grow(node, 180);
    const { fold } = await loadNode(bus, node.names);
    // Blocks by chance are what compression cannot make smaller.
    for (const layer of fold.state.layers.values()) {
      layer.present = randomBytes(layer.blockCount).map((byte) => byte & 1);
      layer.presentCount = layer.present.reduce((sum, block) => sum + block, 0);
    }
    const bytes = await writeSnapshot(bus, node.names, fold);
    expect(bytes).toBeGreaterThan(2 * (bus.info?.max_payload ?? 0) * 0.4);
    const loaded = await loadNode(bus, node.names);
    expect(loaded.problems).toEqual([]);
    expect(digestOfNodeState(loaded.fold.state)).toBe(digestOfNodeState(fold.state));
  });
});

/** Makes a state larger, by what it does not know: bytes that are no blocks. */
const pad = (fold: NodeFold, padding: Uint8Array): void => void Object.assign(fold.state, { padding });

describe('a snapshot of a large state', () => {
  test('of more than 128 MiB is read as it was written', () => {
    const fold = new NodeFold();
    pad(fold, Buffer.alloc(130 << 20, 7));
    const read = decodeSnapshot(encodeSnapshot(fold));
    expect((read.state as unknown as { padding: Uint8Array }).padding.length).toBe(130 << 20);
  });

  test('that no reader would take is not written: the sentence says why', () => {
    const fold = new NodeFold();
    pad(fold, Buffer.alloc(2_000, 7));
    expect(() => encodeSnapshot(fold, 1_000, 1_500)).toThrow(
      /^the node's state has \d+ bytes, a log snapshot 1500 at most: the one before stays$/,
    );
    pad(fold, randomBytes(50_000));
    expect(() => encodeSnapshot(fold, 10)).toThrow(/\d+ parts of a log snapshot, and 4096 are the most/);
  });

  test('that is not written leaves the one before, and the next attempt has room for its own', async () => {
    const own = await startNats({ config: 'max_payload: 4096\n' });
    const near = await connectBus({ url: own.url }, { name: 'test' });
    try {
      await EventLog.prepare(near, { maxBytes: 1 << 20 });
      const manager = await jetstreamManager(near);
      const names = subjects('large');
      const limits = { storage: 'file', discard: 'new', max_bytes: 60_000 } as const;
      await manager.streams.add({ name: SNAPSHOT_STREAM, subjects: [names.allFolds], ...limits });
      const events = new EventLog(near, () => 1);
      await events.claim(names.event('engine', 'main'), started);
      const { fold } = await loadNode(near, names);
      const told = new Conditions(log);
      const live = new LiveFold({ events, names, fold });
      const options = { bus: near, names, events, live, limit: 1 << 20, files: undefined, conditions: told };
      const keeper = new LogKeeper({ ...options, log });
      await keeper.snapshot();
      keeper.start();
      const [before] = await snapshotSequences(near, names);
      const next = async () => {
        const { seq } = await events.append(names.event('engine', 'main'), { type: 'engine.stopped' });
        await eventually('it is folded', () => fold.seq >= seq);
      };

      await next();
      pad(fold, randomBytes(9 << 20));
      await expect(keeper.snapshot()).rejects.toMatchObject({ code: 'unsupported' });
      expect(told.list()).toEqual([
        expect.stringMatching(
          /^the event log cannot be kept short: the node's state .*: the one before stays$/,
        ),
      ]);
      expect(await snapshotSequences(near, names)).toEqual([before]);

      // More than the stream takes: some of its parts are stored.
      pad(fold, randomBytes(80_000));
      await expect(keeper.snapshot()).rejects.toMatchObject({ code: 'unavailable' });
      expect(await snapshotSequences(near, names)).toHaveLength(2);
      await next();
      pad(fold, randomBytes(20_000));
      await keeper.snapshot();
      expect(told.list()).toEqual([]);
      expect(await snapshotSequences(near, names)).toEqual([fold.seq, before]);
      expect((await loadNode(near, names)).problems).toEqual([]);
      await keeper.close(0, 1_000);
    } finally {
      await near.close();
      await own.stop();
    }
  });
});

describe('a snapshot that cannot be trusted', () => {
  const damages: Array<[string, (names: Subjects, seq: number) => Promise<unknown>]> = [
    [
      'torn',
      async (names, seq) =>
        (await jetstreamManager(bus)).streams.purge(SNAPSHOT_STREAM, { filter: names.fold(seq, 0) }),
    ],
    [
      'with one bit turned',
      (names, seq) =>
        replacePart(names, seq, 0, (fields) => {
          const bytes = fields.bytes as Uint8Array;
          bytes[bytes.length >> 1]! ^= 4;
        }),
    ],
    ['of a newer cofa', (names, seq) => replacePart(names, seq, 0, (fields) => (fields.v = 2))],
    [
      'that says of itself that it is larger',
      (names, seq) => replacePart(names, seq, 0, (fields) => (fields.parts = 2)),
    ],
  ];
  test.each(damages)('%s: the one before is taken, and it is said', async (_, damage) => {
    const node = await newNode({ layers: 3, blocks: 200 });
    await grow(node, 50);
    await snapshotNow(node.names);
    await grow(node, 50);
    const { seq } = await snapshotNow(node.names);
    await grow(node, 20);
    await damage(node.names, seq);
    const { fold, problems } = await loadNode(bus, node.names);
    expect(digestOfNodeState(fold.state)).toBe(digestOfNodeState((await foldAll(node.names)).state));
    // One whose only part is gone is not seen at all.
    for (const problem of problems) expect(problem).toContain(`snapshot ${seq}`);
    if (_ !== 'torn') expect(problems).toHaveLength(1);
  });

  test('when the log it stands for has been removed: no start, and the reason', async () => {
    const node = await newNode({ layers: 3, blocks: 200 });
    await grow(node, 200);
    const keeper = keeperOf(node, (await loadNode(bus, node.names)).fold, { limit: 1 });
    await keeper.snapshot();
    keeper.start();
    await grow(node, 200);
    await eventually('the beginning is removed', async () => (await foldAll(node.names)).state.trimmed > 0);
    await keeper.close(0, 5_000);
    expect((await loadNode(bus, node.names)).problems).toEqual([]);
    for (const seq of await snapshotSequences(bus, node.names))
      await replacePart(node.names, seq, 0, (fields) => (fields.digest = 'f'.repeat(64)));
    await expect(loadNode(bus, node.names)).rejects.toMatchObject({ code: 'integrity' });
  });

  test('a snapshot of a log that has lost its end', async () => {
    const node = await newNode({ layers: 3, blocks: 200 });
    await grow(node, 30);
    const { fold } = await loadNode(bus, node.names);
    await writeSnapshot(bus, node.names, Object.assign(new NodeFold(), fold, { seq: fold.seq + 100_000 }));
    const { problems } = await loadNode(bus, node.names);
    expect(problems.join()).toContain('its end was lost');
    // Another event at its place is as bad.
    const other = await newNode({ layers: 3, blocks: 200 });
    await grow(other, 30);
    const mine = (await loadNode(bus, other.names)).fold;
    await writeSnapshot(bus, other.names, Object.assign(new NodeFold(), mine, { id: 'somebody.1' }));
    const loaded = await loadNode(bus, other.names);
    expect(loaded.problems.join()).toContain('its end was lost');
    expect(digestOfNodeState(loaded.fold.state)).toBe(digestOfNodeState(mine.state));
  });

  test('an event of a newer cofa is not passed over', async () => {
    const node = await newNode();
    await jetstream(bus).publish(
      node.names.event('layer', 'x'),
      encode({ v: 1, at: 1, type: 'layer.melted' }),
    );
    await expect(loadNode(bus, node.names)).rejects.toMatchObject({ code: 'unsupported' });
  });
});

describe('a log with a limit', () => {
  test('stays short; the state is as if all were there; the other nodes of the stream keep theirs', async () => {
    const other = await newNode({ layers: 3, blocks: 200 });
    await grow(other, 100);
    const node = await newNode({ layers: 6, blocks: 800 });
    const limit = 200_000;
    const whole = new NodeFold();
    const shadow = new AbortController();
    const following = (async () => {
      const from = { from: 'start', signal: shadow.signal } as const;
      for await (const record of readLog(bus, node.names.allEvents, from)) whole.apply(record);
    })();
    const keeper = keeperOf(node, (await loadNode(bus, node.names)).fold, { limit });
    keeper.start();
    let most = 0;
    for (let round = 0; round < 20; round++) {
      await grow(node, 500);
      most = Math.max(most, keeper.retained);
    }
    const last = await node.events.append(node.names.event('engine', 'main'), { type: 'engine.stopped' });
    await keeper.close(last.seq, 10_000);
    await eventually('the shadow has it all', () => whole.seq >= last.seq);
    shadow.abort();
    await following;
    const { fold } = await loadNode(bus, node.names);
    expect(whole.bytes).toBeGreaterThan(5 * limit);
    expect(most).toBeLessThan(3 * limit);
    expect(keeper.retained).toBeLessThan(1.5 * limit);
    // What was removed lately is not more than had to be.
    expect(keeper.retained).toBeGreaterThan(0.3 * limit);
    expect((await foldAll(node.names)).bytes / keeper.retained).toBeCloseTo(1, 1);
    expect(digestOfNodeState(fold.state)).toBe(digestOfNodeState(whole.state));
    expect(fold.sequences).toEqual(whole.sequences);
    expect(await snapshotSequences(bus, node.names)).toHaveLength(2);
    // Mounts that ended long ago have left no subject behind.
    const manager = await jetstreamManager(bus);
    const { state } = await manager.streams.info(STREAM, { subjects_filter: node.names.allEvents });
    expect(Object.keys(state.subjects ?? {}).length).toBeLessThan(whole.sequences.size + 500);
    expect((await foldAll(other.names)).events).toBe(101);
    // The aggregates go on, also those whose records have all been removed.
    const next = new EventLog(bus, () => 1, { epoch: fold.epoch });
    next.rememberAll(node.names, fold);
    for (const { subject, event } of take(node.history, 50)) await next.append(subject, event);
  });

  test('that is full all the same makes room before an append fails, also as the first thing of an engine', async () => {
    const own = await startNats();
    const near = await connectBus({ url: own.url }, { name: 'test' });
    try {
      await EventLog.prepare(near, { maxBytes: 100_000 });
      await prepareSnapshots(near);
      const names = subjects('full');
      let rooms = 0;
      const events: EventLog = new EventLog(near, () => 1, {
        onFull: async () => {
          rooms++;
          const { fold } = await loadNode(near, names);
          const live = new LiveFold({ events, names, fold });
          const options = { bus: near, names, events, live, limit: 1 << 30, files: undefined };
          await new LogKeeper({ ...options, conditions, log }).makeRoom();
        },
      });
      await events.claim(names.event('engine', 'main'), started);
      const history = nodeHistory({ seed: 5, node: 'full', layers: 3, blocks: 300 });
      const done: NewEvent[] = [];
      for (const { subject, event } of take(history, 2_000)) {
        await events.append(subject, event);
        done.push(event);
      }
      expect(rooms).toBeGreaterThan(1);
      const { fold } = await loadNode(near, names);
      expect(fold.events).toBeGreaterThanOrEqual(done.length);
      const whole = new NodeFold();
      let seq = 0;
      whole.state.root = 'r';
      for (const { subject, event } of take(
        nodeHistory({ seed: 5, node: 'full', layers: 3, blocks: 300 }),
        2_000,
      ))
        whole.apply({ seq: ++seq, subject, event: { v: 1, at: 1, ...event } as never, id: '', bytes: 0 });
      for (const part of ['layers', 'mounts', 'images'] as const)
        expect(fold.state[part]).toEqual(whole.state[part]);
    } finally {
      await near.close();
      await own.stop();
    }
  });
});
