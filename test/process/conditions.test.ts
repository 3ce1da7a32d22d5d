/** What is wrong, as `status` and the log hear of it. */
import { pino } from 'pino';
import { expect, test } from 'vitest';
import { Conditions } from '../../src/process/conditions.ts';

function bench() {
  const lines: string[] = [];
  let now = 0;
  const log = pino({ level: 'info' }, { write: (line: string) => void lines.push(JSON.parse(line).msg) });
  const conditions = new Conditions(log, () => now);
  return { conditions, lines, wait: (ms: number) => (now += ms) };
}

test('a condition is in the log when it begins, says something else, and ends', () => {
  const { conditions, lines } = bench();
  conditions.set('nats', 'NATS is away');
  conditions.set('nats', 'NATS is away');
  conditions.set('nats', 'NATS takes no events');
  conditions.clear('nats');
  conditions.clear('nats');
  expect(lines).toEqual(['NATS is away', 'NATS takes no events', 'over']);
  expect(conditions.list()).toEqual([]);
});

test('one that comes and goes with other figures is in the log once a minute, in the status as it is', () => {
  const { conditions, lines, wait } = bench();
  for (let bytes = 1; bytes <= 1_200; bytes++) {
    conditions.set('cache', `the cache holds ${bytes} bytes`);
    expect(conditions.list()).toEqual([`the cache holds ${bytes} bytes`]);
    if (bytes % 2 === 0) conditions.clear('cache');
    wait(100);
  }
  expect(lines).toEqual(['the cache holds 1 bytes', 'over', 'the cache holds 601 bytes', 'over']);
});
