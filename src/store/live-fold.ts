/**
 * The one fold of a process that follows its node's log: the supervisor's. Every event passes here once, its own and those of other processes.
 *
 *     append(id, event) ──▶ EventLog ──▶ JetStream ─── ack ──▶ take ───┐
 *                                            │                         ├──▶ fold ──▶ listeners
 *                                            └── consumer ──▶ follow ──┘
 *
 * **An own event is folded when JetStream acknowledges it**, before its `append` resolves. So what a caller finds after its
 * append has what it appended, and no caller waits for the consumer, which may be a few records behind, or cut off for
 * seconds. What other processes append is folded when the consumer brings it.
 *
 * **Why the order is right.** The fold of a record changes only what is known of its subject (actors/node-state.ts), so
 * order within each subject suffices. There it holds: appends to one subject go one after the other; each names the
 * sequence of the record before it, and JetStream refuses it where there is a later one. What was missed is then read and
 * comes to `take` first (`onMissed`): a record of another process, or one of this process whose acknowledgement was lost.
 *
 * **Exactly once.** `#ahead` has the sequences of records that are folded and that the consumer has not brought yet. What
 * it brings and is in there moves the place on and nothing else.
 *
 * **A snapshot needs a state that is exactly a beginning of the log.** The state is one whenever `#ahead` is empty: then
 * it is the fold of all records up to `place.seq` and of none behind it. `prefix` waits for such a moment; it comes as
 * soon as the consumer has caught up with what this process has appended.
 */
import type { NodeState } from '../../actors/node-state.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { EventOf, EventType, NewEvent } from '../../schemas/events.ts';
import type { EventKind, Subjects } from '../../schemas/subjects.ts';
import type { AppendOptions, EventLog } from './event-log.ts';
import type { LogRecord, ReadRecord } from './log-reader.ts';
import type { NodeFold } from './node-fold.ts';

/** Readers add and remove nothing, and write to no fact. The maps are live, so look again after each `await`. */
export type NodeFacts = { readonly [K in keyof NodeState]: Frozen<NodeState[K]> };
type Frozen<T> = T extends Map<infer Key, infer Value> ? ReadonlyMap<Key, Value> : T;

/** Called after each event that was folded. */
export type FoldListener = (record: LogRecord) => void;

export class LiveFold {
  readonly #events: Pick<EventLog, 'append'>;
  readonly #names: Subjects;
  readonly #fold: NodeFold;
  readonly #listeners = new Set<FoldListener>();
  /** Sequences of records that are folded and that the consumer has still to bring. */
  readonly #ahead = new Set<number>();
  #waiting: Array<() => void> = [];
  #appending = 0;
  #appendingSince = 0;
  #appendedMs = 0;

  /** `fold`: a beginning of the log, as `loadNode` gave it; nothing else may change it from here on. */
  constructor(options: { events: Pick<EventLog, 'append'>; names: Subjects; fold: NodeFold }) {
    this.#events = options.events;
    this.#names = options.names;
    this.#fold = options.fold;
  }

  /** What the log says by now. */
  get state(): NodeFacts {
    return this.#fold.state;
  }

  /**
   * Up to where the consumer has brought the log, with what depends on that: its counts, and snapshots. The state may have
   * own events behind it; `prefix` tells when not.
   */
  get place(): NodeFold {
    return this.#fold;
  }

  /**
   * Appends a fact about the aggregate of this id (hex digits of a digest, a mount's id, or `main`), and folds it. Resolves
   * with what is stored when that is durable, unless it comes `early`, and folded. Errors: those of `EventLog.append`; the fact may be in the log and
   * in the state all the same, where NATS did not say.
   */
  async append<T extends EventType>(
    id: string,
    event: NewEvent<T>,
    options?: Pick<AppendOptions, 'early'>,
  ): Promise<LogRecord<EventOf<T>>> {
    if (this.#appending++ === 0) this.#appendingSince = performance.now();
    try {
      return await this.#events.append(this.#names.event(kindOf(event.type), id), event, options);
    } finally {
      if (--this.#appending === 0) this.#appendedMs += performance.now() - this.#appendingSince;
    }
  }

  /** For how long so far at least one append has been waited for, ms. */
  get appendedMs(): number {
    return this.#appendedMs + (this.#appending === 0 ? 0 : performance.now() - this.#appendingSince);
  }

  /** Calls the listener after each event, own and foreign, until the returned function is called. */
  listen(listener: FoldListener): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** For the event log's `onStored` and `onMissed`: a record that this process has appended, or found before its own. */
  readonly take = (record: LogRecord): void => {
    const { seq } = record;
    if (seq <= this.#fold.seq || this.#ahead.has(seq)) return;
    this.#ahead.add(seq);
    this.#foldNow(record);
  };

  /** The next record that the consumer brings. Errors: those of `NodeFold.apply`. */
  follow(record: ReadRecord): void {
    const isFolded = this.#ahead.delete(record.seq);
    if (!isFolded) this.#foldNow(record);
    this.#fold.pass(record);
    if (this.#ahead.size > 0) return;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) resolve();
  }

  /** Whether the state is the fold of exactly the records up to `place.seq`. */
  get isPrefix(): boolean {
    return this.#ahead.size === 0;
  }

  /** Resolves when `isPrefix`; look again before using it. Error `timeout` when the consumer does not catch up in time. */
  async prefix(timeoutMs: number): Promise<void> {
    if (this.isPrefix) return;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const late = () => {
      this.#waiting = this.#waiting.filter((one) => one !== resolve);
      reject(new CofaError('timeout', `the log was not followed to its end for ${timeoutMs} ms`));
    };
    const timer = setTimeout(late, timeoutMs);
    this.#waiting.push(resolve);
    await promise.finally(() => clearTimeout(timer));
  }

  #foldNow(record: LogRecord): void {
    this.#fold.fold(record);
    for (const listener of this.#listeners) listener(record);
  }
}

type Aggregate = EventType extends `${infer Prefix}.${string}` ? Prefix : never;

/** Whose subject an event belongs to, by the first word of its type. Facts about processes and the fleet are the engine's. */
const KINDS: Record<Aggregate, EventKind> = {
  engine: 'engine',
  process: 'engine',
  fleet: 'engine',
  image: 'image',
  layer: 'layer',
  root: 'root',
  mount: 'mount',
  snapshot: 'snapshot',
  podman: 'podman',
};

const kindOf = (type: EventType): EventKind => KINDS[type.slice(0, type.indexOf('.')) as Aggregate];
