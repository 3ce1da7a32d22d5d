/** The engine's API on NATS and on the supervisor's socket: decodes, validates, calls, encodes. The operations themselves are the supervisor's. */
import { headers, type Msg, type NatsConnection } from '@nats-io/nats-core';
import type { Logger } from 'pino';
import { z } from 'zod';
import { OPERATIONS, type Operation, type Progress } from '../../schemas/api.ts';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import type { Subjects } from '../../schemas/subjects.ts';
import { decode, encode, respond as send } from '../bus/connection.ts';
import type { LocalHandler } from '../bus/local-socket.ts';

export type Handler<O extends Operation> = (
  request: z.output<(typeof OPERATIONS)[O]['request']>,
  onProgress: (progress: Progress) => void,
) => Promise<z.output<(typeof OPERATIONS)[O]['result']>>;

export type Handlers = { [O in Operation]: Handler<O> };

/** Calls that may run side by side; further ones are refused rather than kept. */
const MOST_CALLS = 1_000;
const MSGPACK = 'application/msgpack';

/**
 * Whether the caller may name this subject for its answer. The engine may publish where its callers may not: an answer in
 * the log would be an event.
 */
const mayReplyTo = (subject: string | undefined): boolean =>
  subject !== undefined && subject !== '' && !/^(cofa\.|\$)/.test(subject);

/** Serves every operation until the connection closes. `mayAnswer`: false where another engine answers. */
export function serveApi(
  bus: NatsConnection,
  names: Subjects,
  handlers: Handlers,
  log: Logger,
  mayAnswer: () => Promise<boolean> = async () => true,
): void {
  let running = 0;
  for (const operation of Object.keys(OPERATIONS) as Operation[]) {
    bus.subscribe(names.api(operation), {
      callback: (error, message) => {
        if (error !== null || !mayReplyTo(message.reply)) return;
        if (running >= MOST_CALLS) {
          respond(message, { ok: false, error: { code: 'busy', message: `${running} calls are running` } });
          return;
        }
        running += 1;
        void answer(operation, message).finally(() => {
          running -= 1;
        });
      },
    });
  }

  function publish(subject: string, text: string): void {
    // Of a connection that is gone nobody hears anything.
    if (!bus.isClosed() && !bus.isDraining()) bus.publish(subject, text);
  }

  async function answer(operation: Operation, message: Msg): Promise<void> {
    if (!(await mayAnswer())) return;
    try {
      const request = parse(operation, message);
      const token = message.headers?.get('Cofa-Progress') ?? '';
      const onProgress = /^[A-Za-z0-9_-]{1,64}$/.test(token)
        ? (progress: Progress) => publish(names.progress(token), JSON.stringify(progress))
        : () => {};
      const handler = handlers[operation] as (
        request: unknown,
        progress: typeof onProgress,
      ) => Promise<unknown>;
      const result = await handler(request, onProgress);
      respond(message, { ok: true, result });
    } catch (error) {
      // An engine that has been replaced meanwhile leaves the answer to its successor.
      if (!(await mayAnswer())) return;
      const record = toErrorRecord(error);
      if (record.code === 'internal') log.error({ operation, error }, 'call failed');
      else log.info({ operation, error: record }, 'call failed');
      respond(message, { ok: false, error: record });
    }
  }
}

/**
 * The same operations on the supervisor's socket (src/bus/local-socket.ts). `away`: what to refuse calls with while they
 * could not be carried out; `status` is answered all the same.
 */
export function localApi(
  handlers: Handlers,
  log: Logger,
  mayAnswer: () => Promise<boolean>,
  away: () => CofaError | undefined,
): Record<string, LocalHandler> {
  const serve = (operation: Operation): LocalHandler => {
    const handler = handlers[operation] as (
      request: unknown,
      onProgress: (progress: Progress) => void,
    ) => Promise<unknown>;
    return async (body, onProgress) => {
      try {
        const refusal = operation === 'status' ? undefined : away();
        if (refusal !== undefined) throw refusal;
        if (operation !== 'status' && !(await mayAnswer()))
          throw new CofaError('not-running', 'another engine has taken over this node');
        return await handler(validate(operation, body ?? {}), onProgress);
      } catch (error) {
        const record = toErrorRecord(error);
        if (record.code === 'internal') log.error({ operation, error }, 'call failed');
        else log.info({ operation, error: record }, 'call failed');
        throw error;
      }
    };
  };
  return Object.fromEntries((Object.keys(OPERATIONS) as Operation[]).map((name) => [name, serve(name)]));
}

/** What callers are told while NATS is away. */
export function busAway(url: string): CofaError {
  return new CofaError('unavailable', `NATS at ${url} is away; the engine runs and reads go on`, {
    hint: 'try again when NATS is back; until then: cofa status',
  });
}

function parse(operation: Operation, message: Msg): unknown {
  let body: unknown;
  try {
    body = message.data.length === 0 ? {} : isMsgpack(message) ? decode(message.data) : message.json();
  } catch (cause) {
    throw new CofaError(
      'invalid-argument',
      `the ${operation} request is not ${isMsgpack(message) ? 'msgpack' : 'JSON'}`,
      {
        cause,
      },
    );
  }
  return validate(operation, body);
}

function validate(operation: Operation, body: unknown): unknown {
  const result = OPERATIONS[operation].request.safeParse(body);
  if (!result.success) {
    throw new CofaError(
      'invalid-argument',
      `${operation}: ${z.prettifyError(result.error).replaceAll('\n', ' ')}`,
      {
        hint: 'docs/api.md describes every request',
      },
    );
  }
  return result.data;
}

function respond(message: Msg, body: unknown): void {
  if (!isMsgpack(message)) {
    send(message, JSON.stringify(body));
    return;
  }
  const head = headers();
  head.set('Content-Type', MSGPACK);
  send(message, encode(body), { headers: head });
}

const isMsgpack = (message: Msg): boolean => message.headers?.get('Content-Type') === MSGPACK;
