import { describe, expect, test } from 'vitest';
import {
  LAYER_LIMITS,
  LayerActor,
  type LayerEffect,
  type LayerEvent,
  type LayerGeometry,
  type LayerLimits,
} from '../../actors/layer.ts';
import { Budgets } from '../../actors/pace.ts';
import { type BlockRun, blockRun } from '../../actors/ranges.ts';
import { evenGeometry, geometryOf } from '../support/geometry.ts';

/** Feeds an actor and checks all of its rules after each event. */
class Bench {
  readonly states: Uint8Array;
  readonly actor: LayerActor;
  now = 0;

  constructor(geometry: LayerGeometry, limits: Partial<LayerLimits> = {}, firstJob = 1) {
    this.states = new Uint8Array(new SharedArrayBuffer(geometry.blockCount));
    this.actor = new LayerActor(geometry, this.states, limits, { firstJob });
  }

  /** The effects without `wake` and `missed`, which most scenarios do not care about. */
  send(event: LayerEvent): LayerEffect[] {
    const effects = this.actor.handle(event);
    expect(this.actor.audit()).toEqual([]);
    return effects.filter(({ type }) => type !== 'wake' && type !== 'missed');
  }

  read(id: number, firstBlock: number, lastBlock = firstBlock): LayerEffect[] {
    const blocks = blockRun(firstBlock, lastBlock + 1 - firstBlock);
    return this.send({ type: 'read', id, blocks, now: this.now });
  }

  fetched(job: number, firstBlock: number, count = 1): LayerEffect[] {
    const blocks = blockRun(firstBlock, count);
    return this.send({ type: 'blocks.fetched', job, blocks, bytes: count * 100, now: this.now });
  }

  done(job: number): LayerEffect[] {
    return this.send({ type: 'job.done', job, now: this.now });
  }

  failed(job: number, retryable: boolean): LayerEffect[] {
    const code = retryable ? 'unavailable' : 'integrity';
    return this.send({ type: 'job.failed', job, code, message: 'no luck', retryable, now: this.now });
  }

  wait(ms: number): LayerEffect[] {
    this.now += ms;
    return this.send({ type: 'tick', now: this.now });
  }

  flush(): LayerEffect[] {
    return this.send({ type: 'flush', now: this.now });
  }

  prefetch(on = true): LayerEffect[] {
    return this.send({ type: 'prefetch', on, now: this.now });
  }
}

const fetch = (job: number, firstSpan: number, spanCount = 1, kind: 'demand' | 'prefetch' = 'demand') => ({
  type: 'fetch',
  job,
  runs: [[firstSpan, spanCount]],
  blocks: [expect.any(Array)],
  class: kind,
});
const full = (ranges: readonly BlockRun[], more = {}): LayerEvent => ({ type: 'restore', ranges, ...more });
const evict = (...ranges: BlockRun[]): LayerEvent => ({ type: 'evict', ranges, now: 0 });
const wakes = (effects: LayerEffect[]) => effects.filter(({ type }) => type === 'wake');
const ok = (id: number) => ({ type: 'answer', id, errno: 0 });
const eio = (id: number, code: string) => ({
  type: 'answer',
  id,
  errno: 5,
  reason: expect.objectContaining({ code }),
});

describe('a cold read', () => {
  test('fetches the span of its block and is answered when the block arrives, not when the span is whole', () => {
    const layer = new Bench(evenGeometry(4, 4));
    expect(layer.read(1, 5)).toEqual([fetch(1, 1)]);
    expect(layer.actor.counts).toEqual({ absent: 12, fetching: 4, present: 0 });
    expect(layer.fetched(1, 4)).toEqual([]);
    expect(layer.fetched(1, 5)).toEqual([ok(1)]);
    expect(layer.read(2, 4, 5)).toEqual([ok(2)]);
    expect(layer.done(1)).toEqual([]);
    expect([...layer.states]).toEqual([0, 0, 0, 0, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
    expect(layer.actor.counters).toMatchObject({ hits: 1, misses: 1, errors: 0, demandJobs: 1, bytes: 200 });
  });

  test('joins the job that runs for its span', () => {
    const layer = new Bench(evenGeometry(4, 4));
    layer.read(1, 0);
    expect(layer.read(2, 0)).toEqual([]);
    expect(layer.read(3, 3)).toEqual([]);
    expect(layer.fetched(1, 0, 2)).toEqual([ok(1), ok(2)]);
    expect(layer.done(1)).toEqual([ok(3)]);
  });

  test('over several spans asks for the absent ones in as few jobs as the limit allows', () => {
    const layer = new Bench(evenGeometry(10, 2), { demandBatchSpans: 3 });
    layer.read(1, 8);
    expect(layer.read(2, 1, 17)).toEqual([fetch(2, 0, 3), fetch(3, 3, 1), fetch(4, 5, 3), fetch(5, 8, 1)]);
  });

  test('does not fetch a span of which it needs only blocks that are present', () => {
    const layer = new Bench(evenGeometry(2, 2));
    layer.send({ type: 'restore', ranges: [blockRun(1, 1)] });
    expect(layer.read(1, 1, 2)).toEqual([fetch(1, 1)]);
  });

  test('outside of the layer, too long, or of no blocks gets an error at once', () => {
    const layer = new Bench(evenGeometry(4, 4), { maxReadBlocks: 4 });
    const strange = [
      [-1, 0],
      [15, 16],
      [3, 2],
      [0, 4],
      [Number.NaN, 1],
      [0.5, 1],
      [0, Number.POSITIVE_INFINITY],
    ] as const;
    for (const [first, last] of strange)
      expect(layer.read(1, first, last)).toEqual([eio(1, 'invalid-argument')]);
    expect(layer.actor.counters.errors).toBe(strange.length);
  });

  test('is answered once when it is asked twice under the same id', () => {
    const layer = new Bench(evenGeometry(1, 1));
    layer.read(1, 0);
    expect(layer.read(1, 0)).toEqual([]);
    expect(layer.done(1).filter(({ type }) => type === 'answer')).toEqual([ok(1)]);
  });

  test('that finds the queue full gets an error at once, and those before it go on', () => {
    const layer = new Bench(evenGeometry(4, 1), { maxWaiters: 2 });
    layer.read(1, 0);
    layer.read(2, 1);
    expect(layer.read(3, 0)).toEqual([eio(3, 'busy')]);
    expect(layer.done(1)).toEqual([ok(1)]);
    expect(layer.read(4, 2)).toEqual([fetch(3, 2)]);
  });

  test('gets EIO at its deadline; the bytes that come too late serve the next one', () => {
    const layer = new Bench(evenGeometry(1, 2), { readDeadlineMs: 1000 });
    layer.read(1, 0);
    expect(layer.wait(999)).toEqual([]);
    layer.read(2, 1);
    expect(layer.wait(1)).toEqual([eio(1, 'timeout')]);
    expect(layer.fetched(1, 0)).toEqual([]);
    expect(layer.read(3, 0)).toEqual([ok(3)]);
    expect(layer.wait(999)).toEqual([eio(2, 'timeout')]);
  });

  test('is not late because the clock was set back, nor early', () => {
    const layer = new Bench(evenGeometry(2, 1), { readDeadlineMs: 1000 });
    layer.now = 5000;
    layer.read(1, 0);
    layer.now = 100;
    layer.read(2, 1);
    expect(layer.wait(0)).toEqual([]);
    layer.now = 6000;
    expect(layer.wait(0)).toEqual([eio(1, 'timeout'), eio(2, 'timeout')]);
  });
});

describe('a layer for which nothing comes', () => {
  const refused = (id: number) => ({
    type: 'answer',
    id,
    errno: 5,
    reason: { code: 'unavailable', message: 'nothing has come for this layer for long' },
  });
  const stalled = (limits: Partial<LayerLimits> = {}) => {
    const bench = new Bench(evenGeometry(10, 2), {
      readDeadlineMs: 1_000,
      stallMs: 300,
      attempts: 1,
      ...limits,
    });
    bench.read(1, 0);
    expect(bench.wait(1_000)).toMatchObject([{ type: 'answer', id: 1, errno: 5 }]);
    return bench;
  };

  test('lets the reads behind the first ones not wait as long again, while one span is tried', () => {
    const bench = stalled();
    expect(bench.read(2, 5)).toEqual([refused(2)]);
    bench.failed(1, true);
    expect(bench.read(3, 6)).toEqual([refused(3), fetch(2, 3)]);
    expect(bench.read(4, 8)).toEqual([refused(4)]);
  });

  test('serves again from the first block that comes', () => {
    const bench = stalled();
    bench.fetched(1, 0);
    expect(bench.read(2, 5)).toEqual([fetch(2, 2)]);
  });

  test('gives the next read its whole time after a while without reads', () => {
    const bench = stalled();
    bench.failed(1, true);
    bench.wait(299);
    expect(bench.read(2, 5)).toEqual([refused(2), fetch(2, 2)]);
    bench.failed(2, true);
    bench.wait(300);
    expect(bench.read(3, 5)).toEqual([fetch(3, 2)]);
    expect(bench.read(4, 7)).toEqual([fetch(4, 3)]);
  });

  test('is none where others were served meanwhile', () => {
    const bench = new Bench(evenGeometry(10, 2), { readDeadlineMs: 1_000 });
    bench.read(1, 0);
    bench.wait(500);
    bench.read(2, 4);
    bench.fetched(2, 4);
    expect(bench.wait(500)).toMatchObject([{ type: 'answer', id: 1, errno: 5 }]);
    expect(bench.read(3, 8)).toEqual([fetch(3, 4)]);
  });
});

describe('a job that fails', () => {
  test('for a passing reason is tried again after a growing pause, while the read waits', () => {
    const layer = new Bench(evenGeometry(1, 2), { retryMs: 100, retryMaxMs: 300, attempts: 9 });
    layer.read(1, 0);
    expect(layer.failed(1, true)).toEqual([]);
    expect(layer.actor.counts.absent).toBe(2);
    let job = 2;
    for (const pause of [100, 200, 300, 300]) {
      expect(layer.wait(pause - 1)).toEqual([]);
      expect(layer.wait(1)).toEqual([fetch(job, 0)]);
      layer.failed(job, true);
      job += 1;
    }
    expect(layer.actor.counters.retries).toBe(4);
  });

  test('keeps new reads waiting during the pause, without another request', () => {
    const layer = new Bench(evenGeometry(3, 2), { retryMs: 100 });
    layer.read(1, 0);
    layer.failed(1, true);
    layer.wait(99);
    expect(layer.read(2, 1, 2)).toEqual([fetch(2, 1)]);
    expect(layer.wait(1)).toEqual([fetch(3, 0)]);
    expect(layer.done(3)).toEqual([ok(1)]);
    expect(layer.done(2)).toEqual([ok(2)]);
  });

  test('as often as allowed fails its reads; the next read starts anew', () => {
    const layer = new Bench(evenGeometry(1, 1), { attempts: 3 });
    layer.read(1, 0);
    layer.failed(1, true);
    layer.wait(1000);
    layer.failed(2, true);
    layer.wait(1000);
    expect(layer.failed(3, true)).toEqual([eio(1, 'unavailable')]);
    expect(layer.read(2, 0)).toEqual([fetch(4, 0)]);
  });

  test('is not repeated without a reader', () => {
    const layer = new Bench(evenGeometry(1, 1), { readDeadlineMs: 50 });
    layer.read(1, 0);
    layer.failed(1, true);
    expect(layer.wait(50)).toEqual([eio(1, 'timeout')]);
    expect(layer.wait(10_000)).toEqual([]);
    expect(layer.actor.load).toMatchObject({ reads: 0, jobs: 0, pausedSpans: 0 });
  });

  test('with bad bytes fails its reads at once, and for a moment the next ones without another request', () => {
    const layer = new Bench(evenGeometry(2, 2), { failureMemoryMs: 1000 });
    layer.read(1, 0);
    expect(layer.failed(1, false)).toEqual([eio(1, 'integrity')]);
    layer.wait(999);
    expect(layer.read(2, 1, 2)).toEqual([eio(2, 'integrity')]);
    expect(layer.read(3, 2)).toEqual([fetch(2, 1)]);
    layer.wait(1);
    expect(layer.read(4, 1)).toEqual([fetch(3, 0)]);
  });

  test('keeps the blocks that came before, and fails only reads that miss others of its blocks', () => {
    const layer = new Bench(evenGeometry(3, 2), { demandBatchSpans: 1 });
    layer.read(1, 0);
    layer.read(2, 1);
    layer.read(3, 1, 2);
    layer.read(4, 2);
    layer.read(5, 0, 0);
    expect(layer.fetched(1, 0)).toEqual([ok(1), ok(5)]);
    expect(layer.failed(1, false)).toEqual([eio(2, 'integrity'), eio(3, 'integrity')]);
    expect(layer.read(6, 0)).toEqual([ok(6)]);
    expect(layer.done(2)).toEqual([ok(4)]);
  });

  test('with bad bytes in one of its spans: they are fetched one by one, so that only the bad one fails', () => {
    const layer = new Bench(evenGeometry(4, 1));
    layer.read(1, 0);
    layer.read(2, 0, 3);
    expect(layer.send({ type: 'job.done', job: 1, now: 0 })).toEqual([ok(1)]);
    layer.read(3, 2);
    expect(layer.failed(2, false)).toEqual([fetch(3, 1), fetch(4, 2), fetch(5, 3)]);
    expect(layer.failed(5, false)).toEqual([eio(2, 'integrity')]);
    expect(layer.done(4)).toEqual([ok(3)]);
    expect(layer.done(3)).toEqual([]);
  });

  test('after which its blocks come all the same: they are present', () => {
    const layer = new Bench(evenGeometry(2, 2));
    layer.read(1, 0);
    layer.failed(1, true);
    expect(layer.fetched(1, 0, 2)).toEqual([ok(1)]);
    expect(layer.actor.counters.lateBlocks).toBe(2);
    expect(layer.wait(60_000)).toEqual([]);
    expect(layer.actor.counts.present).toBe(2);
  });
});

describe('messages', () => {
  test('that come twice change nothing the second time', () => {
    const layer = new Bench(evenGeometry(2, 2));
    layer.read(1, 0);
    layer.fetched(1, 0, 2);
    expect(layer.fetched(1, 0, 2)).toEqual([]);
    layer.done(1);
    expect(layer.done(1)).toEqual([]);
    expect(layer.fetched(1, 0, 2)).toEqual([]);
    expect(layer.failed(1, false)).toEqual([]);
    expect(layer.actor.counts.present).toBe(2);
    expect(layer.flush()).toEqual([{ type: 'append', ranges: [[0, 2]] }]);
    expect(layer.flush()).toEqual([]);
  });

  test('that were lost are made up for by the end of the job', () => {
    const layer = new Bench(evenGeometry(2, 2));
    layer.read(1, 0, 1);
    expect(layer.done(1)).toEqual([ok(1)]);
  });

  test('that all are lost: the job is cancelled after a silence, and tried again', () => {
    const layer = new Bench(evenGeometry(1, 2), { jobSilenceMs: 500, retryMs: 10 });
    layer.read(1, 1);
    layer.wait(499);
    layer.fetched(1, 0);
    expect(layer.wait(499)).toEqual([]);
    expect(layer.wait(1)).toEqual([{ type: 'cancel', job: 1 }]);
    expect(layer.wait(10)).toEqual([fetch(2, 0)]);
  });

  test('about blocks that the job does not have, or jobs that were never given out, are ignored', () => {
    const layer = new Bench(evenGeometry(3, 2), {}, 100);
    layer.read(1, 2);
    layer.fetched(100, 0, 6);
    expect([...layer.states]).toEqual([0, 0, 2, 2, 0, 0]);
    layer.fetched(99, 0, 6);
    layer.fetched(101, 0, 6);
    layer.fetched(100, Number.NaN, 6);
    layer.fetched(100, 0, Number.POSITIVE_INFINITY);
    layer.fetched(100, -5, 1);
    expect([...layer.states]).toEqual([0, 0, 2, 2, 0, 0]);
  });
});

describe('prefetch', () => {
  test('walks the absent spans in order, a few jobs at once', () => {
    const layer = new Bench(evenGeometry(12, 2), { prefetchBatchSpans: 3, prefetchInFlight: 2 });
    layer.send({ type: 'restore', ranges: [blockRun(2, 2)] });
    layer.read(1, 8);
    layer.wait(LAYER_LIMITS.prefetchAroundMs);
    expect(layer.prefetch()).toEqual([fetch(2, 0, 1, 'prefetch'), fetch(3, 2, 2, 'prefetch')]);
    expect(layer.done(2)).toEqual([fetch(4, 5, 3, 'prefetch')]);
    expect(layer.done(3)).toEqual([fetch(5, 8, 3, 'prefetch')]);
    layer.prefetch(false);
    expect(layer.done(4)).toEqual([]);
  });

  test('takes the link for one span at a time while a reader has waited lately', () => {
    const layer = new Bench(evenGeometry(20, 2), {
      prefetchBatchSpans: 4,
      prefetchInFlight: 1,
      prefetchBatchSpansAround: 1,
      prefetchAroundMs: 1_000,
    });
    expect(layer.prefetch()).toEqual([fetch(1, 0, 4, 'prefetch')]);
    expect(layer.read(1, 20)).toEqual([fetch(2, 10)]);
    expect(layer.done(1)).toEqual([fetch(3, 4, 1, 'prefetch')]);
    layer.wait(999);
    expect(layer.done(3)).toEqual([fetch(4, 5, 1, 'prefetch')]);
    layer.wait(1);
    expect(layer.done(4)).toEqual([fetch(5, 6, 4, 'prefetch')]);
  });

  test('at a pace: a job begins when the one before it is paid, also where its turn comes sooner', () => {
    const layer = new Bench(evenGeometry(6, 2), { prefetchBatchSpans: 1, prefetchInFlight: 2 });
    const budgets = new Budgets();
    const pace = (rate?: number) => {
      budgets.set('a', rate === undefined ? [] : [['image', rate]], layer.now);
      return layer.send({ type: 'pace', pace: budgets.paceOf('a', ([, count]) => count), now: layer.now });
    };
    pace(1);
    expect(layer.prefetch()).toEqual([fetch(1, 0, 1, 'prefetch')]);
    expect(layer.done(1)).toEqual([]);
    const wait = layer.actor.nextWake - layer.now;
    expect(layer.wait(wait - 1)).toEqual([]);
    expect(layer.wait(1)).toEqual([fetch(2, 1, 1, 'prefetch')]);
    // Demand does not pay, and does not wait.
    expect(layer.read(1, 10)).toEqual([fetch(3, 5)]);
    // Twice as fast, what is owed is paid in half of the time.
    const left = layer.actor.nextWake - layer.now;
    pace(2);
    expect(layer.actor.nextWake - layer.now).toBeCloseTo(left / 2);
    expect(pace()).toEqual([fetch(4, 2, 1, 'prefetch')]);
    expect(layer.done(2)).toEqual([fetch(5, 3, 1, 'prefetch')]);
  });

  test('is promoted by a read that needs it, once, and makes room for the next', () => {
    const limits = { prefetchBatchSpans: 3, prefetchInFlight: 1, prefetchAroundMs: 0 };
    const layer = new Bench(evenGeometry(12, 2), limits);
    layer.prefetch();
    expect(layer.read(1, 5)).toEqual([{ type: 'promote', job: 1 }, fetch(2, 3, 3, 'prefetch')]);
    expect(layer.read(2, 0)).toEqual([]);
    expect(layer.done(1)).toEqual([ok(2), ok(1)]);
  });

  test('pauses while it fails, longer each time, and comes back to what it left', () => {
    const limits = {
      prefetchBatchSpans: 2,
      prefetchInFlight: 1,
      prefetchPauseMs: 100,
      prefetchPauseMaxMs: 200,
    };
    const layer = new Bench(evenGeometry(4, 1), limits);
    layer.prefetch();
    for (const [job, pause] of [
      [1, 100],
      [2, 200],
      [3, 200],
    ] as const) {
      expect(layer.failed(job, true)).toEqual([]);
      expect(layer.wait(pause - 1)).toEqual([]);
      expect(layer.wait(1)).toEqual([fetch(job + 1, 0, 2, 'prefetch')]);
    }
    expect(layer.done(4)).toEqual([fetch(5, 2, 2, 'prefetch')]);
  });

  test('finds the bad span of a job, leaves it out, and brings all others', () => {
    const layer = new Bench(evenGeometry(5, 1), {
      prefetchBatchSpans: 3,
      prefetchInFlight: 1,
      prefetchPauseMs: 10,
    });
    layer.prefetch();
    layer.failed(1, false);
    expect(layer.wait(10)).toEqual([fetch(2, 0, 1, 'prefetch')]);
    expect(layer.done(2)).toEqual([fetch(3, 1, 1, 'prefetch')]);
    layer.failed(3, false);
    expect(layer.wait(10)).toEqual([fetch(4, 2, 1, 'prefetch')]);
    expect(layer.done(4)).toEqual([fetch(5, 3, 2, 'prefetch')]);
    expect(layer.done(5)).toEqual([]);
    expect(layer.wait(100_000)).toEqual([]);
    expect([...layer.states]).toEqual([2, 0, 2, 2, 2]);
    expect(layer.actor.nextWake).toBe(Number.POSITIVE_INFINITY);
  });

  test('comes back to a span that a read gave up', () => {
    const layer = new Bench(evenGeometry(3, 1), { prefetchInFlight: 1, prefetchBatchSpans: 1, attempts: 1 });
    layer.read(1, 0);
    expect(layer.prefetch()).toEqual([fetch(2, 1, 1, 'prefetch')]);
    expect(layer.failed(1, true)).toEqual([eio(1, 'unavailable')]);
    expect(layer.done(2)).toEqual([fetch(3, 0, 1, 'prefetch')]);
  });
});

describe('the log', () => {
  test('hears of what arrived since the last flush, in ranges', () => {
    const layer = new Bench(evenGeometry(4, 4));
    layer.read(1, 8);
    layer.read(2, 0);
    layer.fetched(1, 8, 2);
    layer.fetched(2, 0, 3);
    layer.fetched(1, 10);
    layer.fetched(2, 3);
    expect(layer.flush()).toEqual([
      {
        type: 'append',
        ranges: [
          [0, 4],
          [8, 3],
        ],
      },
    ]);
    layer.done(1);
    expect(layer.flush()).toEqual([{ type: 'append', ranges: [[11, 1]] }]);
    expect(layer.flush()).toEqual([]);
  });

  test('gets records of bounded size, and once more what it did not take', () => {
    const layer = new Bench(evenGeometry(5, 2), { appendRanges: 2 });
    layer.send({
      type: 'restore',
      ranges: [0, 2, 4, 6, 8].map((first) => blockRun(first, 1)),
      logged: false,
    });
    const records = layer.flush();
    expect(records).toHaveLength(3);
    layer.send({ type: 'append.failed', ranges: [blockRun(2, 1)] });
    layer.send({ type: 'append.failed', ranges: [blockRun(3, 99)] });
    expect(layer.flush()).toEqual([
      {
        type: 'append',
        ranges: [
          [2, 1],
          [4, 1],
        ],
      },
      {
        type: 'append',
        ranges: [
          [6, 1],
          [8, 1],
        ],
      },
    ]);
  });

  test('is still told after close', () => {
    const layer = new Bench(evenGeometry(2, 1));
    layer.read(1, 0);
    layer.fetched(1, 0);
    layer.read(2, 1);
    expect(layer.send({ type: 'close' })).toEqual([
      eio(2, 'not-running'),
      { type: 'cancel', job: 1 },
      { type: 'cancel', job: 2 },
    ]);
    expect(layer.flush()).toEqual([{ type: 'append', ranges: [[0, 1]] }]);
    expect(layer.read(3, 1)).toEqual([eio(3, 'not-running')]);
    expect(layer.done(2)).toEqual([]);
    expect(layer.wait(100_000)).toEqual([]);
  });

  test('restores a layer; ranges that do not fit are cut', () => {
    const layer = new Bench(geometryOf([1, 3, 2]));
    layer.send({
      type: 'restore',
      ranges: [
        blockRun(-2, 3),
        blockRun(4, 100),
        blockRun(Number.NaN, 2),
        blockRun(2, Number.POSITIVE_INFINITY),
      ],
    });
    expect([...layer.states]).toEqual([2, 0, 0, 0, 2, 2]);
    expect(layer.flush()).toEqual([]);
    expect(layer.actor.counts).toEqual({ absent: 3, fetching: 0, present: 3 });
  });

  test('restores blocks that a read waits for: the read is answered', () => {
    const layer = new Bench(evenGeometry(1, 2));
    layer.read(1, 0);
    layer.failed(1, true);
    expect(layer.send({ type: 'restore', ranges: [blockRun(0, 1)] })).toEqual([ok(1)]);
  });
});

describe('the life of a layer', () => {
  test('complete when every block arrived and the whole is proven', () => {
    const layer = new Bench(evenGeometry(2, 1));
    layer.read(1, 0, 1);
    expect(layer.done(1)).toEqual([ok(1), { type: 'verify' }]);
    expect(layer.actor.state).toBe('verifying');
    expect(layer.wait(1)).toEqual([]);
    expect(layer.send({ type: 'verified', ok: true, now: 2 })).toEqual([{ type: 'complete' }]);
    expect(layer.send({ type: 'verified', ok: true, now: 3 })).toEqual([]);
    layer.send({ type: 'handed-over' });
    expect(layer.actor.state).toBe('handed-over');
    expect(layer.read(2, 0)).toEqual([ok(2)]);
  });

  test('corrupt when the whole is not the layer: every block is absent, every read fails', () => {
    const layer = new Bench(evenGeometry(2, 1));
    layer.prefetch();
    layer.fetched(1, 0, 2);
    expect(layer.actor.state).toBe('verifying');
    expect(layer.send({ type: 'verified', ok: false, now: 2 })).toEqual([
      { type: 'cancel', job: 1 },
      { type: 'corrupt' },
    ]);
    expect([...layer.states]).toEqual([0, 0]);
    expect(layer.read(1, 0)).toEqual([eio(1, 'integrity')]);
    layer.fetched(1, 0, 2);
    layer.send(full([blockRun(0, 2)]));
    expect([...layer.states]).toEqual([0, 0]);
    expect(layer.flush()).toEqual([]);
    expect(layer.actor.state).toBe('corrupt');
  });

  test('not the layer since the disk lost a block: that one is evicted and fetched again, the others stay', () => {
    const layer = new Bench(evenGeometry(2, 2));
    layer.prefetch();
    layer.fetched(1, 0, 4);
    layer.done(1);
    expect(layer.actor.state).toBe('verifying');
    const [punch] = layer.send({ type: 'verified', ok: false, damaged: [blockRun(1, 1)], now: 2 });
    expect(punch).toMatchObject({ type: 'punch', ranges: [[1, 1]] });
    expect([...layer.states]).toEqual([2, 0, 2, 2]);
    expect(layer.actor.state).toBe('lazy');
    // Who wants it meanwhile waits until its bytes are gone.
    expect(layer.read(1, 1)).toEqual([]);
    const [fetch] = layer.send({ type: 'evicted', job: (punch as { job: number }).job, now: 3 });
    expect(fetch).toMatchObject({ type: 'fetch', runs: [[0, 1]] });
    expect(layer.done((fetch as { job: number }).job)).toEqual([ok(1), { type: 'verify' }]);
    expect(layer.send({ type: 'verified', ok: true, now: 4 })).toEqual([{ type: 'complete' }]);
  });

  test('complete from the log without another look at the bytes, if no block is missing', () => {
    const whole = new Bench(evenGeometry(2, 1));
    expect(whole.send(full([blockRun(0, 2)], { complete: true }))).toEqual([]);
    expect(whole.actor.state).toBe('complete');
    const handed = new Bench(evenGeometry(2, 1));
    handed.send(full([blockRun(0, 2)], { complete: true, handedOver: true }));
    expect(handed.actor.state).toBe('handed-over');
    const lacking = new Bench(evenGeometry(2, 1));
    lacking.send(full([blockRun(0, 1)], { complete: true }));
    expect(lacking.actor.state).toBe('lazy');
    const unproven = new Bench(evenGeometry(2, 1));
    expect(unproven.send(full([blockRun(0, 2)]))).toEqual([{ type: 'verify' }]);
  });

  test('a layer without blocks is whole at once', () => {
    const layer = new Bench(evenGeometry(0, 1));
    expect(layer.send(full([]))).toEqual([{ type: 'verify' }]);
    expect(layer.read(1, 0)).toEqual([eio(1, 'invalid-argument')]);
  });

  test('geometry or states that do not fit are refused', () => {
    const states = new Uint8Array(4);
    expect(() => new LayerActor(evenGeometry(2, 1), states)).toThrow(/state byte/);
    expect(() => new LayerActor(evenGeometry(2, 2), states.slice().fill(2))).toThrow(/zeroed/);
    const gap = {
      ...evenGeometry(2, 2),
      span: (index: number) => ({ firstBlock: index * 3, blockCount: 1 }),
    };
    expect(() => new LayerActor(gap, states)).toThrow(/span 1/);
    expect(() => new LayerActor({ ...evenGeometry(1, 2), blockCount: 4 }, states)).toThrow(/cover/);
    expect(() => new LayerActor(geometryOf([2, 0, 2]), states)).toThrow(/span 1/);
  });
});

describe('eviction', () => {
  test('makes blocks absent at once and lets no job fetch them before they are punched', () => {
    const layer = new Bench(evenGeometry(3, 2));
    layer.send({ type: 'restore', ranges: [blockRun(0, 5)] });
    expect(layer.send(evict(blockRun(1, 2)))).toEqual([{ type: 'punch', job: 1, ranges: [[1, 2]] }]);
    expect([...layer.states]).toEqual([2, 0, 0, 2, 2, 0]);
    expect(layer.read(1, 0, 2)).toEqual([]);
    expect(layer.read(2, 0)).toEqual([ok(2)]);
    expect(layer.send({ type: 'evicted', job: 1, now: 0 })).toEqual([fetch(2, 0, 2)]);
    expect(layer.done(2)).toEqual([ok(1)]);
  });

  test('leaves alone what is fetched, and what a waiting read counts on', () => {
    const layer = new Bench(evenGeometry(3, 2));
    layer.send({ type: 'restore', ranges: [blockRun(0, 3)] });
    layer.read(1, 1, 3);
    expect(layer.send(evict(blockRun(0, 6)))).toEqual([]);
    expect([...layer.states]).toEqual([2, 2, 2, 1, 0, 0]);
  });

  test('is not undone by completions from before', () => {
    const layer = new Bench(evenGeometry(2, 2));
    layer.read(1, 0);
    layer.done(1);
    layer.send(evict(blockRun(0, 2)));
    layer.fetched(1, 0, 2);
    layer.send({ type: 'evicted', job: 2, now: 0 });
    layer.fetched(1, 0, 2);
    expect([...layer.states]).toEqual([0, 0, 0, 0]);
  });

  test('that is given up: the blocks are present as before, readers get theirs, and the log hears of them again', () => {
    const layer = new Bench(evenGeometry(2, 2));
    layer.send({ type: 'restore', ranges: [blockRun(0, 4)], complete: true });
    layer.send(evict(blockRun(0, 2)));
    layer.read(1, 0, 1);
    expect(layer.send({ type: 'evicted', job: 1, undone: true, now: 0 })).toEqual([
      ok(1),
      { type: 'verify' },
    ]);
    expect([...layer.states]).toEqual([2, 2, 2, 2]);
    expect(layer.flush()).toEqual([{ type: 'append', ranges: [[0, 2]] }]);
  });

  test('leaves a startup pack what it still owes, and takes its word for nothing else', () => {
    const layer = new Bench(evenGeometry(2, 2));
    layer.send({ type: 'promise', pack: 1, ranges: [blockRun(0, 4)], now: 0 });
    layer.fetched(1, 0);
    layer.send(evict(blockRun(0, 1)));
    layer.send({ type: 'evicted', job: 2, now: 0 });
    layer.fetched(1, 0, 3);
    expect([...layer.states]).toEqual([0, 2, 2, 0]);
  });

  test('under way: a startup pack that comes meanwhile owes none of its blocks, for what it writes may be punched with them', () => {
    const layer = new Bench(evenGeometry(2, 2));
    layer.send({ type: 'restore', ranges: [blockRun(0, 2)] });
    layer.send(evict(blockRun(0, 1)));
    layer.send({ type: 'promise', pack: 1, ranges: [blockRun(0, 4)], now: 0 });
    layer.fetched(2, 2, 1);
    layer.send({ type: 'evicted', job: 1, now: 0 });
    // Written before the hole was punched, told afterwards.
    layer.fetched(2, 0, 1);
    layer.fetched(2, 3, 1);
    expect([...layer.states]).toEqual([0, 2, 2, 2]);
    // A reader does not wait for the pack.
    expect(layer.read(1, 0)).toEqual([fetch(3, 0)]);
  });

  test('keeps the log from hearing of blocks that are gone again', () => {
    const layer = new Bench(evenGeometry(2, 2));
    layer.send({ type: 'restore', ranges: [blockRun(0, 3)], logged: false });
    layer.send(evict(blockRun(1, 1)));
    layer.send({ type: 'append.failed', ranges: [blockRun(0, 4)] });
    expect(layer.flush()).toEqual([
      {
        type: 'append',
        ranges: [
          [0, 1],
          [2, 1],
        ],
      },
    ]);
  });

  test('of a complete layer makes it lazy; of one that is handed over it is refused', () => {
    const layer = new Bench(evenGeometry(2, 1));
    layer.send({ type: 'restore', ranges: [blockRun(0, 2)], complete: true });
    layer.send({ type: 'handed-over' });
    expect(layer.send(evict(blockRun(0, 1)))).toEqual([]);
    layer.send({ type: 'taken-back' });
    expect(layer.send(evict(blockRun(0, 1)))).toHaveLength(1);
    expect(layer.actor.state).toBe('lazy');
  });

  test('under way while prefetch passes: its spans are fetched afterwards', () => {
    const layer = new Bench(evenGeometry(2, 1));
    layer.send({ type: 'restore', ranges: [blockRun(0, 1)] });
    layer.send(evict(blockRun(0, 1)));
    expect(layer.prefetch()).toEqual([fetch(2, 1, 1, 'prefetch')]);
    expect(layer.send({ type: 'evicted', job: 1, now: 0 })).toEqual([fetch(3, 0, 1, 'prefetch')]);
  });

  test('is not chased by prefetch', () => {
    const layer = new Bench(evenGeometry(2, 1));
    layer.prefetch();
    layer.fetched(1, 0);
    layer.failed(1, true);
    layer.send(evict(blockRun(0, 1)));
    layer.send({ type: 'evicted', job: 2, now: 0 });
    expect(layer.wait(100_000)).toEqual([fetch(3, 1, 1, 'prefetch')]);
    expect(layer.done(3)).toEqual([]);
  });
});

describe('what a cold read costs and needs', () => {
  test('is said of the spans that it misses, before anything is fetched for it, and of refused ones too', () => {
    const actor = new LayerActor(evenGeometry(4, 4), new Uint8Array(16), { maxWaiters: 1 });
    actor.handle({ type: 'restore', ranges: [blockRun(4, 4)] });
    const read = (id: number) => actor.handle({ type: 'read', id, blocks: blockRun(2, 8), now: 0 });
    const [missed, ...fetches] = read(1).filter(({ type }) => type !== 'wake');
    expect(missed).toEqual({ type: 'missed', id: 1, spans: [0, 2] });
    // A job names its blocks too: the fetcher's table may have other spans.
    expect(fetches).toMatchObject([
      { type: 'fetch', runs: [[0, 1]], blocks: [[0, 4]] },
      { type: 'fetch', runs: [[2, 1]], blocks: [[8, 4]] },
    ]);
    expect(read(2)).toEqual([{ type: 'missed', id: 2, spans: [0, 2] }, eio(2, 'busy')]);
    expect(actor.handle({ type: 'read', id: 3, blocks: blockRun(4, 4), now: 0 })).toEqual([ok(3)]);
  });
});

describe('the time of the next tick', () => {
  test('is announced again when the tick came a little early', () => {
    const { actor } = new Bench(evenGeometry(1, 1), { readDeadlineMs: 1000 });
    actor.handle({ type: 'read', id: 1, blocks: blockRun(0, 1), now: 0 });
    expect(actor.handle({ type: 'tick', now: 999.5 })).toEqual([{ type: 'wake', at: 1000 }]);
    expect(actor.handle({ type: 'tick', now: 1000 })).toContainEqual(eio(1, 'timeout'));
  });

  test('is announced when it becomes earlier, and again when it has come', () => {
    const { actor } = new Bench(evenGeometry(2, 1), { readDeadlineMs: 1000, retryMs: 100 });
    expect(wakes(actor.handle({ type: 'read', id: 1, blocks: blockRun(0, 1), now: 0 }))).toEqual([
      { type: 'wake', at: 1000 },
    ]);
    expect(wakes(actor.handle({ type: 'read', id: 2, blocks: blockRun(1, 1), now: 10 }))).toEqual([]);
    const failed = { type: 'job.failed', job: 1, code: 'unavailable', message: '', retryable: true } as const;
    expect(wakes(actor.handle({ ...failed, now: 20 }))).toEqual([{ type: 'wake', at: 120 }]);
    expect(wakes(actor.handle({ type: 'tick', now: 120 }))).toEqual([{ type: 'wake', at: 1000 }]);
    expect(wakes(actor.handle({ type: 'tick', now: 1000 }))).toEqual([{ type: 'wake', at: 1010 }]);
  });
});
