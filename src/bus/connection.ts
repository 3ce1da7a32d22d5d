/** NATS connections, msgpack payloads and request/reply between the processes of one engine. */
import { errors, type Msg, type MsgHdrs, type NatsConnection } from '@nats-io/nats-core';
import { connect } from '@nats-io/transport-node';
import { Packr } from 'msgpackr';
import { defined } from '../../schemas/defined.ts';
import { CofaError, checkedResult, type Reply, SAME_VERSION, toErrorRecord } from '../../schemas/errors.ts';
import type { Shape } from '../../schemas/shapes.ts';
import { holdsAtMost } from './msgpack-values.ts';
import { tlsOf } from './tls.ts';
import './transport.ts';

export interface BusAddress {
  url: string;
  /** URLs of further servers of the same cluster, as the operator names them. */
  others?: readonly string[] | undefined;
  /** `HOST:PORT` of further ones, as a server has told them. They prove to be for a host that the operator has named. */
  learned?: readonly string[] | undefined;
  user?: string | undefined;
  pass?: string | undefined;
  /** Answers come to subjects below this one; `_INBOX` without. */
  inbox?: string | undefined;
  /** PEM: over TLS only, and only to the server that has this very certificate. */
  certificate?: string | undefined;
  /** PEM: over TLS only, to a server for whose host one of these authorities vouches; without, over `tls://`, Node's. */
  ca?: string | undefined;
}

/**
 * Opens a connection. With `reconnect` (default) it comes back for ever, every 250 ms, after NATS was away (health.ts says
 * what that means). A server that does not answer for some seconds counts as away, and so does one that cannot prove to be the
 * one that is meant (tls.ts): it gets no password, and no message of it counts.
 * Errors: `unavailable` when there is no server at the first try within `timeoutMs` (default 5 s) for each.
 */
export async function connectBus(
  address: BusAddress,
  options: { name: string; reconnect?: boolean; timeoutMs?: number },
): Promise<NatsConnection> {
  const { url, others = [], learned = [], user, pass = '', inbox: inboxPrefix } = address;
  try {
    return await connect({
      // Tried in this order; what a server tells of the cluster comes to it.
      servers: [url, ...others, ...learned],
      name: options.name,
      timeout: options.timeoutMs ?? 5_000,
      reconnect: options.reconnect ?? true,
      maxReconnectAttempts: -1,
      reconnectTimeWait: 250,
      // One that starts may refuse a password that it is about to know.
      ignoreAuthErrorAbort: true,
      pingInterval: PING_MS,
      maxPingOut: 2,
      noRandomize: true,
      reconnectJitter: JITTER_MS,
      reconnectJitterTLS: JITTER_MS,
      ...defined({ user, pass: user === undefined ? undefined : pass, inboxPrefix, tls: tlsOf(address) }),
    });
  } catch (cause) {
    const text = cause instanceof Error ? cause.message : String(cause);
    throw new CofaError('unavailable', `NATS at ${[url, ...others].join(', ')} cannot be used: ${text}`, {
      cause,
    });
  }
}

/** A connection that is made when it is first asked for, and again when that failed. */
export interface BusOnDemand {
  (): Promise<NatsConnection>;
  /** Closes it where it was made. */
  close(): Promise<void>;
}

export function busOnDemand(address: BusAddress, name: string): BusOnDemand {
  let bus: Promise<NatsConnection> | undefined;
  const get = () => {
    bus ??= connectBus(address, { name }).catch((error: unknown) => {
      bus = undefined;
      throw error;
    });
    return bus;
  };
  const close = async () => {
    const made = await bus?.catch(() => undefined);
    await made?.close();
  };
  return Object.assign(get, { close });
}

/** Processes that lost NATS together do not come back in the same moment, ms. */
const JITTER_MS = 100;

/** A ping that two others follow without an answer ends the connection. */
const PING_MS = 2_000;

// Maps, not records: every message can be read alone, and by any msgpack reader.
const packr = new Packr({
  useRecords: false,
  mapsAsObjects: true,
  variableMapSize: true,
  int64AsType: 'number',
});

export const encode = (value: unknown): Buffer => packr.pack(value);
/** Values of the largest message, a pack's runs: some 50 MiB of memory at the worst. */
export const MOST_VALUES: number = 5 << 18;
/** So few bytes hold no more than that can take, and are not looked through. */
const SMALL_BYTES = 64 << 10;

/** What the bytes say; undefined where they are no msgpack, or hold more than `most` values. */
export function decodeIfSound(bytes: Uint8Array, most: number = MOST_VALUES): unknown {
  try {
    if (bytes.length > SMALL_BYTES && !holdsAtMost(bytes, most)) return undefined;
    return packr.unpack(bytes);
  } catch {
    return undefined;
  }
}
export const decode = <T>(bytes: Uint8Array): T => packr.unpack(bytes) as T;

/**
 * Calls another process of the engine; its error comes back with the code it had. Errors also: `unavailable` where no answer
 * comes in time; `internal` where what comes is no answer, or has another shape than `isResult` says.
 */
export async function ask<Result>(
  bus: NatsConnection,
  subject: string,
  request: unknown,
  isResult: Shape<Result>,
  timeoutMs = 30_000,
): Promise<Result> {
  const message = await bus
    .request(subject, encode(request), { timeout: timeoutMs })
    .catch((cause: unknown) => {
      const text = cause instanceof Error ? cause.message : String(cause);
      throw new CofaError('unavailable', `no answer on ${subject}: ${text}`, { cause });
    });
  return checkedResult(decodeIfSound(message.data), isResult, subject);
}

/** Answers `ask`; what the handler throws goes back as an error record. It sees requests of its shape alone. */
export function serve<Request>(
  bus: NatsConnection,
  subject: string,
  isRequest: Shape<Request>,
  handler: (request: Request) => unknown | Promise<unknown>,
): void {
  bus.subscribe(subject, {
    callback: (error, message) => {
      if (error === null) void reply(message, isRequest, handler);
    },
  });
}

async function reply<Request>(
  message: Msg,
  isRequest: Shape<Request>,
  handler: (request: Request) => unknown | Promise<unknown>,
) {
  let body: Reply;
  try {
    const request = decodeIfSound(message.data);
    if (!isRequest(request))
      throw new CofaError('internal', `the question on ${message.subject} has another shape`, {
        hint: SAME_VERSION,
      });
    body = { ok: true, result: (await handler(request)) ?? null };
  } catch (error) {
    body = { ok: false, error: toErrorRecord(error) };
  }
  respond(message, encode(body));
}

/** Answers, unless the connection was closed while the answer was made: then the caller has heard of that. */
export function respond(message: Msg, bytes: Uint8Array | string, options?: { headers: MsgHdrs }): void {
  try {
    message.respond(bytes, options);
  } catch (error) {
    if (!(error instanceof errors.ClosedConnectionError || error instanceof errors.DrainingConnectionError))
      throw error;
  }
}
