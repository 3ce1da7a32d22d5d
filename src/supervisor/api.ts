/**
 * The engine's API over NATS and on the supervisor's socket: decodes, validates, calls, encodes. What an operation does stands in
 * operations.ts.
 */
import { headers, Match, type Msg, type NatsConnection } from '@nats-io/nats-core';
import type { Logger } from 'pino';
import { z } from 'zod';
import {
  type AcceptedOf,
  OPERATIONS,
  type Operation,
  type Progress,
  type ResultOf,
} from '../../schemas/api.ts';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import { PROTOCOL } from '../../schemas/protocol.ts';
import type { Subjects } from '../../schemas/subjects.ts';
import { traceContextOf } from '../../schemas/trace-context.ts';
import { decode, encode, respond as send } from '../bus/connection.ts';
import type { LocalHandler } from '../bus/local-socket.ts';
import { inboxOf, userInboxOf } from '../bus/roles.ts';
import { deadlineOf, withinDeadline } from './deadlines.ts';
import type { UserCalls } from './user-calls.ts';

export type OnProgress = (progress: Progress) => void;
export type Handler<O extends Operation> = (
  request: AcceptedOf<O>,
  onProgress: OnProgress,
) => Promise<ResultOf<O>>;

/** One table for both ways (operations.ts). */
export type Handlers = { [O in Operation]: Handler<O> };

const NAMES = Object.keys(OPERATIONS) as Operation[];
/**
 * Calls that may run side by side; further ones are refused rather than kept. The snapshotter has as many for itself: clients
 * with the user `api` that hold all of theirs keep no container from starting.
 */
const MOST_CALLS = 1_000;
/** Bytes of a request of a user with limited rights. */
const MOST_OF_USER = 64 * 1024;
const MSGPACK = 'application/msgpack';
/** Bytes of a request over NATS, which carries eight megabytes: `admit` of 1,024 layers has 220 KB. */
const LARGEST_REQUEST = 512 << 10;
/** Letters of what is wrong with a request: it quotes the request, and the log has it as well. */
const LONGEST_FLAW = 1_000;

// ── Over NATS ──

export interface NatsApiOptions {
  bus: NatsConnection;
  names: Subjects;
  handlers: Handlers;
  log: Logger;
  /** False where another engine answers. */
  mayAnswer?: () => Promise<boolean>;
  /** Of users with limited rights; there are none without. */
  userCalls?: UserCalls | undefined;
  /** ms for an operation in all; deadlines.ts without. */
  deadline?: (operation: Operation) => number;
}

/** Serves every operation until the connection closes. */
export function serveApi(options: NatsApiOptions): void {
  const { bus, names, userCalls } = options;
  const api = new NatsApi(options);
  for (const operation of NAMES) {
    bus.subscribe(names.api(operation), {
      callback: (error, message) => {
        if (error === null && mayReplyTo(message.reply)) api.take(operation, message);
      },
    });
  }
  if (userCalls === undefined) return;
  bus.subscribe(names.allUserCalls, {
    callback: (error, message) => {
      const [user = '', operation = ''] = message.subject.split('.').slice(-2);
      if (error !== null || !isOperation(operation)) return;
      // An answer to another's inbox would be one that this user has forged.
      if (message.reply?.startsWith(`${userInboxOf(user)}.`) === true) api.take(operation, message, user);
    },
  });
}

const isOperation = (text: string): text is Operation => Object.hasOwn(OPERATIONS, text);

/**
 * Whether the caller may name this subject for its answer. The engine may publish where its callers may not: an answer in
 * the log would be an event.
 */
const mayReplyTo = (subject: string | undefined): boolean =>
  subject !== undefined && subject !== '' && !/^(cofa\.|\$)/.test(subject);

/** A client that names another's inbox hears no answer. */
const isOfSnapshotter = ({ reply }: Msg): boolean => reply?.startsWith(`${inboxOf('snapshotter')}.`) === true;

class NatsApi {
  readonly #options: NatsApiOptions;
  readonly #running = { snapshotter: 0, others: 0 };

  constructor(options: NatsApiOptions) {
    this.#options = options;
  }

  /** `user`: one with limited rights. */
  take(operation: Operation, message: Msg, user?: string): void {
    if (user !== undefined) {
      // They have a number of calls each, and take no place of others.
      if (this.#options.userCalls?.isInPace(user) === true) void this.#answer(operation, message, user);
      else respond(message, { ok: false, error: { code: 'busy', message: 'too many requests a second' } });
      return;
    }
    const running = this.#running;
    const who = isOfSnapshotter(message) ? 'snapshotter' : 'others';
    if (running[who] >= MOST_CALLS) {
      const error = { code: 'busy', message: `${running[who]} calls are running` };
      respond(message, { ok: false, error });
      return;
    }
    running[who] += 1;
    void this.#answer(operation, message).finally(() => {
      running[who] -= 1;
    });
  }

  async #answer(operation: Operation, message: Msg, user?: string): Promise<void> {
    const { log, mayAnswer = async () => true, deadline = deadlineOf } = this.#options;
    if (!(await mayAnswer())) return;
    try {
      const limit = user === undefined ? Number.POSITIVE_INFINITY : await this.#limitOf(user);
      const work = this.#carryOut(operation, message, user);
      const result = await withinDeadline(operation, Math.min(deadline(operation), limit), work);
      respond(message, { ok: true, result });
    } catch (error) {
      // An engine that has been replaced meanwhile leaves the answer to its successor.
      if (!(await mayAnswer())) return;
      if (user === undefined || this.#options.userCalls?.mayNote(user) === true) note(log, operation, error);
      respond(message, { ok: false, error: toErrorRecord(error) });
    }
  }

  async #limitOf(user: string): Promise<number> {
    return (await this.#options.userCalls?.deadlineOf(user)) ?? 0;
  }

  async #carryOut(operation: Operation, message: Msg, user: string | undefined): Promise<unknown> {
    const { handlers, userCalls } = this.#options;
    if (user !== undefined && message.data.length > MOST_OF_USER)
      throw new CofaError('invalid-argument', `a request has ${MOST_OF_USER} bytes at most`);
    const body = withTraceOf(message, operation, bodyOf(operation, message));
    const onProgress = this.#progress(message, user);
    if (user === undefined) return await carryOut(handlers, operation, body, onProgress);
    if (userCalls === undefined) throw new CofaError('forbidden', 'this engine has no users with rights');
    // The schema's type is that of the operation.
    const request = validate(operation, body) as AcceptedOf<Operation>;
    return await userCalls.run(user, operation, request, (allowed) =>
      handle(handlers, operation, allowed as AcceptedOf<Operation>, onProgress),
    );
  }

  /** Publishes progress where the caller named a token for it. */
  #progress(message: Msg, user: string | undefined): OnProgress {
    const { bus, names } = this.#options;
    const token = message.headers?.get('Cofa-Progress') ?? '';
    if (!/^[A-Za-z0-9_-]{1,64}$/.test(token)) return () => {};
    return (progress) => {
      // A closed connection has no listener left.
      if (!bus.isClosed() && !bus.isDraining())
        bus.publish(names.progress(token, user), JSON.stringify(progress));
    };
  }
}

// ── On the socket ──

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
  const mayRun = async () => {
    const refusal = away();
    if (refusal !== undefined) throw refusal;
    if (!(await mayAnswer())) throw new CofaError('not-running', 'another engine has taken over this node');
  };
  const serve = (operation: Operation): [string, LocalHandler] => [
    operation,
    async (body, onProgress) => {
      try {
        if (operation !== 'status') await mayRun();
        const work = carryOut(handlers, operation, body ?? {}, onProgress);
        return await withinDeadline(operation, deadlineOf(operation), work);
      } catch (error) {
        note(log, operation, error);
        throw error;
      }
    },
  ];
  return Object.fromEntries(NAMES.map(serve));
}

/** What callers are told while NATS is away. */
export function busAway(url: string): CofaError {
  return new CofaError('unavailable', `NATS at ${url} is away; the engine runs and reads go on`, {
    hint: 'try again when NATS is back; until then: cofa status',
  });
}

// ── Both ──

/** Error `invalid-argument` where the request is not as its schema says; those of the handler. */
function carryOut(
  handlers: Handlers,
  operation: Operation,
  body: unknown,
  onProgress: OnProgress,
): Promise<unknown> {
  return handle(handlers, operation, validate(operation, body), onProgress);
}

function handle(
  handlers: Handlers,
  operation: Operation,
  request: unknown,
  onProgress: OnProgress,
): Promise<unknown> {
  // The table's type says that a handler takes what its operation's schema lets through.
  const handler = handlers[operation] as (request: unknown, onProgress: OnProgress) => Promise<unknown>;
  return handler(request, onProgress);
}

function note(log: Logger, operation: Operation, error: unknown): void {
  const record = toErrorRecord(error);
  if (record.code === 'internal') log.error({ operation, error }, 'call failed');
  else log.info({ operation, error: record }, 'call failed');
}

function bodyOf(operation: Operation, message: Msg): unknown {
  const { length } = message.data;
  if (length === 0) return {};
  if (length > LARGEST_REQUEST)
    throw new CofaError(
      'invalid-argument',
      `the ${operation} request has ${length} bytes; ${LARGEST_REQUEST} are read`,
    );
  try {
    return isMsgpack(message) ? decode(message.data) : message.json();
  } catch (cause) {
    const encoding = isMsgpack(message) ? 'msgpack' : 'JSON';
    throw new CofaError('invalid-argument', `the ${operation} request is not ${encoding}`, { cause });
  }
}

/** The message's headers may name the caller's trace, where the request does not; the engine keeps that of what begins a start. */
function withTraceOf({ headers: head }: Msg, operation: Operation, body: unknown): unknown {
  if (operation !== 'mount' || head === undefined || typeof body !== 'object' || body === null) return body;
  const header = (name: string) => head.get(name, Match.IgnoreCase);
  const context = traceContextOf(header('traceparent'), header('tracestate'));
  return context === undefined || 'traceparent' in body ? body : { ...body, ...context };
}

function validate(operation: Operation, body: unknown): unknown {
  const result = OPERATIONS[operation].request.safeParse(body);
  if (!result.success) {
    const flaw = z.prettifyError(result.error).replaceAll('\n', ' ');
    const shown = flaw.length > LONGEST_FLAW ? `${flaw.slice(0, LONGEST_FLAW)}…` : flaw;
    throw new CofaError('invalid-argument', `${operation}: ${shown}`, {
      hint: `docs/api.md describes every request; the engine speaks protocol ${PROTOCOL}`,
    });
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
