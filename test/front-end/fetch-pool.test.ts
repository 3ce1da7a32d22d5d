/** The front end's side of the pool of fetchers: what it tells them over NATS. */
import type { NatsConnection } from '@nats-io/nats-core';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import type { FetcherHello, Job, JobWord } from '../../schemas/fetch.ts';
import { subjects } from '../../schemas/subjects.ts';
import { decode, encode } from '../../src/bus/connection.ts';
import { FetchPool } from '../../src/front-end/fetch-pool.ts';
import { Conditions } from '../../src/process/conditions.ts';
import { HandClock } from '../support/hand-clock.ts';

const layer = `sha256:${'0'.repeat(64)}`;
const source = { registry: 'r', repository: 'r', digest: layer, size: 1 };
const listener = { blocks: () => {}, end: () => {} };

/** A pool, and what it has told the fetcher `w`. */
function pool() {
  const names = subjects('node', 1);
  const told: Array<Job | JobWord> = [];
  const callbacks = new Map<string, (error: null, message: { data: Uint8Array }) => void>();
  const bus = {
    subscribe: (subject: string, { callback }: { callback: () => void }) => callbacks.set(subject, callback),
    publish: (subject: string, data?: Uint8Array) => {
      if (subject === names.job('w') && data !== undefined) told.push(decode(data));
    },
  } as unknown as NatsConnection;
  const log = pino({ level: 'silent' });
  const made = new FetchPool({
    bus,
    names,
    front: 'front',
    clock: new HandClock(),
    log,
    root: '/nonexistent',
    conditions: new Conditions(log),
    ownFetcher: () => ({ send: () => {}, close: () => {} }),
    machine: { pressure: () => undefined, setPriority: () => {} },
  });
  const hello = () => {
    const message: FetcherHello = { v: 1, worker: 'w', pid: 1, slots: 4 };
    callbacks.get(names.hello)?.(null, { data: encode(message) });
  };
  return { pool: made, hello, told };
}

test('a job of prefetch that a reader came to wait for before it was sent is demand for its fetcher, and for the fleet', () => {
  const { pool: made, hello, told } = pool();
  const order = { kind: 'fetch', class: 'prefetch', layer, runs: [[0, 1]], source } as const;
  const [read] = [made.submit(order, listener, { rest: 1 }), made.submit(order, listener, { rest: 1 })];
  made.promote(read);
  hello();
  const classes = told.flatMap((job) => (job.kind === 'fetch' ? [[job.job, job.class]] : []));
  expect(classes).toEqual([
    [read, 'demand'],
    [read + 1, 'prefetch'],
  ]);
  made.close();
});
