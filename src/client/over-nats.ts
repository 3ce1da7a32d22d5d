/** Calls over NATS: a request on the operation's subject, progress on a subject of the call's own. */
import { createInbox, errors, headers, type NatsConnection } from '@nats-io/nats-core';
import type { Operation } from '../../schemas/api.ts';
import { isProgress } from '../../schemas/check-progress.ts';
import { CofaError, isReply } from '../../schemas/errors.ts';
import type { Subjects } from '../../schemas/subjects.ts';
import { abortable } from '../bus/abortable.ts';
import { parsedIfSound } from '../bus/local-socket.ts';
import type { Terms, Transport } from './call.ts';

/** So long NATS keeps a call for which its caller does not wait any more, ms. */
const KEPT_MS = 1_000;

/** The connection stays the caller's. */
export function overNats(bus: NatsConnection, names: Subjects): Transport {
  return {
    async ask(operation, request, { signal, limitMs, onProgress }) {
      const head = headers();
      const progress = onProgress && hear(bus, names, head, onProgress);
      try {
        const asked = bus.request(names.api(operation), JSON.stringify(request), {
          timeout: limitMs + KEPT_MS,
          headers: head,
        });
        const reply = parsedIfSound((await abortable(asked, signal)).string());
        if (isReply(reply)) return reply;
        throw new CofaError('internal', `what answered ${operation} is no engine`);
      } catch (error) {
        throw failureOf(error, operation);
      } finally {
        progress?.unsubscribe();
      }
    },
    close: async () => {},
  };
}

function hear(
  bus: NatsConnection,
  names: Subjects,
  head: ReturnType<typeof headers>,
  onProgress: NonNullable<Terms['onProgress']>,
): { unsubscribe(): void } {
  const token = createInbox().split('.').at(-1) ?? '';
  head.set('Cofa-Progress', token);
  return bus.subscribe(names.progress(token), {
    callback: (error, message) => {
      const progress = error === null ? parsedIfSound(message.string()) : undefined;
      if (isProgress(progress)) onProgress(progress);
    },
  });
}

function failureOf(error: unknown, operation: Operation): unknown {
  const cause = error instanceof errors.RequestError ? (error.cause ?? error) : error;
  if (error instanceof errors.NoRespondersError || cause instanceof errors.NoRespondersError)
    return new CofaError('not-running', `no engine answers ${operation}`, { cause });
  if (error instanceof errors.TimeoutError || cause instanceof errors.TimeoutError)
    return new CofaError('timeout', `the engine did not answer ${operation} in time`, { cause });
  if (
    // The library says "connection closed" by a RequestError without a cause.
    error instanceof errors.RequestError ||
    cause instanceof errors.ClosedConnectionError ||
    cause instanceof errors.ConnectionError
  )
    return new CofaError('unavailable', 'the connection to NATS broke', { cause });
  return error;
}
