/**
 * Keeps the log of a node short. The supervisor follows the log, folds it (src/store/live-fold.ts), and stores a snapshot of the fold when enough
 * has come since the last one, at a clean stop, and when the log is full. Behind a snapshot, what the log holds beyond its
 * limit is removed, in this order: snapshot stored and read back; `engine.trimmed` appended, which only the owner of the
 * node can; events removed. Half of the limit stays, for who wants to see what happened; and nothing is removed behind
 * the snapshot before the newest one, so that each of the two that are kept has all that follows it.
 *
 *     ───removed───┊──events── previous ──events── snapshot ──events── now
 *               trimmed
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { jetstreamManager } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/nats-core';
import type { Logger } from 'pino';
import { toErrorRecord } from '../../../schemas/errors.ts';
import { STREAM, type Subjects } from '../../../schemas/subjects.ts';
import type { EventLog } from '../../store/event-log.ts';
import type { LogFiles } from '../../store/log-files.ts';
import type { LiveFold } from '../../store/live-fold.ts';
import { readLog } from '../../store/log-reader.ts';
import type { LogPlace, NodeFold } from '../../store/node-fold.ts';
import { removeSnapshot, snapshotSequences, writeSnapshot } from '../../store/snapshots.ts';
import type { Conditions } from '../../process/conditions.ts';

export interface LogKeeperOptions {
  bus: NatsConnection;
  names: Subjects;
  events: EventLog;
  /** Folds what this class reads; a snapshot is of a moment when it is exactly a beginning of the log. */
  live: LiveFold;
  /** Bytes of events that are kept at most, about. */
  limit: number;
  /** Bring onto the disk what NATS acknowledged: no snapshot is ahead of its log, and no event goes before its snapshot. */
  files: Pick<LogFiles, 'sync' | 'syncSnapshots'> | undefined;
  conditions: Conditions;
  log: Logger;
}

/** A snapshot is taken when the log has grown by so many events or bytes since the last one. */
const SNAPSHOT_EVENTS = 20_000;
const SNAPSHOT_BYTES = 16 << 20;
/** At a clean stop so many are enough: reading them takes longer than a snapshot. */
const STOP_EVENTS = 500;
/** Events that are removed in one call where those of other nodes lie between: JetStream stands still meanwhile. */
const PURGE_STEP = 4_000;
const PURGE_PAUSE_MS = 20;
/** The log that broke off is followed again after this, ms. */
const FOLLOW_AGAIN_MS = 1_000;
/** Places that are noted while the log grows by its limit. */
const MARKS = 32;
/** A snapshot waits so long for the consumer to bring what this process has appended, ms. */
const CATCH_UP_MS = 30_000;
/** After a snapshot that failed, ms. */
const RETRY_MS = 10_000;
/** Room is made this often at most, ms. */
const ROOM_MS = 2_000;

export class LogKeeper {
  readonly #options: LogKeeperOptions;
  readonly #fold: NodeFold;
  readonly #stop = new AbortController();
  #following: Promise<void> | undefined;
  /** One at a time. */
  #work: Promise<void> = Promise.resolve();
  #busy = false;
  /** An attempt failed, and may have left parts of a snapshot. */
  #hasFailed = false;
  #eventsAtSnapshot: number;
  #notBefore = 0;
  /** Places that the fold has passed, some for each limit. */
  #marks: LogPlace[] = [];
  #roomAt = Number.NEGATIVE_INFINITY;
  readonly #waiting = new Set<{ seq: number; resolve: () => void }>();

  constructor(options: LogKeeperOptions) {
    this.#options = options;
    this.#fold = options.live.place;
    this.#eventsAtSnapshot = 0;
  }

  /** Follows the log from where the fold is. */
  start(): void {
    this.#following ??= this.#follow();
  }

  /** For `status`. */
  report(): { events: number; bytes: number; limit: number; snapshot: number } {
    const { events, snapshot } = this.#fold;
    return { events, bytes: this.retained, limit: this.#options.limit, snapshot: snapshot.seq };
  }

  /** What the log holds of this node, bytes. */
  get retained(): number {
    return this.#fold.bytes - this.#fold.trimmed.bytes;
  }

  /** Stores a snapshot now, and removes what the log has too much. */
  snapshot(): Promise<void> {
    return this.#alone(() => this.#snapshot());
  }

  /** Makes room in a log that is full; at most every few seconds. */
  makeRoom(): Promise<void> {
    if (performance.now() - this.#roomAt < ROOM_MS) return this.#work;
    this.#roomAt = performance.now();
    return this.#alone(() => this.#makeRoom());
  }

  /** Waits until the fold has event `seq`, takes a last snapshot, and ends; after `timeoutMs` without. */
  async close(seq: number, timeoutMs: number): Promise<void> {
    const end = AbortSignal.timeout(timeoutMs);
    const late = new Promise<void>((resolve) => end.addEventListener('abort', () => resolve()));
    const last = (async () => {
      await this.#reached(seq);
      if (this.#fold.events - this.#eventsAtSnapshot >= STOP_EVENTS) await this.snapshot();
    })();
    await Promise.race([last, late]).catch((error: unknown) => {
      this.#options.log.warn({ error }, 'no snapshot of the log at the end');
    });
    this.#stop.abort();
    await Promise.race([this.#following, late]);
  }

  #reached(seq: number): Promise<void> {
    if (this.#fold.seq >= seq) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.add({ seq, resolve }));
  }

  async #follow(): Promise<void> {
    const { bus, names, log } = this.#options;
    const { signal } = this.#stop;
    while (!signal.aborted && !bus.isClosed()) {
      try {
        const { seq, epoch } = this.#fold;
        for await (const record of readLog(bus, names.allEvents, { from: seq + 1, epoch, signal })) {
          this.#options.live.follow(record);
          this.#mark();
          this.#look();
        }
      } catch (error) {
        const { code, message } = toErrorRecord(error);
        // It would come to the same record again.
        if (code === 'unsupported' || code === 'integrity') {
          this.#options.conditions.set('log-fold', `the event log is not folded any more: ${message}`);
          return;
        }
        log.warn({ error }, 'the log is followed again');
      }
      if (!signal.aborted) await sleep(FOLLOW_AGAIN_MS, undefined, { ref: false });
    }
  }

  #mark(): void {
    const { seq, bytes, trimmed } = this.#fold;
    if (bytes - (this.#marks.at(-1)?.bytes ?? 0) < this.#options.limit / MARKS) return;
    this.#marks.push({ seq, bytes });
    if (this.#marks.length > 8 * MARKS) this.#marks = this.#marks.filter((mark) => mark.seq > trimmed.seq);
  }

  #look(): void {
    for (const waiting of this.#waiting) {
      if (this.#fold.seq < waiting.seq) continue;
      this.#waiting.delete(waiting);
      waiting.resolve();
    }
    if (this.#busy || performance.now() < this.#notBefore || !this.#isDue()) return;
    this.snapshot().catch((error: unknown) => {
      this.#notBefore = performance.now() + RETRY_MS;
      this.#options.log.warn({ error }, 'no snapshot of the log');
    });
  }

  #isDue(): boolean {
    const { limit } = this.#options;
    const fold = this.#fold;
    if (fold.events - this.#eventsAtSnapshot >= SNAPSHOT_EVENTS) return true;
    return fold.bytes - fold.snapshot.bytes >= Math.min(SNAPSHOT_BYTES, limit / 4);
  }

  /** Up to where to remove, so that half of the limit is left: by what is known of places, and proportionally between. */
  #half(): LogPlace {
    const { trimmed, previous } = this.#fold;
    const bytes = this.#fold.bytes - this.#options.limit / 2;
    if (bytes >= previous.bytes) return previous;
    const known = [
      trimmed,
      ...this.#marks.filter(({ seq }) => seq > trimmed.seq && seq < previous.seq),
      previous,
    ];
    const next = known.findIndex((place) => place.bytes > bytes);
    const [from, to] = [known[next - 1] ?? trimmed, known[next] ?? previous];
    const share = (bytes - from.bytes) / Math.max(1, to.bytes - from.bytes);
    return { seq: Math.floor(from.seq + share * (to.seq - from.seq)), bytes: Math.floor(bytes) };
  }

  #alone(work: () => Promise<void>): Promise<void> {
    const mine = this.#work
      .catch(() => {})
      .then(async () => {
        this.#busy = true;
        try {
          await work();
          this.#options.conditions.clear('log-length');
        } catch (error) {
          this.#hasFailed = true;
          this.#options.conditions.set(
            'log-length',
            `the event log cannot be kept short: ${toErrorRecord(error).message}`,
          );
          throw error;
        } finally {
          this.#busy = false;
        }
      });
    this.#work = mine;
    return mine;
  }

  async #snapshot(): Promise<void> {
    await this.#store();
    if (this.retained > this.#options.limit) await this.#trim(this.#half());
  }

  async #store(): Promise<void> {
    const { bus, names, files, log } = this.#options;
    const fold = this.#fold;
    const began = performance.now();
    // Parts of snapshots that failed would take the room of this one, and in the end there would be room for none.
    if (this.#hasFailed) await this.#removeBut(fold.seq, fold.snapshot.seq, fold.previous.seq);
    await this.#untilPrefix();
    if (fold.seq === fold.snapshot.seq) return;
    const place = { seq: fold.seq, bytes: fold.bytes };
    const { events } = fold;
    // The fold goes on while this is stored: `writeSnapshot` takes it as it is now.
    const bytes = await writeSnapshot(bus, names, fold, files?.sync);
    await files?.syncSnapshots();
    fold.previous = fold.snapshot;
    fold.snapshot = place;
    this.#eventsAtSnapshot = events;
    await this.#removeBut(place.seq, fold.previous.seq);
    log.info({ seq: place.seq, bytes, ms: Math.round(performance.now() - began) }, 'snapshot of the log');
  }

  /** Removes the node's stored snapshots, but those of these sequences. */
  async #removeBut(...kept: readonly number[]): Promise<void> {
    const { bus, names } = this.#options;
    for (const seq of await snapshotSequences(bus, names))
      if (!kept.includes(seq)) await removeSnapshot(bus, names, seq);
    this.#hasFailed = false;
  }

  /** In the same turn as it resolves, the state is the fold of exactly the records up to its place. */
  async #untilPrefix(): Promise<void> {
    const { live } = this.#options;
    // An engine that starts follows the log only when it is ready, unless the log has no room before.
    if (!live.isPrefix) this.start();
    while (!live.isPrefix) await live.prefix(CATCH_UP_MS);
  }

  async #trim(through: LogPlace): Promise<void> {
    const { events, names, log } = this.#options;
    const fold = this.#fold;
    if (through.seq <= fold.trimmed.seq) return;
    const before = fold.trimmed;
    await events.append(names.event('engine', 'main'), {
      type: 'engine.trimmed',
      through: through.seq,
      snapshot: fold.snapshot.seq,
      bytes: through.bytes,
    });
    await this.#purge(before.seq, through.seq);
    fold.trimmed = through;
    log.info({ through: through.seq, bytes: through.bytes - before.bytes }, 'beginning of the log removed');
  }

  /**
   * A full log takes no `engine.trimmed`: what snapshots cover goes first, the event follows. Whoever starts in between
   * begins with one of them. When there is but one, the log is removed up to that.
   */
  async #makeRoom(): Promise<void> {
    const { log } = this.#options;
    const fold = this.#fold;
    log.warn({ bytes: this.retained }, 'the event log is full: its beginning is removed');
    await this.#store();
    const through = fold.previous.seq > fold.trimmed.seq ? fold.previous : fold.snapshot;
    if (through.seq <= fold.trimmed.seq) return;
    await this.#purge(fold.trimmed.seq, through.seq);
    // Not waited for: the append that found the log full may be one of the same subject.
    void this.#trim(through).catch((error: unknown) =>
      log.warn({ error }, 'the log does not say yet what it lacks'),
    );
  }

  async #purge(from: number, through: number): Promise<void> {
    const { bus, names } = this.#options;
    const manager = await jetstreamManager(bus, { timeout: 30_000, checkAPI: false });
    const { state } = await manager.streams.info(STREAM, { subjects_filter: names.allEvents });
    if (Object.keys(state.subjects ?? {}).length === state.num_subjects) {
      // Nobody else's events are there: the beginning is cut off in one go. Those of one who begins now come behind.
      await manager.streams.purge(STREAM, { seq: through + 1 } as never);
      return;
    }
    for (let seq = Math.min(from + PURGE_STEP, through); ; seq = Math.min(seq + PURGE_STEP, through)) {
      await manager.streams.purge(STREAM, { filter: names.allEvents, seq: seq + 1 });
      if (seq >= through || this.#stop.signal.aborted) return;
      await sleep(PURGE_PAUSE_MS);
    }
  }
}
