/** The operator changes the file of users with limited rights while the engine runs. A real nats-server. */
import { rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { NatsConnection } from '@nats-io/nats-core';
import pino from 'pino';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Reply } from '../../schemas/errors.ts';
import { subjects } from '../../schemas/subjects.ts';
import { type BusAddress, connectBus } from '../../src/bus/connection.ts';
import { readRights } from '../../src/bus/rights-file.ts';
import { Conditions } from '../../src/process/conditions.ts';
import { startNats } from '../../src/process/nats-server.ts';
import { realPorts } from '../../src/process/ports.ts';
import { Layout } from '../../src/store/layout.ts';
import { type Handlers, serveApi } from '../../src/supervisor/api.ts';
import { UserCalls } from '../../src/supervisor/user-calls.ts';
import { UserRights } from '../../src/supervisor/user-rights.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());
const log = pino({ level: 'silent' });
const names = subjects('node');
const conditions = new Conditions(log);
let path: string;
let addresses: Record<string, BusAddress>;
let rights: UserRights;
let called = 0;
let pruning = 0;
let release = () => {};
const held = new Promise<void>((resolve) => {
  release = resolve;
});

const mine = { operations: ['status'], images: ['*'] };
const write = async (users: object | string) => {
  const text = typeof users === 'string' ? users : JSON.stringify({ v: 1, users });
  await writeFile(`${path}.new`, text, { mode: 0o600 });
  await rename(`${path}.new`, path);
};
const open = async (user: string) => {
  const bus = await connectBus(addresses[user] as BusAddress, { name: user, reconnect: false });
  cleanup.defer(() => bus.close());
  return bus;
};
/** `ok`, or the error's code. */
const call = async (bus: NatsConnection, user: string, operation: string) => {
  const answer = await bus.request(names.userApi(user, operation), '{}', { timeout: 60_000 });
  const reply = answer.json<Reply>();
  return reply.ok ? 'ok' : reply.error.code;
};

beforeAll(async () => {
  const folder = await cleanup.tempDir('user-rights');
  const layout = new Layout(folder);
  await layout.prepare();
  path = join(folder, 'users.json');
  await write({ ci: { ...mine, operations: ['status', 'prune'] }, other: mine });
  const first = await readRights(path);
  const nats = await startNats(layout, undefined, {}, first);
  cleanup.defer(() => nats.child.stop());
  addresses = nats.apiUsers;
  rights = new UserRights({
    path,
    first,
    apply: async (now) => void (addresses = await nats.setRights(now)),
    conditions,
    clock: realPorts().clock,
  });
  cleanup.defer(() => rights.close());
  const bus = await connectBus(nats.users.supervisor, { name: 'test', reconnect: false });
  cleanup.defer(() => bus.close());
  const handlers = {
    status: async () => {
      called += 1;
      return { mounts: [], images: [], degraded: [] };
    },
    prune: async () => {
      pruning += 1;
      await held;
    },
  } as unknown as Handlers;
  const userCalls = new UserCalls({
    users: () => rights.now(),
    policy: 'own',
    dirs: () => [],
    now: () => performance.now(),
  });
  serveApi({ bus, names, handlers, log, userCalls });
});

test('a user that is taken out while its calls run has no further one, nor a connection; others notice nothing', async () => {
  const known = addresses['ci'] as BusAddress;
  const [ci, other] = await Promise.all([open('ci'), open('other')]);
  const running = ci
    .request(names.userApi('ci', 'prune'), '{}', { timeout: 60_000 })
    .catch(() => 'no answer');
  await expect.poll(() => pruning).toBe(1);
  expect(await call(ci, 'ci', 'status')).toBe('ok');

  await write({ other: mine });
  const before = called;
  // NATS hears of it after the engine: until then the call reaches the engine, which refuses it.
  expect(['forbidden', 'closed']).toContain(await call(ci, 'ci', 'status').catch(() => 'closed'));
  expect(called).toBe(before);
  expect(await call(other, 'other', 'status')).toBe('ok');
  await expect.poll(() => ci.isClosed()).toBe(true);
  await expect(connectBus(known, { name: 'ci', reconnect: false })).rejects.toThrow();
  expect(addresses).not.toHaveProperty('ci');
  release();
  expect(await running).toBe('no answer');
  expect(await call(other, 'other', 'status')).toBe('ok');
});

test('a new user can call, and an old one gets what it may more', async () => {
  await write({ other: { ...mine, operations: ['status', 'prune'] }, late: mine });
  await expect.poll(() => addresses['late']).toBeDefined();
  expect(
    await expectTo(
      () => open('late'),
      (bus) => call(bus, 'late', 'status'),
    ),
  ).toBeDefined();
  expect(
    await expectTo(
      () => open('other'),
      (bus) => call(bus, 'other', 'prune'),
    ),
  ).toBeDefined();
});

test('a file that is broken gives no one a right and says so, until it is put right', async () => {
  const late = await open('late');
  await write('{');
  await expect(call(late, 'late', 'status')).resolves.toBe('forbidden');
  expect(conditions.list()).toEqual([expect.stringContaining('is not JSON')]);
  await write({ late: mine });
  await expectTo(
    () => open('late'),
    (bus) => call(bus, 'late', 'status'),
  );
  expect(conditions.list()).toEqual([]);
});

/** A connection on which the call is carried out, as soon as NATS has heard of the change. */
async function expectTo(
  opened: () => Promise<NatsConnection>,
  ask: (bus: NatsConnection) => Promise<string>,
): Promise<NatsConnection> {
  for (let tries = 0; ; tries++) {
    try {
      const bus = await opened();
      expect(await ask(bus)).toBe('ok');
      return bus;
    } catch (error) {
      if (tries === 50) throw error;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
}
