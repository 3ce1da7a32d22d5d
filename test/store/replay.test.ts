/** A million events: each fold of them, however often it was interrupted, ends with the same node. */
import { expect, test } from 'vitest';
import { emptyNode, foldEvent, idOf } from '../../actors/node-state.ts';
import type { CofaEvent } from '../../schemas/events.ts';
import { decode, encode } from '../../src/bus/connection.ts';
import { digestOfNodeState } from '../../src/store/node-codec.ts';
import { NodeFold } from '../../src/store/node-fold.ts';
import { decodeSnapshot, encodeSnapshot } from '../../src/store/snapshots.ts';
import { nodeHistory } from '../support/node-history.ts';

const EVENTS = 1_000_000;
const BATCH = 100_000;

test('a million stored events, with a restart from a snapshot every hundred thousand, are the live fold', () => {
  const history = nodeHistory({ seed: 20, node: 'n', layers: 100, blocks: 10_000 });
  const live = emptyNode();
  let replayed = new NodeFold();
  let foldMicros = 0;
  for (let done = 0; done < EVENTS; done += BATCH) {
    const stored: Array<{ subject: string; bytes: Buffer }> = [];
    for (let n = 0; n < BATCH; n++) {
      const { subject, event } = history.next().value;
      const record = { v: 1, at: done + n, ...event } as CofaEvent;
      foldEvent(live, idOf(subject), record);
      stored.push({ subject, bytes: encode(record) });
    }
    const events = stored.map(({ subject, bytes }, n) => ({
      seq: done + n + 1,
      subject,
      event: decode<CofaEvent>(bytes),
      id: '',
      bytes: bytes.length,
    }));
    const before = process.cpuUsage();
    for (const event of events) replayed.apply(event);
    foldMicros += process.cpuUsage(before).user;
    replayed = decodeSnapshot(encodeSnapshot(replayed));
  }
  expect(digestOfNodeState(replayed.state)).toBe(digestOfNodeState(live));
  expect(replayed.events).toBe(EVENTS);
  expect(live.mounts.size).toBeGreaterThan(4);
  // The engine is to fold 300,000 a second; a machine that has other things to do is given much more time.
  expect(EVENTS / (foldMicros / 1e6)).toBeGreaterThan(60_000);
  if (process.env.COFA_TEST_LOG !== undefined)
    console.log(`folded ${Math.round(EVENTS / (foldMicros / 1000))}k events/s`);
});
