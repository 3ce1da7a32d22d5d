/**
 * The event log: one JetStream stream, one subject per aggregate, state is a fold over it.
 *
 * Three questions decide how an event is appended.
 *
 * **Was it written?** An ack can get lost, and then the writer does not know. Each append has an id of its own,
 * `<writer>.<number>`, in the header `Nats-Msg-Id`. It is sent again with the same id, and JetStream recognises it for two
 * minutes. After that the expected sequence is wrong, the last record of the subject is read, and its id says that it is
 * this very append. An append that failed in the end with `unavailable` may still be in the log, or get there: the next
 * append to the subject finds it in the same way, and goes on behind it.
 *
 * **Who may write?** An engine owns its node's part of the log from its `engine.started` on. The sequence of that record
 * is the engine's *epoch*; it stands in the header `Cofa-Epoch` of all that the engine's processes append. A record whose
 * epoch is lower than the last `engine.started` before it was written by an engine that had been replaced without knowing.
 * It is void: no reader gets to see it. The writer learns of it, too: before an append that somebody relies on is reported
 * as done, the last record of `engine.main` is read, and a foreign one ends the writer with `conflict`.
 *
 *     41 engine.main  started          epoch 41: engine A
 *     42 mount.x      requested  e41
 *     43 engine.main  started          epoch 43: engine B has taken over
 *     44 mount.y      requested  e41   void; A is told `conflict`, and acknowledges nothing
 *     45 mount.x      unmounted  e43
 *
 * **Has the writer seen what is there?** Each append names the sequence of the last record that it knows of its subject,
 * and JetStream refuses it when there is a later one. What another process of the same epoch has written, or an older
 * engine before it ended, is then handed to `onMissed` and the append is tried behind it; anything else is a `conflict`.
 */
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { jetstream, JetStreamApiError, type JetStreamClient } from '@nats-io/jetstream';
import { headers, type NatsConnection } from '@nats-io/nats-core';
import { CofaError } from '../../schemas/errors.ts';
import { flawOf, flawSentence } from '../../schemas/check-event.ts';
import {
  type CofaEvent,
  EVENT_VERSION,
  type EventOf,
  type EventType,
  type NewEvent,
} from '../../schemas/events.ts';
import { type EventKind, STREAM, STREAM_SUBJECTS, type Subjects } from '../../schemas/subjects.ts';
import { encode } from '../bus/connection.ts';
import {
  EPOCH_HEADER,
  type LogRecord,
  readLog,
  type RecordQuery,
  type StoredRecord,
  storedRecord,
} from './log-reader.ts';
import { Gate, Joined, Room } from './log-room.ts';
import type { NodeFold } from './node-fold.ts';
import { prepareStream, storeError } from './stream.ts';

export { type LogRecord, readLog, type ReadRecord, storedRecord } from './log-reader.ts';

export interface EventLogOptions {
  /** Sequence of the `engine.started` of the engine that this process belongs to; `claim` sets it otherwise. */
  epoch?: number;
  /** NATS is this engine's own, so that nobody can take over: the owner need not be looked at. */
  alone?: boolean;
  /** An append that has no answer after this, ms, fails with `unavailable`. 5,000 by default. */
  timeoutMs?: number;
  /** Brings what was acknowledged onto the disk; called before an append that somebody relies on is reported as done. */
  sync?: () => Promise<void>;
  /** Makes room; called once when the stream is full. */
  onFull?: () => Promise<void>;
  /** A record of the same node that another process wrote to a subject that this one writes, too. */
  onMissed?: (record: LogRecord) => void;
  /**
   * A record of this process, as soon as NATS has acknowledged it: before its `append` returns, and also where that fails
   * since the record could not be synced or confirmed. With `onMissed`: every record of a subject, in the log's order.
   */
  onStored?: (record: LogRecord) => void;
  /** An append has ended, after so many ms; `error`: undefined where it is stored. */
  onEnded?: (ms: number, error: unknown) => void;
}

export interface AppendOptions {
  /** An append that has no answer after this, ms, fails with `unavailable`. */
  timeoutMs?: number;
  /**
   * The fact only leads to another one, before which no caller is promised anything: it is durable when that is, since a
   * sync covers all that was acknowledged before. A power cut in between may take it, with everything that it led to.
   */
  early?: boolean;
}

/** JetStream's error codes (nats-server, server/errors.json). */
const WRONG_LAST_SEQUENCE = 10071;
const STORE_FAILED = 10077;

/** An ack is waited for this long before the append is sent again, ms. */
const ATTEMPT_MS = 1_500;
const TIMEOUT_MS = 5_000;
/** Pause between two attempts, ms. */
const PAUSE_MS = 100;
/** Appends that wait for their ack at the same time. */
const MOST_IN_FLIGHT = 256;
/** Appends that wait for others; further ones are refused. */
const MOST_WAITING = 20_000;
/** Foreign records that one append may find in its way. */
const MOST_IN_THE_WAY = 20;

/** Facts that come often, and that nobody was promised: they may be lost in a power cut. */
const BULK: ReadonlySet<string> = new Set(['layer.blocks', 'layer.trace', 'layer.started']);

export class EventLog {
  readonly #bus: NatsConnection;
  readonly #stream: JetStreamClient;
  readonly #now: () => number;
  readonly #options: EventLogOptions;
  readonly #writer = randomBytes(9).toString('base64url');
  #number = 0;
  #epoch: number | undefined;
  #fence: CofaError | undefined;
  readonly #fenced = Promise.withResolvers<CofaError>();
  /** Sequence of the last event of each subject that this process has read or written. */
  readonly #last = new Map<string, number>();
  /** Appends to one subject go one after the other, since each names the sequence of the one before. */
  readonly #tails = new Map<string, Promise<void>>();
  readonly #gate = new Gate(MOST_IN_FLIGHT);
  readonly #room: Room;
  readonly #confirmations = new Map<string, Joined>();
  readonly #sync: Joined | undefined;
  #waiting = 0;
  /** This process has folded the whole log up to here. */
  #floor = 0;
  /** When NATS acknowledged an append last, by `performance.now()`. */
  #answeredAt = 0;
  #closed = false;

  constructor(bus: NatsConnection, now: () => number, options: EventLogOptions = {}) {
    this.#bus = bus;
    this.#stream = jetstream(bus, { timeout: ATTEMPT_MS });
    this.#now = now;
    this.#options = options;
    this.#epoch = options.epoch;
    this.#room = new Room(bus);
    this.#sync = options.sync === undefined ? undefined : new Joined(options.sync);
  }

  /**
   * Creates the stream when it is not there. Its size is bounded; when full, appends fail rather than facts vanish. A
   * bound that another engine has set higher stays.
   */
  static async prepare(bus: NatsConnection, options: { maxBytes: number }): Promise<void> {
    await prepareStream(bus, {
      name: STREAM,
      subjects: [STREAM_SUBJECTS],
      max_bytes: options.maxBytes,
    });
  }

  /** The owner's `engine.started`, as a sequence of the log; undefined before `claim`. */
  get epoch(): number | undefined {
    return this.#epoch;
  }

  /** Resolves when another engine has taken the node over: from then on every append fails with this error. */
  get fenced(): Promise<CofaError> {
    return this.#fenced.promise;
  }

  /** Whether `fenced` has resolved. */
  get isFenced(): boolean {
    return this.#fence !== undefined;
  }

  /**
   * Appends the event by which an engine becomes the owner of its node's part of the log. `replay` the subject before.
   * Error `conflict` when another engine was faster.
   */
  async claim(subject: string, event: NewEvent): Promise<LogRecord> {
    const record = await this.append(subject, event);
    this.#epoch = record.seq;
    return record;
  }

  /**
   * Appends one fact; it is durable when this returns, except for blocks and traces, and where it comes `early`. Errors: `conflict` when another
   * engine has taken over, or another writer was faster; `unavailable` when NATS did not take it within `timeoutMs`,
   * which may come about all the same when NATS is back; `invalid-argument` for a fact that is not what its type says; `busy` when too many wait; `not-running` after `drain`.
   */
  async append<T extends EventType>(
    subject: string,
    event: NewEvent<T>,
    options: AppendOptions = {},
  ): Promise<LogRecord<EventOf<T>>> {
    if (this.#fence !== undefined) throw this.#fence;
    if (this.#closed) throw new CofaError('not-running', 'the event log is closed');
    if (this.#waiting >= MOST_WAITING)
      throw new CofaError('busy', `${this.#waiting} events wait for the log`);
    const before = this.#tails.get(subject) ?? Promise.resolve();
    this.#waiting += 1;
    const patience = options.timeoutMs ?? this.#options.timeoutMs ?? TIMEOUT_MS;
    const called = performance.now();
    const mine = before.then(() =>
      this.#gate.run(() => {
        // A long queue is no reason to fail while NATS answers; a NATS that is away fails all who wait.
        const deadline = Math.max(called, this.#answeredAt) + patience;
        return this.#append(subject, event, deadline, options.early === true);
      }),
    );
    const tail = mine.then(
      () => {},
      () => {},
    );
    this.#tails.set(subject, tail);
    let failure: unknown;
    try {
      return await mine;
    } catch (error) {
      failure = error ?? 'failed';
      throw error;
    } finally {
      this.#waiting -= 1;
      this.#options.onEnded?.(performance.now() - called, failure);
      if (this.#tails.get(subject) === tail) this.#tails.delete(subject);
    }
  }

  /** Appends that have not ended. */
  get waiting(): number {
    return this.#waiting;
  }

  /** Takes no further events and waits for those under way, at most `timeoutMs`. Returns how many are left. */
  async drain(timeoutMs: number): Promise<number> {
    this.#closed = true;
    const all = Promise.all(this.#tails.values());
    await Promise.race([all, sleep(timeoutMs, undefined, { ref: false })]);
    return this.#waiting;
  }

  /** What the last record of `subject` is, known from elsewhere: a snapshot. */
  remember(subject: string, seq: number): void {
    this.#last.set(subject, Math.max(seq, this.#last.get(subject) ?? 0));
  }

  /**
   * The same for a fold of the whole log: `sequences` of its aggregates by `<kind>.<id>`, and `seq`, up to which there is
   * nothing that could have been missed, also of aggregates that have ended. Error `conflict` when an engine that has
   * taken over is in there already, as after a claim whose ack was long under way: behind its records this one would
   * append as if they were its own.
   */
  rememberAll(names: Subjects, fold: Pick<NodeFold, 'sequences' | 'seq' | 'epoch'>): void {
    const { sequences, seq: floor, epoch } = fold;
    if (this.#epoch !== undefined && epoch > this.#epoch) throw this.#close(names.event('engine', 'main'));
    this.#floor = Math.max(this.#floor, floor);
    for (const [aggregate, seq] of sequences) {
      const dot = aggregate.indexOf('.');
      this.remember(names.event(aggregate.slice(0, dot) as EventKind, aggregate.slice(dot + 1)), seq);
    }
  }

  /** Every stored event of `filter` in order, up to the log's end at the time of the call; remembers the sequences. */
  async *replay(filter: string, from: 'start' | number = 'start'): AsyncIterable<LogRecord> {
    for await (const record of readLog(this.#bus, filter, { from, follow: false })) {
      this.remember(record.subject, record.seq);
      yield record;
    }
  }

  /** The same for a reader who goes on to append nothing behind it: what it has seen may still be missing in a fold. */
  read(filter: string): AsyncIterable<LogRecord> {
    return readLog(this.#bus, filter, { from: 'start', follow: false });
  }

  /**
   * Whether the engine still owns its node's part of the log, or nothing can be known since NATS does not answer. When
   * it does not, `fenced` resolves.
   */
  async isOwner(subject: string): Promise<boolean> {
    if (this.#options.alone !== true) await this.#confirm(subject).catch(() => {});
    return this.#fence === undefined;
  }

  /**
   * Resolves when the engine was seen to own its node's part of the log at some moment after the call. Errors: `conflict`
   * when another engine does, `unavailable` when NATS does not say so in time.
   */
  async confirmOwner(subject: string): Promise<void> {
    if (this.#fence !== undefined) throw this.#fence;
    if (this.#options.alone === true) return;
    await this.#untilConfirmed(subject, performance.now() + (this.#options.timeoutMs ?? TIMEOUT_MS));
  }

  async #append<T extends EventType>(
    subject: string,
    event: NewEvent<T>,
    deadline: number,
    isEarly: boolean,
  ): Promise<LogRecord<EventOf<T>>> {
    const record = recordOf(event, this.#now());
    refuseFlawed(subject, record);
    const attempt: Attempt = {
      subject,
      bytes: encode(record),
      id: `${this.#writer}.${++this.#number}`,
      deadline,
    };
    const seq = await this.#write(attempt);
    this.#last.set(subject, seq);
    const stored = { seq, subject, event: record };
    this.#options.onStored?.(stored);
    if (!BULK.has(event.type)) {
      if (this.#epoch !== undefined && this.#options.alone !== true)
        await this.#untilConfirmed(subject, deadline);
      if (!isEarly)
        await this.#sync?.run().catch((cause: unknown) => {
          throw storeError(cause);
        });
    }
    return stored;
  }

  /** Sends until the record is in the log; returns its sequence. */
  async #write(attempt: Attempt): Promise<number> {
    const { subject, bytes, id, deadline } = attempt;
    const head = () => {
      const map = headers();
      if (this.#epoch !== undefined) map.set(EPOCH_HEADER, String(this.#epoch));
      return map;
    };
    let inTheWay = 0;
    let full = false;
    for (let expected = this.#last.get(subject) ?? 0; ; ) {
      if (this.#fence !== undefined) throw this.#fence;
      try {
        if (!(await this.#room.take(bytes.length, this.#patience(deadline)))) {
          if (full || this.#options.onFull === undefined)
            throw new CofaError('unavailable', FULL, { hint: FULL_HINT });
          full = true;
          await this.#options.onFull().catch(() => {});
          continue;
        }
        const ack = await this.#stream.publish(subject, bytes, {
          msgID: id,
          headers: head(),
          expect: { lastSubjectSequence: expected },
          timeout: this.#patience(deadline),
        });
        this.#answeredAt = performance.now();
        return ack.seq;
      } catch (cause) {
        if (cause instanceof CofaError) throw cause;
        if (!isCode(cause, WRONG_LAST_SEQUENCE)) {
          if (isCode(cause, STORE_FAILED) && !full && this.#options.onFull !== undefined) {
            full = true;
            await this.#options.onFull().catch(() => {});
            continue;
          }
          await this.#pause(cause, deadline);
          continue;
        }
        const last = await this.#lastOf({ last_by_subj: subject }, deadline);
        if (last?.id === id) return last.seq;
        if (last !== undefined) {
          this.#admit(last);
          await this.#readMissed(subject, expected + 1, last.seq, deadline);
        }
        if (last !== undefined && ++inTheWay > MOST_IN_THE_WAY) throw foreign(subject, cause);
        if (last === undefined && expected === 0) await this.#pause(cause, deadline);
        // What was there has been removed by retention: JetStream then expects 0.
        expected = last?.seq ?? 0;
      }
    }
  }

  /** A record that was not expected: throws unless this writer may go on behind it. */
  #admit(last: StoredRecord): void {
    const isMine = last.id.startsWith(`${this.#writer}.`);
    const epoch = this.#epoch;
    if (!isMine && epoch === undefined) throw foreign(last.subject);
    if (epoch !== undefined && (last.epoch ?? 0) > epoch) throw this.#close(last.subject);
    // A writer that knows nothing of epochs, after this engine has begun.
    if (!isMine && epoch !== undefined && last.epoch === undefined && last.seq > epoch)
      throw foreign(last.subject);
  }

  /** Tells of the valid records of `subject` from one sequence to another, both included. */
  async #readMissed(subject: string, from: number, to: number, deadline: number): Promise<void> {
    const { onMissed } = this.#options;
    const epoch = this.#epoch;
    if (onMissed === undefined || epoch === undefined) return;
    for (let next = Math.max(from, this.#floor + 1); next <= to; ) {
      const record = await this.#lastOf({ seq: next, next_by_subj: subject }, deadline);
      if (record === undefined || record.seq > to) return;
      next = record.seq + 1;
      const isVoid = record.seq > epoch && record.epoch !== undefined && record.epoch < epoch;
      if (!isVoid) onMissed({ seq: record.seq, subject, event: record.event() });
    }
  }

  /** The record was acknowledged; is it one of the owner's? */
  async #untilConfirmed(subject: string, deadline: number): Promise<void> {
    for (;;) {
      try {
        await this.#confirm(subject);
        return;
      } catch (cause) {
        if (cause instanceof CofaError && cause.code === 'conflict') throw cause;
        await this.#pause(cause, deadline);
      }
    }
  }

  /** Calls that come while one is under way share the next: theirs must look after their record was stored. */
  #confirm(subject: string): Promise<void> {
    const main = ownerSubject(subject);
    let joined = this.#confirmations.get(main);
    if (joined === undefined) {
      joined = new Joined(async () => {
        const last = await this.#lastOf({ last_by_subj: main }, performance.now() + ATTEMPT_MS);
        const epoch = last === undefined ? 0 : last.event().type === 'engine.started' ? last.seq : last.epoch;
        if (this.#epoch !== undefined && (epoch ?? 0) > this.#epoch) throw this.#close(main);
      });
      this.#confirmations.set(main, joined);
    }
    return joined.run();
  }

  #close(subject: string): CofaError {
    this.#fence ??= new CofaError('conflict', 'another engine has taken over this node', {
      hint: `each engine on one NATS needs a node name of its own: cofa up --node NAME (${ownerSubject(subject)})`,
    });
    this.#fenced.resolve(this.#fence);
    return this.#fence;
  }

  async #lastOf(query: RecordQuery, deadline: number): Promise<StoredRecord | undefined> {
    for (;;) {
      try {
        return await storedRecord(this.#bus, query, this.#patience(deadline));
      } catch (cause) {
        await this.#pause(cause, deadline);
      }
    }
  }

  #patience(deadline: number): number {
    return Math.max(1, Math.min(ATTEMPT_MS, Math.round(deadline - performance.now())));
  }

  /** Waits a little before the next attempt; throws when there is none. */
  async #pause(cause: unknown, deadline: number): Promise<void> {
    // JetStream itself refuses: another attempt would be refused as well.
    const isFinal = cause instanceof JetStreamApiError && cause.status < 500;
    if (isFinal || this.#bus.isClosed() || isCode(cause, STORE_FAILED)) throw storeError(cause);
    if (performance.now() + PAUSE_MS >= deadline) throw storeError(cause);
    await sleep(PAUSE_MS);
  }
}

/** Error `invalid-argument` for a record that no reader would take. */
function refuseFlawed(subject: string, record: CofaEvent): void {
  const flaw = flawOf(record);
  if (flaw === undefined) return;
  throw new CofaError(
    'invalid-argument',
    `${record.type} is not written into the log (${subject}): ${flawSentence(flaw)}`,
    {
      hint: 'what was asked for has a value that the log cannot hold; where that is none of yours, report it',
    },
  );
}

/** What the log stores of a fact. */
const recordOf = <T extends EventType>(event: NewEvent<T>, at: number): EventOf<T> =>
  ({ v: EVENT_VERSION, at, ...event }) as EventOf<T>;

interface Attempt {
  subject: string;
  bytes: Uint8Array;
  /** `<writer>.<number>` */
  id: string;
  /** By `performance.now()`. */
  deadline: number;
}

const FULL = 'the event log is full';
const FULL_HINT = 'give it more: cofa up --log-limit SIZE; cofa status says why it is not kept short';

/** `cofa.v1.<node>.event.engine.main` of any subject of the node's log. */
const ownerSubject = (subject: string): string => `${subject.split('.').slice(0, 4).join('.')}.engine.main`;

const isCode = (error: unknown, code: number): boolean =>
  error instanceof JetStreamApiError && error.code === code;

function foreign(subject: string, cause?: unknown): CofaError {
  return new CofaError('conflict', `another engine has written ${subject}`, {
    cause,
    hint: 'each engine on one NATS needs a node name of its own: cofa up --node NAME',
  });
}
