/**
 * The log of an engine, read from its NATS as stored bytes. A running engine is asked through its own NATS. Of one that
 * is stopped, or crashed, the private nats-server is started for as long as the log is read; the engine's lock is held
 * meanwhile, so that no engine starts into it.
 */
import { existsSync } from 'node:fs';
import { DeliverPolicy, jetstream, jetstreamManager, JetStreamApiError } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/nats-core';
import { CofaError } from '../../schemas/errors.ts';
import { STREAM, STREAM_SUBJECTS, subjects } from '../../schemas/subjects.ts';
import { readEndpoint } from '../bus/client.ts';
import { type BusAddress, connectBus } from '../bus/connection.ts';
import { Layout } from '../store/layout.ts';
import { partsOfSubject, type RawRecord } from './record.ts';

export interface LiveLog {
  node: string;
  /** Whether the engine runs, so that the log can grow. */
  running: boolean;
  /** Sequences of the node's first and last event at the time of opening; undefined: there are none. */
  first: number | undefined;
  last: number | undefined;
  /** Stored records in order. `filter`: `image`, `mount`, … for one kind of events only. */
  records(options?: RecordsOptions): AsyncIterable<RawRecord>;
  close(): Promise<void>;
}

export interface RecordsOptions {
  kind?: 'image' | 'mount' | 'engine' | 'layer';
  fromSeq?: number;
  /** Goes on after the end, until the signal. Without it ends with what is stored at the time of the call. */
  follow?: boolean;
  signal?: AbortSignal;
}

export interface LiveLogOptions {
  root: string;
  /** A NATS of one's own (`cofa up --nats`), for an engine that does not run. */
  nats?: string | undefined;
  /** The node whose log is meant; needed where NATS holds several and the engine does not run. */
  node?: string | undefined;
}

/**
 * Errors: `not-running` where there is neither an engine nor its files, `unavailable` where NATS cannot be reached,
 * `invalid-argument` where several nodes share NATS and none is named.
 */
export async function openLiveLog(options: LiveLogOptions): Promise<LiveLog> {
  if (options.nats !== undefined) {
    const bus = await connectBus({ url: options.nats }, BUS);
    return await describe(bus, options, false, () => bus.close());
  }
  const endpoint = await readEndpoint(options.root).catch((error: unknown) => {
    if (!hasStore(options.root)) throw error;
    return undefined;
  });
  if (endpoint !== undefined) {
    const bus = await connectBus(endpoint.nats, BUS).catch((cause: unknown) => {
      // Killed, perhaps: its endpoint is still there, and its files too.
      if (hasStore(options.root)) return undefined;
      throw cause;
    });
    if (bus !== undefined)
      return await describe(bus, { ...options, node: endpoint.node }, true, () => bus.close());
  }
  const server = await startServer(options.root);
  try {
    const bus = await connectBus(server.address, BUS);
    return await describe(bus, { node: endpoint?.node, ...options }, false, async () => {
      await bus.close();
      await server.stop();
    });
  } catch (error) {
    await server.stop();
    throw error;
  }
}

const BUS = { name: 'cofa-replay', reconnect: false };

const hasStore = (root: string): boolean => existsSync(new Layout(root).in('nats/jetstream'));

async function startServer(root: string): Promise<{ address: BusAddress; stop(): Promise<void> }> {
  const { takeLock } = await import('../engine/lock.ts');
  const { startNats } = await import('../engine/nats-server.ts');
  const layout = new Layout(root);
  takeLock(layout.lock(), root);
  const { address, child } = await startNats(layout, () => performance.now());
  return { address, stop: () => child.stop() };
}

async function describe(
  bus: NatsConnection,
  options: { root?: string; node?: string | undefined },
  running: boolean,
  close: () => Promise<void>,
): Promise<LiveLog> {
  try {
    const node = options.node ?? (await onlyNode(bus));
    const all = subjects(node).allEvents;
    const [first, last] = await Promise.all([edge(bus, all, 'first'), edge(bus, all, 'last')]);
    return {
      node,
      running,
      first,
      last,
      records: (o = {}) => readRaw(bus, o.kind === undefined ? all : subjects(node).eventsOf(o.kind), o),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** The node whose events are in the stream, where it is one. */
async function onlyNode(bus: NatsConnection): Promise<string> {
  const manager = await jetstreamManager(bus, { timeout: 10_000 });
  const info = await manager.streams
    .info(STREAM, { subjects_filter: STREAM_SUBJECTS.replace('>', 'engine.>') })
    .catch((error: unknown) => {
      if (error instanceof JetStreamApiError && error.status === 404)
        throw new CofaError('not-found', 'this NATS holds no event log of cofa', { cause: error });
      throw error;
    });
  const nodes = new Set(
    Object.keys(info.state.subjects ?? {}).map((subject) => partsOfSubject(subject).node),
  );
  const [node] = nodes;
  if (node === undefined)
    throw new CofaError('not-found', 'this NATS holds no event log of cofa', {
      hint: 'has an engine run with it?',
    });
  if (nodes.size > 1)
    throw new CofaError('invalid-argument', `this NATS holds the logs of ${[...nodes].join(', ')}`, {
      hint: 'say which: --node NAME',
    });
  return node;
}

async function edge(bus: NatsConnection, filter: string, end: 'first' | 'last'): Promise<number | undefined> {
  const manager = await jetstreamManager(bus, { timeout: 10_000 });
  try {
    const query = end === 'last' ? { last_by_subj: filter } : { seq: 1, next_by_subj: filter };
    return (await manager.streams.getMessage(STREAM, query as never))?.seq;
  } catch (error) {
    if (error instanceof JetStreamApiError && error.status === 404) return undefined;
    throw error;
  }
}

async function* readRaw(
  bus: NatsConnection,
  filter: string,
  options: RecordsOptions,
): AsyncIterable<RawRecord> {
  const follow = options.follow === true;
  const end = follow ? undefined : await edge(bus, filter, 'last');
  if (!follow && (end === undefined || (options.fromSeq ?? 0) > end)) return;
  const start =
    options.fromSeq === undefined
      ? { deliver_policy: DeliverPolicy.All }
      : { deliver_policy: DeliverPolicy.StartSequence, opt_start_seq: options.fromSeq };
  const consumer = await jetstream(bus).consumers.get(STREAM, { filter_subjects: filter, ...start });
  const messages = await consumer.consume({ max_messages: 2_000 });
  const stop = () => void messages.close();
  options.signal?.addEventListener('abort', stop, { once: true });
  if (options.signal?.aborted) stop();
  try {
    for await (const message of messages) {
      yield { seq: message.seq, subject: message.subject, bytes: message.data };
      if (end !== undefined && message.seq >= end) break;
    }
  } finally {
    options.signal?.removeEventListener('abort', stop);
    await messages.close();
    await consumer.delete().catch(() => false);
  }
}
