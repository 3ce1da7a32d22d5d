/** A start's time as parts that never overlap; what machine and processes did meanwhile; what would have made it faster. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Incident } from '../../actors/incidents.ts';
import type { NewEvent } from '../../schemas/events.ts';
import { type StartWall, Waterfall } from '../../schemas/replay.ts';
import { tellStory } from '../../src/incidents/story.ts';
import { compareStarts } from '../../src/replay/compare-starts.ts';
import { fasterOf, type StartFacts } from '../../src/replay/faster.ts';
import { type Segment, segmentsOf } from '../../src/replay/start-parts.ts';
import { rowsOf } from '../../src/console/web/start/rows.ts';
import { formatUs } from '../../src/replay/format.ts';
import { nodeOfLog } from '../../src/replay/node-document.ts';
import type { RawRecord } from '../../src/replay/record.ts';
import type { ReplayLog } from '../../src/replay/replay-log.ts';
import { findMount } from '../../src/replay/start-phases.ts';
import { samplesNear, usageBetween } from '../../src/replay/start-usage.ts';
import type { TracedRead } from '../../src/replay/trace.ts';
import { waterfallOf } from '../../src/replay/waterfall.ts';
import { renderComparison, renderWaterfall } from '../../src/replay/waterfall-text.ts';
import { explainMoment } from '../../src/replay/view/overlays.ts';
import { renderWhyStart } from '../../src/replay/why-text.ts';
import { explainStart } from '../../src/replay/why-start.ts';
import { LAYER_A, logOf, MOUNT, record, sampleRecords, START } from './sample-log.ts';

const read = (index: number, at: number, us: number): TracedRead => ({
  id: `1.${index}`,
  layer: `sha256:${LAYER_A}`,
  at: START + at,
  us,
  block: 0,
  blocks: 1,
  errno: 0,
  jobs: [],
});

/** The sample's start, whose container a client ran, with what the engine notes of it. */
const runLog = () => logOf(runRecords());

function runRecords(): RawRecord[] {
  const records = sampleRecords().map((raw) => raw);
  const seq = (type: string) =>
    logOf(records).timeline.positionOfSeq(0) +
    records.findIndex((_, index) => logOf(records).timeline.typeAt(index) === type);
  const replace = (type: string, change: object) => {
    const index = seq(type);
    const { data, at } = logOf(records).timeline.eventAt(index);
    const { seq: number } = records[index] as { seq: number };
    records[index] = record(number, at - START, 'mount', MOUNT, { type, ...data, ...change } as NewEvent);
  };
  replace('mount.requested', { asked: START + 50, began: START - 100 });
  const steps = { resolved: 105, logged: 120, prepared: 290, attached: 330, standing: 340 };
  replace('mount.mounted', {
    steps: Object.fromEntries(Object.entries(steps).map(([name, at]) => [name, START + at])),
  });
  replace('mount.unmounted', {
    ran: {
      answered: START + 360,
      spawned: START + 370,
      program: START + 390,
      ended: START + 1_000,
      cpuUs: 200_000,
      command: 'python3',
    },
  });
  return records;
}

/** The incident that the black box makes of it. */
function slowStart(log: ReplayLog): Incident {
  const [seq, at] = [log.timeline.positionOfSeq(0), START];
  const cause = { kind: 'slow-start' as const, of: 'a', detail: 'registry.example/team/app:1', times: 1 };
  const last = log.seqOf(log.count);
  return {
    seq,
    at,
    lastAt: at,
    kind: cause.kind,
    from: seq,
    to: last,
    more: 0,
    moreAt: null,
    causes: [{ ...cause, seq: last, lastSeq: last, at, lastAt: at }],
  };
}

describe('the parts of a start', () => {
  test('follow one another from the command’s beginning to the program’s end', () => {
    const log = runLog();
    const why = explainStart(log, findMount(log, MOUNT));
    expect(why.wall.us).toBe(1_100_000);
    expect(why.wall.accountedUs).toBe(1_100_000);
    expect(why.wall.parts.map(({ part, us }) => [part, us])).toEqual([
      ['client', 150_000],
      ['resolve', 55_000],
      ['log', 15_000],
      ['prepare', 170_000],
      ['attach', 40_000],
      ['mount', 10_000],
      ['record', 20_000],
      ['container', 30_000],
      ['reads', 161_000],
      ['program', 449_000],
    ]);
    expect(why.wall.parts.at(-1)).toMatchObject({ cpuUs: 200_000 });
    // The read of 780 + 750 ms is another one's: the container had ended.
    expect(why.reads.count).toBe(3);
  });

  test('never overlap and leave no gap, whatever reads and clocks say', () => {
    const reads = fc.array(fc.record({ at: fc.integer({ min: -50, max: 900 }), us: fc.nat(300_000) }), {
      maxLength: 25,
    });
    const cuts = fc.array(fc.integer({ min: 1, max: 999 }), { minLength: 1, maxLength: 5 });
    fc.assert(
      fc.property(reads, cuts, (list, places) => {
        const marks = [0, ...new Set(places.sort((a, b) => a - b)), 1_000];
        const stretches = marks.slice(1).map((to, index) => ({
          part: 'program' as const,
          from: START + (marks[index] as number),
          to: START + to,
        }));
        const all = list.map(({ at, us }, index) => read(index, at, us));
        const segments = segmentsOf(stretches, all, [], { origin: START, standing: START });
        let end = 0;
        for (const { startUs, us } of segments) {
          expect(startUs).toBe(end);
          expect(us).toBeGreaterThan(0);
          end += us;
        }
        expect(end).toBe(1_000_000);
        const waitedUs = sumOf(segments.filter(({ part }) => part === 'reads'));
        // As a clock that looks at each µs would count them.
        let [union, until] = [0, 0];
        for (const one of all.toSorted((a, b) => a.at - b.at)) {
          const from = Math.max((one.at - START) * 1000, until, 0);
          const to = Math.min((one.at - START) * 1000 + one.us, 1_000_000);
          union += Math.max(0, to - from);
          until = Math.max(until, to);
        }
        expect(Math.abs(waitedUs - union)).toBeLessThanOrEqual(2 * segments.length);
      }),
      { numRuns: 300 },
    );
  });

  test('a time line has phases, fetches with their steps, reads and files, and keeps to its limits', () => {
    const log = runLog();
    const mount = findMount(log, MOUNT);
    const fall = Waterfall.parse(waterfallOf(log, mount, mount.mountedAt as number));
    expect(fall.jobs.map(({ job, waited }) => [job, waited])).toEqual([
      [1, 1],
      [2, 1],
      [3, 1],
    ]);
    expect(fall.path.reduce((sum, { us }) => sum + us, 0)).toBe(fall.us);
    expect(fall.reads.filter(({ isCritical }) => isCritical).length).toBeGreaterThan(0);
    const short = waterfallOf(log, mount, mount.mountedAt as number, { most: 1 });
    expect(short.left).toMatchObject({ jobs: 2, reads: 2 });
    expect(short.jobs.map(({ job }) => job)).toEqual([3]);
    for (const width of [60, 100])
      for (const line of renderWaterfall(fall, width)) expect(line.length).toBeLessThanOrEqual(width);
  });

  test('incident, page and terminal tell the same wall time of a start', () => {
    const log = runLog();
    const mount = findMount(log, MOUNT);
    const why = explainStart(log, mount);
    const [took, ref] = [formatUs(why.wall.us), mount.ref];
    expect([took, why.wall.us === why.us]).toEqual(['1.10 s', false]);
    expect(renderWhyStart(why, 100)[0]).toContain(`: ${took}`);
    expect(explainMoment(log, mount.index, START)?.title).toBe(`why the start of ${ref} took ${took}`);
    expect(renderWaterfall(waterfallOf(log, mount, mount.mountedAt as number), 100)[0]).toContain(
      `: ${took}`,
    );
    expect(nodeOfLog(log).starts[0]?.startMs).toBe(why.wall.us / 1_000);
    const told = (of: typeof log) => tellStory(slowStart(of), of, { file: 'f', root: '/r' }).story[0];
    expect(told(log)).toMatch(new RegExp(`at /mnt/app took ${took}: .*program 449 ms`));
    // A stretch that ends before the container does knows no more than it has.
    const short = logOf(runRecords().filter((_, index) => log.timeline.typeAt(index) !== 'mount.unmounted'));
    expect(told(short)).toContain('took at least 670 ms');
  });

  test('the program’s time bears its name, where `cofa run` has told it', () => {
    const log = runLog();
    const mount = findMount(log, MOUNT);
    const why = explainStart(log, mount);
    const own = 'python3 and its children, waiting for nothing of cofa';
    expect(why.wall.parts.at(-1)).toMatchObject({ part: 'program', command: 'python3', what: own });
    expect(renderWhyStart(why, 120).find((line) => line.startsWith('  program '))).toContain(own);
    const fall = Waterfall.parse(waterfallOf(log, mount, mount.mountedAt as number));
    expect(fall.phases.at(-1)).toMatchObject({ part: 'program', command: 'python3', what: own });
    expect(fall.phases.filter(({ command }) => command !== undefined)).toHaveLength(1);
    expect(renderWaterfall(fall, 100).some((line) => line.startsWith('  python3 and its children '))).toBe(
      true,
    );
    const row = rowsOf(fall).find(({ name }) => name === 'python3 and its children');
    expect(row).toMatchObject({
      kind: 'part',
      text: expect.stringMatching(/^program: .*python3 and its children/),
    });
  });

  test('two starts beside each other differ by what was slower', () => {
    const log = runLog();
    const a = explainStart(log, findMount(log, MOUNT));
    const slower = a.wall.parts.map((one) => (one.part === 'prepare' ? { ...one, us: one.us + 2e6 } : one));
    const b = { ...a, wall: { ...a.wall, us: a.wall.us + 2e6, parts: slower } };
    const comparison = compareStarts(a, b);
    expect(comparison.text[0]).toContain('2.00 s longer');
    expect(comparison.text[1]).toContain('prepare: 2.17 s instead of 170 ms');
    for (const line of renderComparison(comparison, 80)) expect(line.length).toBeLessThanOrEqual(80);
  });
});

describe('programs of the container', () => {
  const program = (pid: number, name: string, since: number, cpuUs: number, childrenUs = 0) => ({
    pid,
    name,
    since: START + since,
    cpuUs,
    childrenUs,
  });
  type Told = ReturnType<typeof program>;
  /** Samples of the start of `runLog`: mounted at 350, its program from 390 to 1000. */
  const logWith = (samples: Array<[at: number, seen: Told[], more?: number]>, mount = MOUNT): ReplayLog => {
    const records = runRecords();
    const last = records.length + 1_000;
    const told = samples.map(([at, seen, more]) => ({
      at: START + at,
      cpus: 2,
      busyUs: at * 2_000,
      processes: [{ name: 'front-end', cpuUs: at * 100, waitUs: 0 }],
      programs: [{ mount, seen, ...(more !== undefined && { more }) }],
    }));
    return logOf([
      ...records,
      record(last, 5_300, 'engine', 'main', { type: 'engine.measured', samples: told }),
    ]);
  };
  const startOf = (log: ReplayLog) => explainStart(log, findMount(log, MOUNT));
  const fallOf = (log: ReplayLog) => {
    const mount = findMount(log, MOUNT);
    return Waterfall.parse(waterfallOf(log, mount, mount.mountedAt as number));
  };

  test('each has when it began, when it was seen and what it worked; what is left of the time is said', () => {
    const log = logWith([
      [500, [program(71, 'sh', 390, 10_000), program(72, 'perl', 450, 40_000)]],
      [900, [program(71, 'python3', 390, 20_000, 60_000)]],
    ]);
    const { programs } = startOf(log).wall;
    // µs since the beginning, 100 ms before START.
    expect(programs).toEqual({
      seen: [
        {
          pid: 71,
          name: 'python3',
          startUs: 490_000,
          seenUs: 600_000,
          lastUs: 1_000_000,
          cpuUs: 20_000,
          childrenUs: 60_000,
        },
        {
          pid: 72,
          name: 'perl',
          startUs: 550_000,
          seenUs: 600_000,
          lastUs: 600_000,
          cpuUs: 40_000,
          childrenUs: 0,
        },
      ],
      more: 0,
      unseenUs: 140_000,
    });
    const text = renderWhyStart(startOf(log), 200);
    expect(text).toContain('programs of the container, as samples saw them');
    expect(text.find((line) => line.includes('perl'))?.trim()).toBe(
      '40.0 ms worked  perl (72), from +550 ms, seen first at +600 ms',
    );
    expect(text.find((line) => line.includes('python3 (71)'))).toContain('children that ended 60.0 ms');
    expect(text.find((line) => line.includes('between two samples'))?.trim()).toMatch(/^140 ms worked/);
  });

  test('page and terminal have a row for each', () => {
    const fall = fallOf(
      logWith([[500, [program(71, 'sh', 390, 10_000), program(72, 'perl', 450, 40_000)], 3]]),
    );
    expect(fall.programs.map(({ name }) => name)).toEqual(['sh', 'perl']);
    expect(fall.left.programs).toBe(3);
    const rows = rowsOf(fall).filter(({ kind }) => kind === 'program');
    expect(rows.map(({ name, bars }) => [name, bars[0]?.from, bars[0]?.us])).toEqual([
      ['sh', 490_000, 110_000],
      ['perl', 550_000, 50_000],
    ]);
    expect(rows[1]?.text).toBe(
      'program perl, process 72: worked 40.0 ms, from +550 ms on; seen at samples, at +600 ms first and at +600 ms last',
    );
    const lines = renderWaterfall(fall, 100);
    expect(lines.some((line) => line.startsWith('  perl (72) '))).toBe(true);
    for (const line of lines) expect(line.length).toBeLessThanOrEqual(100);
    expect(fallOf(runLog()).programs).toEqual([]);
    expect(startOf(runLog()).wall.programs).toBe(undefined);
  });

  test('those of another container, and what began behind the start, are not this one’s', () => {
    expect(startOf(logWith([[500, [program(71, 'sh', 390, 1)]]], 'm2')).wall.programs).toBe(undefined);
    const later = logWith([[1_500, [program(71, 'sh', 390, 100_000), program(73, 'late', 1_200, 5)]]]);
    const { seen = [] } = startOf(later).wall.programs ?? {};
    // Work between two samples is even: of 1110 ms 610 were in the start.
    expect(seen).toMatchObject([{ pid: 71, cpuUs: Math.round((100_000 * 610) / 1_110) }]);
    expect(rowsOf(fallOf(later)).find(({ kind }) => kind === 'program')?.bars).toEqual([
      { from: 490_000, us: 610_000, colour: '--good' },
    ]);
  });

  test('names that a program chose to confuse are told with its process, and move no cursor', () => {
    const names = ['critical path', 'say "hi"', 'a\\nb', '\\u{1b}[2J'];
    const fall = fallOf(logWith([[500, names.map((name, place) => program(80 + place, name, 400, 1_000))]]));
    const rows = rowsOf(fall).filter(({ kind }) => kind === 'program');
    expect(rows.map(({ text }) => /^program (.*), process (\d+):/.exec(text)?.slice(1))).toEqual(
      names.map((name, place) => [name, String(80 + place)]),
    );
    // What no engine writes is damaged, in a log from elsewhere.
    const raw = logWith([[500, [program(71, 'a\u{1b}[2Jb', 390, 10)]]]);
    expect(startOf(raw).wall.programs).toBe(undefined);
  });

  test('a log that names more than an engine would is bounded', () => {
    const many = Array.from({ length: 40 }, (_, turn): [number, Told[]] => [
      400 + turn * 10,
      Array.from({ length: 64 }, (_none, place) => program(turn * 64 + place, 'x', 395, 1)),
    ]);
    const { seen, more } = startOf(logWith(many)).wall.programs ?? { seen: [], more: 0 };
    expect(seen).toHaveLength(256);
    expect(more).toBe(64);
  });
});

const sumOf = (segments: readonly Segment[]) => segments.reduce((sum, { us }) => sum + us, 0);

describe('what machine and processes did', () => {
  const usageOf = (log: ReplayLog, from: number, to: number) =>
    usageBetween(samplesNear(log, from, to), from, to);
  const sample = (at: number, cpuUs: number, busyUs: number) => ({
    at: START + at,
    cpus: 2,
    busyUs,
    stalledUs: { cpu: busyUs / 10, io: 0, memory: 0 },
    processes: [{ name: 'front-end', cpuUs, waitUs: cpuUs / 10 }],
  });
  const measured = (samples: object[]) =>
    logOf([record(1, 900, 'engine', 'main', { type: 'engine.measured', samples })]);

  test('is even between two samples', () => {
    const log = measured([sample(0, 1e6, 10e6), sample(1000, 2e6, 12e6), sample(2000, 2e6, 12e6)]);
    expect(usageOf(log, START + 500, START + 2000)).toEqual({
      cpus: 2,
      busyUs: 1e6,
      stalledUs: { cpu: 1e5, io: 0, memory: 0 },
      processes: [{ name: 'front-end', cpuUs: 5e5, waitUs: 5e4 }],
    });
  });

  test('a process that began anew counts from nothing; of another time nothing is known', () => {
    const log = measured([sample(0, 9e6, 0), sample(1000, 1e6, 0)]);
    expect(usageOf(log, START, START + 1000)?.processes[0]?.cpuUs).toBe(1e6);
    expect(usageOf(log, START + 60_000, START + 61_000)).toBe(undefined);
  });
});

describe('what would have made a start faster', () => {
  const wall = (parts: Partial<Record<string, number>>, steps: Record<string, number> = {}): StartWall => {
    const us = Object.values(parts).reduce<number>((sum, one) => sum + (one ?? 0), 0);
    const list = Object.entries(parts).map(([part, length]) => ({ part, us: length, what: '' }));
    return { time: '', us, accountedUs: us, parts: list as StartWall['parts'], steps, processes: [] };
  };
  const fetched = (firstByteUs: number, fetchUs: number, bytes: number): StartFacts['jobs'][number] => ({
    class: 'demand',
    lookupUs: 0,
    firstByteUs,
    fetchUs,
    bytes,
  });
  const facts = (of: Partial<StartFacts> & Pick<StartFacts, 'wall'>): StartFacts => ({
    ref: 'app',
    origin: undefined,
    lookupUs: 0,
    logUs: 0,
    jobs: [],
    waitedBytes: 0,
    evictedBlocks: 0,
    refetchedBlocks: 0,
    ...of,
  });
  const first = (of: Partial<StartFacts> & Pick<StartFacts, 'wall'>) => fasterOf(facts(of))[0]?.cause;

  test('names the part that cost most, and nothing of a start without fault', () => {
    expect(fasterOf(facts({ wall: wall({ program: 5e6, reads: 1e4 }) }))).toEqual([]);
    const slow = fetched(900_000, 910_000, 1e6);
    expect(first({ wall: wall({ reads: 2e6 }, { 'first-byte': 1.9e6 }), jobs: [slow] })).toBe('registry');
    const thin = fetched(4_000, 2e6, 1e6);
    expect(first({ wall: wall({ reads: 2e6 }, { transfer: 1.9e6 }), jobs: [thin] })).toBe('link');
    expect(first({ wall: wall({ resolve: 2e6, program: 1e5 }), lookupUs: 1.9e6 })).toBe('dns');
    expect(first({ wall: wall({ log: 3e6, program: 1e5 }) })).toBe('log');
    expect(first({ wall: wall({ resolve: 3e6, program: 1e5 }), logUs: 2.9e6 })).toBe('log');
    expect(first({ wall: wall({ prepare: 3e6 }), origin: 'node' })).toBe('sidecar');
  });
});
