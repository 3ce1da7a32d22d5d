/** A layer that is told what a start is likely to read fetches that first, in that order, and nobody waits for it. */
import { describe, expect, test } from 'vitest';
import { LayerActor, type LayerEffect, type LayerEvent, type LayerLimits } from '../../actors/layer.ts';
import { evenGeometry } from '../support/geometry.ts';

/** A layer of 100 spans of 4 blocks, checked after each event. */
function layerOf(given: Partial<LayerLimits> = {}) {
  // Gaps have a test of their own.
  const limits = { gapBlocks: 0, ...given };
  const actor = new LayerActor(evenGeometry(100, 4), new Uint8Array(new SharedArrayBuffer(400)), limits);
  /** The fetches that follow, as class, first span, spans; and the jobs that somebody waits for from now on. */
  const send = (event: LayerEvent): Array<string | number> => {
    const effects = actor.handle(event);
    expect(actor.audit()).toEqual([]);
    return effects.flatMap((effect: LayerEffect) => {
      if (effect.type === 'fetch')
        return [
          `${effect.class} ${effect.firstSpan}${effect.spanCount === 1 ? '' : ` +${effect.spanCount - 1}`}`,
        ];
      return effect.type === 'promote' ? [`promote ${effect.job}`] : [];
    });
  };
  return { actor, send };
}
const blocks = (...spans: number[]) => spans.map((span): [number, number] => [span * 4 + 1, 1]);
const aim = (...spans: number[]): LayerEvent => ({ type: 'aim', ranges: blocks(...spans), now: 0 });
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

  test('does not take along what is there, nor what a reader has asked for', () => {
    const { send } = layerOf({ aimedInFlight: 1, gapBlocks: 4 });
    send({ type: 'restore', ranges: [[8 * 4, 4]] });
    expect(send(aim(7, 9, 20, 22))).toEqual(['prefetch 7']);
    expect(send({ type: 'read', id: 1, firstBlock: 84, lastBlock: 84, now: 0 })).toEqual(['demand 21']);
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
    const read = (id: number, span: number): LayerEvent => ({
      type: 'read',
      id,
      firstBlock: span * 4,
      lastBlock: span * 4,
      now: 0,
    });
    expect(send(read(1, 8))).toEqual(['demand 8']);
    // The job that is under way is the reader's now, so the next one may start.
    expect(send(read(2, 50))).toEqual(['promote 1', 'prefetch 7']);
    // What the reader has fetched is not fetched again.
    expect(send(done(3))).toEqual(['prefetch 3']);
  });

  test('is left alone where it is there, is lengthened by a second start, and forgotten with readahead', () => {
    const { send } = layerOf({ aimedInFlight: 1 });
    send({ type: 'restore', ranges: [[0, 40]] });
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
    const ranges: Array<[number, number]> = [
      [-5, 2],
      [40, 1],
      [399, 1_000_000],
      [Number.NaN, 1],
      [80, 1],
    ];
    expect(send({ type: 'aim', ranges, now: 0 })).toEqual(['prefetch 10']);
    const failure = { code: 'unavailable', message: 'away', retryable: true } as const;
    expect(send({ type: 'job.failed', job: 1, ...failure, now: 100 })).toEqual([]);
    expect(actor.nextWake).toBe(600);
    expect(send({ type: 'tick', now: 600 })).toEqual(['prefetch 99']);
    expect(send({ type: 'job.done', job: 2, now: 600 })).toEqual(['prefetch 20']);
  });
});
