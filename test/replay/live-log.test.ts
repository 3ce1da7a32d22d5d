/** Logs in a NATS of their own: records that do not count, snapshots, and what retention has removed. */
import { jetstreamManager } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/nats-core';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { NewEvent } from '../../schemas/events.ts';
import { STREAM, subjects } from '../../schemas/subjects.ts';
import { connectBus } from '../../src/bus/connection.ts';
import { exportLog } from '../../src/replay/export.ts';
import { openLiveLog } from '../../src/replay/live-log.ts';
import { loadFile, loadLive } from '../../src/replay/load.ts';
import { EventLog, storedRecord } from '../../src/store/event-log.ts';
import { digestOfNodeState } from '../../src/store/node-codec.ts';
import { loadNode, prepareSnapshots, writeSnapshot } from '../../src/store/snapshots.ts';
import { startNats } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';
import { digest, LAYER_A, LAYER_B, MOUNT } from './sample-log.ts';

const cleanup = new Cleanup();
let bus: NatsConnection;
let url = '';
let directory = '';

beforeAll(async () => {
  directory = await cleanup.tempDir('live-log');
  const nats = await startNats();
  cleanup.defer(() => nats.stop());
  url = nats.url;
  bus = await connectBus({ url }, { name: 'test' });
  cleanup.defer(() => bus.close());
  await EventLog.prepare(bus, { maxBytes: 1 << 26 });
  await prepareSnapshots(bus);
});
afterAll(() => cleanup.run());

const started: NewEvent = { type: 'engine.started', pid: 1, version: '0', transport: 'kernel' };
const opened = (blockCount: number): NewEvent => ({
  type: 'layer.opened',
  size: blockCount * 65536,
  blockSize: 65536,
  blockCount,
  blob: digest('3'),
});

async function engine(node: string): Promise<{
  log: EventLog;
  append: (kind: 'layer' | 'mount', id: string, event: NewEvent) => Promise<number>;
}> {
  const log = new EventLog(bus, Date.now);
  const names = subjects(node);
  for await (const _ of log.replay(names.allEvents)) continue;
  await log.claim(names.event('engine', 'main'), started);
  return { log, append: async (kind, id, event) => (await log.append(names.event(kind, id), event)).seq };
}

/** What the engine itself would begin with. */
async function ofEngine(node: string): Promise<{ seq: number; digest: string }> {
  const { fold } = await loadNode(bus, subjects(node));
  return { seq: fold.seq, digest: digestOfNodeState(fold.state) };
}

test('what an engine wrote after another had taken over does not count, for an export neither', async () => {
  const node = 'replaced';
  const old = await engine(node);
  await old.append('layer', LAYER_A, opened(10));
  await engine(node);
  // The old one does not know yet; blocks are not confirmed with the owner.
  await old.append('layer', LAYER_A, { type: 'layer.blocks', ranges: [[0, 5]] }).catch(() => {});
  const last = await storedRecord(bus, { last_by_subj: subjects(node).event('layer', LAYER_A) });
  expect(last?.event().type).toBe('layer.blocks');
  const loaded = await loadLive({ root: directory, nats: url, node });
  const { log } = loaded;
  expect([...log.timeline.types]).not.toContain('layer.blocks');
  expect({ seq: log.seqOf(log.count), digest: digestOfNodeState(log.stateAt(log.count)) }).toEqual(
    await ofEngine(node),
  );
  await loaded.close();
  const live = await openLiveLog({ root: directory, nats: url, node });
  const file = join(directory, 'replaced');
  expect(await exportLog(live, file, { cofa: '0', now: 0 })).toMatchObject({ events: log.count });
  await live.close();
});

test('several nodes in one NATS have to be told apart', async () => {
  await engine('other');
  await engine('another');
  await expect(openLiveLog({ root: directory, nats: url })).rejects.toMatchObject({
    code: 'invalid-argument',
    message: expect.stringMatching(/another/),
  });
});

test('a log whose beginning was removed begins with the snapshot that stands for it, live and exported', async () => {
  const node = 'kept-short';
  const { append } = await engine(node);
  const names = subjects(node);
  await append('layer', LAYER_A, opened(100));
  for (let block = 0; block < 40; block++)
    await append('layer', LAYER_A, { type: 'layer.blocks', ranges: [[block, 1]] });
  const first = await loadNode(bus, names);
  await writeSnapshot(bus, names, first.fold);
  const through = first.fold.seq;
  await append('layer', LAYER_B, opened(7));
  for (let block = 40; block < 60; block++)
    await append('layer', LAYER_A, { type: 'layer.blocks', ranges: [[block, 1]] });
  const second = await loadNode(bus, names);
  await writeSnapshot(bus, names, second.fold);
  await append('layer', LAYER_B, { type: 'layer.blocks', ranges: [[0, 7]] });

  // As long as all of it is there, it begins with nothing, and both snapshots are what it replays to.
  const whole = await loadLive({ root: directory, nats: url, node });
  expect(whole.checked).toEqual([through, second.fold.seq]);
  expect(whole.log).toMatchObject({ notes: [], beginning: { seq: 0 } });
  const wholeDigest = digestOfNodeState(whole.log.stateAt(whole.log.count));
  expect(wholeDigest).toBe((await ofEngine(node)).digest);
  const atSecond = digestOfNodeState(whole.log.stateAt(whole.log.timeline.positionOfSeq(second.fold.seq)));
  await whole.close();

  // As the engine does it: told first, then removed.
  const log = new EventLog(bus, Date.now);
  for await (const _ of log.replay(names.allEvents)) continue;
  await log.claim(names.event('engine', 'main'), started);
  await log.append(names.event('engine', 'main'), {
    type: 'engine.trimmed',
    through,
    snapshot: second.fold.seq,
  });
  const manager = await jetstreamManager(bus);
  await manager.streams.purge(STREAM, { filter: names.allEvents, seq: through + 1 });
  const short = await loadLive({ root: directory, nats: url, node });
  expect(short.log.beginning.seq).toBe(through);
  expect(short.log.notes).toEqual([expect.stringMatching(/were removed; a snapshot stands for them/)]);
  expect(digestOfNodeState(short.log.stateAt(short.log.timeline.positionOfSeq(second.fold.seq)))).toBe(
    atSecond,
  );
  const end = await ofEngine(node);
  expect(digestOfNodeState(short.log.stateAt(short.log.count))).toBe(end.digest);
  expect(short.log.stateAt(0).layers.get(`sha256:${LAYER_A}`)?.presentCount).toBe(40);
  await short.close();

  const file = join(directory, 'short');
  const live = await openLiveLog({ root: directory, nats: url, node });
  expect(await exportLog(live, file, { cofa: '0', now: 0 })).toMatchObject({ beginning: through });
  await live.close();
  const exported = await loadFile(file);
  expect(exported.log.notes).toEqual([expect.stringMatching(/had been removed/)]);
  expect(digestOfNodeState(exported.log.stateAt(exported.log.count))).toBe(end.digest);
  await exported.close();
});

test('following goes on where the log ended when it was read', async () => {
  const node = 'followed';
  const { append } = await engine(node);
  await append('layer', LAYER_A, opened(10));
  const live = await openLiveLog({ root: directory, nats: url, node });
  const seen: number[] = [];
  for await (const { seq } of live.records()) seen.push(seq);
  const stop = new AbortController();
  const next = [
    await append('mount', MOUNT, { type: 'mount.mounted' }),
    await append('layer', LAYER_A, { type: 'layer.blocks', ranges: [[0, 1]] }),
  ];
  const followed: number[] = [];
  for await (const { seq } of live.records({
    fromSeq: (seen.at(-1) ?? 0) + 1,
    follow: true,
    signal: stop.signal,
  })) {
    followed.push(seq);
    if (followed.length === 2) stop.abort();
  }
  expect(followed).toEqual(next);
  await live.close();
});
