/** When the supervisor has the black box look at the log. */
import { setImmediate as turn } from 'node:timers/promises';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import { emptyNode } from '../../actors/node-state.ts';
import type { LogRecord } from '../../src/store/event-log.ts';
import { IncidentWatch } from '../../src/supervisor/incidents/watch.ts';
import { HandClock } from '../support/hand-clock.ts';

const hex = (number: number): string => number.toString(16).padStart(64, '0');

/** Looks, by the time at which they began, ms. */
function watching() {
  const clock = new HandClock();
  const looks: number[] = [];
  let listener: ((record: LogRecord) => void) | undefined;
  const watch = new IncidentWatch({
    order: { root: '/root', bytes: 1, count: 1, slowMs: 0 },
    keep: async () => {
      looks.push(clock.now());
      return { kept: [], lost: 0 };
    },
    isUrgent: false,
    live: {
      state: emptyNode(),
      listen: (take) => {
        listener = take;
        return () => {};
      },
    },
    counts: { add: () => {} },
    clock,
    log: pino({ level: 'silent' }),
  });
  let seq = 0;
  /** Another image is refuted. */
  const refuted = () => {
    seq += 1;
    const event = { v: 1, at: clock.wallMs(), type: 'image.refuted', flat: 'f', sidecar: 's', message: 'm' };
    listener?.({ seq, subject: `cofa.v1.node.event.image.${hex(seq)}`, event } as unknown as LogRecord);
  };
  const pass = async (ms: number) => {
    clock.turn(ms);
    await turn();
  };
  return { watch, looks, refuted, pass };
}

test('a burst is looked at when it is over, once', async () => {
  const { watch, looks, refuted, pass } = watching();
  for (let times = 0; times < 4; times++) {
    refuted();
    await pass(8_000);
  }
  expect(looks).toEqual([]);
  await pass(60_000);
  expect(looks).toEqual([36_500]);
  watch.close();
});

test('failures that do not end are looked at all the same, every two minutes and some seconds', async () => {
  const { watch, looks, refuted, pass } = watching();
  for (let seconds = 0; seconds < 600; seconds += 8) {
    refuted();
    await pass(8_000);
  }
  expect(looks.length).toBeGreaterThanOrEqual(4);
  const pauses = looks.map((at, place) => at - (looks[place - 1] ?? 0));
  expect(Math.max(...pauses)).toBeLessThanOrEqual(145_000);
  watch.close();
});
