/** What is measured during starts, with readings and time that the test gives. */
import { pino } from 'pino';
import { expect, test } from 'vitest';
import type { ProgramReadings } from '../../actors/start-programs.ts';
import { flawOf } from '../../schemas/check-event.ts';
import type { NewEvent } from '../../schemas/events.ts';
import { cgroupOf } from '../../src/container/cgroup.ts';
import { UsageMeter, type UsageSample } from '../../src/supervisor/processes/usage-meter.ts';
import { HandClock } from '../support/hand-clock.ts';

const ROOT = '/var/lib/cofa';

/** A meter, what it asks for and what the log has of it. `found`: what a cgroup has. */
function makeMeter(found: (cgroup: string) => ProgramReadings | undefined) {
  const clock = new HandClock();
  const events: Array<NewEvent<'engine.measured'>> = [];
  const looked: Array<{ at: number; cgroup: string; most: number }> = [];
  const meter = new UsageMeter({
    options: { root: ROOT },
    live: {
      append: async (_id, event) => {
        expect(flawOf({ v: 1, at: 0, ...event })).toBe(undefined);
        events.push(event as unknown as NewEvent<'engine.measured'>);
        return undefined as never;
      },
    },
    children: () => [{ name: 'front-end', pid: 2 }],
    indexers: { pids: [] },
    log: pino({ level: 'silent' }),
    ports: {
      clock,
      self: { pid: 1 },
      usage: {
        machine: () => ({ cpus: 2, busyUs: 0, stalledUs: undefined }),
        process: () => ({ cpuUs: 1, waitUs: 0 }),
        endedUs: () => 0,
        programs: (cgroup, most) => {
          looked.push({ at: clock.now(), cgroup, most });
          return found(cgroup);
        },
      },
    },
  });
  const samples = (): UsageSample[] => events.flatMap((event) => event.samples);
  return { meter, clock, looked, samples };
}

/** Time in steps, so that each timer comes at its own moment. */
function pass(clock: HandClock, ms: number): void {
  for (let passed = 0; passed < ms; passed += 50) clock.turn(50);
}

const running: ProgramReadings = {
  uptimeMs: 10_000,
  list: [{ pid: 71, name: 'sh\n', beganMs: 9_900, cpuUs: 10_000, childrenUs: 5_000 }],
  more: 2,
};

test('programs are in the samples behind a mount, and in none that a call waits for', async () => {
  const { meter, clock, looked, samples } = makeMeter(() => running);
  meter.asked();
  pass(clock, 200);
  meter.mounted();
  meter.contained('m1', 'c1');
  expect(looked).toEqual([]);
  const mountedAt = clock.now();
  pass(clock, 8_000);
  await Promise.resolve();
  expect(looked.map(({ at }) => at - mountedAt)).toEqual([500, 1_000, 2_000, 4_000, 8_000]);
  expect(new Set(looked.map(({ cgroup }) => cgroup))).toEqual(new Set([cgroupOf(ROOT, 'c1')]));
  const told = samples().flatMap(({ programs }) => programs ?? []);
  expect(told).toHaveLength(5);
  expect(told[0]).toMatchObject({
    mount: 'm1',
    seen: [{ pid: 71, name: 'sh\\n', cpuUs: 10_000, childrenUs: 5_000 }],
    more: 2,
  });
  // Another one is asked for meanwhile, and unmounted: those calls wait for no look at programs.
  const before = looked.length;
  meter.asked();
  pass(clock, 50);
  meter.ended();
  expect(looked).toHaveLength(before);
});

test('a mount without a container, and one that is older than a minute, cost nothing', () => {
  const { meter, clock, looked } = makeMeter(() => running);
  meter.mounted();
  pass(clock, 3_000);
  expect(looked).toEqual([]);
  meter.contained('m1', 'c1');
  pass(clock, 60_000);
  const during = looked.length;
  expect(during).toBeGreaterThan(2);
  meter.mounted();
  pass(clock, 10_000);
  expect(looked).toHaveLength(during);
});

test('a container that has ended is looked for once more, and then no longer', () => {
  let found: ProgramReadings | undefined = running;
  const { meter, clock, looked, samples } = makeMeter(() => found);
  meter.mounted();
  meter.contained('m1', 'c1');
  pass(clock, 600);
  found = undefined;
  pass(clock, 20_000);
  expect(looked).toHaveLength(2);
  expect(samples().at(-1)?.programs).toBe(undefined);
});

test('an engine that measures nothing looks at no programs', () => {
  const { meter, clock } = makeMeter(() => running);
  meter.close();
  meter.contained('m1', 'c1');
  meter.mounted();
  pass(clock, 5_000);
});
