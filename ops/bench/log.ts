/**
 * What the event log costs: events appended a second, with and without a sync to the disk, and how long a node takes to
 * start from its events and from a snapshot. A private nats-server, its files below --dir.
 *
 *     node ops/bench/log.ts [--dir DIR] [--layers 100] [--blocks 10000] [--events 200000]
 */
import { mkdir, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { idOf } from '../../actors/node-state.ts';
import type { CofaEvent } from '../../schemas/events.ts';
import { subjects } from '../../schemas/subjects.ts';
import { connectBus } from '../../src/bus/connection.ts';
import { startNats } from '../../src/process/nats-server.ts';
import { EventLog, readLog } from '../../src/store/event-log.ts';
import { Layout } from '../../src/store/layout.ts';
import { LogFiles } from '../../src/store/log-files.ts';
import { digestOfNodeState } from '../../src/store/node-codec.ts';
import { NodeFold } from '../../src/store/node-fold.ts';
import { loadNode, prepareSnapshots, writeSnapshot } from '../../src/store/snapshots.ts';
import { removeTree } from '../../test/support/temp.ts';
import { nodeHistory, take } from '../../test/support/node-history.ts';
import { programOptions } from '../program-options.ts';

const { values } = programOptions(import.meta.filename, {
  options: {
    dir: { type: 'string' },
    layers: { type: 'string', default: '100' },
    blocks: { type: 'string', default: '10000' },
    events: { type: 'string', default: '200000' },
  },
});
const directory = await mkdtemp(join(values.dir ?? tmpdir(), 'cofa-bench-log-'));
const layout = new Layout(directory);
for (const name of ['run', 'nats', 'log']) await mkdir(layout.in(name), { recursive: true });
const nats = await startNats(layout);
const bus = await connectBus(nats.address, { name: 'bench' });
try {
  await EventLog.prepare(bus, { maxBytes: 2 ** 30 });
  await prepareSnapshots(bus);
  await appends();
  await starts();
} finally {
  await bus.close();
  await nats.child.stop();
  await removeTree(directory);
}

function report(what: string, value: number, unit: string): void {
  console.log(`${what.padEnd(64)} ${value >= 100 ? Math.round(value) : value.toFixed(1)} ${unit}`);
}

async function appends(): Promise<void> {
  const names = subjects('appends');
  const { sync } = new LogFiles(layout.in('nats'));
  const open = new EventLog(bus, Date.now);
  const { seq: epoch } = await open.claim(names.event('engine', 'main'), {
    type: 'engine.started',
    pid: 1,
    version: '0',
    transport: 'kernel',
  });
  const kinds = [
    { what: 'layer.blocks', log: new EventLog(bus, Date.now, { epoch }), blocks: true },
    { what: 'mount.*', log: new EventLog(bus, Date.now, { epoch, alone: true }), blocks: false },
    {
      what: 'mount.*, synced',
      log: new EventLog(bus, Date.now, { epoch, alone: true, sync }),
      blocks: false,
    },
    { what: 'mount.*, owner looked at', log: new EventLog(bus, Date.now, { epoch }), blocks: false },
    {
      what: 'mount.*, owner looked at and synced',
      log: new EventLog(bus, Date.now, { epoch, sync }),
      blocks: false,
    },
  ];
  for (const { what, log, blocks } of kinds) {
    for (const lanes of [1, 64]) {
      const end = performance.now() + 2_000;
      const began = performance.now();
      let done = 0;
      const lane = async (_: unknown, number: number) => {
        const subject = names.event(blocks ? 'layer' : 'mount', `${what.length}-${lanes}-${number}`);
        for (; performance.now() < end; done++)
          await log.append(
            subject,
            blocks ? { type: 'layer.blocks', ranges: [[1, 16]] } : { type: 'mount.mounted' },
          );
      };
      await Promise.all(Array.from({ length: lanes }, lane));
      report(`append ${what}, ${lanes} at a time`, done / ((performance.now() - began) / 1000), 'events/s');
    }
  }
}

async function starts(): Promise<void> {
  const [layers, blocks, events] = [Number(values.layers), Number(values.blocks), Number(values.events)];
  const names = subjects('starts');
  const log = new EventLog(bus, Date.now);
  const history = nodeHistory({ seed: 1, node: 'starts', layers, blocks });
  for (let left = events; left > 0; left -= 5_000) {
    const some = take(history, Math.min(left, 5_000));
    await Promise.all(some.map(({ subject, event }) => log.append(subject, event)));
  }
  const timed = async <T>(work: () => Promise<T>): Promise<[T, number]> => {
    const began = performance.now();
    const result = await work();
    return [result, performance.now() - began];
  };
  const [fromEvents, eventsMs] = await timed(() => loadNode(bus, names));
  const count = fromEvents.fold.events;
  report(`start from ${count} events of ${layers} layers`, eventsMs, 'ms');
  report('  that is', count / (eventsMs / 1000), 'events/s');
  const [bytes, writeMs] = await timed(() => writeSnapshot(bus, names, fromEvents.fold));
  report(`snapshot of ${bytes} bytes written and read back`, writeMs, 'ms');
  const [fromSnapshot, snapshotMs] = await timed(() => loadNode(bus, names));
  report('start from it', snapshotMs, 'ms');
  const next = new EventLog(bus, Date.now);
  next.rememberAll(names, fromSnapshot.fold);
  for (let round = 0; round < 4; round++)
    await Promise.all(take(history, 5_000).map(({ subject, event }) => next.append(subject, event)));
  const [withTail, tailMs] = await timed(() => loadNode(bus, names));
  report(`start from it and ${withTail.fold.seq - fromSnapshot.fold.seq} events behind it`, tailMs, 'ms');
  const whole = new NodeFold();
  const records: Array<{ subject: string; event: CofaEvent }> = [];
  for await (const record of readLog(bus, names.allEvents, { from: 'start', follow: false })) {
    whole.apply(record);
    records.push({ subject: record.subject, event: record.event });
  }
  const same = digestOfNodeState(whole.state) === digestOfNodeState(withTail.fold.state);
  const [, foldMs] = await timed(async () => {
    const fold = new NodeFold();
    let seq = 0;
    for (const { subject, event } of records) fold.apply({ seq: ++seq, subject, event, id: '', bytes: 1 });
  });
  report('fold alone', records.length / (foldMs / 1000), 'events/s');
  console.log(same ? 'all starts give the same node' : `THE STARTS DIFFER (${idOf(names.allEvents)})`);
  if (!same) process.exitCode = 1;
}
