/**
 * Reading the event log: records in order, without the void ones. What makes a record void is told in event-log.ts; all
 * readers come through here, so that they agree.
 */
import { DeliverPolicy, jetstream, jetstreamManager, JetStreamApiError } from '@nats-io/jetstream';
import type { MsgHdrs, NatsConnection } from '@nats-io/nats-core';
import { flawOfStored, flawSentence } from '../../schemas/check-event.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { CofaEvent } from '../../schemas/events.ts';
import { STREAM } from '../../schemas/subjects.ts';
import { decode } from '../bus/connection.ts';

/** One stored event with its place in the stream. */
export interface LogRecord<Event extends CofaEvent = CofaEvent> {
  seq: number;
  subject: string;
  event: Event;
}

/** A record as it is read. */
export interface ReadRecord extends LogRecord {
  /** `<writer>.<number>` of the append; empty for writers that gave none. */
  id: string;
  /** What it takes in the stream, with void records before it. */
  bytes: number;
}

/** A record as it is stored. */
export interface RawRecord {
  seq: number;
  subject: string;
  /** msgpack */
  data: Uint8Array;
}

export interface ReadOptions {
  from: 'start' | 'now' | number;
  /** Goes on after the end, until the signal; so by default. */
  follow?: boolean;
  signal?: AbortSignal;
  /** Who owned the log where `from` is. */
  epoch?: number;
}

/**
 * A pull of messages lasts this long, ms. A connection that was reset takes the pull with it, which the client notices by
 * heartbeats that stay out for as long: with its default of 30 s a follower would stand still for that time.
 */
const PULL_MS = 4_000;
/** Nothing has come for this long, ms: is there still something to come? */
const QUIET_MS = 500;

/** Sequence of the `engine.started` of the engine that wrote. */
export const EPOCH_HEADER = 'Cofa-Epoch';
/** `<writer>.<number>` */
export const ID_HEADER = 'Nats-Msg-Id';

export interface StoredRecord {
  seq: number;
  subject: string;
  /** Empty for records of writers that gave none. */
  id: string;
  epoch: number | undefined;
  event: () => CofaEvent;
}

/** The last record of a subject (wildcards allowed), or its first from a sequence on. */
export type RecordQuery = { last_by_subj: string } | { seq: number; next_by_subj: string };

/** One stored record, void or not; undefined when there is none. */
export async function storedRecord(
  bus: NatsConnection,
  query: RecordQuery,
  timeoutMs = 10_000,
): Promise<StoredRecord | undefined> {
  const manager = await jetstreamManager(bus, { timeout: timeoutMs, checkAPI: false });
  try {
    const message = await manager.streams.getMessage(STREAM, query);
    if (message === null) return undefined;
    return {
      seq: message.seq,
      subject: message.subject,
      id: message.header?.get(ID_HEADER) ?? '',
      epoch: epochOf(message.header),
      event: () => eventOf(message, recordOf(message.data)).event,
    };
  } catch (error) {
    if (error instanceof JetStreamApiError && error.status === 404) return undefined;
    throw error;
  }
}

/**
 * Reads the log: `from` its start, from a sequence, or what comes from now on; with `follow` (default) until the signal.
 * Void records are left out. With a `from` after the start those are known only from the first valid record on, unless
 * `epoch` says who owned the log there. An ordered consumer: gaps and server restarts are healed by the client, nothing
 * is left on the server. Error `integrity` for a record that is not what its type says.
 */
export const readLog = (
  bus: NatsConnection,
  filter: string,
  options: ReadOptions,
): AsyncIterable<ReadRecord & RawRecord> => read(bus, filter, options, eventOf);

/** The same for a reader that judges records by itself, such as a debugger of damaged logs: nothing is refused. */
export const readUnchecked = (
  bus: NatsConnection,
  filter: string,
  options: ReadOptions,
): AsyncIterable<RawRecord & { type: string | undefined }> =>
  read(bus, filter, options, (_, record) => ({ type: typeOf(record) }));

async function* read<Event>(
  bus: NatsConnection,
  filter: string,
  options: ReadOptions,
  judge: (stored: RawRecord, record: unknown) => Event,
) {
  const follow = options.follow ?? true;
  const start =
    options.from === 'start'
      ? { deliver_policy: DeliverPolicy.All }
      : options.from === 'now'
        ? { deliver_policy: DeliverPolicy.New }
        : { deliver_policy: DeliverPolicy.StartSequence, opt_start_seq: options.from };
  const end = follow ? undefined : (await storedRecord(bus, { last_by_subj: filter }))?.seq;
  if (!follow && (end === undefined || (typeof options.from === 'number' && options.from > end))) return;
  const consumer = await jetstream(bus).consumers.get(STREAM, { filter_subjects: filter, ...start });
  const messages = await consumer.consume({ max_messages: 1_000, expires: PULL_MS });
  const stop = () => void messages.close();
  options.signal?.addEventListener('abort', stop, { once: true });
  if (options.signal?.aborted) stop();
  let owner = options.epoch ?? 0;
  let bytes = 0;
  let last = typeof options.from === 'number' ? options.from - 1 : 0;
  // The records up to the end may be removed while they are read, and others of the filter need not come.
  const stopWatching =
    end === undefined
      ? () => {}
      : whenQuiet(
          () => last,
          async () => {
            const next = await storedRecord(bus, { seq: last + 1, next_by_subj: filter });
            if (next === undefined || next.seq > end) stop();
          },
        );
  try {
    for await (const message of messages) {
      const { seq, subject } = message;
      last = seq;
      const epoch = epochOf(message.headers);
      bytes += storedBytes(subject, message.headers, message.data);
      if (epoch === undefined || epoch >= owner) {
        const { data } = message;
        const record = recordOf(data);
        if (typeOf(record) === 'engine.started') owner = seq;
        else if (epoch !== undefined) owner = epoch;
        const stored = { seq, subject, data };
        yield { ...judge(stored, record), ...stored, id: message.headers?.get(ID_HEADER) ?? '', bytes };
        bytes = 0;
      }
      if (end !== undefined && seq >= end) break;
    }
  } finally {
    stopWatching();
    options.signal?.removeEventListener('abort', stop);
    await messages.close();
    await consumer.delete().catch(() => false);
  }
}

/** What a record says. Error `integrity` when it is not what its type says. */
function eventOf({ seq, subject }: RawRecord, record: unknown): { event: CofaEvent } {
  const flaw = flawOfStored(record);
  if (flaw === undefined) return { event: record as CofaEvent };
  const what = flaw.type === undefined ? subject : `${flaw.type}, ${subject}`;
  throw new CofaError(
    'integrity',
    `event ${seq} of the log (${what}) cannot be read: ${flawSentence(flaw)}`,
    {
      hint: 'the log is damaged, or another program has written into it; cofa replay shows what is around it. Bring back the files of NATS from a copy, or begin anew: cofa up --node NAME with another name. Mounts are then forgotten and blocks fetched again',
    },
  );
}

/** Undefined where the bytes are no record. */
function recordOf(data: Uint8Array): unknown {
  try {
    return decode<unknown>(data);
  } catch {
    return undefined;
  }
}

const typeOf = (record: unknown): string | undefined => {
  const { type } = (record ?? {}) as { type?: unknown };
  return typeof type === 'string' ? type : undefined;
};

/** Calls `look` after each time that `place` has not changed for, one call at a time, until the returned function is called. */
function whenQuiet(place: () => number, look: () => Promise<void>): () => void {
  let before = place();
  let isLooking = false;
  const timer = setInterval(() => {
    const now = place();
    const isQuiet = now === before && !isLooking;
    before = now;
    if (!isQuiet) return;
    isLooking = true;
    // Who cannot be asked now is asked again.
    void look()
      .catch(() => {})
      .finally(() => (isLooking = false));
  }, QUIET_MS);
  return () => clearInterval(timer);
}

/** What JetStream counts for a record in its file store: 22 bytes of header, 8 of hash (server/filestore.go). */
function storedBytes(subject: string, head: MsgHdrs | undefined, data: Uint8Array): number {
  let bytes = 30 + subject.length + data.length;
  if (head !== undefined) {
    bytes += 16;
    for (const [name, values] of head) bytes += name.length + 4 + (values[0]?.length ?? 0);
  }
  return bytes;
}

function epochOf(head: MsgHdrs | undefined): number | undefined {
  const text = head?.get(EPOCH_HEADER) ?? '';
  return /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}
