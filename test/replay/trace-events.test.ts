/**
 * Traces for Perfetto: each entry is what Chrome's Trace Event Format says of its phase, slices of a thread nest, arrows begin
 * and end in slices, and the numbers are those of `cofa replay why`.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { PerfettoExport } from '../../schemas/replay.ts';
import { findMount } from '../../src/replay/start-phases.ts';
import { type TraceEvent, traceEvents, wholeOf } from '../../src/replay/trace-events.ts';
import { explainStart } from '../../src/replay/why-start.ts';
import { errorOf, runCofa } from '../support/engine.ts';
import { Cleanup } from '../support/temp.ts';
import { LAYER_A, logOf, MOUNT, record, sampleRecords, START } from './sample-log.ts';
import { syntheticRecords } from './synthetic-log.ts';
import { FILE, flawsOf, type Slice } from './trace-format.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());
const FIXTURE = join(import.meta.dirname, '../fixtures/replay/start-v1.cofa-log');

const slices = (events: readonly TraceEvent[], cat: string): Slice[] =>
  events.filter((event): event is Slice => event.ph === 'X' && event.cat.startsWith(cat));

test('the sample: phases, reads with arrows from their fetches, and events', () => {
  const log = logOf(sampleRecords());
  const events = [...traceEvents(log, wholeOf(log))];
  expect(flawsOf(events)).toEqual([]);
  const why = explainStart(log, findMount(log, MOUNT));
  const phases = slices(events, 'start').filter(({ name }) => ['prepare', 'attach', 'mount'].includes(name));
  expect(phases.map(({ name, dur }) => [name, dur])).toEqual(
    why.phases
      .filter(({ phase }) => !['resolve', 'reads'].includes(phase))
      .map(({ phase, us }) => [phase, us]),
  );
  expect(slices(events, 'read')).toHaveLength(6);
  expect(slices(events, 'read,failed')).toHaveLength(1);
  expect(slices(events, 'read').map(({ args }) => args.id)).toEqual(
    expect.arrayContaining(why.slowest.map(({ id }) => id)),
  );
  // The first read waited for the first fetch, whose steps add up.
  const fetch = slices(events, 'fetch').find(({ args }) => args.job === 1);
  expect(fetch).toMatchObject({ name: 'demand span 0', dur: 40_000 });
  const steps = slices(events, 'fetch').filter(
    ({ tid, ts, args }) =>
      tid === fetch?.tid && ts >= fetch.ts && ts < fetch.ts + fetch.dur && args.job === undefined,
  );
  expect(steps.map(({ name }) => name)).toEqual([
    'queue',
    'first-byte',
    'transfer',
    'verify',
    'write',
    'other',
  ]);
  expect(steps.reduce((sum, { dur }) => sum + dur, 0)).toBe(40_000);
  // Each read waited for one fetch.
  expect(events.filter(({ ph }) => ph === 's')).toHaveLength(6);
  expect(events.filter(({ ph }) => ph === 'i')).toHaveLength(log.count - log.traces.count);
});

test('programs of containers, hostile names among them: from their beginning to the last sample', () => {
  const program = (pid: number, name: string, since: number, cpuUs: number) => ({
    pid,
    name,
    since: START + since,
    cpuUs,
    childrenUs: 0,
  });
  const sample = (at: number, mount: string, seen: object[]) => ({
    at: START + at,
    cpus: 2,
    busyUs: 0,
    processes: [],
    programs: [{ mount, seen }],
  });
  const names = ['sh', 'say "hi"', 'a\\nb', 'log', 'sh'];
  const samples = [
    sample(
      600,
      MOUNT,
      names.map((name, place) => program(70 + place, name, 400 + place * 10, 10_000)),
    ),
    // One that is seen in the moment of its beginning.
    sample(800, MOUNT, [program(70, 'python3', 400, 150_000), program(90, 'x', 800, 0)]),
    sample(800, 'm2', [program(91, 'y', 700, 0)]),
  ];
  const records = [
    ...sampleRecords(),
    record(9_000, 5_300, 'engine', 'main', { type: 'engine.measured', samples }),
  ];
  const log = logOf(records);
  const events = [...traceEvents(log, wholeOf(log))];
  expect(flawsOf(events)).toEqual([]);
  const found = slices(events, 'program');
  expect(found.map(({ name, ts, dur }) => [name, ts, dur])).toEqual([
    ['python3', 400_000, 400_000],
    ['say "hi"', 410_000, 190_000],
    ['a\\nb', 420_000, 180_000],
    ['log', 430_000, 170_000],
    ['sh', 440_000, 160_000],
    ['y', 700_000, 100_000],
    ['x', 800_000, 1],
  ]);
  expect(found[0]?.args).toEqual({ mount: MOUNT, process: 70, cpuUs: 150_000, childrenUs: 0, samples: 2 });
  // A stretch has what began in it, and nothing behind it.
  const part = [...traceEvents(log, { from: START + 405, to: START + 500 })];
  expect(flawsOf(part)).toEqual([]);
  expect(slices(part, 'program').map(({ ts, dur }) => ts + dur)).toEqual([95_000, 95_000, 95_000, 95_000]);
  // Without any there is no empty group.
  const none = logOf(sampleRecords());
  expect([...traceEvents(none, wholeOf(none))].filter(({ pid }) => pid === found[0]?.pid)).toEqual([]);
});

test('events of one millisecond keep their order, and lie apart', () => {
  const records = sampleRecords();
  const before = records.length;
  for (let more = 0; more < 600; more++)
    records.push(record(1_000 + more, 5_200, 'layer', LAYER_A, { type: 'layer.blocks', ranges: [[0, 1]] }));
  const log = logOf(records);
  const events = [...traceEvents(log, wholeOf(log))];
  expect(flawsOf(events)).toEqual([]);
  const marks = events.flatMap((event) => (event.ph === 'i' ? [event] : []));
  expect(marks.slice(-600).map(({ ts, args }) => [ts, args.seq])).toEqual(
    records.slice(before).map(({ seq }, index) => [5_200_000 + index, seq]),
  );
});

test('a stretch has nothing that began before or after it', () => {
  const log = logOf(sampleRecords());
  const events = [...traceEvents(log, { from: START + 400, to: START + 700 })];
  expect(flawsOf(events)).toEqual([]);
  expect(slices(events, 'start')).toEqual([]);
  expect(slices(events, 'read')).toHaveLength(3);
  expect(Math.max(...events.flatMap((event) => ('ts' in event ? [event.ts] : [])))).toBeLessThanOrEqual(
    320_000,
  );
});

test.each([1, 2, 3])('twenty thousand events at random (seed %i) keep to the format', (seed) => {
  const log = logOf([...syntheticRecords(20_000, seed)]);
  const events = [...traceEvents(log, wholeOf(log))];
  expect(flawsOf(events).slice(0, 5)).toEqual([]);
  expect(slices(events, 'read').length).toBeGreaterThan(1_000);
});

test('a start of a stored log of version 0.1.0, by the command: a whole file, or none', async () => {
  const out = join(await cleanup.tempDir('trace'), 'start.json');
  const done = await runCofa(['replay', 'export', FIXTURE, '--start', '--perfetto', out, '--json']);
  expect(done).toMatchObject({ code: 0 });
  const said = PerfettoExport.parse(JSON.parse(done.stdout));
  const text = readFileSync(out, 'utf8');
  const { traceEvents: events } = FILE.parse(JSON.parse(text));
  expect(said).toMatchObject({ entries: events.length, bytes: text.length });
  expect(flawsOf(events as TraceEvent[])).toEqual([]);
  const why = JSON.parse((await runCofa(['replay', 'why', FIXTURE, '--start', '--json'])).stdout) as {
    mount: string;
    us: number;
  };
  expect(said.mount).toBe(why.mount);
  expect(Date.parse(said.toTime) - Date.parse(said.fromTime)).toBeCloseTo(why.us / 1000, -1);

  const again = await runCofa(['replay', 'export', FIXTURE, '--perfetto', out, '--json']);
  expect(errorOf(again)).toMatchObject({ code: 'conflict' });
  expect(readFileSync(out, 'utf8')).toBe(text);
  expect((await runCofa(['replay', 'export', FIXTURE, '--perfetto', out, '--force'])).stdout).toContain(
    'ui.perfetto.dev',
  );
  expect((await runCofa(['replay', 'export', FIXTURE])).code).toBe(2);
  const bad = join(out, '../bad.cofa-log');
  writeFileSync(bad, 'no log');
  const broken = join(out, '../none.json');
  expect((await runCofa(['replay', 'export', bad, '--perfetto', broken])).code).not.toBe(0);
  expect(existsSync(broken)).toBe(false);
});
