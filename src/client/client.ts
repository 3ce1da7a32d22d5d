/** The engine's API for programs on the node: what `cofa` and scripts call. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { NatsConnection } from '@nats-io/nats-core';
import type { Operation, Progress, RequestOf, ResultOf } from '../../schemas/api.ts';
import { CofaError, type ErrorRecord, fromErrorRecord } from '../../schemas/errors.ts';
import { subjects } from '../../schemas/subjects.ts';
import { abortable } from '../bus/abortable.ts';
import type { BusAddress } from '../bus/connection.ts';
import { askLocal } from '../bus/local-socket.ts';

export interface EngineClient {
  readonly endpoint: Endpoint;
  /**
   * One operation. Errors: those of the engine by code; `timeout` when no answer came (default 10 min, since an image
   * that nobody prepared is indexed first); `not-running` when nobody listens.
   */
  call<O extends Operation>(operation: O, request: RequestOf<O>, options?: CallOptions): Promise<ResultOf<O>>;
  /** The event log in order: from the start, from a sequence, or only what comes from now on. Ends with the signal. */
  events(options: {
    from: 'start' | 'now' | number;
    signal?: AbortSignal;
    follow?: boolean;
  }): AsyncIterable<EventLine>;
  close(): Promise<void>;
}

export interface CallOptions {
  timeoutMs?: number;
  /** With `onProgress`: error `timeout` when nothing is heard for so long, ms. */
  silenceMs?: number;
  onProgress?: (progress: Progress) => void;
  signal?: AbortSignal;
}

export interface EventLine {
  seq: number;
  /** ISO 8601, by the writer's clock. */
  time: string;
  subject: string;
  type: string;
  data: Record<string, unknown>;
}

/** How to reach a running engine; lies in ROOT/run/endpoint.json, readable by root only. */
export interface Endpoint {
  v: 1;
  node: string;
  pid: number;
  /** For operations, and for watching events as they come. */
  nats: BusAddress;
  /** For reading the event log; absent in files of engines before users were told apart. */
  log?: BusAddress;
  /** For startup packs; absent likewise. */
  packs?: BusAddress;
}

/** Connects to the engine whose state lies in `root`. Error `not-running` when there is none. */
export async function connectEngine(root: string): Promise<EngineClient> {
  const endpoint = await readEndpoint(root);
  const { connectBus } = await import('../bus/connection.ts');
  const bus = await connectBus(endpoint.nats, { name: 'cofa-cli', reconnect: false }).catch(
    async (cause: unknown) => {
      const { url } = endpoint.nats;
      if (!(await isAlive(root)))
        throw new CofaError('not-running', `the engine of ${root} does not answer at ${url}`, { cause });
      throw busAway(url, cause);
    },
  );
  const names = subjects(endpoint.node);
  /** Calls and the log are different users'. */
  let log: Promise<NatsConnection> | undefined;
  const openLog = async () => {
    log ??= connectBus(endpoint.log ?? endpoint.nats, { name: 'cofa-cli', reconnect: false });
    return await log;
  };
  return {
    endpoint,
    async call(operation, request, options = {}) {
      const { headers, createInbox } = await import('@nats-io/nats-core');
      const head = headers();
      let progress: { unsubscribe(): void } | undefined;
      const silence = options.silenceMs === undefined ? undefined : new Silence(options.silenceMs, operation);
      if (options.onProgress !== undefined) {
        const token = createInbox().split('.').at(-1) ?? '';
        head.set('Cofa-Progress', token);
        const onProgress = options.onProgress;
        progress = bus.subscribe(names.progress(token), {
          callback: (error, message) => {
            if (error !== null) return;
            silence?.broken();
            onProgress(message.json() as Progress);
          },
        });
      }
      try {
        const asked = bus.request(names.api(operation), JSON.stringify(request), {
          timeout: options.timeoutMs ?? CALL_MS,
          headers: head,
        });
        const heard = silence === undefined ? asked : Promise.race([asked, silence.tooLong]);
        const reply = await abortable(heard, options.signal);
        const body = reply.json() as { ok: true; result: never } | { ok: false; error: ErrorRecord };
        if (!body.ok) throw fromErrorRecord(body.error);
        return body.result;
      } catch (error) {
        throw await clientError(error, operation, root);
      } finally {
        progress?.unsubscribe();
        silence?.end();
      }
    },
    async *events(options) {
      const { readLog } = await import('../store/log-reader.ts');
      for await (const record of readLog(await openLog(), names.allEvents, options)) {
        const { v: _, type, at, ...data } = record.event;
        yield { seq: record.seq, time: new Date(at).toISOString(), subject: record.subject, type, data };
      }
    },
    close: async () => {
      const opened = await log?.catch(() => undefined);
      await Promise.all([bus.close(), opened?.close()]);
    },
  };
}

export interface LocalClient extends Pick<EngineClient, 'call' | 'close'> {
  /** Says that a mount is about to be asked for, so that the engine may ask the registry; resolves when that is on its way. Never throws. */
  expect(request: RequestOf<'expect'>): Promise<void>;
}

/** Resolves when what was asked for a moment ago is written: connected in one turn of the event loop, written in the next. */
export async function sent(): Promise<void> {
  for (let turn = 0; turn < 2; turn++) await new Promise((next) => setImmediate(next));
}

/**
 * The engine's API for commands that are waited for: calls go over the engine's socket, so that no NATS client has to be
 * loaded (a third of what `cofa run` costs). Where nobody listens there, they go over NATS. Error `not-running` when there
 * is no engine.
 */
export async function connectLocal(root: string): Promise<LocalClient> {
  await readEndpoint(root);
  let client: EngineClient | undefined;
  return {
    async expect(request) {
      askLocal(socketOf(root), 'expect', STATUS_MS, { request }).catch(() => {});
      await sent();
    },
    async call(operation, request, options = {}) {
      const { onProgress, signal, timeoutMs = CALL_MS } = options;
      try {
        if (client === undefined)
          return await askLocal(socketOf(root), operation, timeoutMs, {
            request,
            signal,
            onProgress: onProgress as ((progress: unknown) => void) | undefined,
          });
      } catch (error) {
        // Answers of the engine have no cause: they came as JSON.
        if (!(error instanceof CofaError) || error.code !== 'not-running' || error.cause === undefined)
          throw error;
      }
      client ??= await connectEngine(root);
      return await client.call(operation, request, options);
    },
    close: async () => await client?.close(),
  };
}

/** What callers are told while NATS is away. */
export function busAway(url: string, cause?: unknown): CofaError {
  return new CofaError('unavailable', `NATS at ${url} is away; the engine runs and reads go on`, {
    ...(cause === undefined ? {} : { cause }),
    hint: 'try again when NATS is back; until then: cofa status',
  });
}

/**
 * The engine's status, asked for past NATS where that is possible. Errors: `not-running`, `timeout`.
 */
export async function engineStatus(root: string, options: CallOptions = {}): Promise<ResultOf<'status'>> {
  await readEndpoint(root);
  const asked = askLocal<ResultOf<'status'>>(socketOf(root), 'status', options.timeoutMs ?? STATUS_MS);
  try {
    return await abortable(asked, options.signal);
  } catch (error) {
    if (!(error instanceof CofaError) || error.code !== 'not-running') throw error;
  }
  const client = await connectEngine(root);
  try {
    return await client.call('status', {}, options);
  } finally {
    await client.close();
  }
}

const STATUS_MS = 10_000;
/** An image that nobody prepared is indexed before it is mounted. */
const CALL_MS = 600_000;
const socketOf = (root: string): string => join(root, 'run/supervisor.sock');

async function isAlive(root: string): Promise<boolean> {
  return await askLocal(socketOf(root), 'status', STATUS_MS).then(
    () => true,
    () => false,
  );
}

/** The endpoint file of `root`, at once; error `not-running` when there is none. */
export async function readEndpoint(root: string): Promise<Endpoint> {
  try {
    return JSON.parse(readFileSync(join(root, 'run/endpoint.json'), 'utf8')) as Endpoint;
  } catch (cause) {
    throw new CofaError('not-running', `no engine runs with its state in ${root}`, {
      cause,
      hint: `start it: cofa up${root === '/var/lib/cofa' ? '' : ` --root ${root}`}`,
    });
  }
}

async function clientError(error: unknown, operation: string, root: string): Promise<unknown> {
  const { errors } = await import('@nats-io/nats-core');
  const cause = error instanceof errors.RequestError ? (error.cause ?? error) : error;
  if (error instanceof errors.NoRespondersError || cause instanceof errors.NoRespondersError) {
    return new CofaError('not-running', `no engine of ${root} answers ${operation}`, { cause });
  }
  if (error instanceof errors.TimeoutError || cause instanceof errors.TimeoutError) {
    return new CofaError('timeout', `the engine did not answer ${operation} in time`, { cause });
  }
  if (
    // The library says "connection closed" by a RequestError without a cause.
    error instanceof errors.RequestError ||
    cause instanceof errors.ClosedConnectionError ||
    cause instanceof errors.ConnectionError
  ) {
    return new CofaError('unavailable', `the connection to the engine of ${root} broke`, { cause });
  }
  return error;
}

/** Fails when nothing is heard for too long. */
class Silence {
  readonly tooLong: Promise<never>;
  readonly #timer: NodeJS.Timeout;

  constructor(ms: number, operation: string) {
    const { promise, reject } = Promise.withResolvers<never>();
    this.tooLong = promise;
    promise.catch(() => {});
    this.#timer = setTimeout(
      () => reject(new CofaError('timeout', `nothing was heard of ${operation} for ${ms / 1000} s`)),
      ms,
    );
  }

  broken(): void {
    this.#timer.refresh();
  }

  end(): void {
    clearTimeout(this.#timer);
  }
}
