/** The API over NATS, from the caller's side; the engine's side is test/supervisor/api.test.ts. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { NatsConnection } from '@nats-io/nats-core';
import { pino } from 'pino';
import type { Progress } from '../../schemas/api.ts';
import { CofaError } from '../../schemas/errors.ts';
import { subjects } from '../../schemas/subjects.ts';
import { connectBus } from '../../src/bus/connection.ts';
import { callOver } from '../../src/client/call.ts';
import { overNats } from '../../src/client/over-nats.ts';
import { type Handlers, serveApi } from '../../src/supervisor/api.ts';
import { type NatsServer, startNats } from '../support/services.ts';

const names = subjects('client-test');
let server: NatsServer;
let bus: NatsConnection;

beforeAll(async () => {
  server = await startNats({ jetstream: false });
  bus = await connectBus({ url: server.url }, { name: 'test' });
  const handlers: Partial<Handlers> = {
    scrub: async (_request, onProgress) => {
      onProgress({ phase: 'scrub', done: 1 });
      throw new CofaError('busy', 'a scrub is running', { hint: 'wait' });
    },
    down: async () => await new Promise<never>(() => {}),
  };
  serveApi({ bus, names, handlers: handlers as Handlers, log: pino({ level: 'silent' }) });
  await bus.flush();
});
afterAll(async () => {
  await bus?.close();
  await server?.stop();
});

describe('calls over NATS', () => {
  test('progress comes while the call runs; an error keeps its code and hint', async () => {
    const seen: Progress[] = [];
    const call = callOver(overNats(bus, names))(
      'scrub',
      {},
      { onProgress: (progress) => void seen.push(progress) },
    );
    await expect(call).rejects.toMatchObject({ code: 'busy', message: 'a scrub is running', hint: 'wait' });
    expect(seen).toEqual([{ phase: 'scrub', done: 1 }]);
  });

  test('no engine of that node is not-running, one that does not answer a timeout', async () => {
    const other = callOver(overNats(bus, subjects('nowhere')));
    await expect(other('scrub-stop', {})).rejects.toMatchObject({ code: 'not-running' });
    const call = callOver(overNats(bus, names))('down', {}, { timeoutMs: 50 });
    await expect(call).rejects.toMatchObject({ code: 'timeout' });
  });

  test('a connection that is closed meanwhile: the caller cannot know what became of the call', async () => {
    const own = await connectBus({ url: server.url }, { name: 'closing', reconnect: false });
    const call = callOver(overNats(own, names))('down', {});
    call.catch(() => {});
    await own.flush();
    await own.close();
    await expect(call).rejects.toMatchObject({ code: 'unavailable' });
  });
});
