/** Acks that get lost, writers that have been replaced, records that are in the way: a real nats-server behind a relay. */
import { setTimeout as sleep } from 'node:timers/promises';
import { jetstreamManager } from '@nats-io/jetstream';
import { headers, type NatsConnection } from '@nats-io/nats-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Relay, startRelay } from '../../ops/bench/relay.ts';
import { STREAM, subjects } from '../../schemas/subjects.ts';
import { connectBus, encode } from '../../src/bus/connection.ts';
import { EventLog, type LogRecord, readLog } from '../../src/store/event-log.ts';
import { startNats as startEngineNats } from '../../src/process/nats-server.ts';
import { Layout } from '../../src/store/layout.ts';
import { eventually } from '../support/engine.ts';
import { removeTree, tempDir } from '../support/temp.ts';
import { loadNode } from '../../src/store/snapshots.ts';
import { type NatsServer, startNats } from '../support/services.ts';

let server: NatsServer;
/** Straight to the server. */
let bus: NatsConnection;
let relay: Relay;
/** Through the relay. */
let far: NatsConnection;
let node = 0;
const fresh = () => subjects(`node-${node++}`);
const started = { type: 'engine.started', pid: 1, version: '0', transport: 'kernel' } as const;

const all = async (filter: string): Promise<LogRecord[]> => {
  const list: LogRecord[] = [];
  for await (const record of readLog(bus, filter, { from: 'start', follow: false })) list.push(record);
  return list;
};

beforeAll(async () => {
  server = await startNats();
  bus = await connectBus({ url: server.url }, { name: 'test' });
  await EventLog.prepare(bus, { maxBytes: 64 << 20 });
  relay = await startRelay({ to: { host: '127.0.0.1', port: Number(new URL(server.url).port) } });
  far = await connectBus({ url: `nats://${relay.host}` }, { name: 'test-far' });
});
afterAll(async () => {
  relay?.heal();
  await far?.close();
  await relay?.stop();
  await bus?.close();
  await server?.stop();
});

/** From now on nothing reaches the client; the first answer cuts the connection. */
async function loseAnswers(ms: number): Promise<void> {
  relay.fail({ kind: 'cut', afterBytes: 0 });
  await sleep(ms);
  relay.heal();
}

/** How long JetStream recognises an append that is sent again. */
async function rememberIdsFor(ms: number): Promise<void> {
  const manager = await jetstreamManager(bus);
  const { config } = await manager.streams.info(STREAM);
  await manager.streams.update(STREAM, { ...config, duplicate_window: ms * 1e6 });
}

describe('an ack that came', () => {
  test('means that the record survives kill -9 of the private nats-server', async () => {
    const directory = await tempDir('log-kill');
    const layout = new Layout(directory);
    await layout.prepare();
    const nats = await startEngineNats(layout);
    const connect = () => connectBus(nats.address, { name: 'test', reconnect: false });
    let near = await connect();
    try {
      await EventLog.prepare(near, { maxBytes: 8 << 20 });
      const names = subjects('killed');
      const log = new EventLog(near, () => 1);
      await Promise.all(
        Array.from({ length: 300 }, (_, n) =>
          log.append(names.event('layer', `l${n % 7}`), { type: 'layer.blocks', ranges: [[n, 1]] }),
        ),
      );
      nats.child.kill('killed by the test');
      await near.closed();
      near = await eventually('nats-server is back', connect);
      let seen = 0;
      const whole = { from: 'start', follow: false } as const;
      for await (const _ of readLog(near, names.allEvents, whole)) seen++;
      expect(seen).toBe(300);
    } finally {
      await near.close();
      await nats.child.stop();
      await removeTree(directory);
    }
  });
});

describe('an ack that is lost', () => {
  test('the append is sent again and is one record', async () => {
    const names = fresh();
    const log = new EventLog(far, () => 1, { timeoutMs: 20_000 });
    const subject = names.event('mount', 'a');
    await log.append(subject, { type: 'mount.mounted' });
    const healed = loseAnswers(300);
    const { seq } = await log.append(subject, { type: 'mount.unmounted' });
    await healed;
    const records = await all(names.allEvents);
    expect(records.map(({ event }) => event.type)).toEqual(['mount.mounted', 'mount.unmounted']);
    expect(seq).toBe(records[1]?.seq);
    await log.append(subject, { type: 'mount.mounted' });
  });

  test('also when JetStream has forgotten the id meanwhile: the record itself tells', async () => {
    await rememberIdsFor(100);
    const names = fresh();
    const log = new EventLog(far, () => 1, { timeoutMs: 20_000 });
    const subject = names.event('mount', 'a');
    await log.append(subject, { type: 'mount.mounted' });
    const healed = loseAnswers(1_000);
    const { seq } = await log.append(subject, { type: 'mount.unmounted' });
    await healed;
    await rememberIdsFor(120_000);
    const records = await all(names.allEvents);
    expect(records.map(({ event }) => event.type)).toEqual(['mount.mounted', 'mount.unmounted']);
    expect(seq).toBe(records[1]?.seq);
    await log.append(subject, { type: 'mount.mounted' });
  });

  test('an append that was given up and stored all the same is no conflict for the next', async () => {
    const names = fresh();
    const missed: string[] = [];
    const log = new EventLog(far, () => 1, { epoch: 1, onMissed: ({ event }) => missed.push(event.type) });
    const subject = names.event('mount', 'a');
    await log.append(subject, { type: 'mount.mounted' });
    relay.fail({ kind: 'cut', afterBytes: 0 });
    const began = performance.now();
    await expect(
      log.append(subject, { type: 'mount.detached', reason: 'lost' }, { timeoutMs: 500 }),
    ).rejects.toMatchObject({
      code: 'unavailable',
    });
    expect(performance.now() - began).toBeLessThan(15_000);
    relay.heal();
    await log.append(subject, { type: 'mount.unmounted' }, { timeoutMs: 20_000 });
    expect((await all(names.allEvents)).map(({ event }) => event.type)).toEqual([
      'mount.mounted',
      'mount.detached',
      'mount.unmounted',
    ]);
    expect(missed).toEqual(['mount.detached']);
  });
});

describe('a log without NATS', () => {
  test('an append fails as unavailable within its time; those that wait behind it, too', async () => {
    const names = fresh();
    const log = new EventLog(far, () => 1);
    relay.fail({ kind: 'stall' });
    const began = performance.now();
    const append = () =>
      log.append(names.event('layer', 'x'), { type: 'layer.handed-over' }, { timeoutMs: 400 });
    const outcomes = await Promise.allSettled([append(), append(), append()]);
    relay.heal();
    expect(outcomes.map((outcome) => outcome.status)).toEqual(['rejected', 'rejected', 'rejected']);
    for (const outcome of outcomes)
      expect((outcome as PromiseRejectedResult).reason).toMatchObject({ code: 'unavailable' });
    expect(performance.now() - began).toBeLessThan(15_000);
  });

  test('a log that is drained takes nothing more, and what was under way is in it', async () => {
    const names = fresh();
    const log = new EventLog(bus, () => 1);
    const appends = Array.from({ length: 500 }, (_, n) =>
      log.append(names.event('layer', `l${n % 50}`), { type: 'layer.blocks', ranges: [[n, 1]] }),
    );
    expect(await log.drain(20_000)).toBe(0);
    await Promise.all(appends);
    await expect(log.append(names.event('layer', 'l'), started)).rejects.toMatchObject({
      code: 'not-running',
    });
    expect(await all(names.allEvents)).toHaveLength(500);
  });
});

describe('a follower', () => {
  test('goes on where it was after its connection was reset, and misses nothing', async () => {
    const names = fresh();
    const log = new EventLog(bus, () => 1);
    const stop = new AbortController();
    const seen: number[] = [];
    const following = (async () => {
      const from = { from: 'start', signal: stop.signal } as const;
      for await (const { seq } of readLog(far, names.allEvents, from)) seen.push(seq);
    })();
    const sent: number[] = [];
    const send = async (count: number) => {
      for (let n = 0; n < count; n++)
        sent.push(
          (await log.append(names.event('layer', 'x'), { type: 'layer.blocks', ranges: [[n, 1]] })).seq,
        );
    };
    await send(50);
    relay.fail({ kind: 'reset' });
    await send(50);
    relay.heal();
    await send(50);
    await eventually('all were seen', () => seen.length >= sent.length);
    stop.abort();
    await following;
    expect(seen).toEqual(sent);
  });
});

describe('an engine that has been replaced', () => {
  test('is told so before it acknowledges anything, on any subject, and what it wrote is void', async () => {
    const names = fresh();
    const main = names.event('engine', 'main');
    const first = new EventLog(bus, () => 1);
    await first.claim(main, started);
    await first.append(names.event('mount', 'a'), { type: 'mount.mounted' });
    const second = new EventLog(bus, () => 2);
    for await (const _ of second.replay(names.allEvents));
    await second.claim(main, started);

    let lost = false;
    void first.fenced.then(() => (lost = true));
    // A subject that the second engine has never heard of.
    await expect(first.append(names.event('mount', 'b'), { type: 'mount.mounted' })).rejects.toMatchObject({
      code: 'conflict',
    });
    expect(lost).toBe(true);
    await expect(
      first.append(names.event('layer', 'x'), { type: 'layer.blocks', ranges: [] }),
    ).rejects.toMatchObject({ code: 'conflict' });
    await second.append(names.event('mount', 'a'), { type: 'mount.unmounted' });
    expect(
      (await all(names.allEvents)).map(({ event, subject }) => [subject.split('.').at(-1), event.type]),
    ).toEqual([
      ['main', 'engine.started'],
      ['a', 'mount.mounted'],
      ['main', 'engine.started'],
      ['a', 'mount.unmounted'],
    ]);
  });

  test('while it waited for the ack of its claim is told so by the log that it reads then', async () => {
    const names = fresh();
    const main = names.event('engine', 'main');
    const first = new EventLog(bus, () => 1);
    await first.claim(main, started);
    const second = new EventLog(bus, () => 2);
    for await (const _ of second.replay(main));
    await second.claim(main, started);
    const { fold } = await loadNode(bus, names);
    expect(() => first.rememberAll(names, fold)).toThrow('another engine has taken over');
    expect(await first.isOwner(main)).toBe(false);
    await expect(first.append(main, { type: 'engine.stopped' })).rejects.toMatchObject({ code: 'conflict' });
    second.rememberAll(names, fold);
    expect(await second.isOwner(main)).toBe(true);
  });

  test('cannot be confirmed as the owner, nor can anybody while NATS is away', async () => {
    const names = fresh();
    const main = names.event('engine', 'main');
    const first = new EventLog(far, () => 1, { timeoutMs: 1_000 });
    await first.claim(main, started);
    await first.confirmOwner(main);
    relay.fail({ kind: 'stall' });
    await expect(first.confirmOwner(main)).rejects.toMatchObject({ code: 'unavailable' });
    // It may be the owner all the same.
    expect(await first.isOwner(main)).toBe(true);
    relay.heal();
    await first.confirmOwner(main);
    const second = new EventLog(bus, () => 2);
    for await (const _ of second.replay(main));
    await second.claim(main, started);
    await second.confirmOwner(main);
    await expect(first.confirmOwner(main)).rejects.toMatchObject({ code: 'conflict' });
  });

  test('its late record on a subject of the new owner is passed over, and the owner goes on', async () => {
    const names = fresh();
    const main = names.event('engine', 'main');
    const layer = names.event('layer', 'x');
    const first = new EventLog(bus, () => 1);
    await first.claim(main, started);
    await first.append(layer, { type: 'layer.blocks', ranges: [[0, 1]] });
    const second = new EventLog(bus, () => 2, { onMissed: () => missed++ });
    let missed = 0;
    for await (const _ of second.replay(names.allEvents));
    await second.claim(main, started);
    await first.append(layer, { type: 'layer.blocks', ranges: [[1, 1]] });
    await second.append(layer, { type: 'layer.blocks', ranges: [[2, 1]] });
    const blocks = (await all(names.allEvents)).flatMap(({ event }) =>
      event.type === 'layer.blocks' ? event.ranges : [],
    );
    expect(blocks).toEqual([
      [0, 1],
      [2, 1],
    ]);
    expect(missed).toBe(0);
  });

  test('of two that start at the same time one is refused', async () => {
    const names = fresh();
    const main = names.event('engine', 'main');
    const outcomes = await Promise.allSettled(
      [1, 2, 3, 4].map((now) => new EventLog(bus, () => now).claim(main, started)),
    );
    expect(outcomes.filter((outcome) => outcome.status === 'fulfilled')).toHaveLength(1);
    for (const outcome of outcomes)
      if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'conflict' });
  });
});

describe('processes of one engine', () => {
  test('a successor that began before the last append of its predecessor landed is told of it, and goes on', async () => {
    const names = fresh();
    const owner = new EventLog(bus, () => 1);
    const { seq: epoch } = await owner.claim(names.event('engine', 'main'), started);
    const layer = names.event('layer', 'x');
    const missed: LogRecord[] = [];
    const old = new EventLog(bus, () => 1, { epoch });
    const next = new EventLog(bus, () => 2, { epoch, onMissed: (record) => missed.push(record) });
    await old.append(layer, { type: 'layer.blocks', ranges: [[0, 1]] });
    await old.append(layer, { type: 'layer.blocks', ranges: [[1, 1]] });
    await next.append(layer, { type: 'layer.blocks', ranges: [[2, 1]] });
    expect(missed.map(({ event }) => (event.type === 'layer.blocks' ? event.ranges[0]?.[0] : -1))).toEqual([
      0, 1,
    ]);
    expect(await all(names.eventsOf('layer'))).toHaveLength(3);
  });

  test('an aggregate that begins anew does not see what it was before its end', async () => {
    const names = fresh();
    const owner = new EventLog(bus, () => 1);
    const { seq: epoch } = await owner.claim(names.event('engine', 'main'), started);
    const layer = names.event('layer', 'x');
    const old = new EventLog(bus, () => 1, { epoch });
    for (let n = 0; n < 20; n++) await old.append(layer, { type: 'layer.blocks', ranges: [[n, 1]] });
    await old.append(layer, { type: 'layer.removed' });
    const { fold } = await loadNode(bus, names);
    expect(fold.sequences.has('layer.x')).toBe(false);
    const missed: LogRecord[] = [];
    const next = new EventLog(bus, () => 2, { epoch, onMissed: (record) => missed.push(record) });
    next.rememberAll(names, fold);
    await next.append(layer, { type: 'layer.blocks', ranges: [[1, 1]] });
    expect(missed).toEqual([]);
  });

  test('records of a cofa that wrote no headers count, and are gone on behind', async () => {
    const names = fresh();
    const mount = names.event('mount', 'm');
    const old = { v: 1, at: 1, type: 'mount.mounted' };
    const manager = await jetstreamManager(bus);
    await bus.request(mount, encode(old), { headers: headers(), timeout: 5_000 });
    const log = new EventLog(bus, () => 2);
    await log.claim(names.event('engine', 'main'), started);
    await log.append(mount, { type: 'mount.unmounted' });
    expect((await all(names.eventsOf('mount'))).map(({ event }) => event.type)).toEqual([
      'mount.mounted',
      'mount.unmounted',
    ]);
    // What retention has removed is expected as 0 by JetStream.
    await manager.streams.purge(STREAM, { filter: mount });
    await log.append(mount, { type: 'mount.mounted' });
    expect(await all(names.eventsOf('mount'))).toHaveLength(1);
  });
});

describe('a beginning that is removed while it is read', () => {
  /** `bus`, with something that happens once the end of what is read is known. */
  const once = (happens: () => Promise<unknown>): NatsConnection => {
    let isOver = false;
    const request: NatsConnection['request'] = async (subject, ...rest) => {
      const answer = await bus.request(subject, ...rest);
      if (subject.includes('.MSG.GET.') && !isOver) {
        isOver = true;
        await happens();
      }
      return answer;
    };
    return new Proxy(bus, {
      get: (target, name) => {
        const value = Reflect.get(target, name, target) as unknown;
        if (name === 'request') return request;
        return typeof value === 'function' ? (value.bind(target) as unknown) : value;
      },
    });
  };

  test.each([
    ['to its end', 3, []],
    ['in part', 2, ['mount.unmounted']],
  ])('%s is read to its end all the same', async (_, removed, left) => {
    const names = fresh();
    const mount = names.event('mount', 'm');
    const log = new EventLog(bus, () => 1);
    const seqs: number[] = [];
    for (const type of ['mount.mounted', 'mount.mounted', 'mount.unmounted'] as const)
      seqs.push((await log.append(mount, { type })).seq);
    const manager = await jetstreamManager(bus);
    const cut = once(() =>
      manager.streams.purge(STREAM, { filter: mount, seq: (seqs[removed - 1] as number) + 1 }),
    );
    const types: string[] = [];
    for await (const { event } of readLog(cut, names.eventsOf('mount'), { from: 'start', follow: false }))
      types.push(event.type);
    expect(types).toEqual(left);
  });
});
