/** Opens a node's event log for the engine that is to own it: streams, ownership, state, and the keeper of its length. */
import type { NatsConnection } from '@nats-io/nats-core';
import type { Logger } from 'pino';
import type { Subjects } from '../../../schemas/subjects.ts';
import { isEmpty } from '../../../schemas/check-front.ts';
import { serve } from '../../bus/connection.ts';
import { EventLog, type EventLogOptions, type LogRecord } from '../../store/event-log.ts';
import { LiveFold } from '../../store/live-fold.ts';
import { LogFiles } from '../../store/log-files.ts';
import { loadNode, prepareSnapshots } from '../../store/snapshots.ts';
import type { Conditions } from '../../process/conditions.ts';
import { LogKeeper } from './log-keeper.ts';
import { Ownership, type OwnershipOptions } from './ownership.ts';

export interface NodeLogOptions extends Omit<OwnershipOptions, 'events'> {
  bus: NatsConnection;
  names: Subjects;
  /** Bytes of events that are kept, about; the default is `LOG_LIMIT`. */
  limit: number | undefined;
  /** `store_dir` of the private nats-server; undefined where NATS is somebody else's. */
  files: string | undefined;
  conditions: Conditions;
  log: Logger;
  /** Of `EventLog`: an append has ended. */
  onEnded?: EventLogOptions['onEnded'];
  /** Called when the node is this engine's, before its log is read. */
  onOwned?: (epoch: number) => void;
}

export interface NodeLog {
  events: EventLog;
  owner: Ownership;
  /** What the log says, up to now; what other processes append comes after `keeper.start()`. */
  live: LiveFold;
  keeper: LogKeeper;
}

/** Bytes of events that a node keeps by default. */
export const LOG_LIMIT = 256 << 20;
/** The stream may hold this many times the limit: room for what comes while a snapshot is written, and for other nodes. */
const HEADROOM = 4;

/** Errors: those of `Ownership.take` and `loadNode`. */
export async function openNodeLog(options: NodeLogOptions): Promise<NodeLog> {
  const { bus, names, conditions, log } = options;
  const limit = options.limit ?? LOG_LIMIT;
  const files = options.files === undefined ? undefined : new LogFiles(options.files);
  await EventLog.prepare(bus, { maxBytes: HEADROOM * limit });
  await prepareSnapshots(bus);
  let keeper: LogKeeper | undefined;
  const keep = async () => {
    const { fold, problems } = await loadNode(bus, names);
    for (const problem of problems) log.error(problem);
    const live = new LiveFold({ events, names, fold });
    return { live, keeper: new LogKeeper({ bus, names, events, live, limit, files, conditions, log }) };
  };
  // What is appended while the log is read may be behind what was read.
  const early: LogRecord[] = [];
  let take = (record: LogRecord): void => void early.push(record);
  const events: EventLog = new EventLog(bus, Date.now, {
    ...(files === undefined ? {} : { alone: true, sync: files.sync }),
    ...(options.onEnded === undefined ? {} : { onEnded: options.onEnded }),
    onStored: (record) => take(record),
    // An append of this engine whose acknowledgement was lost.
    onMissed: (record) => take(record),
    // Also a log that is full already when an engine starts.
    onFull: async () => (keeper ?? (await keep()).keeper).makeRoom(),
  });
  const owner = await Ownership.take({ ...options, events });
  options.onOwned?.(events.epoch ?? 0);
  const kept = await keep();
  const { live } = kept;
  keeper = kept.keeper;
  events.rememberAll(names, live.place);
  for (const record of early) live.take(record);
  take = live.take;
  serve(bus, names.room, isEmpty, () => kept.keeper.makeRoom());
  return { events, owner, live, keeper: kept.keeper };
}
