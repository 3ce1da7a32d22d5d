import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  CACHE_LIMITS,
  type CacheLayer,
  type CacheLimits,
  type CacheUrgency,
  cachePressure,
  planEviction,
} from '../../actors/cache.ts';
import { planPrune, type PruneImage } from '../../actors/prune.ts';

const MIB = 2 ** 20;
const NOW = 10_000;
const limits: CacheLimits = { ...CACHE_LIMITS, limit: 100 * MIB };

/** One layer with a span of 16 blocks for each use; a use of 0 is long ago. */
function layer(id: string, uses: number[], rest: Partial<CacheLayer> = {}): CacheLayer {
  return {
    id,
    need: 'mount',
    blockSize: 65_536,
    starts: [...uses.keys(), uses.length].map((span) => span * 16),
    present: uses.map(() => 16),
    lastUse: uses,
    startup: uses.map(() => 0),
    direct: false,
    seen: 0,
    since: 0,
    ...rest,
  };
}

const plan = (layers: CacheLayer[], need: number, urgency: CacheUrgency = 'calm', ofMounted: number = need) =>
  planEviction(layers, { need: need * MIB, ofMounted: ofMounted * MIB, urgency, now: NOW }, limits);

describe('how much is evicted', () => {
  test('nothing up to the upper mark; above it all down to the lower one', () => {
    const need = (used: number) =>
      cachePressure({ used: used * MIB, free: 1e12, grown: 0 }, limits, true).need;
    expect([need(0), need(95)]).toEqual([0, 0]);
    expect(need(96)).toBe(6 * MIB);
  });

  test('a disk that runs low is a limit as well', () => {
    const low = { ...CACHE_LIMITS, reserve: 100 };
    const at = (free: number, grown = 0) => cachePressure({ used: 500, free, grown }, low, true);
    expect(at(100)).toMatchObject({ need: 0, urgency: 'calm' });
    expect(at(99)).toMatchObject({ need: 26, urgency: 'calm' });
    expect(at(49)).toMatchObject({ need: 76, urgency: 'urgent' });
    expect(at(24)).toMatchObject({ urgency: 'flooded' });
    // Mounted images give what the cache took of the disk, not what others did.
    expect([at(49), at(49, 30), at(49, 300)].map(({ ofMounted }) => ofMounted)).toEqual([0, 30, 76]);
  });

  test('with less free than a kubelet wants, what is not mounted leaves, and nothing is fetched ahead', () => {
    const kubelet = { ...CACHE_LIMITS, reserve: 100, spare: 400 };
    const at = (free: number, before = true) =>
      cachePressure({ used: 500, free, grown: 50 }, kubelet, before);
    expect(at(400)).toMatchObject({ need: 0, prefetch: true });
    expect(at(399)).toMatchObject({ need: 21, ofMounted: 0, urgency: 'calm', prefetch: false });
    // It leaves in portions, and prefetch goes on when there is some room.
    expect([at(419, false), at(420, false)].map(({ prefetch }) => prefetch)).toEqual([false, true]);
    // Below the reserve all is as ever.
    expect(at(90)).toMatchObject({ need: 330, ofMounted: 35 });
    const layers = [layer('mounted', [1, 2]), layer('image', [1, 2], { need: 'image' })];
    expect([...plan(layers, 4, 'calm', 0).evict.keys()]).toEqual(['image']);
  });

  test('prefetch ends before anything has to be evicted, and begins again further down', () => {
    const on = (used: number, before: boolean) =>
      cachePressure({ used: used * MIB, free: 1e12, grown: 0 }, limits, before).prefetch;
    expect([on(84, true), on(86, true), on(80, false), on(74, false)]).toEqual([true, false, false, true]);
  });
});

describe('what is evicted', () => {
  test('first what no image names, then what is not mounted, then what was not read for longest', () => {
    const layers = [
      layer('mounted', [10, 30, 20]),
      layer('image', [9_000, 8_000], { need: 'image' }),
      layer('unneeded', [9_500], { need: 'none' }),
    ];
    const order = Array.from({ length: 6 }, (_, at) => plan(layers, at + 1).evict);
    expect(order[0]).toEqual(new Map([['unneeded', [[0, 16]]]]));
    expect(order[1]?.get('image')).toEqual([[16, 16]]);
    expect(order[2]?.get('image')).toEqual([[0, 32]]);
    expect(order[3]?.get('mounted')).toEqual([[0, 16]]);
    expect(order[4]?.get('mounted')).toEqual([
      [0, 16],
      [32, 16],
    ]);
    expect(order[5]?.get('mounted')).toEqual([[0, 48]]);
  });

  test('what starts read is evicted last, however long ago it was read', () => {
    const layers = [
      layer('a', [1, 9_000, 9_001], { startup: [1, 0, 0] }),
      layer('b', [2, 9_002], { need: 'image', startup: [1, 0] }),
    ];
    expect([...plan(layers, 3).evict]).toEqual([
      ['b', [[16, 16]]],
      ['a', [[16, 32]]],
    ]);
    expect(plan(layers, 4).evict.get('b')).toEqual([[0, 32]]);
    expect(plan(layers, 5).evict.get('a')).toEqual([[0, 48]]);
  });

  test('of mounted images only until so much is evicted, of whichever image', () => {
    const layers = [
      layer('mounted', [1, 2, 3], { startup: [0, 0, 1] }),
      layer('image', [NOW - 200, NOW - 200], { need: 'image' }),
    ];
    expect([...plan(layers, 5, 'flooded', 0).evict.keys()]).toEqual(['image']);
    expect([...plan(layers, 5, 'flooded', 2).evict.keys()]).toEqual(['image']);
    expect(plan(layers, 5, 'flooded', 3).evict.get('mounted')).toEqual([[0, 16]]);
    expect(plan(layers, 5, 'flooded').bytes).toBe(5 * MIB);
  });

  test('starts of long ago hold half of the limit at most', () => {
    const starts = layer(
      'starts',
      Array.from({ length: 80 }, (_, at) => at + 1),
      { startup: Array(80).fill(1) },
    );
    const { evict } = plan([starts, layer('run', [9_000])], 30);
    expect([...evict]).toEqual([['starts', [[0, 480]]]]);
    expect(plan([starts, layer('run', [9_000])], 31).evict.get('run')).toEqual([[0, 16]]);
  });

  test('what has come just now stays, over the limit only what came in the last moment, far above it nothing', () => {
    const young = layer('young', [NOW - 99, NOW - 4, NOW]);
    expect(plan([young], 3).bytes).toBe(0);
    expect(plan([young], 3, 'urgent').evict.get('young')).toEqual([[0, 16]]);
    expect(plan([young], 3, 'flooded').bytes).toBe(3 * MIB);
  });

  test('a device that the kernel reads is taken back, nothing of it is evicted yet; one that was just handed over stays', () => {
    const direct = layer('direct', [1, 2], { direct: true, seen: 50, since: 40 });
    const lazy = layer('lazy', [60]);
    expect(plan([direct, lazy], 2)).toEqual({ evict: new Map(), takeBack: ['direct'], bytes: 0 });
    expect(plan([direct, lazy], 3)).toMatchObject({ takeBack: ['direct'], bytes: MIB });
    const fresh = { ...direct, since: NOW - 200 };
    expect(plan([fresh, lazy], 3)).toMatchObject({ takeBack: [], bytes: MIB });
    expect(plan([fresh, lazy], 3, 'urgent')).toMatchObject({ takeBack: ['direct'] });
  });
});

const someLayer = fc
  .record({
    need: fc.constantFrom('none' as const, 'image' as const, 'mount' as const),
    direct: fc.boolean(),
    seen: fc.integer({ min: 0, max: NOW }),
    spans: fc.array(
      fc.record({
        blocks: fc.integer({ min: 1, max: 20 }),
        present: fc.integer({ min: 0, max: 20 }),
        use: fc.integer({ min: 0, max: NOW }),
        startup: fc.integer({ min: 0, max: 1 }),
      }),
      { minLength: 1, maxLength: 12 },
    ),
  })
  .map(({ spans, ...rest }, at = 0) => {
    const starts = [0];
    for (const { blocks } of spans) starts.push((starts.at(-1) ?? 0) + blocks);
    return layer(
      String(at),
      spans.map(({ use }) => use),
      {
        ...rest,
        direct: rest.direct && rest.need === 'mount',
        starts,
        present: spans.map(({ present, blocks }) => Math.min(present, blocks)),
        startup: spans.map(({ startup }) => startup),
      },
    );
  });

test('whatever the cache holds: enough is evicted where there is enough, nothing twice, nothing young, in order', () => {
  fc.assert(
    fc.property(
      fc.array(someLayer, { maxLength: 8 }),
      fc.integer({ min: 0, max: 64 }),
      fc.constantFrom('calm' as const, 'urgent' as const, 'flooded' as const),
      (made, need, urgency) => {
        const layers = made.map((one, at) => ({ ...one, id: `layer-${at}` }));
        const result = plan(layers, need, urgency);
        const youngest = NOW - { calm: limits.residence, urgent: limits.shortResidence, flooded: 0 }[urgency];
        const use = (one: CacheLayer, span: number) =>
          one.direct ? Math.max(one.seen, one.lastUse[span] as number) : (one.lastUse[span] as number);
        const size = (one: CacheLayer, span: number) => (one.present[span] as number) * one.blockSize;
        let bytes = 0;
        let left = 0;
        let direct = 0;
        let goneRank = 0;
        let stayRank = 9;
        for (const one of layers) {
          const gone = new Set<number>();
          let end = -1;
          for (const [first, count] of result.evict.get(one.id) ?? []) {
            expect(first).toBeGreaterThan(end);
            end = first + count;
            for (let block = first; block < end; block++) gone.add(block);
          }
          if (one.direct) expect(gone.size).toBe(0);
          for (let span = 0; span < one.present.length; span++) {
            const isGone = gone.has(one.starts[span] as number);
            for (let block = one.starts[span] as number; block < (one.starts[span + 1] as number); block++)
              expect(gone.has(block)).toBe(isGone);
            if (isGone) {
              expect(one.present[span]).toBeGreaterThan(0);
              expect(use(one, span)).toBeLessThanOrEqual(youngest);
              bytes += size(one, span);
            } else if (size(one, span) > 0 && use(one, span) <= youngest) {
              if (one.direct) direct += size(one, span);
              else left += size(one, span);
            }
            const rank = { none: 0, image: 1, mount: 2 }[one.need];
            const isPlain = one.startup[span] === 0 && use(one, span) <= youngest && size(one, span) > 0;
            if (isGone && isPlain) goneRank = Math.max(goneRank, rank);
            if (!isGone && isPlain && !one.direct) stayRank = Math.min(stayRank, rank);
          }
        }
        expect(bytes).toBe(result.bytes);
        if (bytes < need * MIB && result.takeBack.length === 0) expect(left).toBe(0);
        if (direct === 0) expect(result.takeBack).toEqual([]);
        // Nothing of a rank is evicted while something of a lower one stays.
        expect(goneRank).toBeLessThanOrEqual(stayRank);
        expect(new Set(result.takeBack).size).toBe(result.takeBack.length);
      },
    ),
    { numRuns: 500 },
  );
});

test('evictions alone never bring a cache to rest above its limit, and do not take back what they took', () => {
  // A reader that cycles over twice the limit: each round evicts something, always what was read longest ago.
  const spans = 200;
  const present = new Uint8Array(spans).fill(0);
  const lastUse = Array.from({ length: spans }, () => 0);
  let most = 0;
  for (let at = 0; at < 2_000; at++) {
    const now = 1_000 + at * 10;
    present[at % spans] = 16;
    lastUse[at % spans] = now;
    const used = present.reduce((sum, blocks) => sum + blocks * 65_536, 0);
    most = Math.max(most, used);
    const { need, ofMounted, urgency } = cachePressure({ used, free: 1e12, grown: 0 }, limits, false);
    if (need === 0) continue;
    const one = layer('round', lastUse, { present: [...present] });
    const { evict } = planEviction([one], { need, ofMounted, urgency, now }, limits);
    for (const [first, count] of evict.get('round') ?? []) {
      for (let span = first / 16; span < (first + count) / 16; span++) {
        expect(now - (lastUse[span] as number)).toBeGreaterThanOrEqual(limits.residence);
        present[span] = 0;
      }
    }
  }
  expect(most).toBeLessThanOrEqual(limits.limit);
});

describe('which images are pruned', () => {
  const image = (id: string, layers: string[], inUse = false): PruneImage => ({ id, layers, inUse });
  const layers = new Map([
    ['base', { bytes: 100, idleMs: 5 }],
    ['old', { bytes: 50, idleMs: 900 }],
    ['new', { bytes: 50, idleMs: 10 }],
    ['run', { bytes: 10, idleMs: 0 }],
  ]);
  const images = [image('a', ['new']), image('b', ['old']), image('c', ['base', 'run'], true)];

  test('all that nothing mounts; with a size to keep the longest unused first, and no more than needed', () => {
    expect(planPrune(images, layers, { used: 210, keep: 0 })).toEqual(['b', 'a']);
    expect(planPrune(images, layers, { used: 210, keep: 160 })).toEqual(['b']);
    expect(planPrune(images, layers, { used: 210, keep: 159 })).toEqual(['b', 'a']);
    expect(planPrune(images, layers, { used: 210, keep: 300 })).toEqual([]);
  });

  test('layers in common are freed with their last image', () => {
    const shared = [image('a', ['old', 'base']), image('b', ['old']), image('c', ['base'], true)];
    expect(planPrune(shared, layers, { used: 150, keep: 100 })).toEqual(['b', 'a']);
  });
});
