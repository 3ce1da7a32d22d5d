/** The supervisor's one fold: own events come when they are acknowledged, all events when the consumer brings them. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { CofaEvent, NewEvent } from '../../schemas/events.ts';
import { subjects } from '../../schemas/subjects.ts';
import { LiveFold } from '../../src/store/live-fold.ts';
import type { LogRecord, ReadRecord } from '../../src/store/log-reader.ts';
import { digestOfNodeState } from '../../src/store/node-codec.ts';
import { NodeFold } from '../../src/store/node-fold.ts';
import { nodeHistory, take } from '../support/node-history.ts';

const names = subjects('n');

function logOf(count: number, seed: number): ReadRecord[] {
  const history = nodeHistory({ seed, node: 'n', layers: 4, blocks: 60 });
  return take(history, count).map(({ subject, event }, at) => ({
    seq: 2 * at + 1,
    subject,
    event: { v: 1, at, ...event } as CofaEvent,
    id: `w.${at}`,
    bytes: 100,
  }));
}

const foldOf = (records: readonly ReadRecord[]): NodeFold => {
  const fold = new NodeFold();
  for (const record of records) fold.apply(record);
  return fold;
};

const newLive = (fold = new NodeFold()) =>
  new LiveFold({ events: { append: () => Promise.reject(new Error('no log')) }, names, fold });

/** What the supervisor appends by itself; it may be acknowledged before the consumer brings it, or behind that. */
const isOwn = ({ subject }: LogRecord) => !subject.includes('.event.layer.');

describe('own events ahead of the consumer, in every interleaving', () => {
  test('each is folded once, and whenever the state is called a beginning of the log, it is one', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 1000 }),
        fc.array(fc.constantFrom('ack', 'bring'), { maxLength: 100 }),
        (seed, steps) => {
          const log = logOf(50, seed);
          const own = log.filter(isOwn);
          const live = newLive();
          const folded: number[] = [];
          live.listen(({ seq }) => folded.push(seq));
          let [acked, brought] = [0, 0];
          for (const step of [
            ...steps,
            ...log.map(() => 'bring' as const),
            ...own.map(() => 'ack' as const),
          ]) {
            if (step === 'ack' && acked < own.length) live.take(own[acked++] as ReadRecord);
            else if (step === 'bring' && brought < log.length) live.follow(log[brought++] as ReadRecord);
            // A record is there as soon as it was acknowledged.
            for (const { seq } of own.slice(0, acked)) expect(folded).toContain(seq);
            if (!live.isPrefix) continue;
            const beginning = foldOf(log.slice(0, brought));
            expect(digestOfNodeState(live.place.state)).toBe(digestOfNodeState(beginning.state));
            expect({ ...live.place }).toEqual({ ...beginning });
          }
          expect(live.isPrefix).toBe(true);
          expect(folded.toSorted((a, b) => a - b)).toEqual(log.map(({ seq }) => seq));
        },
      ),
      { numRuns: 25 },
    );
  });
});

describe('a snapshot waits for a beginning of the log', () => {
  const [first, second] = logOf(2, 1) as [ReadRecord, ReadRecord];

  test('which comes when the consumer has brought what this process has appended', async () => {
    const live = newLive();
    live.take(first);
    live.take(second);
    let isThere = false;
    const waiting = live.prefix(10_000).then(() => (isThere = true));
    live.follow(first);
    await Promise.resolve();
    expect([isThere, live.isPrefix]).toEqual([false, false]);
    live.follow(second);
    await waiting;
    expect(live.place.seq).toBe(second.seq);
  });

  test('and gives up where the consumer brings nothing', async () => {
    const live = newLive();
    live.take(first);
    await expect(live.prefix(5)).rejects.toMatchObject({ code: 'timeout' });
  });
});

test('an event goes to the subject of its kind, and what it says is known when its append resolves', async () => {
  const appended: string[] = [];
  const log = async (subject: string, event: NewEvent) => {
    appended.push(subject);
    const record = { seq: appended.length, subject, event: { v: 1, at: 1, ...event } as CofaEvent };
    live.take(record);
    return record;
  };
  const live: LiveFold = new LiveFold({ events: { append: log as never }, names, fold: new NodeFold() });
  const role = 'fetcher' as const;
  await live.append('main', { type: 'process.started', role, name: 'fetcher-0', pid: 7 });
  expect(live.state.processes.get('fetcher-0')).toMatchObject({ pid: 7, starts: 1 });
  await live.append('m1', { type: 'mount.mounted' });
  expect(appended).toEqual([names.event('engine', 'main'), names.event('mount', 'm1')]);
});
