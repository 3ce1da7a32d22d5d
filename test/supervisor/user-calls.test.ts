/** Users with limited rights on a real nats-server: who they are, what they may call, and what they get. */
import { mkdir, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { headers, type NatsConnection } from '@nats-io/nats-core';
import pino from 'pino';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Status } from '../../schemas/api.ts';
import type { Reply } from '../../schemas/errors.ts';
import { RightsFile } from '../../schemas/rights.ts';
import { subjects } from '../../schemas/subjects.ts';
import { connectBus } from '../../src/bus/connection.ts';
import { startNats } from '../../src/process/nats-server.ts';
import { Layout } from '../../src/store/layout.ts';
import { type Handlers, serveApi } from '../../src/supervisor/api.ts';
import { UserCalls } from '../../src/supervisor/user-calls.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());
const names = subjects('node');
const bus = {} as Record<'ci' | 'other' | 'api' | 'snapshotter', NatsConnection>;
let folder: string;
let inboxOf: Record<string, string>;
/** What handlers were called with. */
const called: unknown[] = [];
/** A mount of this reference goes on until it is released. */
let release = () => {};
const held = new Promise<void>((resolve) => {
  release = resolve;
});

let slow = Promise.resolve();
/** Of the log. */
let lines = 0;

const STATUS = {
  mounts: [{ dir: 'OWN' }, { dir: '/mnt/foreign/a' }],
  images: [
    { ref: 'debian:12' },
    { ref: 'registry.example/secret/app:1' },
    { ref: 'debian:12 (1 of 2 layers)' },
  ],
  degraded: ['the sidecar of registry.example/secret/app:1 is refuted'],
};

const handlers = {
  status: async () =>
    ({
      ...STATUS,
      mounts: [{ dir: join(folder, 'mine/a') }, ...STATUS.mounts.slice(1)],
    }) as unknown as Status,
  mount: async (request: { ref: string }, onProgress: (progress: object) => void) => {
    called.push(request);
    onProgress({ phase: 'mount' });
    if (request.ref === 'debian:held') await held;
    if (request.ref === 'debian:slow') await slow;
    return { mounted: true };
  },
  unmount: async (request: unknown) => called.push(request),
  remove: async () => ({}),
  down: async () => called.push('down'),
  'scrub-stop': () => new Promise(() => {}),
} as unknown as Handlers;

beforeAll(async () => {
  folder = await cleanup.tempDir('users');
  await mkdir(join(folder, 'mine'));
  const layout = new Layout(folder);
  await layout.prepare();
  const mine = {
    operations: ['mount', 'unmount', 'status', 'remove'],
    dirs: [join(folder, 'mine')],
    images: ['docker.io/library/debian'],
    seconds: 2,
    calls: 2,
  };
  const { users } = RightsFile.parse({
    v: 1,
    users: { ci: mine, other: { operations: ['mount', 'events'] } },
  });
  const nats = await startNats(layout, undefined, {}, users);
  cleanup.defer(() => nats.child.stop());
  inboxOf = Object.fromEntries(Object.entries(nats.apiUsers).map(([name, { inbox }]) => [name, inbox ?? '']));
  const open = async (address: (typeof nats.users)['api']) => {
    const opened = await connectBus(address, { name: 'test', reconnect: false });
    cleanup.defer(() => opened.close());
    return opened;
  };
  const userCalls = new UserCalls({
    users: async () => users,
    policy: 'own',
    dirs: () => [],
    now: () => performance.now(),
  });
  serveApi({
    bus: await open(nats.users.supervisor),
    names,
    handlers,
    log: pino({}, { write: () => (lines += 1) }),
    userCalls,
    deadline: (operation) => (operation === 'scrub-stop' ? 100 : 60_000),
  });
  for (const name of ['ci', 'other'] as const)
    bus[name] = await open(nats.apiUsers[name] as (typeof nats.users)['api']);
  bus.api = await open(nats.users.api);
  bus.snapshotter = await open(nats.users.snapshotter);
});

const call = async (
  user: 'ci' | 'other',
  operation: string,
  request: object,
  as: string = user,
  timeout = 60_000,
) => {
  const answer = await bus[user].request(names.userApi(as, operation), JSON.stringify(request), {
    timeout,
  });
  const reply = answer.json<Reply>();
  return reply.ok ? 'ok' : reply.error.code;
};
const dir = () => join(folder, 'mine/a');

test('a user calls what it may', async () => {
  expect(await call('ci', 'mount', { ref: 'debian:12', dir: dir() })).toBe('ok');
  expect(called.pop()).toMatchObject({ ref: 'debian:12', dir: dir(), noSymlinks: true });
  expect(await call('ci', 'unmount', { dir: dir() })).toBe('ok');
});

test('outside of its folders and images, with looser trust, or as a container it is refused, and nothing is called', async () => {
  called.length = 0;
  const mount = (more: object) => call('ci', 'mount', { ref: 'debian', dir: dir(), ...more });
  expect(await mount({ dir: '/usr/local/sbin' })).toBe('forbidden');
  expect(await mount({ dir: `${join(folder, 'mine')}/../run` })).toBe('invalid-argument');
  expect(await mount({ ref: 'registry.example/secret/app:1' })).toBe('forbidden');
  expect(await mount({ trust: 'always' })).toBe('forbidden');
  expect(await mount({ container: 'c1' })).toBe('forbidden');
  expect(await mount({ overlay: 'kept' })).toBe('forbidden');
  expect(await mount({ suid: true })).toBe('forbidden');
  expect(await mount({ dev: true })).toBe('forbidden');
  expect(await mount({ dev: false })).toBe('ok');
  expect(called.pop()).toMatchObject({ dev: false });
  expect(await mount({ unknown: 1 })).toBe('invalid-argument');
  await symlink('/usr/local', join(folder, 'mine/link'));
  expect(await mount({ dir: join(folder, 'mine/link/sbin') })).toBe('invalid-argument');
  expect(called).toEqual([]);
});

test('a user cannot call as another, on the subjects of all rights, or what it has no right to', async () => {
  called.length = 0;
  const refused = (subject: string) =>
    expect(bus.ci.request(subject, '{}', { timeout: 300 })).rejects.toThrow();
  await refused(names.userApi('other', 'mount'));
  await refused(names.api('down'));
  await refused(names.userApi('ci', 'down'));
  expect(called).toEqual([]);
});

test('it has its answer only in an inbox of its own, and sees no other progress', async () => {
  const heard: string[] = [];
  const listen = (user: 'ci' | 'other' | 'api', subject: string) =>
    bus[user].subscribe(subject, {
      callback: (error, message) => {
        // One is refused: it is another's.
        if (error === null) heard.push(`${user} ${message.subject}`);
      },
    });
  listen('api', '_INBOX.forged');
  listen('other', `${inboxOf.other}.forged`);
  listen('ci', names.progress('T', 'ci'));
  listen('other', names.progress('T', 'ci'));
  await Promise.all([bus.api.flush(), bus.other.flush(), bus.ci.flush()]);
  const request = JSON.stringify({ ref: 'debian', dir: dir() });
  for (const reply of ['_INBOX.forged', `${inboxOf.other}.forged`, 'cofa.v1.node.event.layer.x'])
    bus.ci.publish(names.userApi('ci', 'mount'), request, { reply });
  const head = headers();
  head.set('Cofa-Progress', 'T');
  await bus.ci.request(names.userApi('ci', 'mount'), request, { timeout: 60_000, headers: head });
  await Promise.all([bus.api.flush(), bus.other.flush(), bus.ci.flush()]);
  expect(heard).toEqual([`ci ${names.progress('T', 'ci')}`]);
});

test('an image that another name or an id may mean is not removed', async () => {
  expect(await call('ci', 'remove', { ref: 'debian:12' })).toBe('ok');
  const digest = 'ab'.repeat(32);
  for (const ref of [`debian@sha256:${digest}`, `sha256:${digest}`, 'abcdef', 'alpine'])
    expect(await call('ci', 'remove', { ref }), ref).toBe('forbidden');
});

test('status shows its own mounts and images alone', async () => {
  const answer = await bus.ci.request(names.userApi('ci', 'status'), '{}', { timeout: 60_000 });
  expect(answer.json<{ result: unknown }>().result).toEqual({
    mounts: [{ dir: join(folder, 'mine/a') }],
    images: [{ ref: 'debian:12' }],
    degraded: ['the engine is degraded'],
  });
});

test('a call that does not end in time is a timeout, and counts until its work has ended', async () => {
  let end = () => {};
  slow = new Promise<void>((resolve) => {
    end = resolve;
  });
  const hanging = [1, 2].map((n) => call('ci', 'mount', { ref: 'debian:slow', dir: `${dir()}${n}` }));
  expect(await Promise.all(hanging)).toEqual(['timeout', 'timeout']);
  expect(await call('ci', 'mount', { ref: 'debian', dir: dir() })).toBe('busy');
  end();
  await expect.poll(() => call('ci', 'mount', { ref: 'debian', dir: dir() })).toBe('ok');
  // Those with all rights have deadlines as well.
  const answer = await bus.api.request(names.api('scrub-stop'), '{}', { timeout: 60_000 });
  expect(answer.json<Reply>()).toMatchObject({ ok: false, error: { code: 'timeout' } });
});

test('a request that is too large is refused before it is read', async () => {
  expect(await call('ci', 'status', { ref: 'x'.repeat(70_000) })).toBe('invalid-argument');
  const answer = await bus.ci.request(names.userApi('ci', 'status'), 'x'.repeat(70_000), { timeout: 60_000 });
  expect(answer.json<{ error: unknown }>().error).toMatchObject({
    message: expect.stringContaining('bytes'),
  });
});

test('a client that holds all calls of `api` does not lock the snapshotter out', async () => {
  let end = () => {};
  slow = new Promise<void>((resolve) => {
    end = resolve;
  });
  const request = JSON.stringify({ ref: 'debian:slow', dir: dir() });
  const held = Array.from({ length: 1_000 }, () =>
    bus.api.request(names.api('mount'), request, { timeout: 60_000 }),
  );
  const status = async (user: 'api' | 'snapshotter') => {
    const answer = await bus[user].request(names.api('status'), '{}', { timeout: 60_000 });
    const reply = answer.json<Reply>();
    return reply.ok ? 'ok' : reply.error.code;
  };
  await expect.poll(() => status('api')).toBe('busy');
  expect(await status('snapshotter')).toBe('ok');
  end();
  await Promise.all(held);
  expect(await status('api')).toBe('ok');
});

test('a flood of refused requests fills no log, and other users are answered', async () => {
  lines = 0;
  const began = performance.now();
  const request = JSON.stringify({ ref: 'debian', dir: '/usr/local/sbin' });
  const flood = Array.from({ length: 2_000 }, async () => {
    const answer = await bus.ci.request(names.userApi('ci', 'mount'), request, { timeout: 60_000 });
    return answer.json<{ error: { code: string } }>().error.code;
  });
  const free = await bus.snapshotter.request(names.api('status'), '{}', { timeout: 60_000 });
  expect(free.json<Reply>().ok).toBe(true);
  const codes = await Promise.all(flood);
  const seconds = Math.ceil((performance.now() - began) / 1000) + 1;
  expect(codes.filter((code) => code !== 'busy').length).toBeLessThanOrEqual(100 * seconds);
  expect(lines).toBeLessThanOrEqual(seconds);
  await expect.poll(() => call('ci', 'status', {})).toBe('ok');
});

test('calls that hang take no place of others', async () => {
  const hanging = [1, 2].map((n) => call('ci', 'mount', { ref: 'debian:held', dir: `${dir()}${n}` }));
  await expect
    .poll(() => called.filter((one) => (one as { ref?: string }).ref === 'debian:held').length)
    .toBe(2);
  expect(await call('ci', 'mount', { ref: 'debian', dir: dir() })).toBe('busy');
  for (const by of [bus.api, bus.snapshotter]) {
    const free = await by.request(names.api('status'), '{}', { timeout: 60_000 });
    expect(free.json<Reply>().ok).toBe(true);
  }
  release();
  expect(await Promise.all(hanging)).toEqual(['ok', 'ok']);
  expect(await call('ci', 'mount', { ref: 'debian', dir: dir() })).toBe('ok');
});
