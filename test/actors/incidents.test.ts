/** Incidents as a fold over the log: what is one, what belongs together, and that it follows from the log alone. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Incident, IncidentFold, QUIET_MS } from '../../actors/incidents.ts';
import { TriggerFold } from '../../actors/incident-triggers.ts';
import type { CofaEvent, EventOf } from '../../schemas/events.ts';

interface Entry {
  seq: number;
  id: string;
  event: CofaEvent;
}

const T0 = 1_800_000_000_000;
const LAYER = 'a'.repeat(64);
const OTHER = 'b'.repeat(64);
const MANIFEST = `sha256:${'c'.repeat(64)}`;

/** A log as it grows: `at` in seconds. */
class Log {
  readonly entries: Entry[] = [];
  add(at: number, id: string, event: object): this {
    const seq = this.entries.length * 2 + 1;
    this.entries.push({ seq, id, event: { v: 1, at: T0 + at * 1000, ...event } as CofaEvent });
    return this;
  }
  started = (at: number) =>
    this.add(at, 'main', { type: 'engine.started', pid: 1, version: '1', transport: 'kernel' });
  stopped = (at: number) => this.add(at, 'main', { type: 'engine.stopped' });
  ended = (at: number, name: string, end: object = { signal: 'SIGKILL' }) =>
    this.add(at, 'main', { type: 'process.ended', role: 'fetcher', name, pid: 7, ...end });
  quiet = (at: number) => this.add(at, LAYER, { type: 'layer.completed', digest: MANIFEST });
  trace = (
    at: number,
    reads: Array<[at: number, seconds: number, errno?: number]>,
    errors: string[] = [],
    layer = LAYER,
  ) =>
    this.add(at, layer, {
      type: 'layer.trace',
      dropped: 0,
      reads: reads.map(([from, seconds, errno = 0]) => ({
        at: T0 + from * 1000,
        us: seconds * 1e6,
        block: 0,
        blocks: 1,
        errno,
        jobs: [],
      })),
      jobs: errors.map(
        (error) => ({ error, queuedAt: T0 + at * 1000 }) as EventOf<'layer.trace'>['jobs'][number],
      ),
    });
  mount = (asked: number, mounted: number, id = 'm1') =>
    this.add(asked, MANIFEST.slice(7), {
      type: 'image.prepared',
      origin: 'sidecar',
      flat: MANIFEST,
      devices: [{ diffId: `sha256:${LAYER}`, size: 1, spans: MANIFEST }],
    })
      .add(asked, id, {
        type: 'mount.requested',
        id,
        dir: '/x',
        ref: 'app:1',
        manifest: MANIFEST,
        prefetch: true,
      })
      .add(mounted, id, { type: 'mount.mounted' });

  incidents(slowMs = 10_000, breaks: ReadonlySet<number> = new Set()): Incident[] {
    let fold = new IncidentFold(slowMs);
    const found = new Map<number, Incident>();
    const drain = () => {
      const { complete, counted } = fold.drain();
      for (const one of complete) {
        expect(found.has(one.seq), 'it is found once').toBe(false);
        found.set(one.seq, one);
      }
      for (const one of counted) found.set(one.seq, one);
    };
    for (const [index, { seq, id, event }] of this.entries.entries()) {
      fold.take(seq, id, event);
      if (!breaks.has(index)) continue;
      drain();
      fold = new IncidentFold(slowMs, JSON.parse(JSON.stringify(fold.save())));
    }
    drain();
    if (fold.open !== undefined) found.set(fold.open.seq, fold.open);
    return [...found.values()];
  }
}

const kinds = (incidents: readonly Incident[]) =>
  incidents.map(({ kind, causes }) => [kind, causes.map(({ of }) => of)]);

describe('what is an incident', () => {
  test('a process that was killed, and none that the supervisor has ended', () => {
    const log = new Log()
      .started(0)
      .ended(100, 'fetcher-0')
      .ended(200, 'fetcher-1', { reason: 'it was stopped' });
    log
      .ended(300, 'front-end', { reason: 'another took over' })
      .ended(400, 'nats-server', { signal: 'SIGKILL', reason: 'it did not answer for 10 s' });
    expect(kinds(log.incidents())).toEqual([
      ['crash', ['fetcher-0']],
      ['crash', ['nats-server']],
    ]);
    expect(log.incidents()[1]?.causes[0]?.detail).toBe('killed by SIGKILL: it did not answer for 10 s');
  });

  test('an engine that ended without its last word, told by the next one', () => {
    const log = new Log().started(0).quiet(10).quiet(50).started(900).stopped(950).started(1000);
    const [one, ...rest] = log.incidents();
    expect(rest).toEqual([]);
    expect(one).toMatchObject({ seq: 7, kind: 'crash', causes: [{ of: 'supervisor' }] });
    // The stretch holds what the dead engine did last, which was long before.
    expect(one?.from).toBe(3);
  });

  test('a read that failed, from before its arrival on', () => {
    const log = new Log().started(0);
    for (let at = 1; at < 100; at++) log.quiet(at);
    log
      .trace(100, [
        [70, 30, 5],
        [80, 1],
      ])
      .quiet(103)
      .quiet(106);
    const [one] = log.incidents();
    expect(one).toMatchObject({ kind: 'eio', causes: [{ of: LAYER, times: 1 }] });
    // 30 s before the read came at 70; 5 s after the event at 100.
    expect(log.entries.find(({ seq }) => seq === one?.from)?.event.at).toBe(T0 + 40_000);
    expect(log.entries.find(({ seq }) => seq === one?.to)?.event.at).toBe(T0 + 103_000);
  });

  test('bytes that are not what they should be: from the registry, in a sidecar, on the disk, in a startup pack', () => {
    const log = new Log().started(0).trace(100, [], ['unavailable: away', 'integrity: block 3 is another']);
    log.add(200, OTHER, { type: 'image.refuted', flat: MANIFEST, message: 'not those of the layers' });
    log.add(300, LAYER, { type: 'layer.dropped', reason: 'device-lost', message: 'gone' });
    log.add(400, LAYER, { type: 'layer.dropped', reason: 'corrupt', message: 'not the layer' });
    log.add(500, LAYER, { type: 'layer.scrubbed', blocks: 9, bad: 0, repaired: 0 });
    log.add(600, LAYER, { type: 'layer.scrubbed', blocks: 9, bad: 2, repaired: 1 });
    const started = { type: 'layer.started', manifest: MANIFEST, start: 'default', ahead: 'pack', cores: 2 };
    for (const [at, error] of [
      [700, 'unavailable: away'],
      [800, 'integrity: block 7 of the startup pack is another'],
    ] as const) {
      const pack = { bytes: 9, at: T0 + at * 1000, error };
      // Each layer that the start has read tells of it.
      for (const layer of [LAYER, OTHER])
        log.add(at + 4, layer, { ...started, reads: [[7, 1, 1]], clock: [], pack });
    }
    const found = log.incidents();
    expect(found.at(-1)?.causes).toHaveLength(1);
    expect(found.map(({ kind, causes }) => [kind, causes[0]?.detail])).toEqual([
      ['integrity', 'block 3 is another'],
      ['integrity', 'not those of the layers'],
      ['integrity', 'not the layer'],
      ['integrity', '2 blocks were damaged on the disk, 1 were repaired'],
      ['integrity', 'block 7 of the startup pack is another'],
    ]);
  });

  test('a start that waited too long: for its mount, or for its reads, which other layers and later reads are not', () => {
    expect(kinds(new Log().started(0).mount(10, 21).incidents())).toEqual([
      ['slow-start', ['cccccccccccccccc']],
    ]);
    const quick = new Log()
      .started(0)
      .mount(10, 11)
      .trace(16, [[12, 4]])
      .trace(40, [[30, 9]]);
    expect(quick.trace(42, [[12, 30]], [], OTHER).incidents()).toEqual([]);
    // Its reads are told out of order, by different events; they wait side by side.
    const slow = new Log()
      .started(0)
      .mount(10, 11)
      .trace(20, [[15, 4.9]])
      .trace(21, [
        [12, 2.9],
        [12, 2.9],
        [20.1, 1],
      ]);
    expect(kinds(slow.incidents())).toEqual([]);
    expect(kinds(slow.trace(23, [[21.2, 1.5]]).incidents())).toEqual([['slow-start', ['cccccccccccccccc']]]);
    expect(slow.incidents(Number.POSITIVE_INFINITY)).toEqual([]);
  });
});

describe('what belongs together', () => {
  test('a burst is one incident with its causes, the gravest first told', () => {
    const log = new Log().started(0).ended(100, 'fetcher-0').ended(100, 'front-end').ended(104, 'fetcher-0');
    log.trace(108, [[99, 9, 5]]).trace(109, [
      [99, 9, 5],
      [99, 9, 5],
    ]);
    const [one, ...rest] = log.incidents();
    expect(rest).toEqual([]);
    expect(one?.kind).toBe('eio');
    expect(one?.causes.map(({ of, times }) => [of, times])).toEqual([
      ['fetcher-0', 2],
      ['front-end', 1],
      [LAYER, 3],
    ]);
  });

  test('what comes ten seconds later is another one, and what goes on is cut after two minutes', () => {
    const apart = new Log().started(0).ended(100, 'fetcher-0').ended(110.5, 'fetcher-1');
    expect(apart.incidents()).toHaveLength(2);
    const long = new Log().started(0);
    for (let at = 0; at < 300; at += 5) long.ended(100 + at, 'fetcher-0');
    expect(long.incidents().map(({ causes }) => causes[0]?.times)).toEqual([25, 25, 10]);
  });

  test('a process that dies for hours makes few incidents, and all of its deaths are counted', () => {
    const log = new Log().started(0);
    for (let at = 0; at < 36_000; at += 30) log.ended(100 + at, 'fetcher-0');
    const found = log.incidents();
    // Three at once, then one every twenty minutes.
    expect(found.length).toBe(3 + 29);
    // Also where it is told bit by bit.
    const bits = new Set(Array.from({ length: 60 }, (_, index) => index * 20));
    expect(log.incidents(10_000, bits)).toEqual(found);
    expect(found.reduce((sum, { causes, more }) => sum + more + (causes[0]?.times ?? 0), 0)).toBe(1_200);
  });
});

/** Logs of everything at random, with a clock that stands, runs and steps back. */
const anyLog = fc
  .array(
    fc.tuple(
      fc.constantFrom(
        'quiet',
        'crash',
        'asked',
        'eio',
        'bad',
        'refuted',
        'start',
        'started',
        'stopped',
        'read',
      ),
      fc.oneof(
        fc.constant(0),
        fc.integer({ min: 0, max: 3_000 }),
        fc.integer({ min: -200_000, max: 400_000 }),
      ),
      fc.nat(5),
    ),
    { minLength: 1, maxLength: 120 },
  )
  .map((steps) => {
    const log = new Log();
    let now = 0;
    for (const [what, pause, n] of steps) {
      now += pause / 1000;
      if (what === 'crash') log.ended(now, `fetcher-${n}`);
      else if (what === 'asked') log.ended(now, 'fetcher-0', { reason: 'it was stopped' });
      else if (what === 'eio') log.trace(now, [[now - n, n, 5]]);
      else if (what === 'bad') log.trace(now, [], ['integrity: no']);
      else if (what === 'refuted')
        log.add(now, OTHER, { type: 'image.refuted', flat: MANIFEST, message: 'no' });
      else if (what === 'start') log.mount(now - n * 3, now, `m${n}`);
      else if (what === 'started') log.started(now);
      else if (what === 'stopped') log.stopped(now);
      else if (what === 'read') log.trace(now, [[now - n, n]]);
      else log.quiet(now);
    }
    return log;
  });

test('a stretch has twenty thousand events at most, however often it is broken off', () => {
  const log = new Log().started(0);
  for (let index = 0; index < 12_000; index++) log.quiet(80 + index / 1_000);
  for (let index = 0; index < 15_000; index++) log.ended(93 + index / 1_000, `fetcher-${index % 3}`);
  const [one, ...rest] = log.incidents();
  expect(rest).toEqual([]);
  const events = log.entries.filter(({ seq }) => seq >= (one?.from ?? 0) && seq <= (one?.to ?? 0));
  expect(events.length).toBe(20_000);
  expect(one?.causes.reduce((sum, { times }) => sum + times, 0)).toBe(15_000);
  expect(log.incidents(10_000, new Set([12_100, 19_000]))).toEqual([one]);
});

describe('it follows from the log alone', () => {
  test('wherever the fold was stopped and went on, none is lost, doubled or another', () => {
    fc.assert(
      fc.property(anyLog, fc.array(fc.nat(130)), (log, breaks) => {
        expect(log.incidents(10_000, new Set(breaks))).toEqual(log.incidents());
      }),
      { numRuns: 400 },
    );
  });

  test('every trigger is told once, within the stretch, and the rate is bounded', () => {
    fc.assert(
      fc.property(anyLog, (log) => {
        const found = log.incidents();
        const triggers = new TriggerFold(10_000);
        let told = 0;
        for (const { id, event } of log.entries)
          for (const { times } of triggers.take(id, event)) told += times;
        const sum = found.reduce(
          (all, { causes, more }) => all + more + causes.reduce((n, { times }) => n + times, 0),
          0,
        );
        expect(sum).toBe(told);
        for (const { seq, from, to, causes, at, lastAt } of found) {
          expect(from).toBeLessThanOrEqual(seq);
          for (const cause of causes) expect([cause.seq >= seq, cause.lastSeq <= to]).toEqual([true, true]);
          expect(lastAt - at).toBeLessThanOrEqual(120_000);
        }
        expect(found.length).toBeLessThanOrEqual(20 + (log.entries.length * 400_000) / 300_000);
        // Stretches of triggers do not overlap: one cause is in one incident.
        for (const [index, one] of found.entries())
          expect(one.seq).toBeGreaterThan(found[index - 1]?.causes.at(-1)?.lastSeq ?? 0);
      }),
      { numRuns: 400 },
    );
  });

  test('an open one can be kept when it has been quiet, and grows where the log says more', () => {
    const log = new Log().started(0).ended(100, 'fetcher-0');
    const fold = new IncidentFold(10_000);
    for (const { seq, id, event } of log.entries) fold.take(seq, id, event);
    expect(fold.dueAt).toBe(T0 + 100_000 + QUIET_MS);
    expect(fold.drain().complete).toEqual([]);
    const before = fold.open;
    const late = log.ended(105, 'fetcher-1').entries.at(-1) as Entry;
    fold.take(late.seq, late.id, late.event);
    expect(fold.open).toMatchObject({
      seq: before?.seq,
      to: late.seq,
      causes: [{ of: 'fetcher-0' }, { of: 'fetcher-1' }],
    });
  });
});
