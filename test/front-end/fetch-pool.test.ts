/** The front end's side of the pool of fetchers: what it tells them over NATS. */
import type { NatsConnection } from '@nats-io/nats-core';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import type { EndCompletion, FetcherHello, Job, JobWord } from '../../schemas/fetch.ts';
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
  const completed = (completion: EndCompletion) =>
    callbacks.get(names.completion)?.(null, { data: encode(completion) });
  return { pool: made, hello, told, completed };
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

test('a job that was cancelled gives its slot back when its fetcher says that it has stopped', () => {
  const { pool: made, hello, told, completed } = pool();
  const order = { kind: 'fetch', class: 'demand', layer, runs: [[0, 1]], source } as const;
  hello();
  const jobs = [1, 2, 3, 4].map(() => made.submit(order, listener));
  const next = made.submit(order, listener);
  made.cancel(jobs[0] as number);
  const isSent = () => told.some((message) => message.kind === 'fetch' && message.job === next);
  expect([told.at(-1)?.kind, isSent()]).toEqual(['stop', false]);
  const error = { code: 'unavailable', message: 'the job was stopped' } as const;
  const head = { v: 1, front: 'front', worker: 'w', job: jobs[0] as number, layer } as const;
  completed({ ...head, kind: 'failed', bytes: 0, error, retryable: true });
  expect(isSent()).toBe(true);
  made.close();
});
