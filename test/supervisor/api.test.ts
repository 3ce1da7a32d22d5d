import { headers, type NatsConnection } from '@nats-io/nats-core';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Mount } from '../../schemas/api.ts';
import { CofaError } from '../../schemas/errors.ts';
import { subjects } from '../../schemas/subjects.ts';
import { connectBus, decode, encode } from '../../src/bus/connection.ts';
import { type Handlers, serveApi } from '../../src/supervisor/api.ts';
import { type NatsServer, startNats } from '../support/services.ts';

const names = subjects('api-test');
const digest = `sha256:${'0'.repeat(64)}`;
const mounted = (dir: string, prefetch: boolean): Mount => ({
  id: prefetch ? 'with' : 'without',
  dir,
  ref: 'r',
  manifest: digest,
  config: digest,
  configPath: '/c',
  origin: 'node',
  trust: 'proven',
  state: 'mounted',
});
const handlers: Handlers = {
  status: async () => {
    throw new Error('a defect');
  },
  mount: async ({ dir, prefetch }, onProgress) => {
    onProgress({ phase: 'index', done: 1, total: 2 });
    return mounted(dir, prefetch);
  },
  unmount: async ({ dir }) => {
    throw new CofaError('busy', `${dir} is in use`, { hint: 'leave it' });
  },
  chain: async () => ({}),
  admit: async () => ({ admitted: true }),
  expect: async () => ({}),
  prune: async () => ({ images: [], layers: 0, freedBytes: 0, usedBytes: 0 }),
  remove: async () => ({ images: [], layers: 0, freedBytes: 0, usedBytes: 0 }),
  scrub: async () => {
    throw new CofaError('busy', 'a scrub is running');
  },
  'scrub-stop': async () => ({ stopped: true }),
  'podman-add': async () => {
    throw new CofaError('unsupported', 'no container image');
  },
  'podman-remove': async ({ ref }) => ({ ref, manifest: digest, left: [] }),
  upgrade: async () => ({ frontEnd: { from: 1, to: 2, pauseMs: 3 }, fetchers: 2 }),
  down: async () => ({ stopping: true }),
};
let server: NatsServer;
let bus: NatsConnection;

beforeAll(async () => {
  server = await startNats({ jetstream: false });
  bus = await connectBus({ url: server.url }, { name: 'test' });
  serveApi({ bus, names, handlers, log: pino({ level: 'silent' }) });
  await bus.flush();
});
afterAll(async () => {
  await bus?.close();
  await server?.stop();
});

const call = async (operation: string, body: unknown) =>
  (await bus.request(names.api(operation), typeof body === 'string' ? body : JSON.stringify(body))).json();

describe('API over NATS', () => {
  test('JSON in, JSON out, defaults filled in', async () => {
    expect(await call('mount', { ref: 'r', dir: '/d' })).toEqual({ ok: true, result: mounted('/d', true) });
  });

  test('a request that is larger than any is refused before it is read', async () => {
    const request = { ref: 'r', dir: `/${'d'.repeat(600_000)}` };
    for (const type of ['application/msgpack', 'application/json']) {
      const head = headers();
      head.set('Content-Type', type);
      const isMsgpack = type.endsWith('msgpack');
      const body = isMsgpack ? encode(request) : JSON.stringify(request);
      const reply = await bus.request(names.api('mount'), body, { timeout: 60_000, headers: head });
      expect(isMsgpack ? decode(reply.data) : reply.json()).toMatchObject({
        ok: false,
        error: {
          code: 'invalid-argument',
          message: expect.stringMatching(/has 6\d{5} bytes; 524288 are read/),
        },
      });
    }
  });

  test('msgpack by header, in both directions', async () => {
    const head = headers();
    head.set('Content-Type', 'application/msgpack');
    const reply = await bus.request(names.api('mount'), encode({ ref: 'r', dir: '/d', prefetch: false }), {
      headers: head,
      timeout: 60_000,
    });
    expect(reply.headers?.get('Content-Type')).toBe('application/msgpack');
    expect(decode(reply.data)).toEqual({ ok: true, result: mounted('/d', false) });
  });

  test('an empty body is an empty request', async () => {
    expect(await call('down', '')).toEqual({ ok: true, result: { stopping: true } });
  });

  test('an error keeps its code and hint; a defect becomes internal', async () => {
    expect(await call('unmount', { dir: '/d' })).toEqual({
      ok: false,
      error: { code: 'busy', message: '/d is in use', hint: 'leave it' },
    });
    expect(await call('status', {})).toMatchObject({ ok: false, error: { code: 'internal' } });
  });

  test.each([
    ['a path that is not absolute', { ref: 'r', dir: 'd' }],
    ['a NUL in a path', { ref: 'r', dir: '/d\0x' }],
    ['an unknown field', { ref: 'r', dir: '/d', privileged: true }],
    ['a missing reference', { dir: '/d' }],
    ['no object', 'null'],
    ['no JSON', '{'],
  ])('%s is refused as invalid-argument', async (_, body) => {
    expect(await call('mount', body)).toMatchObject({ ok: false, error: { code: 'invalid-argument' } });
  });

  test('what is wrong with a request is said in few words, however long the request is', async () => {
    const fields = Object.fromEntries(Array.from({ length: 1_000 }, (_, n) => [`${n}${'x'.repeat(200)}`, 1]));
    const reply = (await call('mount', { ref: 'r', dir: '/d', ...fields })) as { error: { message: string } };
    expect(reply.error.message).toMatch(/^mount: .*Unrecognized keys: .*…$/);
    expect(reply.error.message.length).toBeLessThan(1_100);
  });

  test('progress goes to the token of the call, and a token that is no token gets none', async () => {
    const seen: unknown[] = [];
    bus.subscribe(names.progress('*'), {
      callback: (_, message) => void seen.push([message.subject, message.json()]),
    });
    for (const token of ['abc', 'a.b', '>']) {
      const head = headers();
      head.set('Cofa-Progress', token);
      await bus.request(names.api('mount'), JSON.stringify({ ref: 'r', dir: '/d' }), {
        headers: head,
        timeout: 60_000,
      });
    }
    await bus.flush();
    expect(seen).toEqual([[names.progress('abc'), { phase: 'index', done: 1, total: 2 }]]);
  });
});
