/** A recorded start run again in simulated time: rules that hold for any start, link and policy. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LayerShape, shapesOfRecord } from '../../src/replay/shapes.ts';
import type { Outcome, Policy, ProgramRead, Recording } from '../../src/replay/what-if/recording.ts';
import { programOf } from '../../src/replay/what-if/program.ts';
import { simulate } from '../../src/replay/what-if/simulate.ts';

const BLOCK = 65_536;
const POLICY: Policy = {
  ahead: 'nothing',
  prefetch: false,
  prefetchLimit: undefined,
  fetchers: 2,
  slots: 4,
  cores: 2,
  block: undefined,
};
const NO_OUTCOME: Outcome = {
  us: 0,
  endUs: undefined,
  phases: [],
  reads: { count: 0, waited: 0, failed: 0, waitedUs: 0, blockedUs: 0, p50Us: 0, maxUs: 0 },
  bytes: { sidecar: 0, pack: 0, demand: 0, ahead: 0, rest: 0 },
  requests: 0,
};
const COSTS = { fetchBlockMs: 1, packBlockMs: 0.5, packReadyMs: 20, serverMs: 2, hopMs: 0.5, replyMs: 0.2 };
const FREE = { fetchBlockMs: 0, packBlockMs: 0, packReadyMs: 0, serverMs: 0, hopMs: 0, replyMs: 0 };

/** A start of two layers; `reads` of blocks that they have. */
function startOf(reads: readonly ProgramRead[], blockCount = 400): Recording {
  const shape = () => LayerShape.guessed(BLOCK, blockCount * BLOCK, blockCount * 24_000);
  const packed = reads.map(({ layer, first, count }) => ({ layer, first, count }));
  return {
    mount: 'm',
    ref: 'app:1',
    manifest: 'sha256:m',
    dir: '/mnt',
    start: 'default',
    at: 0,
    phases: [
      { phase: 'resolve', ms: 40, trips: 4, bytes: 0 },
      { phase: 'prepare', ms: 60, trips: 1, bytes: 100_000 },
      { phase: 'attach', ms: 10, trips: 0, bytes: 0 },
    ],
    layers: new Map([
      ['sha256:a', shape()],
      ['sha256:b', shape()],
    ]),
    present: new Map(),
    reads: [...reads],
    tailMs: undefined,
    packed,
    foretold: { by: 'hints', runs: packed.slice(0, packed.length >> 1) },
    packBytes: 1 + packed.reduce((sum, { count }) => sum + count, 0) * 20_000,
    packAfterMs: 30,
    costs: COSTS,
    link: { rate: Number.POSITIVE_INFINITY, rttMs: 0 },
    policy: POLICY,
    measured: NO_OUTCOME,
    notes: [],
  };
}

/** Programs: each read behind one of the few before it, most often the last. */
const program = (most = 60): fc.Arbitrary<ProgramRead[]> =>
  fc
    .array(
      fc.record({
        layer: fc.constantFrom('sha256:a', 'sha256:b'),
        first: fc.integer({ min: 0, max: 390 }),
        count: fc.integer({ min: 1, max: 4 }),
        back: fc.constantFrom(1, 1, 1, 2, 3),
        thinkMs: fc.integer({ min: 0, max: 30 }),
      }),
      { minLength: 1, maxLength: most },
    )
    .map((list) =>
      list.map(({ back, ...read }, index) => ({ ...read, after: index < back ? undefined : index - back })),
    );

/** What the program takes by itself, ms. */
function ownMs(reads: readonly ProgramRead[]): number {
  const ends: number[] = [];
  for (const { after, thinkMs } of reads) ends.push((after === undefined ? 0 : (ends[after] ?? 0)) + thinkMs);
  return Math.max(...ends);
}

const AHEADS = ['nothing', 'hints', 'pack'] as const;
const policies: fc.Arbitrary<Policy> = fc.record({
  ahead: fc.constantFrom(...AHEADS),
  prefetch: fc.boolean(),
  prefetchLimit: fc.constant(undefined),
  fetchers: fc.constantFrom(1, 2, 4),
  slots: fc.constant(4),
  cores: fc.constantFrom(1, 2, 8),
  block: fc.constantFrom(undefined, 32_768, 131_072),
});
const links = fc.record({
  rate: fc.constantFrom(5e6, 1e8, 1e9, Number.POSITIVE_INFINITY),
  rttMs: fc.constantFrom(0, 1, 20, 120),
});

describe('a start in simulated time', () => {
  it('ends under any link and policy, with the blocks that it read, and the same each time', () => {
    fc.assert(
      fc.property(program(), links, policies, (reads, link, policy) => {
        const start = startOf(reads);
        const outcome = simulate(start, { link, policy });
        expect(simulate(start, { link, policy })).toEqual(outcome);
        expect(outcome.us).toBeGreaterThanOrEqual(Math.floor(ownMs(reads) * 1_000));
        expect(outcome.reads.waited).toBeLessThanOrEqual(reads.length);
        expect(outcome.reads.blockedUs).toBeLessThanOrEqual(outcome.reads.waitedUs + 1);
        const { pack, demand, ahead, rest } = outcome.bytes;
        expect(pack + demand + ahead + rest).toBeGreaterThan(0);
        expect(outcome.requests).toBeGreaterThan(0);
      }),
      { numRuns: 60 },
    );
  });

  it("takes the program's own time and that of the phases over an infinite link that costs no work", () => {
    fc.assert(
      fc.property(program(), fc.constantFrom(...AHEADS), (reads, ahead) => {
        const link = { rate: Number.POSITIVE_INFINITY, rttMs: 0 };
        const { us } = simulate({ ...startOf(reads), costs: FREE }, { link, policy: { ...POLICY, ahead } });
        expect(Math.abs(us - (110 + ownMs(reads)) * 1_000)).toBeLessThanOrEqual(reads.length + 1);
      }),
      { numRuns: 60 },
    );
  });

  it('is never slower with more bandwidth, or with a shorter way', () => {
    fc.assert(
      fc.property(program(), fc.constantFrom('nothing', 'pack'), (reads, ahead) => {
        const start = startOf(reads);
        const policy = { ...POLICY, ahead, cores: 8 } as Policy;
        let before = Number.POSITIVE_INFINITY;
        for (const rate of [1e7, 3e7, 1e8, 1e9]) {
          const { us } = simulate(start, { link: { rate, rttMs: 20 }, policy });
          expect(us).toBeLessThanOrEqual(before + 2_000);
          before = us;
        }
        before = Number.POSITIVE_INFINITY;
        for (const rttMs of [100, 30, 5, 0]) {
          const { us } = simulate(start, { link: { rate: 1e8, rttMs }, policy });
          expect(us).toBeLessThanOrEqual(before + 2_000);
          before = us;
        }
      }),
      { numRuns: 60 },
    );
  });

  it('asks the registry no more often with a pack', () => {
    fc.assert(
      // The pack's header comes before the first read: else that is fetched by itself.
      fc.property(program(), links, (reads, { rate, rttMs }) => {
        const start = startOf(reads);
        const link = { rate, rttMs: Math.min(rttMs, 1) };
        const ask = (ahead: Policy['ahead']) =>
          simulate(start, { link, policy: { ...POLICY, ahead } }).requests;
        expect(ask('pack')).toBeLessThanOrEqual(ask('nothing'));
      }),
      { numRuns: 60 },
    );
  });
});

describe("the program's reads", () => {
  const read = (at: number, ms: number, block: number) => ({
    id: '1.0',
    layer: 'sha256:a',
    at,
    us: ms * 1_000,
    block,
    blocks: 1,
    errno: 0,
    jobs: [],
  });

  it('are those that waited, and between them those that found their blocks, in the order of the account', () => {
    const started = {
      layer: 'sha256:a',
      // Blocks 5 and 9 waited; 6 to 8 and 20 did not.
      reads: [
        [5, 1, 1],
        [6, 3, 2],
        [9, 1, 5],
        [20, 1, 7],
      ] as const,
      clock: [[8, 1_280]] as const,
    };
    const program = programOf([read(1_100, 50, 5), read(1_200, 40, 9)], [started], {
      attachedAt: 1_000,
      endedAt: 1_270,
    });
    expect(program).toEqual([
      { layer: 'sha256:a', first: 5, count: 1, after: undefined, thinkMs: 100 },
      // A quarter, then three quarters of the way from the one that waited to the next.
      { layer: 'sha256:a', first: 6, count: 2, after: undefined, thinkMs: 125 },
      { layer: 'sha256:a', first: 8, count: 1, after: 0, thinkMs: 25 },
      { layer: 'sha256:a', first: 9, count: 1, after: 2, thinkMs: 25 },
      { layer: 'sha256:a', first: 20, count: 1, after: 3, thinkMs: expect.closeTo(13.33, 1) as number },
    ]);
  });

  it('go on side by side where they did', () => {
    const program = programOf([read(1_010, 50, 5), read(1_020, 10, 9), read(1_070, 5, 30)], [], {
      attachedAt: 1_000,
      endedAt: 1_080,
    });
    expect(program.map(({ after, thinkMs }) => [after, thinkMs])).toEqual([
      [undefined, 10],
      [undefined, 20],
      [0, 10],
    ]);
  });
});

describe('the shapes of spans in an export', () => {
  const shape = { blockSize: BLOCK, rawSize: 5 * BLOCK, packedBytes: 9, spans: [2, 100, 3, 150] };

  it('are what a layer actor and a fetch need to know', () => {
    const shapes = shapesOfRecord({ tables: { t: shape }, flats: { m: 7 }, hints: {} });
    const layer = LayerShape.of(shapes.table('t') ?? shape);
    expect([layer.blockCount, layer.spanCount, layer.spanOfBlock(1), layer.spanOfBlock(2)]).toEqual([
      5, 2, 0, 1,
    ]);
    expect([layer.span(1), layer.bytesOf(1)]).toEqual([{ firstBlock: 2, blockCount: 3 }, 150]);
    expect([shapes.flatBytes('m'), shapes.table('toString'), shapes.hints('m')]).toEqual([
      7,
      undefined,
      undefined,
    ]);
    const halves = layer.withBlocks(BLOCK / 2);
    expect([halves.blockCount, halves.span(1)]).toEqual([10, { firstBlock: 4, blockCount: 6 }]);
    const wide = layer.withBlocks(4 * BLOCK);
    expect([wide.blockCount, wide.spanCount, wide.bytes]).toEqual([2, 1, 250]);
  });

  it('are refused where they are none', () => {
    for (const spans of [[2, 100, 3], [0, 100, 5, 150], [], [2.5, 1]])
      expect(() => shapesOfRecord({ tables: { t: { ...shape, spans } }, flats: {}, hints: {} })).toThrow(
        'damaged',
      );
    expect(() => shapesOfRecord({ tables: {} })).toThrow('damaged');
  });
});
