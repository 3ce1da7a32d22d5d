/** Records that are not what their type says, written and read: a real nats-server. */
import { jetstream } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/nats-core';
import { pino } from 'pino';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Subjects, subjects } from '../../schemas/subjects.ts';
import { connectBus, encode } from '../../src/bus/connection.ts';
import { Conditions } from '../../src/process/conditions.ts';
import { EventLog } from '../../src/store/event-log.ts';
import { LiveFold } from '../../src/store/live-fold.ts';
import { readLog, readUnchecked } from '../../src/store/log-reader.ts';
import { loadNode, prepareSnapshots } from '../../src/store/snapshots.ts';
import { LogKeeper } from '../../src/supervisor/log/log-keeper.ts';
import { eventually } from '../support/engine.ts';
import { type NatsServer, startNats } from '../support/services.ts';

let server: NatsServer;
let bus: NatsConnection;
let nodes = 0;
const log = pino({ level: 'silent' });

beforeAll(async () => {
  server = await startNats();
  bus = await connectBus({ url: server.url }, { name: 'test' });
  await EventLog.prepare(bus, { maxBytes: 16 << 20 });
  await prepareSnapshots(bus);
});
afterAll(async () => {
  await bus?.close();
  await server?.stop();
});

async function newNode(): Promise<{ names: Subjects; events: EventLog; layer: string }> {
  const names = subjects(`flawed-${nodes++}`);
  const events = new EventLog(bus, () => 1);
  const started = { type: 'engine.started', pid: 1, version: '0', transport: 'kernel' } as const;
  await events.claim(names.event('engine', 'main'), started);
  return { names, events, layer: names.event('layer', 'a'.repeat(64)) };
}

const flawed = encode({ v: 1, at: 1, type: 'layer.blocks', ranges: [[0, 'many']] });

test('an event with a wrong value is not written, and the error names subject and field', async () => {
  const { names, events, layer } = await newNode();
  await expect(events.append(layer, { type: 'layer.blocks', ranges: [[0, -1]] })).rejects.toMatchObject({
    code: 'invalid-argument',
    message: expect.stringMatching(
      new RegExp(`^layer\\.blocks is not written into the log \\(${layer}\\): ranges\\.0\\.1: `),
    ),
  });
  // The next one is none the worse for it.
  const { seq } = await events.append(layer, { type: 'layer.blocks', ranges: [[0, 1]] });
  const found: number[] = [];
  for await (const record of readLog(bus, names.eventsOf('layer'), { from: 'start', follow: false }))
    found.push(record.seq);
  expect(found).toEqual([seq]);
});

test.each([
  ['a wrong value', flawed, 'layer.blocks, ', 'ranges.0.1: '],
  ['no record', Buffer.from([0xc1, 0xff]), '', 'no record of an event'],
])(
  'a start from a log with %s is refused, and the error says where and what to do',
  async (_, bytes, what, why) => {
    const { names, layer } = await newNode();
    const { seq } = await jetstream(bus).publish(layer, bytes);
    const error = await loadNode(bus, names).then(
      () => undefined,
      (failure: unknown) => failure,
    );
    expect(error).toMatchObject({ code: 'integrity', hint: expect.stringContaining('cofa replay') });
    const { message } = error as Error;
    expect(message).toContain(`event ${seq} of the log (${what}${layer}) cannot be read: ${why}`);
    // The debugger reads on.
    const seen: Array<string | undefined> = [];
    for await (const { type } of readUnchecked(bus, names.allEvents, { from: 'start', follow: false }))
      seen.push(type);
    expect(seen).toEqual(['engine.started', what === '' ? undefined : 'layer.blocks']);
  },
);

test('an engine that comes to such a record while it runs says so, and folds nothing behind it', async () => {
  const { names, events, layer } = await newNode();
  const { fold } = await loadNode(bus, names);
  const conditions = new Conditions(log);
  const live = new LiveFold({ events, names, fold });
  const options = { bus, names, events, live, limit: 1 << 30, files: undefined, conditions, log };
  const keeper = new LogKeeper(options);
  keeper.start();
  await jetstream(bus).publish(layer, flawed);
  await eventually('the condition', () => conditions.has('log-fold'));
  expect(conditions.list().join()).toContain('ranges.0.1');
  await keeper.close(0, 100);
});

test('a damaged account of what reads waited for keeps no engine from starting', async () => {
  const { names, layer } = await newNode();
  await jetstream(bus).publish(layer, encode({ v: 1, at: 1, type: 'layer.trace', reads: 'lost' }));
  expect((await loadNode(bus, names)).fold.events).toBe(2);
});
