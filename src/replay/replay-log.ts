/**
 * A log that shows the state after each of its events. A position is a number of events: 0 is the beginning, `count`
 * the end. The state at a position is the engine's own fold (actors/node-state.ts) over as many events, on top of the
 * state that the log begins with. A step forward folds; a step back takes the checkpoint before and folds from there.
 */
import { emptyNode, type NodeState } from '../../actors/node-state.ts';
import type { PathsOf } from '../image/file-paths.ts';
import { type CheckpointOptions, Checkpoints, copyState } from './checkpoints.ts';
import type { Countable } from './density.ts';
import { type DecodedRecord, decodeRecord, foldRecord, type RawRecord } from './record.ts';
import { type FrameLoader, Timeline } from './timeline.ts';
import { NO_SHAPES, type Shapes } from './shapes.ts';
import { TraceIndex } from './trace-index.ts';

/** The state in front of a log's first event. */
export interface Beginning {
  /** Sequence of the last event that it contains; 0: none. */
  seq: number;
  /** Milliseconds since the epoch; 0: not known. */
  at: number;
  state: NodeState;
}

export const emptyBeginning = (): Beginning => ({ seq: 0, at: 0, state: emptyNode() });

export class ReplayLog {
  readonly node: string;
  readonly beginning: Beginning;
  readonly timeline = new Timeline();
  readonly traces = new TraceIndex();
  /** Files that have a block of a layer, by diffID: from the flat images, where they are at hand. */
  paths: PathsOf = () => [];
  /** Spans of the layers, where their tables are at hand. */
  shapes: Shapes = NO_SHAPES;
  /** Notes about this log for the user, one sentence each. */
  readonly notes: string[] = [];
  readonly #checkpoints: Checkpoints;
  /** By the ids of layers that bear another name than their diffID. */
  readonly #diffIds = new Map<string, string>();
  /** After all events. */
  readonly #head: NodeState;
  #cursor: { position: number; state: NodeState } | undefined;
  #folded = 0;
  #strange = 0;

  constructor(options: { node: string; beginning?: Beginning; checkpoints?: CheckpointOptions }) {
    this.node = options.node;
    this.beginning = options.beginning ?? emptyBeginning();
    this.#checkpoints = new Checkpoints(options.checkpoints);
    this.#head = copyState(this.beginning.state);
    this.#checkpoints.add(0, this.#head);
    for (const [id, { diffId }] of this.#head.layers) if (diffId !== undefined) this.#diffIds.set(id, diffId);
  }

  /** Files that have a block of the layer of this id. */
  readonly pathsOf: PathsOf = (layer, block) => this.paths(this.diffIdOf(layer), block);

  /** The diffID of the layer of this id. */
  diffIdOf(layer: string): string {
    return this.#diffIds.get(layer) ?? layer;
  }

  get count(): number {
    return this.timeline.count;
  }

  /** Events that this cofa does not know or cannot read; they change nothing. */
  get strange(): number {
    return this.#strange;
  }

  /** Bytes in memory, about. */
  get memory(): number {
    return this.timeline.memory + this.#checkpoints.bytes + this.traces.memory;
  }

  get checkpointCount(): number {
    return this.#checkpoints.count;
  }

  append(raw: RawRecord): void {
    const decoded = decodeRecord(raw.bytes);
    this.timeline.append(raw, decoded);
    this.#fold(decoded);
  }

  appendFrame(records: readonly RawRecord[], load: FrameLoader): void {
    const decoded = records.map(({ bytes }) => decodeRecord(bytes));
    this.timeline.appendFrame(records, decoded, load);
    for (const one of decoded) this.#fold(one);
  }

  /** The state after `position` events; good until the next call, not to be changed. */
  stateAt(position: number): NodeState {
    if (!(position >= 0 && position <= this.count)) throw new RangeError(`there is no position ${position}`);
    if (position === this.count) return this.#head;
    const nearest = this.#checkpoints.nearestPosition(position);
    let cursor = this.#cursor;
    if (cursor === undefined || cursor.position > position || cursor.position < nearest) {
      cursor = this.#checkpoints.nearest(position);
      this.#cursor = cursor;
    }
    for (; cursor.position < position; cursor.position++) {
      const index = cursor.position;
      foldRecord(cursor.state, this.timeline.idAt(index), this.timeline.decodedAt(index));
    }
    return cursor.state;
  }

  /** Sequence of the last event before `position`; that of the beginning where there is none. */
  seqOf(position: number): number {
    return position === 0 ? this.beginning.seq : this.timeline.seqAt(position - 1);
  }

  /** Time of the last event before `position`, ms since the epoch. */
  timeOf(position: number): number {
    if (position > 0) return this.timeline.timeAt(position - 1);
    return this.beginning.at > 0 || this.count === 0 ? this.beginning.at : this.timeline.timeAt(0);
  }

  #fold(decoded: DecodedRecord): void {
    const id = this.timeline.idAt(this.#folded);
    if (foldRecord(this.#head, id, decoded)) this.#checkpoints.touch(this.timeline.kindAt(this.#folded), id);
    else this.#strange += 1;
    if (decoded.type === 'layer.trace') this.traces.add(this.#folded, decoded.record);
    if (decoded.type === 'layer.opened') learnDiffId(this.#diffIds, id, decoded.record);
    this.#folded += 1;
    if (this.#checkpoints.isDue(this.#folded)) this.#checkpoints.add(this.#folded, this.#head);
  }
}

/** A log as its time line counts it. */
export const countableOf = (log: ReplayLog): Countable => ({
  count: log.count,
  timeAt: (index) => log.timeline.timeAt(index),
  waits: () => log.traces.spans(),
});

/** Notes what an event `layer.opened` says of the layer's diffID. `id`: hex digits. */
export function learnDiffId(
  known: Map<string, string>,
  id: string,
  { diffId }: Record<string, unknown>,
): void {
  if (typeof diffId === 'string') known.set(`sha256:${id}`, diffId);
}
