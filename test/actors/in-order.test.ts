/** Readers in order: when one counts as such, how far ahead of him is fetched, and in which ranges. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { InOrder } from '../../actors/in-order.ts';
import { LayerActor, type LayerEffect, type LayerEvent } from '../../actors/layer.ts';
import { blockRun, sizeOf, type SpanRun, spansOf } from '../../actors/ranges.ts';
import { Readahead } from '../../actors/readahead.ts';
import { evenGeometry } from '../support/geometry.ts';

const upTo = (from: number, to: number) => Array.from({ length: to - from }, (_, at) => from + at);

/** Takes all that there is ahead of a demand, as a layer would that fetches it at once. */
function follower(spanCount: number, patience: number, sizeOf: (span: number) => number = () => 16) {
  const inOrder = new InOrder(spanCount, sizeOf);
  const taken = new Set<number>();
  const free = (span: number) => !taken.has(span);
  const rangesAhead = (span: number): SpanRun[] => {
    inOrder.demanded(span, { patience, share: Number.POSITIVE_INFINITY });
    taken.add(span);
    const ranges: SpanRun[] = [];
    for (let next = inOrder.next(free); next !== undefined; next = inOrder.next(free)) ranges.push(next);
    for (const taking of spansOf(ranges)) taken.add(taking);
    return ranges;
  };
  return { inOrder, rangesAhead, ahead: (span: number) => [...spansOf(rangesAhead(span))] };
}

describe('a reader in order', () => {
  test('has a window that doubles as he comes to its end; who reads at random has none', () => {
    const { ahead } = follower(1_000, 1);
    for (const span of [500, 300, 320, 306, 500]) expect(ahead(span)).toEqual([]);
    expect(ahead(501)).toEqual([502, 503]);
    expect(ahead(700)).toEqual([]);
    // The window is all there: he waits next for what lies behind it.
    expect(ahead(504)).toEqual(upTo(505, 509));
    // He has come up with it: further spans are asked for while the last ones come.
    expect(ahead(505)).toEqual([]);
    expect(ahead(507)).toEqual(upTo(509, 516));
  });

  test('of a start counts when he has read on for some spans, whatever is fetched around him meanwhile', () => {
    const readahead = new Readahead(1_000, () => 16);
    readahead.turn(true);
    for (const span of upTo(100, 108)) readahead.demanded(span);
    expect(readahead.inOrder.isWaiting).toBe(false);
    readahead.demanded(124);
    expect(readahead.inOrder.next(() => true)).toEqual([125, 2]);
    const jumps = new Readahead(1_000, () => 16);
    jumps.turn(true);
    for (const span of upTo(0, 20)) jumps.demanded((span * 379) % 1_000);
    expect(jumps.inOrder.isWaiting).toBe(false);
  });

  test('of a start gets no more ahead than half of what he has read: his file may end', () => {
    const readahead = new Readahead(1_000, () => 16);
    readahead.turn(true);
    const taken = new Set<number>();
    for (const span of upTo(0, 40)) {
      readahead.demanded(span);
      const next = () => readahead.inOrder.next((free) => !taken.has(free));
      for (let range = next(); range !== undefined; range = next())
        for (const ahead of spansOf([range])) taken.add(ahead);
    }
    expect(Math.max(...taken)).toBeGreaterThan(39);
    expect(Math.max(...taken)).toBeLessThanOrEqual(60);
  });

  test('gets a large window in a few long ranges, no larger than what the link brings in a short time', () => {
    const { inOrder, rangesAhead } = follower(10_000, 1);
    let ranges: SpanRun[] = [];
    for (const span of upTo(0, 400)) ranges = [...ranges, ...rangesAhead(span)];
    expect(Math.max(...ranges.map(([, count]) => count))).toBe(16);
    expect(sizeOf(ranges)).toBeLessThanOrEqual(400 + 64);
    inOrder.observe(16, 2_000);
    for (const span of upTo(400, 480)) ranges = rangesAhead(span);
    expect(sizeOf(ranges)).toBeLessThanOrEqual(2);
  });

  test('of long spans gets as many bytes ahead as one of short spans', () => {
    const { ahead } = follower(1_000, 1, () => 512);
    for (const span of upTo(0, 20)) expect(ahead(span).length).toBeLessThanOrEqual(2);
  });

  test('whatever is demanded: ranges lie ahead of a reader, inside, and no further than the largest window', () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat(299), { maxLength: 200 }),
        fc.integer({ min: 1, max: 4 }),
        (demanded, patience) => {
          const { ahead } = follower(300, patience);
          for (const [index, span] of demanded.entries())
            for (const found of ahead(span)) {
              expect(found).toBeLessThan(300);
              const heard = demanded.slice(0, index + 1);
              expect(heard.some((other) => found > other && found <= other + 64)).toBe(true);
            }
        },
      ),
    );
  });

  test('a layer keeps four ranges on their way ahead of him, and turns to him alone when he waits', () => {
    const states = new Uint8Array(new SharedArrayBuffer(16_000));
    const actor = new LayerActor(evenGeometry(1_000, 16), states);
    const jobs = new Map<number, number>();
    let atMost = 0;
    let demanded = 0;
    const send = (event: LayerEvent): void => {
      const effects: LayerEffect[] = actor.handle(event);
      expect(actor.audit()).toEqual([]);
      for (const effect of effects) {
        if (effect.type !== 'fetch') continue;
        jobs.set(effect.job, sizeOf(effect.blocks));
        if (effect.class === 'demand') demanded += 1;
      }
      atMost = Math.max(atMost, jobs.size);
    };
    send({ type: 'readahead', on: true, now: 0 });
    for (let span = 0; span < 200; span++) {
      send({ type: 'read', id: span, blocks: blockRun(span * 16, 16), now: span });
      // The oldest job ends when he waits for it.
      while (actor.load.reads > 0) {
        const [job] = jobs.keys();
        if (job === undefined) throw new Error('a read waits for nothing');
        jobs.delete(job);
        send({ type: 'job.done', job, now: span, times: { firstByteUs: 2_000, fetchUs: 9_000 } });
      }
    }
    expect(atMost).toBeLessThanOrEqual(6);
    expect(demanded).toBeLessThan(30);
  });

  test('gets a small window, and others nothing ahead, while the cache has no room for more', () => {
    const farthest = (window: number): number => {
      const readahead = new Readahead(1_000, () => 16);
      readahead.turn(true, window);
      const taken = new Set<number>();
      const distances = upTo(0, 400).map((span) => {
        taken.add(span);
        readahead.demanded(span);
        const next = () => readahead.inOrder.next((other) => !taken.has(other));
        for (let range = next(); range !== undefined; range = next())
          for (const ahead of spansOf([range])) taken.add(ahead);
        return Math.max(...taken) - span;
      });
      return Math.max(...distances);
    };
    expect(farthest(128)).toBe(8);
    expect(farthest(31)).toBe(0);
    const readahead = new Readahead(1_000, () => 16);
    readahead.turn(true, 128);
    readahead.observe(10, 12);
    for (const span of [500, 502, 504, 501, 300, 700]) readahead.demanded(span);
    expect(readahead.isWaiting).toBe(false);
  });

  test('of a layer that comes as a whole gets it in as long ranges as one of a layer whose rest comes', () => {
    const ranges = (begin: LayerEvent[]): number[] => {
      const actor = new LayerActor(evenGeometry(1_000, 16), new Uint8Array(new SharedArrayBuffer(16_000)));
      const jobs = new Map<number, number>();
      const sizes: number[] = [];
      const send = (event: LayerEvent): void => {
        for (const effect of actor.handle(event)) {
          if (effect.type !== 'fetch') continue;
          jobs.set(effect.job, sizeOf(effect.blocks));
          sizes.push(sizeOf(effect.blocks));
        }
      };
      for (const event of begin) send(event);
      for (let span = 0; span < 1_000; span++) {
        send({ type: 'read', id: span, blocks: blockRun(span * 16, 16), now: span });
        while (actor.load.reads > 0) {
          const [job] = jobs.keys();
          if (job === undefined) throw new Error('a read waits for nothing');
          const blocks = jobs.get(job) ?? 0;
          jobs.delete(job);
          send({ type: 'job.done', job, now: span, times: { firstByteUs: 2_000, fetchUs: blocks * 1_000 } });
        }
      }
      return sizes;
    };
    const now = 0;
    const readahead: LayerEvent = { type: 'readahead', on: true, now };
    const rest = ranges([readahead, { type: 'prefetch', on: true, now }]);
    const all = ranges([readahead, { type: 'aim', ranges: [blockRun(0, 16_000)], all: true, now }]);
    expect(all.length).toBeLessThanOrEqual(rest.length);
    expect(median(all)).toBe(256);
    // Of a start that is foretold what is aimed at comes first, in jobs that leave the link to others soon.
    const foretold = ranges([readahead, { type: 'aim', ranges: [blockRun(0, 16_000)], now }]);
    expect(median(foretold)).toBe(64);
  });
});

const median = (values: number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
