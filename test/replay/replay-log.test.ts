import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { emptyNode, foldEvent, type NodeState } from '../../actors/node-state.ts';
import type { CofaEvent } from '../../schemas/events.ts';
import { encode } from '../../src/bus/connection.ts';
import { parseMoment, positionOf } from '../../src/replay/moments.ts';
import { decodeRecord, partsOfSubject, type RawRecord } from '../../src/replay/record.ts';
import type { ReplayLog } from '../../src/replay/replay-log.ts';
import { digestOfNodeState } from '../../src/store/node-codec.ts';
import { countBlocks, describeState, diffStates, subtract } from '../../src/replay/state-document.ts';
import { blockBar, shares } from '../../src/replay/state-text.ts';
import { digest, LAYER_A, logOf, MANIFEST, MOUNT, record, sampleRecords, START } from './sample-log.ts';
import { syntheticRecords } from './synthetic-log.ts';

/** The engine's own way: every event through the fold, one after the other. */
function plainFold(records: readonly RawRecord[]): NodeState {
  const state = emptyNode();
  for (const { subject, bytes } of records)
    foldEvent(state, partsOfSubject(subject).id, decodeRecord(bytes).record as unknown as CofaEvent);
  return state;
}

const digestAt = (log: ReplayLog, position: number) => digestOfNodeState(log.stateAt(position));

describe('the state at any moment', () => {
  const records = [...syntheticRecords(6_000, 1)];
  // Few events between two checkpoints, and so little room that they are thinned again and again.
  const tight = logOf(records, { distance: 50, budget: 200_000 });
  const wide = logOf(records);

  test('is that of the fold from the start, wherever one comes from', () => {
    expect(tight.checkpointCount).toBeLessThan(60);
    const known = new Map<number, string>();
    fc.assert(
      fc.property(fc.array(fc.nat(records.length), { minLength: 1, maxLength: 12 }), (jumps) => {
        for (const position of jumps) {
          let wanted = known.get(position);
          if (wanted === undefined) {
            wanted = digestOfNodeState(plainFold(records.slice(0, position)));
            known.set(position, wanted);
          }
          expect(digestAt(tight, position)).toBe(wanted);
          expect(digestAt(wide, position)).toBe(wanted);
        }
      }),
      { numRuns: 25 },
    );
  });

  test('a step forward and back again is no step', () => {
    fc.assert(
      fc.property(fc.nat(records.length - 1), (position) => {
        const before = digestAt(tight, position);
        tight.stateAt(position + 1);
        expect(digestAt(tight, position)).toBe(before);
      }),
      { numRuns: 50 },
    );
  });

  test('looking at earlier moments does not disturb what comes later', () => {
    const log = logOf(records.slice(0, 3_000), { distance: 100 });
    log.stateAt(17);
    for (const raw of records.slice(3_000)) log.append(raw);
    expect(digestAt(log, records.length)).toBe(digestOfNodeState(plainFold(records)));
    expect(digestAt(log, 17)).toBe(digestOfNodeState(plainFold(records.slice(0, 17))));
    expect(() => log.stateAt(records.length + 1)).toThrow(RangeError);
  });

  // Longer by hand: COFA_REPLAY_EVENTS=1000000.
  test('of a long log: identical to a plain fold of all of it', () => {
    const count = Number(process.env.COFA_REPLAY_EVENTS ?? 40_000);
    const log = logOf([]);
    const state = emptyNode();
    for (const raw of syntheticRecords(count, 7)) {
      log.append(raw);
      foldEvent(
        state,
        partsOfSubject(raw.subject).id,
        decodeRecord(raw.bytes).record as unknown as CofaEvent,
      );
    }
    const end = digestOfNodeState(state);
    expect(digestAt(log, count)).toBe(end);
    log.stateAt(Math.floor(count / 3));
    expect(digestAt(log, count - 1)).not.toBe(undefined);
    expect(digestAt(log, count)).toBe(end);
  });
});

describe('events that this cofa does not know', () => {
  test('are shown, counted and not folded; nothing throws', () => {
    const known = sampleRecords();
    const odd: RawRecord[] = [
      record(2000, 6000, 'layer', LAYER_A, { type: 'layer.teleported', to: 'mars' }),
      record(2001, 6001, 'mount', MOUNT, { v: 2, type: 'mount.mounted', more: [1] }),
      record(2002, 6002, 'future', 'x', { type: 'future.thing' }),
      { seq: 2003, subject: 'cofa.v1.node-1.event.layer.x', bytes: Buffer.from([0xc1, 0xff, 0x00]) },
      { seq: 2004, subject: 'cofa.v1.node-1.event.layer.x', bytes: encode('a text') },
      { seq: 2005, subject: 'cofa.v1.node-1.event.layer.x', bytes: encode({ v: 1, at: 1 }) },
      record(2006, 6003, 'layer', 'e'.repeat(64), {
        type: 'layer.opened',
        size: 1,
        blockSize: 65536,
        blockCount: 1e15,
        blob: digest('e'),
      }),
      record(2007, 6004, 'layer', LAYER_A, { type: 'layer.blocks', ranges: 'none' }),
      record(2008, 6005, 'image', MANIFEST, { type: 'image.resolved' }),
      record(2009, 6006, 'mount', MOUNT, { type: 'mount.requested', dir: 7 }),
      // A field that a later cofa has added.
      record(2010, 6007, 'engine', 'main', { type: 'engine.stopped', reason: 'later' }),
    ];
    const log = logOf([...known, ...odd]);
    const events = odd.map((_, index) => log.timeline.eventAt(known.length + index));
    expect(events.map(({ strange }) => strange)).toEqual([
      'unknown type',
      'later version',
      'unknown type',
      'unreadable',
      'unreadable',
      'unreadable',
      'damaged',
      'damaged',
      'damaged',
      'damaged',
      undefined,
    ]);
    expect(log.strange).toBe(odd.length - 1);
    expect(digestAt(log, known.length + odd.length - 1)).toBe(digestAt(logOf(known), known.length));
  });
});

describe('moments', () => {
  const log = logOf(sampleRecords());
  const at = (text: string, now?: number) => positionOf(parseMoment(text), log, now);

  test.each([
    ['start', 0],
    ['end', 29],
    ['10', 1],
    ['9', 0],
    ['16', 5],
    ['17', 6],
    ['#12', 12],
    ['#9999', 29],
    ['+0s', 1],
    ['+110ms', 3],
    ['-0s', 29],
    ['-100ms', 28],
    ['2026-11-24T12:00:00.110Z', 3],
    ['2026-11-24T12:00:00.110', 3],
    ['2026-11-24 13:00:00.110+01:00', 3],
    ['12:00:00.110', 3],
    ['2020-01-01', 0],
  ])('%s: after %d events', (text, position) => expect(at(text)).toBe(position));

  test('before the end means before now while the log grows', () =>
    expect(at('-1s', START + 1_110)).toBe(at('+110ms')));

  test.each(['', 'soon', '-', '12:0', '1e3', '2026-99-99', '+3', '5 m'])('%j is none', (text) =>
    expect(() => parseMoment(text)).toThrow(expect.objectContaining({ code: 'invalid-argument' })),
  );
});

describe('the difference of two moments', () => {
  const records = [...syntheticRecords(1_500, 3)];
  const log = logOf(records, { distance: 100 });
  const moment = fc.nat(records.length);

  test('of one with itself is nothing; turned around it is the opposite; blocks add up', () => {
    fc.assert(
      fc.property(moment, moment, (from, to) => {
        const [a, b] = [describeState(log, from), describeState(log, to)];
        const none = diffStates(a, a);
        expect([none.equal, none.images, none.layers, none.mounts]).toEqual([true, [], [], []]);
        const there = diffStates(a, b);
        const back = diffStates(b, a);
        expect(
          back.layers.map(({ diffId, gained, lost }) => ({ diffId, gained: lost, lost: gained })).sort(byId),
        ).toEqual(there.layers.map(({ diffId, gained, lost }) => ({ diffId, gained, lost })).sort(byId));
        expect(new Set(back.mounts.map(({ id, change }) => `${id} ${OPPOSITE[change]}`))).toEqual(
          new Set(there.mounts.map(({ id, change }) => `${id} ${change}`)),
        );
        const present = (state: typeof a) => state.layers.reduce((sum, one) => sum + one.presentCount, 0);
        const change = there.layers.reduce(
          (sum, one) => sum + countBlocks(one.gained) - countBlocks(one.lost),
          0,
        );
        expect(present(b) - present(a)).toBe(change);
        expect(there.equal).toBe(digestAt(log, from) === digestAt(log, to));
      }),
      { numRuns: 40 },
    );
  });

  test('ranges without ranges are the blocks of one that are not in the other', () => {
    const blocks = fc.uint8Array({ max: 1, minLength: 40, maxLength: 40 });
    const rangesOf = (bits: Uint8Array) => {
      const ranges: Array<[number, number]> = [];
      bits.forEach((bit, block) => {
        const last = ranges.at(-1);
        if (bit === 1 && last !== undefined && last[0] + last[1] === block) last[1] += 1;
        else if (bit === 1) ranges.push([block, 1]);
      });
      return ranges;
    };
    fc.assert(
      fc.property(blocks, blocks, (a, b) => {
        const wanted = a.map((bit, block) => (bit === 1 && b[block] === 0 ? 1 : 0));
        expect(subtract(rangesOf(a), rangesOf(b))).toEqual(rangesOf(wanted));
      }),
    );
  });
});

const byId = (a: { diffId: string }, b: { diffId: string }) => (a.diffId < b.diffId ? -1 : 1);
const OPPOSITE = { added: 'removed', removed: 'added', changed: 'changed' } as const;

describe('bars of blocks', () => {
  test('show none, some and all', () => {
    expect(blockBar([], 100, 4)).toBe('····');
    expect(blockBar([[0, 100]], 100, 4)).toBe('████');
    expect(blockBar([[0, 1]], 100, 4)).toBe('▁···');
    expect(blockBar([[25, 50]], 100, 4)).toBe('·██·');
    expect(blockBar([[0, 3]], 3, 10)).toBe('███');
  });

  test('parts together hold all blocks', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 500 }),
        fc.integer({ min: 1, max: 120 }),
        fc.nat(499),
        (count, width, first) => {
          const ranges: Array<[number, number]> = first < count ? [[first, count - first]] : [];
          const cells = Math.min(width, count);
          const sizes = Array.from(
            { length: cells },
            (_, cell) => Math.ceil(((cell + 1) * count) / cells) - Math.ceil((cell * count) / cells),
          );
          const sum = shares(ranges, count, width).reduce(
            (all, share, cell) => all + share * (sizes[cell] ?? 0),
            0,
          );
          expect(Math.round(sum)).toBe(countBlocks(ranges));
        },
      ),
    );
  });
});
