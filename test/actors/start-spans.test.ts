import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import type { SpanTree } from '../../actors/spans.ts';
import { StartSpans } from '../../actors/start-spans.ts';
import type { CofaEvent, TracedJob, TracedRead } from '../../schemas/events.ts';

const LAYER = 'a'.repeat(64);
const OTHER = 'b'.repeat(64);
const MANIFEST = `sha256:${'c'.repeat(64)}`;
const CALLER = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
/** ms since the epoch. */
const T = 1_700_000_000_000;

type Given = { id: string; event: CofaEvent };
const at = (ms: number, id: string, event: object): Given => ({
  id,
  event: { v: 1, at: T + ms, ...event } as unknown as CofaEvent,
});
const requested = (ms: number, more: object = {}) =>
  at(ms, 'm1', {
    type: 'mount.requested',
    id: 'm1',
    dir: '/mnt',
    ref: 'app:1',
    manifest: MANIFEST,
    prefetch: false,
    asked: T + ms - 10,
    ...more,
  });
const read = (ms: number, us: number, jobs: number[] = [], block = 1): TracedRead => ({
  at: T + ms,
  us,
  block,
  blocks: 1,
  errno: 0,
  jobs,
});
const job = (number: number, ms: number, totalUs: number): TracedJob => ({
  job: number,
  class: 'demand',
  span: number,
  spans: 1,
  worker: 'fetcher-0',
  queuedAt: T + ms,
  sentUs: 1_000,
  firstByteUs: 5_000,
  fetchUs: 9_000,
  decodeUs: 100,
  writeUs: 50,
  totalUs,
  bytes: 1_000,
});
const trace = (ms: number, reads: TracedRead[], jobs: TracedJob[] = [], layer = LAYER) =>
  at(ms, layer, { type: 'layer.trace', reads, jobs, dropped: 0 });

/** A start: asked at -10, requested 0, prepared 20, opened 25, mounted 40. */
const START = [
  requested(0),
  at(20, 'c'.repeat(64), { type: 'image.prepared', origin: 'sidecar', flat: MANIFEST, devices: [] }),
  at(25, LAYER, { type: 'layer.opened', size: 1, blockSize: 1, blockCount: 1, blob: MANIFEST }),
  at(40, 'm1', { type: 'mount.mounted' }),
];

const makeFold = () =>
  new StartSpans({
    node: 'n1',
    imageOf: (manifest) =>
      manifest === MANIFEST ? { layers: new Set([`sha256:${LAYER}`]), count: 2 } : undefined,
    hash: (text) => createHash('sha256').update(text).digest('hex'),
  });

/** `tick`: looks by the clock between events, as a running engine does: ms after each event. */
function treesOf(events: readonly Given[], tick?: number): SpanTree[] {
  const fold = makeFold();
  const trees = events.flatMap(({ id, event }, index) => {
    const over = fold.take({ seq: index + 1, id, event });
    return tick === undefined ? over : [...over, ...fold.settled(event.at + tick)];
  });
  return [...trees, ...fold.end()];
}

/** `name: from-to`, ms after T, indented by depth. */
function drawn(tree: SpanTree | undefined): string[] {
  const spans = tree?.spans ?? [];
  const lines = (parent: string | undefined, depth: number): string[] =>
    spans
      .filter(({ parentId }) => parentId === parent)
      .flatMap(({ name, from, to, spanId }) => [
        `${' '.repeat(depth)}${name}: ${from - T}-${to - T}`,
        ...lines(spanId, depth + 1),
      ]);
  return lines(spans[0]?.parentId, 0);
}

describe('a start', () => {
  test('has the phases of its mount, the reads that waited, and the fetches, with their own times', () => {
    const trees = treesOf([
      ...START,
      trace(200, [read(50, 20_000, [7]), read(100, 4_000)], [job(7, 51, 18_000), job(8, -40, 55_000)]),
      // Of another image; and of this one, long after the start.
      trace(201, [read(60, 1_000)], [job(9, 60, 1_000)], OTHER),
      trace(2_000, [read(1_500, 3_000)], [job(10, 1_500, 3_000)]),
    ]);
    expect(trees).toHaveLength(1);
    expect(drawn(trees[0])).toEqual([
      'start: -10-104',
      ' resolve: -10-0',
      ' prepare: 0-20',
      ' attach: 20-25',
      ' mount: 25-40',
      ' fetch demand: 51-69',
      ' fetch demand: -40-15',
      ' reads: 40-104',
      '  read: 50-70',
      '  read: 100-104',
    ]);
    const [root] = trees[0]?.spans ?? [];
    expect(root?.attributes).toMatchObject({
      'cofa.mount': 'm1',
      'cofa.image': 'app:1',
      'cofa.prepared': 'sidecar',
      'cofa.reads': 2,
      'cofa.fetches': 2,
      'cofa.fetched_bytes': 2_000,
    });
    const fetch = trees[0]?.spans.find(({ from }) => from === T + 51);
    expect(fetch?.marks).toEqual([
      { name: 'sent', at: T + 52 },
      { name: 'first byte', at: T + 57 },
    ]);
    const links = trees[0]?.spans.find(({ name }) => name === 'read')?.links;
    expect(links?.map(({ spanId }) => spanId)).toEqual([fetch?.spanId]);
  });

  test('marks no first byte on a fetch to which none came', () => {
    const failed = { ...job(1, 51, 18_000), fetchUs: 5_000, bytes: 0, error: 'unavailable: x' };
    const trees = treesOf([...START, trace(80, [read(50, 20_000, [1])], [failed])]);
    const fetch = trees[0]?.spans.find(({ name }) => name === 'fetch demand');
    expect(fetch?.marks).toEqual([{ name: 'sent', at: T + 52 }]);
    expect(fetch?.attributes).toMatchObject({ 'cofa.first_byte_us': 5_000, 'cofa.transfer_us': 0 });
  });

  test('has the steps that the mount says, and lasts until its container ends', () => {
    const steps = { resolved: T - 1, logged: T + 1, prepared: T + 12, attached: T + 22, standing: T + 35 };
    const ran = {
      answered: T + 41,
      spawned: T + 45,
      program: T + 60,
      ended: T + 3_000,
      cpuUs: 7,
      command: 'sh',
    };
    const [tree] = treesOf([
      ...START.slice(0, 3),
      at(40, 'm1', { type: 'mount.mounted', steps }),
      at(3_010, 'm1', { type: 'mount.unmounted', ran }),
      trace(3_020, [read(50, 1_000), read(2_000, 1_000), read(3_005, 1_000)]),
    ]);
    expect(drawn(tree)).toEqual([
      'start: -10-3000',
      ' resolve: -10-0',
      ' prepare: 0-12',
      ' attach: 12-22',
      ' mount: 22-40',
      ' reads: 40-2001',
      '  read: 50-51',
      '  read: 2000-2001',
      ' container: 45-3000',
    ]);
    expect(tree?.spans.at(-1)?.attributes).toEqual({ 'cofa.cpu_us': 7, 'process.executable.name': 'sh' });
    expect(tree?.spans.at(-1)?.marks).toEqual([{ name: 'program', at: T + 60 }]);
    const odd = { ...ran, spawned: T + 1e9, ended: 1 };
    const unbelieved = [...START, at(3_010, 'm1', { type: 'mount.unmounted', ran: odd })];
    expect(drawn(treesOf(unbelieved)[0])[0]).toBe('start: -10-40');
  });

  test('has the programs in its container, as samples saw them', () => {
    const ran = { answered: T + 41, spawned: T + 45, program: T + 60, ended: T + 3_000, cpuUs: 7 };
    const program = (pid: number, name: string, ms: number, cpuUs: number) => ({
      pid,
      name,
      since: T + ms,
      cpuUs,
      childrenUs: 3,
    });
    const sample = (ms: number, mount: string, seen: object[]) => ({
      at: T + ms,
      cpus: 2,
      busyUs: 0,
      processes: [],
      programs: [{ mount, seen }],
    });
    const samples = [
      sample(540, 'm1', [program(70, 'sh', 60, 5), program(71, 'perl', 80, 6)]),
      sample(1_040, 'm1', [program(70, 'python3', 60, 9)]),
      sample(1_040, 'm9', [program(72, 'other', 60, 9)]),
    ];
    const [tree] = treesOf([
      ...START,
      at(1_041, 'main', { type: 'engine.measured', samples }),
      at(3_010, 'm1', { type: 'mount.unmounted', ran }),
    ]);
    expect(drawn(tree).slice(-3)).toEqual([' container: 45-3000', '  program: 60-1040', '  program: 80-540']);
    expect(tree?.spans.at(-2)?.attributes).toEqual({
      'process.pid': 70,
      'process.executable.name': 'python3',
      'cofa.cpu_us': 9,
      'cofa.children_cpu_us': 3,
    });
  });

  test('is the same whoever looks how often, and each time that the log is read', () => {
    const events = [...START, trace(20_100, [read(100, 20_000_000)]), trace(60_000, [read(59_000, 5_000)])];
    const once = treesOf(events);
    expect(drawn(once[0]).at(-1)).toBe('  read: 100-20100');
    expect(treesOf(events)).toEqual(once);
    expect(treesOf(events, 500)).toEqual(once);
    const ids = once.flatMap(({ spans }) => spans.map(({ spanId }) => spanId));
    expect(new Set(ids).size).toBe(ids.length);
  });

  test('is told when no read can come any more, and when the engine stops', () => {
    const fold = makeFold();
    for (const [index, { id, event }] of START.entries()) fold.take({ seq: index, id, event });
    expect(fold.settled(T + 32_000)).toEqual([]);
    expect(fold.settled(T + 32_041)).toHaveLength(1);
    expect(fold.settled(Number.POSITIVE_INFINITY)).toEqual([]);
    const stopped = makeFold();
    for (const [index, { id, event }] of START.entries()) stopped.take({ seq: index, id, event });
    const { id, event } = at(100, 'main', { type: 'engine.stopped' });
    expect(stopped.take({ seq: 9, id, event })).toHaveLength(1);
  });

  test('joins the trace of its caller', () => {
    const [tree] = treesOf([requested(0, { traceparent: CALLER, tracestate: 'a=1' }), ...START.slice(1)]);
    expect(tree?.context).toEqual({ traceparent: CALLER, tracestate: 'a=1' });
    expect(tree?.spans[0]).toMatchObject({ traceId: CALLER.slice(3, 35), parentId: '00f067aa0ba902b7' });
    expect(tree?.spans.every(({ traceId }) => traceId === CALLER.slice(3, 35))).toBe(true);
  });

  test('that failed is a span with the reason', () => {
    const failed = at(30, 'm1', { type: 'mount.failed', code: 'timeout', message: 'the registry is away' });
    const [tree] = treesOf([requested(0), failed]);
    expect(tree?.spans).toMatchObject([
      { name: 'start', to: T + 30, error: 'timeout: the registry is away' },
    ]);
  });

  test('of many is bounded: the longest reads and fetches are kept, and the rest is counted', () => {
    const many = Array.from({ length: 900 }, (_, index) => read(50 + index / 10, 1_000 + index));
    const jobs = Array.from({ length: 700 }, (_, index) => job(index + 1, 50, 20_000 + index));
    const [tree] = treesOf([...START, trace(900, many, jobs)]);
    const named = (name: string) => tree?.spans.filter((span) => span.name === name) ?? [];
    expect(named('read')).toHaveLength(500);
    expect(Math.min(...named('read').map(({ from, to }) => to - from))).toBeCloseTo(1.4);
    expect(named('fetch demand')).toHaveLength(500);
    expect(tree?.spans[0]?.attributes).toMatchObject({ 'cofa.reads': 900, 'cofa.fetches': 700 });
  });
});

describe('containerd', () => {
  const committed = (ms: number, layers: number, more: object = {}) =>
    at(ms, `s${layers}`, {
      type: 'snapshot.committed',
      name: 'x',
      parent: '',
      labels: {},
      time: { sec: 0, nsec: 0 },
      size: 0,
      inodes: 0,
      asked: T + ms - 5,
      flat: {
        chain: `sha256:${layers}`,
        ref: 'app:1',
        manifest: MANIFEST,
        layers,
        diffId: `sha256:${layers}`,
      },
      ...more,
    });

  test('a pull lasts from its first layer to the last, below the calls that asked for the layers', () => {
    const second = CALLER.replace('00f067aa0ba902b7', '1111111111111111');
    const [tree] = treesOf([
      committed(10, 1, { traceparent: CALLER }),
      committed(30, 2, { traceparent: second }),
      committed(90_000, 1),
    ]);
    expect(tree?.spans.map(({ name, from, to, parentId }) => [name, from - T, to - T, parentId])).toEqual([
      ['pull', 5, 30, '00f067aa0ba902b7'],
      ['layer', 5, 10, '00f067aa0ba902b7'],
      ['layer', 25, 30, '1111111111111111'],
    ]);
  });

  test('a pull that does not come to its end is told when it has been silent for a minute', () => {
    const trees = treesOf([committed(10, 1), committed(61_000, 1)]);
    expect(trees.map(drawn)).toEqual([
      ['pull: 5-10', ' layer: 5-10'],
      ['pull: 60995-61000', ' layer: 60995-61000'],
    ]);
  });

  test('a snapshot is a span where its client traces the call', () => {
    const prepared = (more: object) =>
      at(10, 's9', {
        type: 'snapshot.prepared',
        kind: 'active',
        key: 'k',
        parent: 'p',
        labels: {},
        time: { sec: 0, nsec: 0 },
        asked: T + 2,
        ...more,
      });
    expect(treesOf([prepared({})])).toEqual([]);
    const [tree] = treesOf([prepared({ traceparent: CALLER })]);
    expect(drawn(tree)).toEqual(['prepare snapshot: 2-10']);
    expect(tree?.spans[0]?.parentId).toBe('00f067aa0ba902b7');
  });
});
