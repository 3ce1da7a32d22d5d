/** A layer with hints fetches the hinted blocks first, in their order, as prefetch: no reader waits for them. */
import { describe, expect, test } from 'vitest';
import { LayerActor, type LayerEffect, type LayerEvent, type LayerLimits } from '../../actors/layer.ts';
import { blockRun } from '../../actors/ranges.ts';
import { evenGeometry } from '../support/geometry.ts';

/** A layer of 100 spans of 4 blocks, checked after each event. */
function layerOf(given: Partial<LayerLimits> = {}) {
  // Gaps and jobs of several runs have tests of their own.
  const limits = { gapBlocks: 0, aimedRuns: 1, alongBlocks: 0, ...given };
  const actor = new LayerActor(evenGeometry(100, 4), new Uint8Array(new SharedArrayBuffer(400)), limits);
  /** The fetches that follow, as class, first span, spans; and the jobs that a reader waits for from now on. */
  const send = (event: LayerEvent): Array<string | number> => {
    const effects = actor.handle(event);
    expect(actor.audit()).toEqual([]);
    return effects.flatMap((effect: LayerEffect) => {
      if (effect.type === 'fetch')
        return [
          `${effect.class} ${effect.runs.map(([first, count]) => (count === 1 ? first : `${first} +${count - 1}`)).join(', ')}`,
        ];
      return effect.type === 'promote' ? [`promote ${effect.job}`] : [];
    });
  };
  return { actor, send };
}
const blocks = (...spans: number[]) => spans.map((span) => blockRun(span * 4 + 1, 1));
const aim = (...spans: number[]): LayerEvent => ({ type: 'aim', ranges: blocks(...spans), now: 0 });
const read = (id: number, span: number, now = 0): LayerEvent => ({
  type: 'read',
  id,
  blocks: blockRun(span * 4, 1),
  now,
});
const done = (job: number): LayerEvent => ({ type: 'job.done', job, now: 0 });

describe('what a start is likely to read', () => {
  test('is fetched in its order, neighbours in one job, some jobs at once', () => {
    const { send } = layerOf({ aimedInFlight: 2 });
    expect(send(aim(50, 7, 8, 9, 3, 50, 20))).toEqual(['prefetch 50', 'prefetch 7 +2']);
    expect(send(done(2))).toEqual(['prefetch 3']);
    expect(send(done(1))).toEqual(['prefetch 20']);
    expect(send(done(3))).toEqual([]);
    expect(send(done(4))).toEqual([]);
  });

  test('is fetched with what is wanted later and lies right behind it, a small gap along with it', () => {
    const order = aim(50, 7, 52, 8, 60, 51, 10);
    expect(layerOf().send(order)).toEqual(['prefetch 50 +2', 'prefetch 7 +1', 'prefetch 60', 'prefetch 10']);
    expect(layerOf({ gapBlocks: 4 }).send(order)).toEqual(['prefetch 50 +2', 'prefetch 7 +3', 'prefetch 60']);
    expect(layerOf({ gapBlocks: 3 }).send(order)).toHaveLength(4);
    // Jobs stay small all the same.
    expect(layerOf({ aimedBlocks: 8 }).send(order).slice(0, 2)).toEqual(['prefetch 50 +1', 'prefetch 7 +1']);
  });

  test('shares a job with what lies apart, so many blocks and runs of it, in the order of the layer', () => {
    const order = aim(50, 7, 52, 8, 60, 51, 10, 70, 9, 49);
    const several = { aimedRuns: 9, aimedInFlight: 9 };
    expect(layerOf({ ...several, aimedBlocks: 20 }).send(order)).toEqual([
      'prefetch 7 +1, 50 +2',
      'prefetch 9 +1, 49, 60, 70',
    ]);
    expect(layerOf({ ...several, aimedBlocks: 20, aimedRuns: 3 }).send(order)).toEqual([
      'prefetch 7 +1, 50 +2',
      'prefetch 10, 60, 70',
      'prefetch 9, 49',
    ]);
    // One that is larger than a job may be comes all the same.
    expect(layerOf({ ...several, aimedBlocks: 3 }).send(aim(5, 6))).toEqual(['prefetch 5', 'prefetch 6']);
  });

  test('brings with such a job what it is for, and nothing that lies between', () => {
    const { actor, send } = layerOf({ aimedRuns: 9 });
    expect(send(aim(9, 3))).toEqual(['prefetch 3, 9']);
    send({ type: 'blocks.fetched', job: 1, blocks: blockRun(0, 400), bytes: 1, now: 0 });
    expect(actor.counts).toMatchObject({ present: 8 });
    send(done(1));
    expect(actor.counts).toMatchObject({ present: 8, fetching: 0 });
  });

  test('is fetched span by span where a job of several brought wrong bytes, and a reader waits', () => {
    const { send } = layerOf({ aimedRuns: 9, aimedInFlight: 1 });
    expect(send(aim(9, 3, 20))).toEqual(['prefetch 3, 9, 20']);
    expect([...send(read(1, 9)), ...send(read(2, 20))]).toEqual(['promote 1']);
    const bad = { code: 'integrity', message: 'bad', retryable: false } as const;
    expect(send({ type: 'job.failed', job: 1, ...bad, now: 0 })).toEqual(['demand 9', 'demand 20']);
    // No reader waits for the third, which may be the bad one: it shares no job with others.
    send({ type: 'tick', now: 60_000 });
    expect(send(aim(50, 3, 51))).toEqual(['prefetch 50 +1']);
  });

  test('does not take along what is there, nor what a reader has asked for', () => {
    const { send } = layerOf({ aimedInFlight: 1, gapBlocks: 4 });
    send({ type: 'restore', ranges: [blockRun(8 * 4, 4)] });
    expect(send(aim(7, 9, 20, 22))).toEqual(['prefetch 7']);
    expect(send(read(1, 21))).toEqual(['demand 21']);
    expect(send(done(1))).toEqual(['prefetch 9']);
    expect(send(done(3))).toEqual(['prefetch 20']);
  });

  test('comes before the rest, which then follows without what is there', () => {
    const { send } = layerOf({ aimedInFlight: 2, prefetchInFlight: 1, prefetchBatchSpans: 2 });
    send(aim(1, 60, 61));
    expect(send({ type: 'prefetch', on: true, now: 0 })).toEqual([]);
    expect(send(done(1))).toEqual([]);
    expect(send(done(2))).toEqual(['prefetch 0']);
    expect(send(done(3))).toEqual(['prefetch 2 +1']);
  });

  test('gives way to a reader, who need not wait for what stands before', () => {
    const { send } = layerOf({ aimedInFlight: 1 });
    send(aim(50, 7, 8, 3));
    expect(send(read(1, 8))).toEqual(['demand 8']);
    // The job that is under way is the reader's now, so the next one may start.
    expect(send(read(2, 50))).toEqual(['promote 1', 'prefetch 7']);
    // What the reader has fetched is not fetched again.
    expect(send(done(3))).toEqual(['prefetch 3']);
  });

  test('comes along with what a reader asks for, as far as it lies behind that', () => {
    const { actor, send } = layerOf({ aimedRuns: 3, aimedBlocks: 4, aimedInFlight: 1, alongBlocks: 12 });
    send(aim(50, 20, 9, 31, 30, 12, 80));
    expect(send(read(1, 11))).toEqual(['demand 11 +1, 20, 30']);
    // They are the job's now, and come as it says.
    send({ type: 'blocks.fetched', job: 2, blocks: blockRun(0, 400), bytes: 1, now: 0 });
    expect(actor.counts.present).toBe(16);
    expect(send(done(2))).toEqual([]);
    expect(send(done(1))).toEqual(['prefetch 9']);
    expect(send(done(3))).toEqual(['prefetch 31']);
  });

  test('does not come along with what is tried again, nor while prefetch rests after a failure', () => {
    const { send } = layerOf({
      aimedInFlight: 1,
      aimedRuns: 9,
      aimedBlocks: 4,
      alongBlocks: 40,
      prefetchPauseMs: 500,
    });
    send(aim(3, 50, 60));
    const failure = { code: 'unavailable', message: 'away', retryable: true } as const;
    send({ type: 'job.failed', job: 1, ...failure, now: 100 });
    expect(send(read(1, 40, 200))).toEqual(['demand 40']);
    const bad = { code: 'integrity', message: 'bad', retryable: false } as const;
    send({ type: 'job.done', job: 2, now: 300 });
    expect(send(read(2, 41, 700))).toEqual(['demand 41, 50, 60']);
    expect(send({ type: 'job.failed', job: 3, ...bad, now: 700 })).toEqual(['demand 41']);
  });

  test('is left alone where it is there, is lengthened by a second start, and forgotten with readahead', () => {
    const { send } = layerOf({ aimedInFlight: 1 });
    send({ type: 'restore', ranges: [blockRun(0, 40)] });
    expect(send(aim(3, 50, 9, 60))).toEqual(['prefetch 50']);
    expect(send(aim(60, 70))).toEqual([]);
    expect(send(done(1))).toEqual(['prefetch 60']);
    expect(send(done(2))).toEqual(['prefetch 70']);
    send(aim(80));
    send({ type: 'readahead', on: false, now: 0 });
    expect(send(done(3))).toEqual([]);
  });

  test('waits for a while after a failure, and what is out of the layer is passed over', () => {
    const { actor, send } = layerOf({ aimedInFlight: 1, prefetchPauseMs: 500 });
    const ranges = [
      blockRun(-5, 2),
      blockRun(40, 1),
      blockRun(399, 1_000_000),
      blockRun(Number.NaN, 1),
      blockRun(80, 1),
    ];
    expect(send({ type: 'aim', ranges, now: 0 })).toEqual(['prefetch 10']);
    const failure = { code: 'unavailable', message: 'away', retryable: true } as const;
    expect(send({ type: 'job.failed', job: 1, ...failure, now: 100 })).toEqual([]);
    expect(actor.nextWake).toBe(600);
    expect(send({ type: 'tick', now: 600 })).toEqual(['prefetch 99']);
    expect(send({ type: 'job.done', job: 2, now: 600 })).toEqual(['prefetch 20']);
  });
});
