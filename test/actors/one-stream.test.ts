import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ONE_STREAM, OneStream, type StartingLayer } from '../../actors/one-stream.ts';

const MB = 1 << 20;
/** 8 MB in 80 ms of the link and 160 of a processor: a price of 10 ms for each MB with two fetchers. */
const known = (): OneStream => {
  const stream = new OneStream();
  stream.fetched({ bytes: 8 * MB, isRest: false, firstByteUs: 5_000, fetchUs: 85_000, decodeUs: 160_000 });
  return stream;
};
const layer = (name: string, isWaitedFor: boolean, mb: number): StartingLayer => ({
  layer: name,
  isWaitedFor,
  absentBytes: mb * MB,
});

/** Looks every 100 ms; the time at which layers are named first, and which. */
function streamedAt(stream: OneStream, layersAt: (now: number) => StartingLayer[], untilMs = 60_000) {
  for (let now = 0; now <= untilMs; now += 100) {
    const layers = stream.look(now, layersAt(now), 2);
    if (layers.length > 0) return { now, layers };
  }
  return undefined;
}

describe('a start comes in one stream', () => {
  it('when its readers have waited for half of what the stream would take', () => {
    const { share } = ONE_STREAM;
    const found = streamedAt(known(), () => [layer('a', true, 300)]);
    expect(found?.layers).toEqual(['a']);
    expect(found?.now).toBeGreaterThanOrEqual(share * 3_000);
    expect(found?.now).toBeLessThanOrEqual(share * 3_000 + 200);
  });

  it('later where the link is slow, and not for a wait that no start would feel', () => {
    const slow = new OneStream();
    slow.fetched({ bytes: 8 * MB, isRest: false, firstByteUs: 5_000, fetchUs: 2_005_000, decodeUs: 160_000 });
    expect(streamedAt(slow, () => [layer('a', true, 300)])?.now).toBeGreaterThanOrEqual(37_000);
    expect(streamedAt(known(), () => [layer('a', true, 1)])?.now).toBeGreaterThanOrEqual(ONE_STREAM.leastMs);
  });

  it('sooner again when a slow link has become fast, although most of what came was slow', () => {
    const stream = new OneStream();
    const slow = { bytes: 8 * MB, isRest: false, firstByteUs: 5_000, fetchUs: 2_005_000, decodeUs: 160_000 };
    for (let count = 0; count < 100; count++) stream.fetched(slow);
    for (let count = 0; count < 80; count++) stream.fetched({ ...slow, fetchUs: 85_000 });
    const { share } = ONE_STREAM;
    expect(streamedAt(stream, () => [layer('a', true, 300)])?.now).toBeLessThanOrEqual(share * 3_200);
  });

  it('no later for what the rest of an image has cost at idle priority, beside programs that wanted the processors', () => {
    const stream = known();
    const starved = {
      bytes: 8 * MB,
      isRest: true,
      firstByteUs: 5_000,
      fetchUs: 2_005_000,
      decodeUs: 4_000_000,
    };
    for (let count = 0; count < 40; count++) stream.fetched(starved);
    const { share } = ONE_STREAM;
    expect(streamedAt(stream, () => [layer('a', true, 300)])?.now).toBeLessThanOrEqual(share * 3_000 + 200);
  });

  it('never while readers wait for little, or before anything is known of the link', () => {
    expect(streamedAt(known(), (now) => [layer('a', now < 1_000, 300)])).toBeUndefined();
    expect(streamedAt(new OneStream(), () => [layer('a', true, 300)])).toBeUndefined();
  });

  it('with the layer first that was waited for most, each once', () => {
    const stream = known();
    const layers = (now: number) => [layer('a', now % 300 === 0, 200), layer('b', now % 300 !== 0, 200)];
    const found = streamedAt(stream, layers);
    expect(found?.layers).toEqual(['b', 'a']);
    expect(stream.look((found?.now ?? 0) + 100, layers(100), 2)).toEqual([]);
  });

  it('a start that is over is forgotten, and the next one begins from nothing', () => {
    const stream = known();
    stream.look(0, [layer('a', true, 300)], 2);
    for (let now = 100; now <= 1_200; now += 100) stream.look(now, [layer('a', true, 300)], 2);
    stream.look(1_300, [], 2);
    expect(stream.look(1_400, [layer('b', true, 300)], 2)).toEqual([]);
  });

  it('a start that is over is forgotten where the next one begins at once', () => {
    const stream = known();
    for (let now = 0; now <= 1_200; now += 100) stream.look(now, [layer('a', true, 300)], 2);
    const found = streamedAt(stream, (now) => [layer('b', now > 0, 1)]);
    expect(found?.now).toBeGreaterThanOrEqual(ONE_STREAM.leastMs);
  });

  it('names no layer twice, and none that lacks nothing, whatever is waited for', () => {
    // As they come from the table of open layers: each once.
    const look = fc.uniqueArray(
      fc.record({
        layer: fc.constantFrom('a', 'b', 'c'),
        isWaitedFor: fc.boolean(),
        absentBytes: fc.nat(1 << 30),
      }),
      { maxLength: 3, selector: ({ layer }) => layer },
    );
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(500), look), { maxLength: 80 }), (looks) => {
        const stream = known();
        let now = 0;
        let named = new Set<string>();
        for (const [ms, layers] of looks) {
          now += ms;
          const here = new Set<string>(layers.map((one) => one.layer));
          named = new Set([...named].filter((one) => here.has(one)));
          for (const one of stream.look(now, layers, 2)) {
            expect(named.has(one)).toBe(false);
            expect(layers.some((other) => other.layer === one && other.absentBytes > 0)).toBe(true);
            named.add(one);
          }
        }
      }),
    );
  });
});
