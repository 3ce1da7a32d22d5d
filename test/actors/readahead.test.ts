/** Readahead: what is fetched ahead of readers by their own past alone. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { LayerActor, type LayerEffect, type LayerEvent } from '../../actors/layer.ts';
import { Readahead } from '../../actors/readahead.ts';
import { evenGeometry } from '../support/geometry.ts';
import { blockRun, spansOf } from '../../actors/ranges.ts';

const any = () => true;
function suggestions(demanded: number[], spanCount = 100, free: (span: number) => boolean = any): number[] {
  const readahead = new Readahead(spanCount, () => 16);
  readahead.turn(true);
  readahead.observe(10, 12);
  for (const span of demanded) readahead.demanded(span);
  const spans: number[] = [];
  for (let next = readahead.next(2, free); next !== undefined; next = readahead.next(2, free))
    spans.push(...spansOf([next]));
  return spans;
}

describe('fetching ahead', () => {
  test('of a single demand reaches one span, of a dense neighbourhood far, forward more than backward', () => {
    expect(suggestions([50])).toEqual([51]);
    expect(suggestions([48, 50]).slice(0, 3)).toEqual([51, 52, 49]);
    const dense = suggestions([44, 46, 48, 50]).slice(0, 12);
    expect(Math.max(...dense)).toBeGreaterThan(53);
    expect(Math.min(...dense)).toBeGreaterThan(44);
  });

  test('where hints cover a start nothing is read ahead of the first two demands of a neighbourhood, until that is over', () => {
    const readahead = new Readahead(100, () => 16);
    readahead.turn(true);
    readahead.observe(10, 12);
    readahead.isForetold = true;
    for (const span of [50, 20, 52]) readahead.demanded(span);
    expect(readahead.next(2, any)).toBeUndefined();
    readahead.demanded(54);
    expect(readahead.next(9, any)).toEqual([55, 4]);
    readahead.turn(false);
    readahead.turn(true);
    readahead.demanded(80);
    expect(readahead.next(9, any)).toEqual([81, 1]);
  });

  test('takes the latest demand first, and what is not free not at all', () => {
    expect(suggestions([10, 80])).toEqual([81, 11]);
    expect(suggestions([10, 80], 100, (span) => span !== 81)).toEqual([11]);
  });

  test('rests where the bytes take longer than the way, or nothing is known of the link yet', () => {
    const readahead = new Readahead(100, () => 16);
    readahead.turn(true);
    readahead.demanded(50);
    expect(readahead.next(2, any)).toBeUndefined();
    readahead.observe(5_000, 40_000);
    expect(readahead.next(2, any)).toBeUndefined();
    for (let i = 0; i < 20; i++) readahead.observe(8_000, 11_000);
    expect(readahead.next(2, any)).toEqual([51, 1]);
  });

  test('stays within the layer, forgets what is old, and suggests nothing when it is off', () => {
    expect(suggestions([99])).toEqual([]);
    expect(
      suggestions(
        Array.from({ length: 50 }, (_, i) => i * 40),
        2000,
      ).length,
    ).toBe(50);
    const off = new Readahead(10, () => 16);
    off.demanded(3);
    expect(off.next(2, any)).toBeUndefined();
  });

  test('whatever is demanded: inside, bounded, and never what was not near a demand', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(199), { maxLength: 200 }), (demanded) => {
        const found = suggestions(demanded, 200);
        expect(found.length).toBeLessThanOrEqual(128);
        for (const span of found) {
          expect(span).toBeGreaterThanOrEqual(0);
          expect(span).toBeLessThan(200);
          expect(demanded.some((other) => Math.abs(other - span) <= 16)).toBe(true);
        }
      }),
    );
  });

  test('a layer fetches ahead behind its demand, a few jobs at once, and a reader who comes along promotes one', () => {
    const states = new Uint8Array(new SharedArrayBuffer(400));
    const actor = new LayerActor(evenGeometry(100, 4), states);
    const send = (event: LayerEvent): LayerEffect[] => {
      const effects = actor.handle(event);
      expect(actor.audit()).toEqual([]);
      return effects.filter(({ type }) => type !== 'wake' && type !== 'missed');
    };
    const read = (id: number, block: number) =>
      send({ type: 'read', id, blocks: blockRun(block, 1), now: 0 });
    const fetches = (effects: LayerEffect[]) =>
      effects.flatMap((effect) =>
        effect.type === 'fetch' ? effect.runs.map(([first, count]) => [effect.class, first, count]) : [],
      );
    expect(fetches(read(1, 40))).toEqual([['demand', 10, 1]]);
    send({ type: 'readahead', on: true, now: 0 });
    send({ type: 'job.done', job: 1, now: 0, times: { firstByteUs: 5_000, fetchUs: 7_000 } });
    expect(fetches(read(2, 80))).toEqual([
      ['demand', 20, 1],
      ['prefetch', 21, 1],
    ]);
    const second = read(3, 88);
    expect(fetches(second)).toEqual([
      ['demand', 22, 1],
      ['prefetch', 23, 2],
    ]);
    expect(fetches(read(4, 240))).toEqual([['demand', 60, 1]]);
    expect(read(5, 92).map(({ type }) => type)).toContain('promote');
    send({ type: 'readahead', on: false, now: 0 });
    expect(fetches(read(6, 320))).toEqual([['demand', 80, 1]]);
  });
});
