/** What `status` says of NATS ends when NATS answers. */
import { EventEmitter, on } from 'node:events';
import type { NatsConnection, Status } from '@nats-io/nats-core';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import type { BusUsers } from '../../src/bus/roles.ts';
import { Conditions } from '../../src/process/conditions.ts';
import { followBus } from '../../src/supervisor/start/bus.ts';

test('a nats-server that did not start any more, and has started after all, is no condition any longer', async () => {
  const server = new EventEmitter();
  const statuses = on(server, 'status');
  async function* status(): AsyncGenerator<Status> {
    for await (const [one] of statuses) yield one;
  }
  const conditions = new Conditions(pino({ level: 'silent' }));
  let backs = 0;
  followBus({
    bus: { status } as unknown as NatsConnection,
    users: { supervisor: { url: 'nats://127.0.0.1:4222' } } as BusUsers,
    conditions,
    onBack: () => (backs += 1),
  });
  server.emit('status', { type: 'disconnect' });
  conditions.set('nats-server', 'nats-server does not start');
  await expect.poll(() => conditions.has('nats')).toBe(true);
  server.emit('status', { type: 'reconnect' });
  await expect.poll(() => backs).toBe(1);
  expect(conditions.list()).toEqual([]);
});
