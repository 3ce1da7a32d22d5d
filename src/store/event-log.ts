/**
 * The event log: one JetStream stream, one subject per aggregate, state is a fold over it.
 *
 * Writers are guarded by optimistic concurrency: each append names the sequence of the last event that the writer
 * has seen on that subject, and JetStream refuses it when somebody else has written since. Two engines that own the
 * same mount cannot both go on.
 */
import {
  jetstream,
  jetstreamManager,
  JetStreamApiError,
  DeliverPolicy,
  type JetStreamClient,
} from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/nats-core';
import { CofaError } from '../../schemas/errors.ts';
import { type CofaEvent, EVENT_VERSION, type NewEvent } from '../../schemas/events.ts';
import { STREAM, STREAM_SUBJECTS } from '../../schemas/subjects.ts';
import { pack, unpack } from '../bus/connection.ts';

/** One stored event with its place in the stream. */
export interface LogRecord {
  seq: number;
  subject: string;
  event: CofaEvent;
}

/** JetStream's error code for a wrong expected last sequence (nats-server errors.json, 10071). */
const WRONG_LAST_SEQUENCE = 10071;

export class EventLog {
  readonly #bus: NatsConnection;
  readonly #stream: JetStreamClient;
  readonly #now: () => number;
  /** Sequence of the last event of each subject that this process has read or written. */
  readonly #last = new Map<string, number>();
  /** Appends to one subject go one after the other, since each names the sequence of the one before. */
  readonly #tails = new Map<string, Promise<void>>();

  constructor(bus: NatsConnection, now: () => number) {
    this.#bus = bus;
    this.#stream = jetstream(bus, { timeout: 10_000 });
    this.#now = now;
  }

  /** Creates the stream when it is not there. Its size is bounded; when full, appends fail rather than facts vanish. */
  static async prepare(bus: NatsConnection, options: { maxBytes: number }): Promise<void> {
    const manager = await jetstreamManager(bus, { timeout: 10_000 });
    const config = { subjects: [STREAM_SUBJECTS], max_bytes: options.maxBytes };
    try {
      await manager.streams.info(STREAM);
      await manager.streams.update(STREAM, config);
    } catch (error) {
      if (!(error instanceof JetStreamApiError) || error.status !== 404) throw storeError(error);
      await manager.streams
        .add({
          name: STREAM,
          ...config,
          storage: 'file',
          discard: 'new',
          retention: 'limits',
          num_replicas: 1,
        } as never)
        .catch((cause: unknown) => {
          throw storeError(cause);
        });
    }
  }

  /** Appends one fact. Errors: `conflict` when another writer was faster, `unavailable` when NATS cannot take it. */
  async append(subject: string, event: NewEvent): Promise<LogRecord> {
    const before = this.#tails.get(subject) ?? Promise.resolve();
    const mine = before.then(() => this.#append(subject, event));
    const tail = mine.then(
      () => {},
      () => {},
    );
    this.#tails.set(subject, tail);
    try {
      return await mine;
    } finally {
      if (this.#tails.get(subject) === tail) this.#tails.delete(subject);
    }
  }

  async #append(subject: string, event: NewEvent): Promise<LogRecord> {
    const record = { v: EVENT_VERSION, at: this.#now(), ...event } as CofaEvent;
    try {
      const ack = await this.#stream.publish(subject, pack(record), {
        expect: { streamName: STREAM, lastSubjectSequence: this.#last.get(subject) ?? 0 },
      });
      this.#last.set(subject, ack.seq);
      return { seq: ack.seq, subject, event: record };
    } catch (cause) {
      if (cause instanceof JetStreamApiError && cause.code === WRONG_LAST_SEQUENCE) {
        throw new CofaError('conflict', `another engine has written ${subject}`, {
          cause,
          hint: 'each engine on one NATS needs a node name of its own: cofa up --node NAME',
        });
      }
      throw storeError(cause);
    }
  }

  /** Every stored event of `filter` in order, up to the log's end at the time of the call; remembers the sequences. */
  async *replay(filter: string): AsyncIterable<LogRecord> {
    for await (const record of readLog(this.#bus, filter, { from: 'start', follow: false })) {
      this.#last.set(record.subject, record.seq);
      yield record;
    }
  }
}

/**
 * Reads the log: `from` its start, from a sequence, or what comes from now on; with `follow` (default) until the signal.
 * An ordered consumer: gaps and server restarts are healed by the client, nothing is left on the server.
 */
export async function* readLog(
  bus: NatsConnection,
  filter: string,
  options: { from: 'start' | 'now' | number; follow?: boolean; signal?: AbortSignal },
): AsyncIterable<LogRecord> {
  const follow = options.follow ?? true;
  const start =
    options.from === 'start'
      ? { deliver_policy: DeliverPolicy.All }
      : options.from === 'now'
        ? { deliver_policy: DeliverPolicy.New }
        : { deliver_policy: DeliverPolicy.StartSequence, opt_start_seq: options.from };
  const end = follow ? undefined : await lastSequence(bus, filter);
  if (!follow && (end === undefined || (typeof options.from === 'number' && options.from > end))) return;
  const consumer = await jetstream(bus).consumers.get(STREAM, { filter_subjects: filter, ...start });
  const messages = await consumer.consume({ max_messages: 1_000 });
  const stop = () => void messages.close();
  options.signal?.addEventListener('abort', stop, { once: true });
  if (options.signal?.aborted) stop();
  try {
    for await (const message of messages) {
      yield { seq: message.seq, subject: message.subject, event: unpack<CofaEvent>(message.data) };
      if (end !== undefined && message.seq >= end) break;
    }
  } finally {
    options.signal?.removeEventListener('abort', stop);
    await messages.close();
    await consumer.delete().catch(() => false);
  }
}

async function lastSequence(bus: NatsConnection, filter: string): Promise<number | undefined> {
  const manager = await jetstreamManager(bus, { timeout: 10_000 });
  try {
    return (await manager.streams.getMessage(STREAM, { last_by_subj: filter }))?.seq;
  } catch (error) {
    if (error instanceof JetStreamApiError && error.status === 404) return undefined;
    throw error;
  }
}

function storeError(cause: unknown): CofaError {
  if (cause instanceof CofaError) return cause;
  const text = cause instanceof Error ? cause.message : String(cause);
  return new CofaError('unavailable', `the event log does not take events: ${text}`, {
    cause,
    hint: 'look at the disk of NATS and at its log',
  });
}
