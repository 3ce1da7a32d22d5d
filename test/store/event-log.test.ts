import type { NatsConnection } from '@nats-io/nats-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { subjects } from '../../schemas/subjects.ts';
import { connectBus } from '../../src/bus/connection.ts';
import { EventLog, type LogRecord, readLog } from '../../src/store/event-log.ts';
import { type NatsServer, startNats } from '../support/services.ts';

let server: NatsServer;
let bus: NatsConnection;
let node = 0;
const all = async (records: AsyncIterable<LogRecord>): Promise<LogRecord[]> => {
  const list: LogRecord[] = [];
  for await (const record of records) list.push(record);
  return list;
};
/** A node name that no other test has: its part of the log is empty. */
const fresh = () => subjects(`node-${node++}`);

beforeAll(async () => {
  server = await startNats();
  bus = await connectBus({ url: server.url }, { name: 'test' });
  await EventLog.prepare(bus, { maxBytes: 64 << 20 });
});
afterAll(async () => {
  await bus?.close();
  await server?.stop();
});

describe('event log', () => {
  test('an empty log replays nothing and ends', async () => {
    const names = fresh();
    expect(await all(new EventLog(bus, () => 1).replay(names.allEvents))).toEqual([]);
  });

  test('preparing the stream a second time keeps what is in it', async () => {
    const names = fresh();
    const log = new EventLog(bus, () => 7);
    await log.append(names.event('mount', 'a'), { type: 'mount.mounted' });
    await EventLog.prepare(bus, { maxBytes: 64 << 20 });
    const [record] = await all(new EventLog(bus, () => 8).replay(names.allEvents));
    expect(record?.event).toEqual({ v: 1, type: 'mount.mounted', at: 7 });
  });

  test('appends started together come out in the order of the calls', async () => {
    const names = fresh();
    const log = new EventLog(bus, () => 1);
    const subject = names.event('layer', 'x');
    await Promise.all(
      Array.from({ length: 200 }, (_, n) => log.append(subject, { type: 'layer.blocks', ranges: [[n, 1]] })),
    );
    const records = await all(new EventLog(bus, () => 1).replay(names.allEvents));
    expect(records.map(({ event }) => (event.type === 'layer.blocks' ? event.ranges[0]?.[0] : -1))).toEqual(
      Array.from({ length: 200 }, (_, n) => n),
    );
  });

  test('two engines on one aggregate: the one that has not seen the last event is refused', async () => {
    const names = fresh();
    const subject = names.event('mount', 'one');
    const first = new EventLog(bus, () => 1);
    const second = new EventLog(bus, () => 2);
    await first.append(subject, { type: 'mount.mounted' });
    await expect(second.append(subject, { type: 'mount.mounted' })).rejects.toMatchObject({
      code: 'conflict',
    });
    await all(second.replay(names.allEvents));
    await second.append(subject, { type: 'mount.unmounted' });
    await expect(first.append(subject, { type: 'mount.unmounted' })).rejects.toMatchObject({
      code: 'conflict',
    });
  });

  test('a follower sees what is there, then what comes, and ends with its signal', async () => {
    const names = fresh();
    const log = new EventLog(bus, () => 1);
    await log.append(names.event('mount', 'a'), { type: 'mount.mounted' });
    const stop = new AbortController();
    const seen: string[] = [];
    const following = (async () => {
      for await (const { subject } of readLog(bus, names.allEvents, { from: 'start', signal: stop.signal })) {
        seen.push(subject);
        if (seen.length === 1) await log.append(names.event('mount', 'b'), { type: 'mount.mounted' });
        if (seen.length === 2) stop.abort();
      }
    })();
    await following;
    expect(seen).toEqual([names.event('mount', 'a'), names.event('mount', 'b')]);
  });

  test('a log that is full refuses events and keeps all it has', async () => {
    const small = await startNats();
    const own = await connectBus({ url: small.url }, { name: 'test' });
    try {
      await EventLog.prepare(own, { maxBytes: 20_000 });
      const names = subjects('full');
      const log = new EventLog(own, () => 1);
      let taken = 0;
      await expect(
        (async () => {
          for (; taken < 1_000; taken++)
            await log.append(names.event('mount', `m${taken}`), { type: 'mount.mounted' });
        })(),
      ).rejects.toMatchObject({ code: 'unavailable' });
      expect(taken).toBeGreaterThan(50);
      // Nor does a small one find a gap that costs an old one its place.
      for (let round = 0; round < 20; round++) {
        const late = log.append(names.event('mount', `l${round}`), { type: 'mount.mounted' });
        await expect(late).rejects.toMatchObject({ code: 'unavailable' });
      }
      expect(await all(readLog(own, names.allEvents, { from: 'start', follow: false }))).toHaveLength(taken);
    } finally {
      await own.close();
      await small.stop();
    }
  });
});
