/** In which order an engine ends, and what an end does when something is in its way. */
import { pino } from 'pino';
import { beforeEach, describe, expect, test } from 'vitest';
import { CofaError } from '../../schemas/errors.ts';
import { End, STEPS, type Way } from '../../src/supervisor/end.ts';
import { HandClock } from '../support/hand-clock.ts';

let clock: HandClock;
/** What the supervisor's process was told. */
let told: string[];
let signal: (() => void) | undefined;
let end: End;
/** Steps that were taken, in order. */
let closed: string[];

beforeEach(() => {
  clock = new HandClock();
  told = [];
  closed = [];
  signal = undefined;
  const self = {
    pid: 1,
    host: 'h',
    onSignal: (listener: () => void) => {
      signal = listener;
      return () => {
        signal = undefined;
      };
    },
    exit: (code: number) => void told.push(`exit ${code}`),
    kill: () => void told.push('kill'),
  };
  end = new End({ log: pino({ level: 'silent' }), ports: { clock, self } });
});

/** Everything is open: each step has a part that says when it is closed. Later steps register first. */
function openAll(): void {
  for (const step of STEPS.toReversed()) end.at(step, () => closed.push(step));
}

const another = new CofaError('conflict', 'another engine owns the node');
const nothingInUse = async () => [];

describe('the order of the end', () => {
  test.each<[Way, () => unknown]>([
    ['clean', () => end.down(nothingInUse)],
    ['replaced', () => end.replaced(another)],
    ['failed', () => end.failed(new Error('no'))],
  ])('an end that is %s closes the engine in the one order', async (_, begin) => {
    openAll();
    await begin();
    await end.over.catch(() => {});
    expect(closed).toEqual([
      'background',
      'endpoint',
      'mounts',
      'log',
      'connections',
      'snapshotter',
      'readers',
      'nats',
      'root',
    ]);
    expect(clock.alarms).toBe(0);
  });

  test('a step begins when the one before is over', async () => {
    const front = Promise.withResolvers<void>();
    end.at('readers', () => front.promise);
    end.at('nats', () => closed.push('nats'));
    end.replaced(another);
    await new Promise((resolve) => setImmediate(resolve));
    expect(closed).toEqual([]);
    front.resolve();
    await end.over.catch(() => {});
    expect(closed).toEqual(['nats']);
  });

  test('an engine that was replaced unmounts and writes nothing to the log', async () => {
    end.at('mounts', { replaced: () => closed.push('abandoned') });
    end.at('log', { clean: () => closed.push('engine.stopped') });
    end.replaced(another);
    await expect(end.over).rejects.toBe(another);
    expect(closed).toEqual(['abandoned']);
  });

  test('a part that does not close keeps none of the others open', async () => {
    openAll();
    end.at('background', () => Promise.reject(new Error('it is stuck')));
    end.at('background', () => {
      throw new Error('so is this');
    });
    await end.down(nothingInUse);
    await end.over;
    expect(closed).toHaveLength(STEPS.length);
  });

  test('a part that comes when its step has passed is closed at once', async () => {
    end.at('nats', () => end.at('readers', () => closed.push('a late front end')));
    end.failed(new Error('no'));
    await end.over.catch(() => {});
    expect(closed).toEqual(['a late front end']);
  });
});

describe('down', () => {
  test('is refused while a mount is in use: nothing has changed', async () => {
    openAll();
    await expect(end.down(async () => ['/a by sh (pid 1, working folder)', '/b'])).rejects.toMatchObject({
      code: 'busy',
      message: 'in use and not complete yet: /a by sh (pid 1, working folder); /b',
      hint: 'end what uses them, wait until the images are complete (cofa status), or: cofa down --force',
    });
    expect(end.isNear).toBe(false);
    expect(closed).toEqual([]);
    end.refuseWhenNear();
  });

  test('while it detaches mounts, calls and a second one are refused', async () => {
    const detached = Promise.withResolvers<string[]>();
    const first = end.down(() => detached.promise);
    expect(() => end.refuseWhenNear()).toThrow('the engine is stopping');
    await expect(end.down(nothingInUse)).rejects.toMatchObject({ code: 'not-running' });
    detached.resolve([]);
    await first;
    await end.over;
  });

  test('what is refused after another engine has taken over stays refused', async () => {
    const detached = Promise.withResolvers<string[]>();
    const down = end.down(() => detached.promise);
    end.replaced(another);
    detached.reject(another);
    await expect(down).rejects.toBe(another);
    expect(end.isNear).toBe(true);
  });
});

describe('signals', () => {
  test('end the engine also where mounts stay; then they are not listened to any more', async () => {
    openAll();
    end.obeySignals(() => Promise.reject(new Error('in use')));
    signal?.();
    await end.over;
    expect(closed).toHaveLength(STEPS.length);
    expect(signal).toBeUndefined();
  });

  test('change nothing when `down` is at work', async () => {
    let detached = 0;
    end.obeySignals(async () => void (detached += 1));
    await end.down(nothingInUse);
    signal?.();
    await end.over;
    expect(detached).toBe(0);
  });
});

describe('an end that takes too long', () => {
  const stuck = () => new Promise<void>(() => {});

  test('is cut short: what waits fails, and every process is killed', async () => {
    end.atCut(() => told.push('cut'));
    end.at('connections', stuck);
    await end.down(nothingInUse);
    await new Promise((resolve) => setImmediate(resolve));
    clock.turn(29_999);
    expect(told).toEqual([]);
    clock.turn(1);
    expect(told).toEqual(['cut', 'kill']);
  });

  test('counts from the signal on, with the time for the mounts', () => {
    end.obeySignals(stuck);
    signal?.();
    clock.turn(30_000);
    expect(told).toEqual(['kill']);
  });

  test('of a failed start is told, and nothing is killed', async () => {
    const reason = new Error('no NATS');
    end.at('readers', stuck);
    end.failed(reason);
    await new Promise((resolve) => setImmediate(resolve));
    clock.turn(10_000);
    await expect(end.over).rejects.toBe(reason);
    expect(told).toEqual([]);
  });
});

test('a start that fails since another engine has taken over ends with that reason', async () => {
  end.replaced(another);
  end.failed(new Error('the connection is closed'));
  await expect(end.over).rejects.toBe(another);
});
