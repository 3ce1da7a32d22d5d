/** The engine's API for programs on the node: what `cofa` and scripts call. */
import type { NatsConnection } from '@nats-io/nats-core';
import type { Operation, RequestOf } from '../../schemas/api.ts';
import { CofaError } from '../../schemas/errors.ts';
import { subjects } from '../../schemas/subjects.ts';
import { type CallEngine, callOver, sent, type Transport } from './call.ts';
import { type Endpoint, readEndpoint, socketOf } from './endpoint.ts';
import { overSocket } from './over-socket.ts';
import { checkProtocol, requestFor } from './protocol.ts';

export interface EngineClient {
  readonly endpoint: Endpoint;
  readonly call: CallEngine;
  /** Sends a request whose answer does not matter; resolves when it is on its way. Never throws. */
  tell<O extends Operation>(operation: O, request: RequestOf<O>): Promise<void>;
  /** The event log in order: from the start, from a sequence, or only what comes from now on. Ends with the signal. */
  events(options: EventRange): AsyncIterable<EventLine>;
  close(): Promise<void>;
}

export interface EventRange {
  from: 'start' | 'now' | number;
  signal?: AbortSignal;
  follow?: boolean;
}

export interface EventLine {
  seq: number;
  /** ISO 8601, by the writer's clock. */
  time: string;
  subject: string;
  type: string;
  data: Record<string, unknown>;
}

/** What is only told is given up after this time, ms; its caller does not wait for it. */
const TELL_MS = 10_000;

/**
 * The engine whose state lies in `root`. Calls take its socket, and NATS where no process listens there. Error `not-running`
 * when there is no engine, `unsupported` when it speaks no protocol that this program knows.
 */
export async function connectEngine(root: string): Promise<EngineClient> {
  const endpoint = await readEndpoint(root);
  await checkProtocol(endpoint);
  const nats = natsOf(root, endpoint);
  const carry = callOver(overSocket(socketOf(root)), nats);
  const call: CallEngine = async (operation, request, options) =>
    await carry(operation, await requestFor(endpoint, operation, request), options);
  let log: Promise<NatsConnection> | undefined;
  return {
    endpoint,
    call,
    async tell(operation, request) {
      void call(operation, request, { timeoutMs: TELL_MS }).catch(() => {});
      await sent();
    },
    async *events(range) {
      const [{ connectBus }, { readLog }] = await Promise.all([
        import('../bus/connection.ts'),
        import('../store/log-reader.ts'),
      ]);
      log ??= connectBus(endpoint.log, BUS).catch(async (cause: unknown) => {
        // A killed engine leaves its endpoint; one that runs says so by itself.
        await call('status', {}, { timeoutMs: TELL_MS });
        throw cause;
      });
      for await (const record of readLog(await log, subjects(endpoint.node).allEvents, range)) {
        const { v: _, type, at, ...data } = record.event;
        yield { seq: record.seq, time: new Date(at).toISOString(), subject: record.subject, type, data };
      }
    },
    close: async () => {
      const opened = await log?.catch(() => undefined);
      await Promise.all([nats.close(), opened?.close()]);
    },
  };
}

const BUS = { name: 'cofa-cli', reconnect: false };

/** The way over NATS, connected when it is first taken. Error of the first call: `not-running` when NATS is gone as well. */
function natsOf(root: string, { node, nats }: Endpoint): Transport {
  let open: Promise<{ bus: NatsConnection; way: Transport }> | undefined;
  const connect = async () => {
    const [{ connectBus }, { overNats }] = await Promise.all([
      import('../bus/connection.ts'),
      import('./over-nats.ts'),
    ]);
    const bus = await connectBus(nats, BUS).catch((cause: unknown) => {
      throw new CofaError('not-running', `the engine of ${root} does not answer at ${nats.url}`, { cause });
    });
    return { bus, way: overNats(bus, subjects(node)) };
  };
  return {
    async ask(operation, request, terms) {
      open ??= connect().catch((error: unknown) => {
        open = undefined;
        throw error;
      });
      return await (await open).way.ask(operation, request, terms);
    },
    close: async () => await (await open?.catch(() => undefined))?.bus.close(),
  };
}
