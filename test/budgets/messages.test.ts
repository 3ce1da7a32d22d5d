/**
 * Messages between the processes of an engine, drawn at random and spoilt: what is none is passed over, whatever it is, and
 * what is one is taken.
 */
import type { Msg, NatsConnection } from '@nats-io/nats-core';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { isCompletion, isFetcherHello, isJob } from '../../schemas/check-fetch.ts';
import type { Completion, FetcherHello, Job, JobWord } from '../../schemas/fetch.ts';
import { subjects } from '../../schemas/subjects.ts';
import { decodeIfSound, encode } from '../../src/bus/connection.ts';
import { FetchPool } from '../../src/front-end/fetch-pool.ts';
import { Conditions } from '../../src/process/conditions.ts';
import { createLog } from '../../src/process/log.ts';
import { realPorts } from '../../src/process/ports.ts';
import { routeNotices } from '../../src/supervisor/notices.ts';

const digest = fc
  .uint8Array({ minLength: 32, maxLength: 32 })
  .map((bytes) => `sha256:${Buffer.from(bytes).toString('hex')}`);
const name = fc.string({ maxLength: 30 });
const block = fc.nat(1_000_000);
const count = fc.integer({ min: 1, max: 1_000 });
const pairs = fc.array(fc.tuple(block, count), { maxLength: 5 });
const starts = fc.array(fc.tuple(fc.nat(10), block, count), { maxLength: 5 });
const blob = { registry: name, repository: name, digest, size: fc.nat() };
const layers = fc.array(fc.record({ diffId: digest, blob: digest }), { maxLength: 3 });
const head = {
  v: fc.constant(1 as const),
  job: fc.integer({ min: 1 }),
  front: name,
  layer: fc.oneof(digest, fc.constant('')),
};
const kind = <const Kind extends string>(one: Kind) => ({ kind: fc.constant(one) });
const set = fc.record({ devices: fc.array(digest, { maxLength: 3 }), runs: starts });

const jobs: fc.Arbitrary<Job | JobWord> = fc.oneof(
  fc.record({
    ...head,
    ...kind('fetch'),
    class: fc.constantFrom('demand', 'prefetch'),
    runs: pairs,
    source: fc.record(blob),
  }),
  fc.record({ ...head, ...kind('verify'), size: fc.nat() }),
  fc.record({ ...head, ...kind('scrub'), blob: digest, ranges: pairs }),
  fc.record({ ...head, ...kind('record'), manifest: digest, start: name, repository: name, layers, set }),
  fc.record({
    ...head,
    ...kind('pack'),
    manifest: digest,
    layers,
    pack: fc.record({ ...kind('registry'), ...blob }),
  }),
  fc.record({
    ...head,
    ...kind('pack'),
    manifest: digest,
    layers,
    pack: fc.record({ ...kind('nats'), name, size: fc.nat() }),
  }),
  fc.record({ ...head, ...kind('stop') }),
  fc.record({ ...head, ...kind('hold'), ms: fc.nat() }),
);
const answer = { ...head, worker: name };
const end = {
  ...answer,
  bytes: fc.nat(),
  times: fc.record({ firstByteUs: fc.nat(), fetchUs: fc.nat(), decodeUs: fc.nat(), writeUs: fc.nat() }),
};
const completions: fc.Arbitrary<Completion> = fc.oneof(
  fc.record({ ...answer, ...kind('blocks'), firstBlock: block, count, bytes: fc.nat() }),
  fc.record({
    ...answer,
    ...kind('blocks'),
    firstBlock: block,
    count,
    bytes: fc.nat(),
    more: fc.array(fc.tuple(digest, block, count), { maxLength: 4 }),
  }),
  fc.record({ ...answer, ...kind('pack'), devices: fc.array(digest, { maxLength: 3 }), runs: starts }),
  fc.record({ ...end, ...kind('done') }),
  fc.record({
    ...end,
    ...kind('failed'),
    error: fc.record({ code: fc.constant('no-space' as const), message: name }),
    retryable: fc.boolean(),
  }),
);
const hellos: fc.Arbitrary<FetcherHello> = fc.record({
  v: fc.constant(1 as const),
  worker: name,
  pid: fc.integer({ min: 1, max: 4_000_000 }),
  slots: fc.nat(64),
});

/** What no process says: anything in the place of one field, or a number that goes on for ever. */
const spoilt = (message: object): fc.Arbitrary<unknown> =>
  fc
    .tuple(
      fc.constantFrom(...Object.keys(message)),
      fc.oneof(fc.anything(), fc.constantFrom(2 ** 50, -1, 0.5, [[0, 2 ** 50]], [[0, 0, 2 ** 50]])),
    )
    .map(([field, value]) => ({ ...message, [field]: value }));

describe('messages of the pool of fetchers', () => {
  test('are taken as they are sent', () => {
    fc.assert(fc.property(jobs, (job) => isJob(decodeIfSound(encode(job)))));
    fc.assert(fc.property(completions, (completion) => isCompletion(decodeIfSound(encode(completion)))));
    fc.assert(fc.property(hellos, (hello) => isFetcherHello(decodeIfSound(encode(hello)))));
  });

  test('with a run that goes on without end are none', () => {
    const head = { v: 1, job: 1, front: 'f', worker: 'w', layer: `sha256:${'0'.repeat(64)}` };
    expect(isCompletion({ ...head, kind: 'blocks', firstBlock: 0, count: 2 ** 50, bytes: 0 })).toBe(false);
    expect(isCompletion({ ...head, kind: 'pack', devices: [head.layer], runs: [[0, 0, 2 ** 50]] })).toBe(
      false,
    );
    const runs = Array.from({ length: 1_000 }, (_, at) => [0, at, 2 ** 20]);
    expect(isCompletion({ ...head, kind: 'pack', devices: [head.layer], runs })).toBe(false);
    expect(isCompletion({ ...head, kind: 'done', bytes: 0, bad: [[0, 2 ** 50]] })).toBe(false);
  });
});

/** A bus whose messages come from the test. */
function bus() {
  const callbacks = new Map<string, (error: Error | null, message: Msg) => void>();
  const subscribe: NatsConnection['subscribe'] = (subject, options) => {
    callbacks.set(subject, options?.callback as (error: Error | null, message: Msg) => void);
    return {} as ReturnType<NatsConnection['subscribe']>;
  };
  const connection = { subscribe, publish: () => {} } as Partial<NatsConnection> as NatsConnection;
  const come = (subject: string, data: Uint8Array) =>
    callbacks.get(subject)?.(null, { subject, data } as Msg);
  return { connection, come };
}

const bytesOf = (message: object) =>
  fc.oneof(
    spoilt(message).map((value) => encode(value)),
    fc.uint8Array({ maxLength: 100 }).map((bytes) => Buffer.from(bytes)),
    fc.nat(10_000).map((depth) => Buffer.alloc(depth, 0x91)),
    fc.nat(50).map((at) => encode(message).subarray(0, at)),
  );

test('no message ends a front end, and none is waited for', () => {
  const { connection, come } = bus();
  const names = subjects('node', 1);
  const pool = new FetchPool({
    bus: connection,
    names,
    front: 'front',
    clock: realPorts().clock,
    log: createLog('test', 'silent'),
    root: '/nonexistent',
    conditions: new Conditions(createLog('test', 'silent')),
    ownFetcher: () => ({ send: () => {}, close: () => {} }),
    machine: { pressure: () => undefined, setPriority: () => {} },
  });
  try {
    const source = { registry: 'r', repository: 'r', digest: `sha256:${'0'.repeat(64)}`, size: 1 };
    const order = { kind: 'fetch', class: 'demand', layer: source.digest, runs: [[0, 1]], source } as const;
    const heard: number[] = [];
    const job = pool.submit(order, { blocks: (_, count) => void heard.push(count), end: () => {} });
    const mine = completions.map((completion) => ({ ...completion, front: 'front', job }));
    fc.assert(
      fc.property(mine.chain(bytesOf), (bytes) => come(names.completion, bytes)),
      { numRuns: 500 },
    );
    fc.assert(
      fc.property(hellos.chain(bytesOf), (bytes) => come(names.hello, bytes)),
      { numRuns: 300 },
    );
    for (const count of heard) expect(count).toBeLessThanOrEqual(2 ** 24);
  } finally {
    pool.close();
  }
});

test('no notice ends a supervisor', () => {
  const { connection, come } = bus();
  const names = subjects('node', 1);
  const heard: unknown[] = [];
  const hear = (notice: { diffId: string }) => void heard.push(notice.diffId);
  routeNotices(connection, names, {
    whole: hear,
    complete: hear,
    'take-back': hear,
    astray: hear,
    checked: hear,
    corrupt: hear,
  });
  const notices = fc.record({
    kind: fc.constantFrom('whole', 'corrupt', 'toString'),
    diffId: digest,
    message: name,
  });
  fc.assert(
    fc.property(notices.chain(bytesOf), (bytes) => come(names.notice, bytes)),
    { numRuns: 300 },
  );
  for (const diffId of heard) expect(diffId).toMatch(/^sha256:[0-9a-f]{64}$/);
  const sound = encode({ kind: 'whole', diffId: `sha256:${'1'.repeat(64)}` });
  come(names.notice, sound);
  expect(heard.at(-1)).toBe(`sha256:${'1'.repeat(64)}`);
});
