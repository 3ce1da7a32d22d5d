/** What the snapshotter wants of the engine, over the engine's API on NATS. */
import type { NatsConnection } from '@nats-io/nats-core';
import { errors } from '@nats-io/nats-core';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Operation, RequestOf, ResultOf } from '../../schemas/api.ts';
import { CofaError, type ErrorRecord, fromErrorRecord } from '../../schemas/errors.ts';
import type { Subjects } from '../../schemas/subjects.ts';

/** The engine may be starting when the snapshotter does, or be started again: so long a call waits for it, ms. */
const PATIENCE_MS = 20_000;
const PAUSE_MS = 100;

export type CallEngine = <O extends Operation>(
  operation: O,
  request: RequestOf<O>,
  timeoutMs: number,
) => Promise<ResultOf<O>>;

/** Errors: the engine's own by code; `not-running` when there is none, `timeout` when it does not answer. */
export function engineCaller(bus: NatsConnection, names: Subjects): CallEngine {
  return async (operation, request, timeoutMs) => {
    const end = performance.now() + PATIENCE_MS;
    for (;;) {
      try {
        const reply = await bus.request(names.api(operation), JSON.stringify(request), {
          timeout: timeoutMs,
        });
        const body = reply.json() as { ok: true; result: never } | { ok: false; error: ErrorRecord };
        if (!body.ok) throw fromErrorRecord(body.error);
        return body.result;
      } catch (error) {
        if (error instanceof CofaError) throw error;
        const cause = error instanceof errors.RequestError ? (error.cause ?? error) : error;
        const isAway = error instanceof errors.NoRespondersError || cause instanceof errors.NoRespondersError;
        if (!isAway) {
          throw new CofaError('timeout', `the engine did not answer ${operation}`, { cause: error });
        }
        if (performance.now() > end) {
          throw new CofaError('not-running', `no engine answers ${operation}`, { cause: error });
        }
      }
      await sleep(PAUSE_MS);
    }
  };
}
