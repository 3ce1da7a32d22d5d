/** Where a replay comes from: an exported file, or the log of an engine. */
import { defined } from '../../schemas/defined.ts';
import type { NodeState } from '../../actors/node-state.ts';
import { digestOfNodeState } from '../store/node-codec.ts';
import type { NodeFold } from '../store/node-fold.ts';
import { copyState } from './checkpoints.ts';
import type { LiveLog, LiveLogOptions, RecordsOptions } from './live-log.ts';
import { type LogFrame, LogFileReader } from './log-file.ts';
import { type Moment, timeOfMoment } from './moments.ts';
import { decodeRecord, foldRecord, partsOfSubject, type RawRecord } from './record.ts';
import { type Beginning, emptyBeginning, ReplayLog } from './replay-log.ts';
import { shapesOfRecord } from './shapes.ts';
import { Selection, type SelectionOptions } from './selection.ts';

export interface LoadOptions extends SelectionOptions {
  from?: Moment | undefined;
  to?: Moment | undefined;
  /** Take what is whole of a damaged file. */
  partial?: boolean | undefined;
  signal?: AbortSignal | undefined;
  /** Events so far; bytes read and bytes in all where they are known. */
  onProgress?: (events: number, done?: number, total?: number) => void;
}

export interface LoadedLog {
  log: ReplayLog;
  /** What it is, for people. */
  title: string;
  /** Sequences at which the engine's own snapshot was compared with the replayed state. */
  checked: number[];
  /** The events after `log`, for as long as the engine runs; undefined: no engine adds any. */
  follow: ((signal: AbortSignal) => AsyncIterable<RawRecord>) | undefined;
  close(): Promise<void>;
}

/** Lets input and signals arrive. */
const pause = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Reads an exported log. The file stays open: the view reads events again when it shows them. */
export async function loadFile(path: string, options: LoadOptions = {}): Promise<LoadedLog> {
  const selection = new Selection(options);
  if (!selection.isAll) await learnFromFile(path, selection, options);
  const reader = LogFileReader.open(path);
  try {
    const isWhole = selection.isAll && options.from === undefined && options.to === undefined;
    const log = isWhole
      ? await readWhole(reader, options)
      : await readRange(
          reader,
          new Cutter(reader.beginning, selection, options, frameOfFile(path, options)),
          options,
        );
    takePaths(log, reader);
    if (reader.shapes !== undefined) log.shapes = shapesOfRecord(reader.shapes);
    if (reader.header.beginning?.reason === 'retention')
      log.notes.push(`what came before sequence ${log.beginning.seq} had been removed from the log`);
    if (reader.damage !== undefined) log.notes.push(`only what is whole is shown: ${reader.damage}`);
    return { log, title: path, checked: [], follow: undefined, close: async () => reader.close() };
  } catch (error) {
    reader.close();
    throw error;
  }
}

/** Reads the file once for the images and mounts that the selection has to know. */
async function learnFromFile(path: string, selection: Selection, options: LoadOptions): Promise<void> {
  const reader = LogFileReader.open(path);
  try {
    selection.learnState(reader.beginning.state);
    for (const { records } of reader.frames({ partial: options.partial === true })) {
      for (const raw of records) if (/\.event\.(image|mount)\./.test(raw.subject)) selection.learn(raw);
      options.signal?.throwIfAborted();
      await pause();
    }
    selection.check();
  } finally {
    reader.close();
  }
}

/** All events, frame by frame: the log keeps no record in memory that the file can give again. */
async function readWhole(reader: LogFileReader, options: LoadOptions): Promise<ReplayLog> {
  const log = new ReplayLog({ node: reader.header.node, beginning: reader.beginning });
  for await (const { records, load } of framesOf(reader, options, () => log.count))
    log.appendFrame(records, load);
  return log;
}

/** The events that the cutter wants; it folds those before them into the beginning. */
async function readRange(reader: LogFileReader, cutter: Cutter, options: LoadOptions): Promise<ReplayLog> {
  const { node } = reader.header;
  let log: ReplayLog | undefined;
  for await (const { records } of framesOf(reader, options, () => log?.count ?? 0)) {
    for (const raw of records) {
      if (!cutter.wants(raw)) continue;
      log ??= new ReplayLog({ node, beginning: cutter.beginning() });
      log.append(raw);
    }
  }
  return log ?? new ReplayLog({ node, beginning: cutter.beginning() });
}

/** The frames of a file, with progress, and with pauses in which input and signals arrive. `count`: events so far. */
async function* framesOf(
  reader: LogFileReader,
  options: LoadOptions,
  count: () => number,
): AsyncGenerator<LogFrame> {
  const onProgress = (done: number, total: number) => options.onProgress?.(count(), done, total);
  for (const frame of reader.frames({ partial: options.partial === true, onProgress })) {
    yield frame;
    options.signal?.throwIfAborted();
    await pause();
  }
}

/** Names of files for blocks, as the export stored them. */
function takePaths(log: ReplayLog, { paths }: LogFileReader): void {
  const byBlock = new Map(Object.entries(paths).map(([diffId, list]) => [diffId, new Map(list)] as const));
  log.paths = (diffId, block) => byBlock.get(diffId)?.get(block) ?? [];
}

/** First and last time of a file. Reads the file, so moments that need neither do not ask for them. */
function frameOfFile(path: string, options: LoadOptions): () => { firstAt: number; endAt: number } {
  return () => {
    const reader = LogFileReader.open(path);
    try {
      let firstAt: number | undefined;
      let endAt = 0;
      for (const { records } of reader.frames({ partial: options.partial === true })) {
        const [first] = records;
        if (first !== undefined) firstAt ??= decodeRecord(first.bytes).at;
        for (const raw of records.slice(-1)) endAt = decodeRecord(raw.bytes).at ?? endAt;
      }
      return { firstAt: firstAt ?? 0, endAt };
    } finally {
      reader.close();
    }
  };
}

/** Reads the log of an engine; see live-log.ts for one that does not run. */
export async function loadLive(source: LiveLogOptions, options: LoadOptions = {}): Promise<LoadedLog> {
  const { openLiveLog } = await import('./live-log.ts');
  const live = await openLiveLog(source);
  try {
    const { selection, cutter, records } = await planLive(live, options);
    let log: ReplayLog | undefined;
    let seen = 0;
    const check = new SnapshotCheck(selection.isAll ? live.beginning.snapshots : []);
    for await (const raw of live.records(defined({ ...records, signal: options.signal }))) {
      if (++seen % 4096 === 0) {
        options.onProgress?.(seen);
        options.signal?.throwIfAborted();
      }
      if (cutter.isOver) break;
      if (!cutter.wants(raw)) continue;
      log ??= new ReplayLog({ node: live.node, beginning: cutter.beginning() });
      log.append(raw);
      check.compare(log, raw.seq);
    }
    options.signal?.throwIfAborted();
    const ready = log ?? new ReplayLog({ node: live.node, beginning: cutter.beginning() });
    ready.notes.push(...check.problems);
    const { removed, from } = live.beginning;
    if (removed > 0)
      ready.notes.push(
        from === undefined
          ? `events up to ${removed} were removed and no snapshot stands for them: the state is not whole`
          : `events up to ${from.seq} were removed; a snapshot stands for them`,
      );
    const next = () => (ready.count === 0 ? cutter.lastSeq : ready.seqOf(ready.count)) + 1;
    const follow = async function* (stop: AbortSignal): AsyncIterable<RawRecord> {
      for await (const raw of live.records({ fromSeq: next(), follow: true, signal: stop })) {
        selection.learn(raw);
        if (selection.accepts(raw)) yield raw;
      }
    };
    return {
      checked: check.checked,
      log: ready,
      title: live.running ? `node ${live.node}, live` : `node ${live.node}, engine stopped`,
      follow: live.running && options.to === undefined ? follow : undefined,
      close: live.close,
    };
  } catch (error) {
    await live.close();
    throw error;
  }
}

/** Compares what the engine stored of its own fold with the replayed state. */
class SnapshotCheck {
  readonly problems: string[] = [];
  readonly checked: number[] = [];
  readonly #left: NodeFold[];

  constructor(snapshots: readonly NodeFold[]) {
    this.#left = [...snapshots];
  }

  /** After the event with sequence `seq`. */
  compare(log: ReplayLog, seq: number): void {
    while (this.#left[0] !== undefined && this.#left[0].seq < seq) this.#left.shift();
    const [snapshot] = this.#left;
    if (snapshot === undefined || snapshot.seq !== seq) return;
    if (digestOfNodeState(snapshot.state) !== digestOfNodeState(log.stateAt(log.count)))
      this.problems.push(`the engine's own snapshot at ${seq} is not what the log replays to`);
    this.checked.push(seq);
  }
}

/** Learns what a selection needs, and sets up where to cut. */
export async function planLive(
  live: LiveLog,
  options: LoadOptions,
): Promise<{ selection: Selection; cutter: Cutter; beginning: Beginning; records: RecordsOptions }> {
  const selection = new Selection(options);
  const from = snapshotBefore(live, options) ?? live.beginning.from;
  const beginning: Beginning =
    from === undefined ? emptyBeginning() : { seq: from.seq, at: 0, state: copyState(from.state) };
  if (!selection.isAll) {
    selection.learnState(beginning.state);
    for (const kind of ['image', 'mount'] as const)
      for await (const raw of live.records({ kind })) selection.learn(raw);
    selection.check();
  }
  let firstAt = 0;
  if (options.from?.kind === 'after-start' || options.to?.kind === 'after-start') {
    for await (const raw of live.records()) {
      firstAt = decodeRecord(raw.bytes).at ?? 0;
      break;
    }
  }
  const cutter = new Cutter(beginning, selection, options, () => ({ firstAt, endAt: Date.now() }));
  const records: RecordsOptions = from === undefined ? {} : { fromSeq: from.seq + 1, epoch: from.epoch };
  return { selection, cutter, beginning, records };
}

/** What was long before a range of all events need not be read: the engine's own snapshot stands for it. */
function snapshotBefore({ beginning }: LiveLog, { from, image, mount }: LoadOptions): NodeFold | undefined {
  if (from?.kind !== 'seq' || image !== undefined || mount !== undefined) return undefined;
  return beginning.snapshots.findLast(({ seq }) => seq < from.seq && seq >= beginning.removed);
}

/**
 * Chooses the events of a range: what comes before it is folded into the state that it begins with. `--from` and `--to`
 * are inclusive; by time they are the first event at or after, the last at or before.
 */
export class Cutter {
  readonly #selection: Selection;
  readonly #state: NodeState;
  readonly #from: { seq: number } | { at: number } | { position: number } | undefined;
  readonly #to: { seq: number } | { at: number } | { position: number } | undefined;
  #started = false;
  #seen = 0;
  /** Sequence and time of the last event that was folded into the beginning. */
  #before: { seq: number; at: number };
  #latest = 0;
  #reason: 'from' | 'retention' | undefined;
  /** Of the last record that was offered. */
  lastSeq = 0;
  #last = { seq: 0, at: 0 };

  constructor(
    beginning: Beginning,
    selection: Selection,
    range: { from?: Moment | undefined; to?: Moment | undefined },
    frame: () => { firstAt: number; endAt: number },
  ) {
    this.#selection = selection;
    selection.learnState(beginning.state);
    this.#state = selection.cut(copyState(beginning.state));
    this.#before = { seq: beginning.seq, at: beginning.at };
    let known: { firstAt: number; endAt: number } | undefined;
    const { from } = range;
    const isCut = from?.kind === 'seq' && from.seq > beginning.seq;
    this.#reason = beginning.seq === 0 ? undefined : isCut ? 'from' : 'retention';
    const edge = (moment: Moment | undefined) => {
      if (moment === undefined || moment.kind === 'start' || moment.kind === 'end') return undefined;
      if (moment.kind === 'seq') return { seq: moment.seq };
      if (moment.kind === 'position') return { position: moment.position };
      known ??= moment.kind === 'time' ? { firstAt: 0, endAt: 0 } : frame();
      return { at: timeOfMoment(moment, known) as number };
    };
    this.#from = edge(range.from);
    this.#to = edge(range.to);
  }

  /** Whether the event lies within the range; to be asked of all of them in order. */
  wants(raw: RawRecord): boolean {
    this.lastSeq = raw.seq;
    this.#selection.learn(raw);
    if (!this.#selection.accepts(raw)) return false;
    this.#seen += 1;
    const decoded = this.#started && this.#to === undefined ? undefined : decodeRecord(raw.bytes);
    if (decoded !== undefined) this.#latest = Math.max(this.#latest, decoded.at ?? 0);
    if (!this.#started) {
      const from = this.#from;
      this.#started =
        from === undefined ||
        ('seq' in from
          ? raw.seq >= from.seq
          : 'at' in from
            ? this.#latest >= from.at
            : this.#seen >= from.position);
    }
    const to = this.#to;
    const beyond =
      to !== undefined &&
      ('seq' in to ? raw.seq > to.seq : 'at' in to ? this.#latest > to.at : this.#seen > to.position);
    if (beyond) return false;
    this.#last = { seq: raw.seq, at: decoded?.at ?? this.#last.at };
    if (this.#started) return true;
    foldRecord(this.#state, partsOfSubject(raw.subject).id, decoded ?? decodeRecord(raw.bytes));
    this.#before = this.#last;
    this.#reason = 'from';
    return false;
  }

  /** No event behind the last one that was offered lies within the range. */
  get isOver(): boolean {
    return this.#to !== undefined && 'seq' in this.#to && this.lastSeq >= this.#to.seq;
  }

  /** Why the log does not begin with nothing. */
  get reason(): 'from' | 'retention' | undefined {
    return this.#reason;
  }

  /** The state in front of the first event that was wanted. */
  beginning(): Beginning {
    return { ...this.#before, state: this.#state };
  }
}
