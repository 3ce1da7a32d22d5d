/** Questions to the front end, their answers, and what other processes answer: what has another shape is not believed. */
import type { Msg, NatsConnection } from '@nats-io/nats-core';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { isFrontReply, isFrontRequest } from '../../schemas/check-front.ts';
import { isReply } from '../../schemas/errors.ts';
import type { FrontCall, FrontReply, FrontRequest } from '../../schemas/front.ts';
import { subjects } from '../../schemas/subjects.ts';
import { ask, decode, encode, serve } from '../../src/bus/connection.ts';

const digest = `sha256:${'ab'.repeat(32)}`;
const other = `sha256:${'01'.repeat(32)}`;
const source = { registry: 'r.test', repository: 'team/app', digest, size: 10 };
const layers = [{ diffId: digest, blob: other, layer: other, table: digest }];
const hints = { devices: [digest], runs: [[0, 1, 2] as const] };

/** One of each, with all its fields. */
const SOUND: { [Call in FrontCall]: { request: FrontRequest<Call>; reply: FrontReply<Call> | null } } = {
  open: {
    request: {
      diffId: digest,
      source,
      table: other,
      content: other,
      size: 70_000,
      others: [{ source, table: digest }],
      prefetch: true,
      limits: [['image', 1_000]],
      built: false,
      direct: true,
    },
    reply: { deviceSize: 70_144, name: 'layer', state: 'lazy', front: 'front-1' },
  },
  close: { request: { diffId: digest }, reply: null },
  start: {
    request: {
      manifest: digest,
      start: 'default',
      repository: 'r.test/team/app',
      layers,
      pack: { kind: 'registry', ...source },
      ahead: true,
      hints,
      record: true,
    },
    reply: null,
  },
  'handed-over': { request: { diffId: digest }, reply: { state: 'complete' } },
  'take-back': { request: { diffId: digest }, reply: null },
  'taken-back': { request: { diffId: digest }, reply: { state: 'lazy' } },
  'given-up': { request: { diffId: digest }, reply: null },
  needs: { request: { mounts: [digest], images: [other] }, reply: null },
  uses: { request: {}, reply: [{ diffId: digest, bytes: 5, idleMs: 1_000 }] },
  shrink: { request: { keep: 0, dryRun: true }, reply: 7 },
  collect: { request: { needed: [digest], dryRun: false }, reply: { layers: [other], bytes: 9 } },
  scrub: {
    request: { diffId: digest, from: 0, count: 10, ranges: [[1, 2]] },
    reply: { next: 4, blocks: 4, bad: [[1, 1]], kept: [[1, 1]], direct: false, whole: true },
  },
  refetch: {
    request: { diffId: digest, ranges: [[1, 2]] },
    reply: { failure: { code: 'timeout', message: 'late' } },
  },
  scrubbed: {
    request: { diffId: digest, since: 1, blocks: 2, bad: 1, repaired: 1, kept: 0, scope: 'part' },
    reply: 1,
  },
  doubt: { request: { layers: [{ diffId: digest, ranges: [[3, 1]] }] }, reply: null },
  settled: { request: { fronts: ['front-1'] }, reply: null },
  status: {
    request: {},
    reply: {
      layers: [
        {
          diffId: digest,
          content: other,
          state: 'lazy',
          blocks: { absent: 1, fetching: 0, present: 2 },
          bytes: { total: 3, present: 2, fetched: 1 },
          hits: 1,
          misses: 2,
          errors: 0,
        },
      ],
      workers: [{ name: 'fetcher-0', pid: 4, slots: 8, running: 1 }],
      queued: { demand: 0, prefetch: 1 },
      cache: {
        usedBytes: 1,
        metadataBytes: 1,
        limitBytes: null,
        freeBytes: 1,
        reserveBytes: 1,
        evictedBytes: 0,
        prefetch: true,
      },
      degraded: ['a sentence'],
    },
  },
};
const NAMES = Object.keys(SOUND) as FrontCall[];

/** The value with each of its parts, at any depth, in turn replaced. */
function* replaced(value: unknown, by: unknown): Generator<unknown> {
  yield by;
  if (typeof value !== 'object' || value === null) return;
  for (const [name, part] of Object.entries(value) as Array<[string, unknown]>)
    for (const changed of replaced(part, by))
      yield Array.isArray(value)
        ? value.map((one: unknown, at) => (String(at) === name ? changed : one))
        : { ...value, [name]: changed };
}

test.each(NAMES)('%s and its answer are taken as they are sent, and with no part of another type', (call) => {
  const { request, reply } = SOUND[call];
  for (const [sound, isSound] of [
    [request, isFrontRequest(call)],
    [reply, isFrontReply(call)],
  ] as const) {
    expect(isSound(decode(encode(sound)))).toBe(true);
    for (const junk of [Number.NaN, { failure: 1 }, [[[]]], 'x'.repeat(70_000)])
      for (const changed of replaced(sound, junk)) {
        // A question without a field is any object.
        if (typeof changed === 'object' && changed !== null && Object.keys(sound ?? [0]).length === 0)
          continue;
        expect(isSound(changed), JSON.stringify(changed)).toBe(false);
      }
  }
});

test('a run or a list that goes on without end is refused', () => {
  const long = Array.from({ length: 2 ** 18 + 1 }, () => digest);
  expect(isFrontRequest('doubt')({ layers: [{ diffId: digest, ranges: [[0, 2 ** 50]] }] })).toBe(false);
  expect(isFrontRequest('needs')({ mounts: long, images: [] })).toBe(false);
  expect(isFrontReply('collect')({ layers: long, bytes: 0 })).toBe(false);
  expect(isFrontReply('scrub')({ ...SOUND.scrub.reply, next: 2 ** 50 })).toBe(false);
});

/** Both ends of a bus that is this process. */
function bus() {
  let take: ((error: Error | null, message: Msg) => void) | undefined;
  const subscribe: NatsConnection['subscribe'] = (_, options) => {
    take = options?.callback as typeof take;
    return {} as ReturnType<NatsConnection['subscribe']>;
  };
  const request: NatsConnection['request'] = (subject, data) =>
    new Promise((resolve) => {
      const respond = (answer: Uint8Array) => {
        resolve({ data: answer } as Msg);
        return true;
      };
      take?.(null, { subject, data, respond } as Partial<Msg> as Msg);
    });
  return { subscribe, request } as unknown as NatsConnection;
}

describe('between two processes', () => {
  const name = subjects('n', 1).front('refetch');

  test('a question of another shape reaches no handler, and its answer says so', async () => {
    const connection = bus();
    const heard: unknown[] = [];
    serve(connection, name, isFrontRequest('refetch'), (request) => void heard.push(request));
    const noise = fc.oneof(
      fc.anything().map((value) => encode(value)),
      fc.uint8Array({ maxLength: 60 }).map((bytes) => Buffer.from(bytes)),
      fc.nat(9_000).map((depth) => Buffer.alloc(depth, 0x91)),
    );
    await fc.assert(
      fc.asyncProperty(noise, async (bytes) => {
        const { data } = await connection.request(name, bytes);
        expect(decode(data)).toMatchObject({ ok: false, error: { code: 'internal' } });
      }),
      { numRuns: 200 },
    );
    expect(heard).toEqual([]);
    await ask(connection, name, SOUND.refetch.request, (value): value is unknown => value === null);
    expect(heard).toEqual([SOUND.refetch.request]);
  });

  test('an answer of another shape is an error with a way out, and no result', async () => {
    const answers: unknown[] = [];
    const connection = {
      request: async () => ({ data: answers.pop() as Uint8Array }),
    } as unknown as NatsConnection;
    const drawn = fc.oneof(
      fc.anything().map((result) => encode({ ok: true, result })),
      fc.anything().map((error) => encode({ ok: false, error })),
      fc.anything().map((value) => encode(value)),
      fc.uint8Array({ maxLength: 60 }).map((bytes) => Buffer.from(bytes)),
    );
    await fc.assert(
      fc.asyncProperty(drawn, async (bytes) => {
        answers.push(bytes);
        const failure: unknown = await ask(connection, name, {}, isFrontReply('scrub')).then(
          () => 'believed',
          (error: unknown) => error,
        );
        expect(failure).toMatchObject({ code: 'internal' });
      }),
      { numRuns: 300 },
    );
    answers.push(encode({ ok: true, result: { next: 0 } }));
    await expect(ask(connection, name, {}, isFrontReply('scrub'))).rejects.toMatchObject({
      message: `the answer to ${name} has another shape`,
      hint: 'processes of two versions of cofa? cofa down, then cofa up',
    });
  });

  test('an error of a later version is one of this version', async () => {
    const record = { code: 'of-tomorrow', message: 'it went wrong' };
    const connection = {
      request: async () => ({ data: encode({ ok: false, error: record }) }),
    } as unknown as NatsConnection;
    await expect(ask(connection, name, {}, isFrontReply('scrub'))).rejects.toMatchObject({
      code: 'internal',
      message: 'it went wrong',
    });
    expect([isReply({ ok: false }), isReply({ ok: 1 }), isReply(null), isReply({ ok: true })]).toEqual([
      false,
      false,
      false,
      true,
    ]);
  });
});
