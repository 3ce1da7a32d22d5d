/** When work that no reader waits for rests, and that it still ends. */
import { expect, test } from 'vitest';
import { IDLE_WORK, IdleWork } from '../../actors/idle-work.ts';

const LOOK_MS = 100;

/** A machine whose tasks wait for a share of the time: others' always, the work's own while it runs. */
function machine(share: { others: number; own?: number }) {
  const work = new IdleWork();
  let now = 0;
  let cpuMs = 0;
  const look = (hasWork = true) => {
    now += LOOK_MS;
    const own = work.state === 'held' ? 0 : (share.own ?? 0);
    cpuMs += Math.min(1, share.others + own) * LOOK_MS;
    return work.look(now, hasWork, { cpuMs, ioMs: 0 });
  };
  /** Share of the time in each state. */
  const over = (ms: number) => {
    const seen = { free: 0, held: 0, aged: 0 };
    for (let at = 0; at < ms; at += LOOK_MS) seen[look()] += LOOK_MS;
    return { free: seen.free / ms, held: seen.held / ms, aged: seen.aged / ms };
  };
  return { share, look, over };
}

test('it holds within a quarter of a second after others begin to wait, and goes on within a second after they cease', () => {
  const { share, over } = machine({ others: 0 });
  expect(over(5_000)).toEqual({ free: 1, held: 0, aged: 0 });
  share.others = 0.8;
  expect(over(2 * LOOK_MS).held).toBeGreaterThan(0);
  expect(over(20_000).held).toBe(1);
  share.others = 0;
  over(1_000);
  expect(over(5_000).free).toBe(1);
});

test('pressure that the work makes itself slows it by an eighth at most', () => {
  const { over } = machine({ others: 0.02, own: 0.9 });
  over(20_000);
  expect(over(40_000).free).toBeGreaterThan(0.875);
});

test('others are noticed as soon where the work makes some pressure itself', () => {
  const { share, over } = machine({ others: 0, own: 0.4 });
  expect(over(60_000).free).toBeGreaterThan(0.875);
  share.others = 0.5;
  over(3 * LOOK_MS);
  expect(over(10_000).held).toBe(1);
});

test('others are noticed within the longest time of trust where it makes all of it', () => {
  const { share, over } = machine({ others: 0, own: 0.9 });
  over(60_000);
  share.others = 0.9;
  over(IDLE_WORK.trustMaxMs + 2 * LOOK_MS);
  expect(over(10_000).held).toBe(1);
});

test('on a machine that is always busy it gets its turns all the same', () => {
  const { over } = machine({ others: 1 });
  const { ageMs, turnMs } = IDLE_WORK;
  const { aged, free } = over(5 * (ageMs + turnMs));
  expect(aged).toBeGreaterThan((0.9 * turnMs) / (ageMs + turnMs));
  expect(free).toBeLessThan(0.02);
});

test('work that is starved without being held ages as well', () => {
  // Others take every processor and never wait for each other: only the work waits.
  const { over } = machine({ others: 0, own: 1 });
  expect(over(20 * IDLE_WORK.ageMs).aged).toBeGreaterThan(0.05);
});

test('without work, or without figures, it is free', () => {
  const { look, over } = machine({ others: 1 });
  over(5_000);
  expect(look(false)).toBe('free');
  expect(new IdleWork().look(0, true, undefined)).toBe('free');
});
