/** Startup packs in the front end: asked for ahead, brought when the layers are open, given up when they never are. */
import { beforeEach, expect, it } from 'vitest';
import { Counts } from '../../actors/counts.ts';
import type { ErrorCode } from '../../schemas/errors.ts';
import type { BeginStart } from '../../schemas/front.ts';
import { createLog } from '../../src/process/log.ts';
import type { JobOrder } from '../../schemas/fetch.ts';
import type { JobListener } from '../../src/front-end/fetch-pool.ts';
import { type StartLayer, Starts } from '../../src/front-end/starts.ts';

let time = 0;
let calls: unknown[] = [];
let listeners: JobListener[] = [];
let starts: Starts;

beforeEach(() => {
  time = 0;
  calls = [];
  listeners = [];
  starts = new Starts({
    pool: {
      submit(order: JobOrder, listener: JobListener) {
        calls.push([
          'submit',
          'held' in order ? order.held : undefined,
          'layers' in order ? order.layers : [],
        ]);
        return listeners.push(listener);
      },
      release: (job, layers) => void calls.push(['release', job, layers]),
      cancel: (job) => void calls.push(['cancel', job]),
    },
    layer: () => undefined,
    now: () => time,
    log: createLog('test', 'silent'),
  });
});

const layers = [{ diffId: 'sha256:a', blob: 'sha256:b' }];
const order = (name: string, more: Partial<BeginStart> = {}): BeginStart => ({
  manifest: 'sha256:m',
  start: 'default',
  repository: 'registry.test/app',
  layers: more.ahead === true ? [] : layers,
  record: false,
  pack: { kind: 'nats', name, size: 1 },
  ...more,
});

it('a pack that was asked for ahead is brought by the same job', () => {
  starts.begin(order('p', { ahead: true }));
  starts.begin(order('p'));
  expect(calls).toEqual([
    ['submit', true, []],
    ['release', 1, layers],
  ]);
  expect(starts.isBringing).toBe(true);
  listeners[0]?.end(0, undefined, {} as never);
  expect(starts.isBringing).toBe(false);
});

it('one that was not requested ahead is brought at once', () => {
  starts.begin(order('p'));
  expect(calls).toEqual([['submit', undefined, layers]]);
});

it('where it turns out to be another one, that is brought instead', () => {
  starts.begin(order('p', { ahead: true }));
  starts.begin(order('q'));
  expect(calls).toEqual([
    ['submit', true, []],
    ['cancel', 1],
    ['submit', undefined, layers],
  ]);
});

it('an image that is never attached holds up no other for long', () => {
  starts.begin(order('p', { ahead: true }));
  time = 4_900;
  starts.tick();
  expect(starts.isBringing).toBe(true);
  time = 5_000;
  starts.tick();
  expect(calls.at(-1)).toEqual(['cancel', 1]);
  expect(starts.isBringing).toBe(false);
  // Attached after all: it is brought as any other.
  starts.begin(order('p'));
  expect(calls.at(-1)).toEqual(['submit', undefined, layers]);
});

it('one whose fetcher failed while it was held is brought anew', () => {
  starts.begin(order('p', { ahead: true }));
  const error = { code: 'unavailable' as const, message: 'x' };
  listeners[0]?.end(0, { error, retryable: true }, {} as never);
  expect(starts.isBringing).toBe(false);
  starts.begin(order('p'));
  expect(calls.at(-1)).toEqual(['submit', undefined, layers]);
});

it('hints are told to the layers that are open, each its own blocks in order; to record goes on', () => {
  const aimed: unknown[] = [];
  starts = new Starts({
    pool: { submit: () => 1, release: () => {}, cancel: () => undefined },
    layer: (diffId) =>
      diffId === 'sha256:c'
        ? undefined
        : ({ aim: (ranges: unknown) => aimed.push([diffId, ranges]) } as never),
    now: () => time,
    log: createLog('test', 'silent'),
  });
  const { pack: _, ...plain } = order('p');
  starts.begin({ ...plain, record: true });
  starts.begin({
    ...plain,
    hints: {
      devices: ['sha256:a', 'sha256:c', 'sha256:b'],
      runs: [
        [2, 5, 1],
        [0, 9, 2],
        [1, 0, 1],
        [0, 3, 1],
      ],
    },
  });
  expect(aimed).toEqual([
    [
      'sha256:a',
      [
        [9, 2],
        [3, 1],
      ],
    ],
    ['sha256:b', [[5, 1]]],
  ]);
  expect(starts.isBringing).toBe(false);
  expect(starts.isRecording('sha256:a')).toBe(true);
});

/** `starts` anew, over two open layers; and what it asks for. */
function startsOver(
  layerOf: (diffId: string) => Partial<StartLayer>,
  epochMs?: () => number,
  counts?: Counts,
) {
  const open = new Map(['sha256:a', 'sha256:c'].map((diffId) => [diffId, layerOf(diffId)]));
  const asked: JobListener[] = [];
  starts = new Starts({
    pool: { submit: (_, listener) => asked.push(listener), release: () => {}, cancel: () => undefined },
    layer: (diffId) => open.get(diffId) as StartLayer | undefined,
    now: () => time,
    ...(epochMs === undefined ? {} : { epochMs }),
    log: createLog('test', 'silent'),
    counts,
  });
  return { asked, open };
}

it('a pack that has wrong blocks is an integrity failure of the metrics; one that is away is none, nor are damaged notes', () => {
  const counts = new Counts();
  const { asked } = startsOver(() => ({}), undefined, counts);
  const endedBy = (code: ErrorCode, order: BeginStart) => {
    const before = asked.length;
    starts.begin(order);
    asked[before]?.end(0, { error: { code, message: 'x' }, retryable: false }, {} as never);
  };
  endedBy('unavailable', order('p'));
  endedBy('integrity', order('n', { pack: { kind: 'files', name: 'n', size: 1 } }));
  expect(counts.samples()).toEqual([]);
  endedBy('integrity', order('p'));
  expect(counts.samples()).toEqual([['integrity_failures_total', ['pack'], [1]]]);
});

it('the metrics say what was brought ahead of a start, which was found after the recording began', () => {
  const counts = new Counts();
  const layerOf = () => ({
    state: 'lazy' as const,
    firstReads: new Uint32Array(16),
    promise: () => 1,
    promiseEnded: () => {},
    aim: () => {},
  });
  const { asked, open } = startsOver(layerOf, undefined, counts);
  const ticks = new Int32Array(starts.firstReads(16).clock);
  const [block] = open.values();
  const end = () => {
    Atomics.add(ticks, 0, 1);
    block?.firstReads?.set([Atomics.load(ticks, 0)], 0);
    starts.closing('sha256:a');
    return counts.samples().at(-1)?.[1][0];
  };
  const { pack: _, ...plain } = order('p');
  const one = { devices: ['sha256:a'], runs: [[0, 0, 1]] } as never;
  starts.begin({ ...plain, record: true });
  expect(end()).toBe('nothing');
  starts.begin({ ...plain, record: true });
  starts.begin(order('p'));
  asked[0]?.pack?.(one);
  expect(end()).toBe('pack');
  starts.begin({ ...plain, record: true });
  starts.begin(order('n', { pack: { kind: 'files', name: 'n', size: 1 } }));
  asked[1]?.pack?.(one);
  expect(end()).toBe('files');
  starts.begin({ ...plain, record: true });
  starts.begin({ ...plain, hints: one });
  expect(end()).toBe('hints');
});

it('a pack whose blocks are of one layer for long keeps the others waiting for it', () => {
  const told: unknown[] = [];
  const layerOf = (diffId: string) => ({
    promise: () => (diffId === 'sha256:a' ? 1 : 2),
    arrived: (job: number, first: number) => told.push([time, diffId, 'arrived', job, first]),
    promiseHeard: (job: number) => told.push([time, diffId, 'heard', job]),
    promiseEnded: () => {},
  });
  const { asked } = startsOver(layerOf);
  starts.begin(order('p'));
  const [job] = asked;
  const runs: Array<[number, number, number]> = [
    [0, 0, 9],
    [1, 0, 9],
  ];
  job?.pack?.({ devices: ['sha256:a', 'sha256:c'], runs } as never);
  for (const [at, first] of [
    [100, 0],
    [300, 1],
    [400, 2],
    [560, 3],
  ] as const) {
    time = at;
    job?.blocks(first, 1, 0, 'sha256:a');
  }
  expect(told.filter((line) => (line as unknown[]).includes('sha256:c'))).toEqual([
    [300, 'sha256:c', 'heard', 2],
    [560, 'sha256:c', 'heard', 2],
  ]);
});

it('a pack that has come before is not asked for again while its blocks are here', () => {
  const lacking = new Set<string>();
  const layerOf = (diffId: string) => ({
    lacks: (ranges: unknown) => {
      expect(ranges).toEqual([[diffId === 'sha256:a' ? 0 : 4, 2]]);
      return lacking.has(diffId);
    },
    promise: () => 1,
    promiseEnded: () => {},
  });
  const { asked, open } = startsOver(layerOf);
  const bring = (end: 'whole' | 'failed') => {
    const before = asked.length;
    starts.begin(order('p'));
    const listener = asked[before];
    const runs = [
      [0, 0, 2],
      [1, 4, 2],
    ];
    listener?.pack?.({ devices: ['sha256:a', 'sha256:c'], runs } as never);
    const failure = { error: { code: 'unavailable' as const, message: 'x' }, retryable: true };
    listener?.end(0, end === 'failed' ? failure : undefined, {} as never);
    expect(starts.isBringing).toBe(false);
    return asked.length > before;
  };
  expect(bring('failed')).toBe(true);
  expect(bring('whole')).toBe(true);
  expect(bring('whole')).toBe(false);
  // Another pack may have anything.
  starts.begin(order('q'));
  expect(asked).toHaveLength(3);
  asked[2]?.end(0, undefined, {} as never);
  lacking.add('sha256:c');
  expect(bring('whole')).toBe(true);
  lacking.clear();
  expect(bring('whole')).toBe(false);
  open.delete('sha256:c');
  expect(bring('whole')).toBe(true);
});

it('the log hears of each layer what a start read of it, in which order, and what had foretold it', () => {
  const told: unknown[] = [];
  const layerOf = (diffId: string) => ({
    device: { blockSize: 65_536 },
    state: 'lazy' as const,
    firstReads: new Uint32Array(16),
    promise: () => 1,
    promiseEnded: () => {},
    started: (event: unknown) => told.push([diffId, event]),
  });
  const { asked, open } = startsOver(layerOf, () => time + 1_000_000);
  const [a, c] = ['sha256:a', 'sha256:c'].map((diffId) => open.get(diffId)?.firstReads as Uint32Array);
  const ticks = new Int32Array(starts.firstReads(16).clock);
  const both = [
    { diffId: 'sha256:a', blob: 'sha256:b' },
    { diffId: 'sha256:c', blob: 'sha256:d' },
  ];
  ticks[0] = 40;
  starts.begin(order('p', { layers: both, record: true }));
  const runs = [
    [0, 0, 4],
    [1, 2, 1],
  ];
  asked[0]?.pack?.({ devices: ['sha256:a', 'sha256:c'], runs } as never);
  time = 70;
  asked[0]?.end(0, undefined, {} as never);
  time = 100;
  // Two in a row, one of the other layer, one that does not follow; one that was read before the start.
  a?.set([41, 42, 0, 44], 0);
  c?.set([12, 0, 43], 0);
  ticks[0] = 44;
  starts.tick();
  starts.closing('sha256:a');
  const common = {
    type: 'layer.started',
    manifest: 'sha256:m',
    start: 'default',
    ahead: 'pack',
    cores: 1,
    clock: [[4, 1_000_100]],
    pack: { bytes: 1, at: 1_000_000, us: 70_000 },
  };
  expect(told).toEqual([
    [
      'sha256:a',
      {
        ...common,
        reads: [
          [0, 2, 1],
          [3, 1, 4],
        ],
        foretold: [[0, 4, 0]],
      },
    ],
    ['sha256:c', { ...common, reads: [[2, 1, 3]], foretold: [[2, 1, 4]] }],
  ]);
});

it('the log hears why a pack was given up', () => {
  const told: unknown[] = [];
  const layerOf = (diffId: string) => ({
    device: { blockSize: 65_536 },
    state: 'lazy' as const,
    firstReads: new Uint32Array(4),
    started: ({ pack }: { pack?: unknown }) => told.push([diffId, pack]),
  });
  const { asked, open } = startsOver(layerOf as never, () => time + 1_000_000);
  const ticks = new Int32Array(starts.firstReads(4).clock);
  starts.begin(order('p', { record: true }));
  const error = { code: 'integrity' as const, message: 'block 7 of the startup pack is another' };
  asked[0]?.end(0, { error, retryable: false }, {} as never);
  open.get('sha256:a')?.firstReads?.set([1]);
  ticks[0] = 1;
  starts.tick();
  starts.closing('sha256:a');
  const pack = { bytes: 1, at: 1_000_000, error: 'integrity: block 7 of the startup pack is another' };
  expect(told).toEqual([['sha256:a', pack]]);
});
