import { describe, expect, it } from 'vitest';
import { START_LIMITS, StartWatch } from '../../actors/start-watch.ts';

const { quietMs, limitMs, patienceMs, wholePatienceMs } = START_LIMITS;

describe('a start', () => {
  it('is over at the first long pause after a first read', () => {
    const watch = new StartWatch(1_000, 7);
    expect(watch.look(1_500, 7, false)).toBe('going-on');
    expect(watch.look(2_000, 9, false)).toBe('going-on');
    expect(watch.look(3_000, 12, false)).toBe('going-on');
    expect(watch.look(3_000 + quietMs - 1, 12, false)).toBe('going-on');
    expect(watch.look(3_000 + quietMs, 12, true)).toBe('over');
    expect(watch.lasted).toBe(1_000);
  });

  it('that never pauses is over at the limit', () => {
    const watch = new StartWatch(0, 0);
    for (let now = 100; now < 100 + limitMs; now += 100) expect(watch.look(now, now, false)).toBe('going-on');
    expect(watch.look(100 + limitMs, 100 + limitMs, false)).toBe('over');
  });

  it('in which nothing is read is waited for long, as a container may be started later', () => {
    const watch = new StartWatch(0, 3);
    expect(watch.look(patienceMs - 1, 3, false)).toBe('going-on');
    expect(watch.look(patienceMs, 3, false)).toBe('given-up');
    expect(watch.lasted).toBe(0);
  });

  it('in which nothing is read although all has come is given up soon, so that the kernel gets the layers', () => {
    const watch = new StartWatch(0, 3);
    expect(watch.look(wholePatienceMs - 1, 3, true)).toBe('going-on');
    expect(watch.look(wholePatienceMs, 3, false)).toBe('going-on');
    expect(watch.look(wholePatienceMs, 3, true)).toBe('given-up');
  });
});
