/** Which containers the supervisor samples while they start, and what it tells the log of their programs. Both are bounded. */
import { expect, test } from 'vitest';
import {
  MOST_A_SAMPLE,
  MOST_A_START,
  type ProgramReading,
  type ProgramReadings,
  StartPrograms,
} from '../../actors/start-programs.ts';
import { flawOf } from '../../schemas/check-event.ts';

const WALL = 1_795_478_400_000;
const UPTIME = 5_000_000;

const program = (pid: number, change: Partial<ProgramReading> = {}): ProgramReading => ({
  pid,
  name: 'python3',
  beganMs: UPTIME - 100,
  cpuUs: 50_000,
  childrenUs: 0,
  ...change,
});
const found = (list: readonly ProgramReading[], change: Partial<ProgramReadings> = {}): ProgramReadings => ({
  uptimeMs: UPTIME,
  list,
  more: 0,
  ...change,
});

function following(): StartPrograms {
  const programs = new StartPrograms();
  programs.began({ mount: 'm1', cgroup: 'c1' }, 0);
  return programs;
}

/** As the log would judge it. */
const flawOfSample = (told: unknown) =>
  flawOf({
    v: 1,
    type: 'engine.measured',
    at: WALL,
    samples: [{ at: WALL, cpus: 2, busyUs: 0, processes: [], programs: [told] }],
  });

test('a process is told with when it began, by the clock of the log, and alike each time', () => {
  const programs = following();
  const first = programs.take('m1', found([program(7)]), WALL);
  expect(first).toEqual({
    mount: 'm1',
    seen: [{ pid: 7, name: 'python3', since: WALL - 100, cpuUs: 50_000, childrenUs: 0 }],
  });
  // The clocks are read one after the other; a moment between them makes no other process of it.
  const list = [program(7, { cpuUs: 900_000, childrenUs: 20_000 })];
  const second = programs.take('m1', found(list, { uptimeMs: UPTIME + 1_000 }), WALL + 1_007);
  expect(second?.seen).toEqual([
    { pid: 7, name: 'python3', since: WALL - 100, cpuUs: 900_000, childrenUs: 20_000 },
  ]);
  // Another process has the number now.
  const third = programs.take('m1', found([program(7, { beganMs: UPTIME })]), WALL + 2_000);
  expect(third?.seen[0]?.since).toBe(WALL + 2_000);
  // A clock that is nonsense makes no time to come.
  const odd = programs.take('m1', found([program(8, { beganMs: 1e12 })]), WALL);
  expect(odd?.seen[0]?.since).toBe(WALL);
});

test('containers are looked at while they are young, and until they have ended', () => {
  const programs = following();
  expect(programs.due(500)).toEqual([{ mount: 'm1', cgroup: 'c1', most: MOST_A_SAMPLE }]);
  // runc has not made the cgroup yet.
  expect(programs.take('m1', undefined, WALL)).toBe(undefined);
  expect(programs.due(60_000)).toHaveLength(1);
  expect(programs.due(60_001)).toEqual([]);
  const ended = following();
  expect(ended.take('m1', found([]), WALL)).toBe(undefined);
  expect(ended.due(1)).toHaveLength(1);
  ended.take('m1', undefined, WALL);
  expect(ended.due(1)).toEqual([]);
  expect(ended.take('m1', found([program(1)]), WALL)).toBe(undefined);
});

test('a name that another container has now is that one’s', () => {
  const programs = following();
  programs.began({ mount: 'm2', cgroup: 'c1' }, 10);
  expect(programs.due(20).map(({ mount }) => mount)).toEqual(['m2']);
});

test('containers that start at once share a sample', () => {
  const programs = new StartPrograms();
  for (let one = 0; one < 20; one++) programs.began({ mount: `m${one}`, cgroup: `c${one}` }, one);
  expect(programs.due(100).map(({ most }) => most)).toEqual(Array.from({ length: 20 }, () => 3));
  for (let one = 20; one < 500; one++) programs.began({ mount: `m${one}`, cgroup: `c${one}` }, one);
  const due = programs.due(600);
  expect(due.reduce((sum, { most }) => sum + most, 0)).toBeLessThanOrEqual(MOST_A_SAMPLE);
  expect(due.at(-1)?.mount).toBe('m499');
});

test('a container that forks without end stays bounded, in a sample and in a start', () => {
  const programs = following();
  const told = programs.take(
    'm1',
    found(
      Array.from({ length: 500 }, (_, pid) => program(pid + 1)),
      { more: 3_000 },
    ),
    WALL,
  );
  expect(told?.seen).toHaveLength(MOST_A_SAMPLE);
  expect(told?.more).toBe(3_000 + 500 - MOST_A_SAMPLE);
  expect(flawOfSample(told)).toBe(undefined);
  const known = new Set(told?.seen.map(({ pid }) => pid));
  for (let turn = 1; turn < 40; turn++) {
    const list = Array.from({ length: MOST_A_SAMPLE }, (_, place) => program(turn * 1_000 + place));
    for (const { pid } of programs.take('m1', found(list), WALL + turn)?.seen ?? []) known.add(pid);
  }
  expect(known.size).toBe(MOST_A_START);
  // Those that the log has named are told on.
  expect(programs.take('m1', found([program(1), program(99_999)]), WALL)).toMatchObject({
    seen: [{ pid: 1 }],
    more: 1,
  });
});

test.each([
  ['a newline', 'a\nb', 'a\\nb'],
  ['an escape of terminals', '\u{1b}[2J\u{1b}[31m', '\\u{1b}[2J\\u{1b}[31m'],
  ['a quote', 'say "hi"', 'say "hi"'],
  ['another one’s name', 'supervisor', 'supervisor'],
  ['a line of stat', 'x) R 1 1 (y', 'x) R 1 1 (y'],
  ['nothing', '', '?'],
  ['more than the kernel keeps', 'x'.repeat(5_000), `${'x'.repeat(63)}…`],
])('a program that calls itself by %s', (_, name, expected) => {
  const told = following().take('m1', found([program(7, { name })]), WALL);
  expect(told?.seen[0]?.name).toBe(expected);
  expect(flawOfSample(told)).toBe(undefined);
});

test('the log takes no name that would move a cursor, and no more than a sample holds', () => {
  const seen = { pid: 7, name: 'x', since: WALL, cpuUs: 0, childrenUs: 0 };
  expect(flawOfSample({ mount: 'm', seen: [seen] })).toBe(undefined);
  expect(flawOfSample({ mount: 'm', seen: [{ ...seen, name: 'a\u{1b}b' }] })).not.toBe(undefined);
  expect(flawOfSample({ mount: 'm', seen: [{ ...seen, name: 'x'.repeat(65) }] })).not.toBe(undefined);
  expect(flawOfSample({ mount: 'm', seen: Array.from({ length: 65 }, () => seen) })).not.toBe(undefined);
});
