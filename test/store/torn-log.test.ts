/** What a power cut may leave of the log's last file: a record that is half there, zeros, or less than was synced. */
import { open, readdir, readFile, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { STREAM, subjects } from '../../schemas/subjects.ts';
import { connectBus } from '../../src/bus/connection.ts';
import { startNats } from '../../src/process/nats-server.ts';
import { EventLog, readLog } from '../../src/store/event-log.ts';
import { Layout } from '../../src/store/layout.ts';
import { endOfRecords } from '../../src/store/log-repair.ts';
import { streamFolder } from '../../src/store/nats-files.ts';
import { digestOfNodeState } from '../../src/store/node-codec.ts';
import { NodeFold } from '../../src/store/node-fold.ts';
import { loadNode, prepareSnapshots, writeSnapshot } from '../../src/store/snapshots.ts';
import { nodeHistory, take } from '../support/node-history.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

const names = subjects('torn');
const EVENTS = 400;

async function openLog(layout: Layout) {
  const nats = await startNats(layout);
  const bus = await connectBus(nats.address, { name: 'test' });
  return {
    bus,
    close: async () => {
      await bus.close();
      await nats.child.stop();
    },
  };
}

/** The file that the last records lie in. */
async function lastFile(layout: Layout): Promise<string> {
  const folder = join(streamFolder(layout.in('nats'), STREAM), 'msgs');
  const numbers = (await readdir(folder))
    .filter((name) => name.endsWith('.blk'))
    .map((name) => Number.parseInt(name, 10));
  return join(folder, `${Math.max(...numbers)}.blk`);
}

const damages: Array<[string, (path: string, size: number) => Promise<void>]> = [
  ['its last record is half there', (path, size) => truncate(path, size - 30)],
  [
    'zeros stand where the last records were',
    async (path, size) => {
      const file = await open(path, 'r+');
      await file.write(Buffer.alloc(700), 0, 700, size - 700);
      await file.close();
    },
  ],
  [
    'a third of it is gone, with what a snapshot covers',
    (path, size) => truncate(path, Math.floor((size * 2) / 3)),
  ],
];

describe('a log whose end is damaged', () => {
  test('anywhere, by a cut or by zeros up to the end: what is left ends with the last whole record', async () => {
    const layout = new Layout(await cleanup.tempDir('torn'));
    await layout.prepare();
    const { bus, close } = await openLog(layout);
    await EventLog.prepare(bus, { maxBytes: 16 << 20 });
    const log = new EventLog(bus, () => 1);
    const history = take(nodeHistory({ seed: 10, node: 'torn', layers: 3, blocks: 300 }), 60);
    for (const { subject, event } of history) await log.append(subject, event);
    await close();
    const whole = await readFile(await lastFile(layout));
    const borders = [0];
    for (let at = 0; at < whole.length; borders.push(at)) at += whole.readUInt32LE(at) & 0x7fff_ffff;
    expect(borders).toHaveLength(61);
    for (let at = 1; at < whole.length; at += 37) {
      const last = borders.findLast((border) => border <= at) ?? 0;
      expect(endOfRecords(whole.subarray(0, at)), `cut at ${at}`).toBe(last);
      const zeros = Buffer.concat([whole.subarray(0, at), Buffer.alloc(whole.length - at)]);
      // Zeros in a part of the hash alone are not seen: it is not computed here.
      const inHash = borders.some((border) => at > border - 8 && at < border);
      if (!inHash) expect(endOfRecords(zeros), `zeros from ${at}`).toBe(last);
    }
  });

  test.each(damages)(
    '%s: what is before is there, an engine starts, and events come behind',
    async (_, damage) => {
      const layout = new Layout(await cleanup.tempDir('torn'));
      await layout.prepare();
      const before = await openLog(layout);
      await EventLog.prepare(before.bus, { maxBytes: 16 << 20 });
      await prepareSnapshots(before.bus);
      const log = new EventLog(before.bus, () => 1);
      const started = { type: 'engine.started', pid: 1, version: '0', transport: 'kernel' } as const;
      await log.claim(names.event('engine', 'main'), started);
      const history = take(nodeHistory({ seed: 9, node: 'torn', layers: 3, blocks: 300 }), EVENTS);
      for (const [at, { subject, event }] of history.entries()) {
        await log.append(subject, event);
        if (at === 100 || at === EVENTS - 50)
          await writeSnapshot(before.bus, names, (await loadNode(before.bus, names)).fold);
      }
      await before.close();
      const path = await lastFile(layout);
      const whole = await readFile(path);
      expect(endOfRecords(whole)).toBe(whole.length);
      await damage(path, whole.length);

      const after = await openLog(layout);
      try {
        const { fold } = await loadNode(after.bus, names);
        const left = new NodeFold();
        for await (const record of readLog(after.bus, names.allEvents, { from: 'start', follow: false }))
          left.apply(record);
        expect(left.events).toBeLessThan(EVENTS + 1);
        expect(left.events).toBeGreaterThan(EVENTS / 2);
        expect(digestOfNodeState(fold.state)).toBe(digestOfNodeState(left.state));
        const next = new EventLog(after.bus, () => 2);
        next.rememberAll(names, fold);
        await next.claim(names.event('engine', 'main'), started);
        for (const { subject, event } of history.slice(-20)) await next.append(subject, event);
        const again = (await loadNode(after.bus, names)).fold;
        expect(again.events).toBe(left.events + 21);
      } finally {
        await after.close();
      }
    },
  );
});
