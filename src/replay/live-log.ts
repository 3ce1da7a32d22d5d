/**
 * The log of an engine, read from its NATS as stored bytes. A running engine is asked through its own NATS. Of one that
 * is stopped, or crashed, the caller's `startServer` starts the private nats-server for as long as the log is read.
 */
import { existsSync } from 'node:fs';
import { jetstreamManager, JetStreamApiError } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/nats-core';
import { CofaError } from '../../schemas/errors.ts';
import { STREAM, STREAM_SUBJECTS, type Subjects, subjects } from '../../schemas/subjects.ts';
import { readEndpoint } from '../client/endpoint.ts';
import { type BusAddress, connectBus } from '../bus/connection.ts';
import { readLog, readUnchecked, storedRecord } from '../store/log-reader.ts';
import { Layout } from '../store/layout.ts';
import type { NodeFold } from '../store/node-fold.ts';
import { readSnapshot, snapshotSequences } from '../store/snapshots.ts';
import { partsOfSubject, type RawRecord } from './record.ts';

export interface LiveLog {
  node: string;
  /** Whether the engine runs, so that the log can grow. */
  running: boolean;
  /** Sequences of the node's first and last event at the time of opening; undefined: there are none. */
  first: number | undefined;
  last: number | undefined;
  beginning: LiveBeginning;
  /** Stored records in order. `filter`: `image`, `mount`, … for one kind of events only. */
  records(options?: RecordsOptions): AsyncIterable<RawRecord>;
  close(): Promise<void>;
}

export interface RecordsOptions {
  kind?: 'image' | 'mount' | 'engine' | 'layer';
  fromSeq?: number;
  /** Who owned the log at `fromSeq`; without, the owner at the last record that was read. */
  epoch?: number;
  /**
   * Continues after the end, until the signal. Without it the records end with those stored at the time of the call.
   */
  follow?: boolean;
  signal?: AbortSignal;
}

export interface LiveLogOptions {
  root: string;
  /** A NATS of one's own (`cofa up --nats`), for an engine that does not run. */
  nats?: string | undefined;
  /** File with the authorities that vouch for that NATS; without, Node's. */
  natsCa?: string | undefined;
  /** The node whose log is meant; needed where NATS holds several and the engine does not run. */
  node?: string | undefined;
  /**
   * Starts the private nats-server of an engine that does not run, and keeps engines away while it runs. Without it
   * only the log of a running engine can be read.
   */
  startServer?: () => Promise<{ address: BusAddress; stop(): Promise<void> }>;
}

/**
 * Errors: `not-running` where there is neither an engine nor its files, `unavailable` where NATS cannot be reached,
 * `invalid-argument` where several nodes share NATS and none is named.
 */
export async function openLiveLog(options: LiveLogOptions): Promise<LiveLog> {
  if (options.nats !== undefined) {
    const { operatorsAddress } = await import('../bus/operators-nats.ts');
    const bus = await connectBus(await operatorsAddress(options.nats, options.natsCa), BUS);
    return await describe(bus, options, false, () => bus.close());
  }
  const endpoint = await readEndpoint(options.root).catch((error: unknown) => {
    if (!hasStore(options.root)) throw error;
    return undefined;
  });
  if (endpoint !== undefined) {
    const bus = await connectBus(endpoint.log, BUS).catch((cause: unknown) => {
      // The engine may have been killed: its endpoint is still there, and its files too.
      if (hasStore(options.root)) return undefined;
      throw cause;
    });
    if (bus !== undefined)
      return await describe(bus, { ...options, node: endpoint.node }, true, () => bus.close());
  }
  const server = await options.startServer?.();
  if (server === undefined) throw new CofaError('not-running', `no engine of ${options.root} answers`);
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

async function describe(
  bus: NatsConnection,
  options: { root?: string; node?: string | undefined },
  running: boolean,
  close: () => Promise<void>,
): Promise<LiveLog> {
  try {
    const node = options.node ?? (await onlyNode(bus));
    const names = subjects(node);
    const [first, last] = await Promise.all([
      edge(bus, names.allEvents, 'first'),
      edge(bus, names.allEvents, 'last'),
    ]);
    const beginning = await beginningOf(bus, names);
    /** The owner of the log at the last record read: later records of earlier owners are void. */
    let epoch = beginning.from?.epoch ?? 0;
    async function* records(o: RecordsOptions = {}): AsyncIterable<RawRecord> {
      const filter = o.kind === undefined ? names.allEvents : names.eventsOf(o.kind);
      const from = o.fromSeq ?? (beginning.from === undefined ? undefined : beginning.from.seq + 1);
      // Its last owner counts only for records behind those that were read.
      const owner = o.epoch ?? (o.fromSeq === undefined ? (beginning.from?.epoch ?? 0) : epoch);
      const range = { from: from ?? ('start' as const), follow: o.follow === true, epoch: owner };
      for await (const { seq, subject, type, data } of readUnchecked(
        bus,
        filter,
        o.signal === undefined ? range : { ...range, signal: o.signal },
      )) {
        if (type === 'engine.started' && o.kind === undefined) epoch = Math.max(epoch, seq);
        yield { seq, subject, bytes: data };
      }
    }
    return {
      node,
      running,
      first,
      last,
      beginning,
      records,
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
        throw new CofaError('not-found', 'this NATS holds no event log of cofa', {
          cause: error,
          hint: 'has an engine run with it?',
        });
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
  const query = end === 'last' ? { last_by_subj: filter } : { seq: 1, next_by_subj: filter };
  return (await storedRecord(bus, query))?.seq;
}

/**
 * The engine removes the log's first part in time (src/supervisor/log/log-keeper.ts) and keeps its fold as a snapshot.
 * A replay begins with the oldest snapshot after which the log is whole.
 */
async function beginningOf(bus: NatsConnection, names: Subjects): Promise<LiveBeginning> {
  const snapshots: NodeFold[] = [];
  for (const seq of await snapshotSequences(bus, names)) {
    // A damaged snapshot does not count; the engine reports it where it matters.
    const fold = await readSnapshot(bus, names, seq).catch(() => undefined);
    if (fold !== undefined) snapshots.unshift(fold);
  }
  let removed = Math.max(0, ...snapshots.map(({ state, trimmed }) => Math.max(state.trimmed, trimmed.seq)));
  for await (const { event } of readLog(bus, names.eventsOf('engine'), { from: 'start', follow: false }))
    if (event.type === 'engine.trimmed') removed = Math.max(removed, event.through);
  if (removed === 0) return { removed, from: undefined, snapshots };
  return { removed, from: snapshots.find(({ seq }) => seq >= removed), snapshots };
}

interface LiveBeginning {
  /** Events up to this sequence are removed; 0: none. */
  removed: number;
  /** The snapshot that stands for them; undefined: none does, or none is needed. */
  from: NodeFold | undefined;
  /** Everything that the engine has stored of its own fold, in order. */
  snapshots: NodeFold[];
}
