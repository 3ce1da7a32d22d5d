/** The front end's part of the event log: the facts about layers, and the one door through which it adds to them. */
import type { NatsConnection } from '@nats-io/nats-core';
import type { Counts } from '../../actors/counts.ts';
import { foldEvent, idOf } from '../../actors/node-state.ts';
import type { CofaEvent } from '../../schemas/events.ts';
import type { Subjects } from '../../schemas/subjects.ts';
import { isNothing } from '../../schemas/shapes.ts';
import { ask } from '../bus/connection.ts';
import { appendWatch } from '../process/counted.ts';
import type { EngineSettings } from '../process/settings.ts';
import type { Ports } from '../process/ports.ts';
import { EventLog, type LogRecord } from '../store/event-log.ts';
import { type LayerLog, layerLog } from '../store/layer-log.ts';
import { LogFiles } from '../store/log-files.ts';
import type { NodeFold } from '../store/node-fold.ts';
import { continueNode, loadNode } from '../store/snapshots.ts';

/** The supervisor has this long to make room in a full log, ms. */
const ROOM_MS = 5_000;

export interface LogWriterOptions {
  bus: NatsConnection;
  names: Subjects;
  settings: Pick<EngineSettings, 'epoch' | 'natsFiles'>;
  clock: Ports['clock'];
  /** Appends are counted here. */
  counts?: Counts;
}

export class LogWriter {
  readonly #bus: NatsConnection;
  readonly #names: Subjects;
  readonly #files: LogFiles | undefined;
  readonly #events: EventLog;
  readonly #watchers: Array<(diffId: string, event: CofaEvent) => void> = [];
  #fold: NodeFold;

  /** Reads the log to its end. Errors: those of `loadNode`. */
  static async open(options: LogWriterOptions): Promise<LogWriter> {
    const { fold } = await loadNode(options.bus, options.names);
    return new LogWriter(options, fold);
  }

  private constructor({ bus, names, settings, clock, counts }: LogWriterOptions, fold: NodeFold) {
    this.#bus = bus;
    this.#names = names;
    this.#fold = fold;
    this.#files = settings.natsFiles === undefined ? undefined : new LogFiles(settings.natsFiles);
    this.#events = new EventLog(bus, clock.wallMs, {
      epoch: settings.epoch,
      // An append of the front end before this one, which landed late.
      onMissed: (record) => this.#foldRecord(record),
      onFull: () => ask(bus, names.room, {}, isNothing, ROOM_MS),
      onStored: (record) => {
        this.#foldRecord(record);
        const { subject, event } = record;
        for (const watch of this.#watchers) watch(`sha256:${idOf(subject)}`, event);
      },
      ...(counts === undefined ? {} : { onEnded: appendWatch(counts) }),
      ...(this.#files === undefined ? {} : { alone: true, sync: this.#files.sync }),
    });
    this.#events.rememberAll(names, fold);
  }

  /** Folds what another front end has appended since `open`. What `layerLog` gave before is out of date then. */
  async catchUp(): Promise<void> {
    this.#fold = await continueNode(this.#bus, this.#names, this.#fold);
    this.#events.rememberAll(this.#names, this.#fold);
  }

  /** What the log says of layers, and the door through which more is said. */
  layerLog(): LayerLog {
    return layerLog(this.#events, this.#names, this.#fold.state.layers);
  }

  /** Events that wait for the log. */
  get waiting(): number {
    return this.#events.waiting;
  }

  /** Calls `watcher` with each record of this process when it is in the log. */
  watch(watcher: (diffId: string, event: CofaEvent) => void): void {
    this.#watchers.push(watcher);
  }

  /** Brings the log's files onto the disk: the first sync looks at all of them, and should not delay a layer. */
  async warmUp(): Promise<void> {
    await this.#files?.sync().catch(() => {});
  }

  /** What the log has taken is known from here on. */
  #foldRecord({ subject, event }: LogRecord): void {
    foldEvent(this.#fold.state, idOf(subject), event);
  }
}
