/** When an engine sends the trace of a start, by its clock; a collector takes it. */
import { setImmediate as turn } from 'node:timers/promises';
import { pino } from 'pino';
import { afterEach, expect, test } from 'vitest';
import { Counts } from '../../actors/counts.ts';
import { emptyNode } from '../../actors/node-state.ts';
import type { LogRecord } from '../../src/store/event-log.ts';
import { End } from '../../src/supervisor/end.ts';
import type { SupervisorPorts } from '../../src/supervisor/ports.ts';
import { sendTraces } from '../../src/supervisor/start/traces.ts';
import { tracesChoice } from '../../src/traces/settings.ts';
import { eventually } from '../support/engine.ts';
import { HandClock } from '../support/hand-clock.ts';
import { startCollector } from '../support/otlp.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

const MANIFEST = `sha256:${'c'.repeat(64)}`;
/** The time at which it begins, ms since the epoch. */
const T = 1_700_000_000_000;

test('a start is sent when no read of it can come any more; a younger one when the engine ends', async () => {
  const collector = await startCollector(cleanup);
  const clock = new HandClock();
  clock.turn(T);
  const log = pino({ level: 'silent' });
  const self = { pid: 1, host: 'h', onSignal: () => () => {}, exit: () => {}, kill: () => {} };
  const end = new End({ log, ports: { clock, self } });
  let listener: ((record: LogRecord) => void) | undefined;
  sendTraces({
    options: { node: 'n1', traces: tracesChoice({ traces: collector.url }, {}).settings },
    live: {
      state: emptyNode(),
      listen: (take) => {
        listener = take;
        return () => {};
      },
    },
    counts: new Counts(),
    log,
    end,
    ports: { clock } as unknown as SupervisorPorts,
  });
  let seq = 0;
  const mounted = (id: string) => {
    const base = { v: 1, at: clock.wallMs() };
    const asked = { id, dir: '/mnt', ref: 'app:1', manifest: MANIFEST, prefetch: false, asked: base.at };
    for (const event of [
      { ...base, ...asked, type: 'mount.requested' },
      { ...base, type: 'mount.mounted' },
    ])
      listener?.({ seq: ++seq, subject: `cofa.v1.n1.event.mount.${id}`, event } as unknown as LogRecord);
  };
  const sent = () =>
    collector.spans.filter(({ name }) => name === 'start').map(({ attributes }) => attributes['cofa.mount']);

  mounted('first');
  clock.turn(20_000);
  mounted('second');
  // A read waits 30 s at most, and is told of some seconds later.
  const timers = clock.alarms;
  clock.turn(14_000);
  await turn();
  expect(clock.alarms).toBe(timers);
  clock.turn(2_000);
  await eventually('spans are gathered', () => clock.alarms > timers);
  clock.turn(5_000);
  await eventually('the first one is sent', () => sent().length > 0);
  expect(sent()).toEqual(['first']);
  await end.down(async () => []);
  await end.over;
  expect(sent()).toEqual(['first', 'second']);
  expect(collector.flaws).toEqual([]);
});
