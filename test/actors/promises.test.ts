/** What a startup pack promises to a layer: who waits for it, and what happens when it does not keep its word. */
import { describe, expect, test } from 'vitest';
import { LayerActor, type LayerEffect, type LayerEvent } from '../../actors/layer.ts';
import { type BlockRun, blockRun, spansOf } from '../../actors/ranges.ts';
import { evenGeometry } from '../support/geometry.ts';

/** 8 spans of 4 blocks. */
function newLayer() {
  const states = new Uint8Array(new SharedArrayBuffer(32));
  const actor = new LayerActor(evenGeometry(8, 4), states, { promiseSilenceMs: 1_000 });
  let now = 0;
  const send = (event: LayerEvent): LayerEffect[] => {
    const effects = actor.handle(event);
    expect(actor.audit()).toEqual([]);
    return effects.filter(({ type }) => type !== 'wake' && type !== 'missed');
  };
  return {
    actor,
    states,
    send,
    read: (id: number, firstBlock: number, lastBlock = firstBlock) =>
      send({ type: 'read', id, blocks: blockRun(firstBlock, lastBlock + 1 - firstBlock), now }),
    arrived: (job: number, firstBlock: number, count = 1) =>
      send({ type: 'blocks.fetched', job, blocks: blockRun(firstBlock, count), bytes: 0, now }),
    /** Returns the job number of the promise. */
    promise: (...ranges: BlockRun[]) => {
      const [effect] = send({ type: 'promise', pack: 7, ranges, now });
      if (effect?.type !== 'promised') throw new Error('no promise was made');
      expect(effect.pack).toBe(7);
      return effect.job;
    },
    wait: (ms: number) => {
      now += ms;
      return send({ type: 'tick', now });
    },
    heard: (job: number) => send({ type: 'promise.heard', job, now }),
    end: (job: number) => send({ type: 'promise.ended', job, now }),
    evict: (...ranges: BlockRun[]) => send({ type: 'evict', ranges, now }),
    prefetch: () => send({ type: 'prefetch', on: true, now }),
    flush: () => send({ type: 'flush', now }),
  };
}

const ok = (id: number) => ({ type: 'answer', id, errno: 0 });
const demand = (firstSpan: number, spanCount = 1) =>
  expect.objectContaining({ type: 'fetch', runs: [[firstSpan, spanCount]], class: 'demand' });

describe('a startup pack', () => {
  test('is waited for by a read of what it will bring, and nothing is fetched for it', () => {
    const layer = newLayer();
    const job = layer.promise(blockRun(5, 2));
    expect(layer.read(1, 5)).toEqual([]);
    expect(layer.arrived(job, 5)).toEqual([ok(1)]);
    expect(layer.read(2, 5)).toEqual([ok(2)]);
    expect(layer.flush()).toEqual([{ type: 'append', ranges: [[5, 1]] }]);
  });

  test('leaves other blocks of the same span to be fetched, and a read of both waits for both', () => {
    const layer = newLayer();
    const job = layer.promise(blockRun(5, 1));
    const [fetch] = layer.read(1, 5, 6);
    expect(fetch).toEqual(demand(1));
    if (fetch?.type !== 'fetch') throw new Error('no fetch');
    expect(layer.arrived(job, 5)).toEqual([]);
    expect(layer.arrived(fetch.job, 6)).toEqual([ok(1)]);
  });

  test('that ends early leaves the rest to be fetched for those who wait', () => {
    const layer = newLayer();
    const job = layer.promise(blockRun(0, 2), blockRun(5, 2), blockRun(30, 2));
    expect(layer.read(1, 0)).toEqual([]);
    expect(layer.read(2, 6)).toEqual([]);
    expect(layer.arrived(job, 0, 2)).toEqual([ok(1)]);
    expect(layer.end(job)).toEqual([demand(1)]);
    expect(layer.read(3, 31)).toEqual([demand(7)]);
  });

  test('that falls silent is no longer waited for; what it brings later is taken all the same', () => {
    const layer = newLayer();
    const job = layer.promise(blockRun(5, 2));
    layer.read(1, 5);
    expect(layer.wait(900)).toEqual([]);
    layer.arrived(job, 6);
    expect(layer.wait(900)).toEqual([]);
    expect(layer.wait(200)).toEqual([demand(1)]);
    expect(layer.arrived(job, 5)).toEqual([ok(1)]);
  });

  test('is waited for while it brings blocks of other layers, and not again once it was given up', () => {
    const layer = newLayer();
    const job = layer.promise(blockRun(5, 2), blockRun(9, 1));
    layer.read(1, 5);
    for (let times = 0; times < 5; times++) {
      expect(layer.wait(900)).toEqual([]);
      expect(layer.heard(job)).toEqual([]);
    }
    expect(layer.wait(1_100)).toEqual([demand(1)]);
    layer.heard(job);
    expect(layer.read(2, 9)).toEqual([demand(2)]);
  });

  test('keeps prefetch away from its spans until it has ended', () => {
    const layer = newLayer();
    const job = layer.promise(blockRun(0, 1), blockRun(9, 1));
    const spans = (effects: LayerEffect[]) =>
      effects.flatMap((effect) => (effect.type === 'fetch' ? [...spansOf(effect.runs)] : []));
    const first = layer.prefetch();
    expect(spans(first)).toEqual([1, 3, 4, 5, 6]);
    const jobs = first.flatMap((effect) => (effect.type === 'fetch' ? [effect.job] : []));
    const after = jobs.flatMap((done) => layer.send({ type: 'job.done', job: done, now: 0 }));
    expect(spans(after)).toEqual([7]);
    expect(spans(layer.end(job))).toEqual([0]);
    const rest = layer.actor.load.jobs;
    expect(rest).toBe(2);
  });

  test('says nothing about blocks that were taken away since', () => {
    const layer = newLayer();
    const job = layer.promise(blockRun(4, 4));
    layer.arrived(job, 4);
    const [punch] = layer.evict(blockRun(4, 1));
    if (punch?.type !== 'punch') throw new Error('nothing was evicted');
    layer.send({ type: 'evicted', job: punch.job, now: 0 });
    layer.arrived(job, 4);
    expect(layer.states[4]).toBe(0);
  });

  test('is refused by a layer that is whole, and beyond eight at once', () => {
    const layer = newLayer();
    for (let made = 0; made < 8; made++) layer.promise(blockRun(made, 1));
    expect(layer.send({ type: 'promise', pack: 1, ranges: [blockRun(9, 1)], now: 0 })).toEqual([]);
    const whole = newLayer();
    whole.send({ type: 'restore', ranges: [blockRun(0, 32)], complete: true });
    expect(whole.send({ type: 'promise', pack: 1, ranges: [blockRun(9, 1)], now: 0 })).toEqual([]);
  });

  test('of nonsense promises nothing', () => {
    const layer = newLayer();
    layer.promise(blockRun(-5, 3), blockRun(31, 100), blockRun(Number.NaN, 1), blockRun(1e9, 5));
    expect(layer.read(1, 31)).toEqual([]);
    expect(layer.read(2, 30)).toEqual([demand(7)]);
  });
});
