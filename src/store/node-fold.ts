/** The fold of a node's whole log with its place in it: what snapshots hold and what a start begins with. */
import { emptyNode, foldEvent, idOf, type NodeState } from '../../actors/node-state.ts';
import { CofaError } from '../../schemas/errors.ts';
import { type CofaEvent, EVENT_TYPES, EVENT_VERSION } from '../../schemas/events.ts';
import type { LogRecord, ReadRecord } from './log-reader.ts';

/** A place in the log. `bytes`: what the node's records up to there took in the stream, since its log began. */
export interface LogPlace {
  seq: number;
  bytes: number;
}

export class NodeFold {
  state: NodeState = emptyNode();
  /** Of the last event. */
  seq = 0;
  /** Of the last event's append; empty where it had none. */
  id = '';
  /** Sequence of the last `engine.started`. */
  epoch = 0;
  events = 0;
  bytes = 0;
  /** Last sequence of each aggregate that goes on, by `<kind>.<id>`. */
  sequences = new Map<string, number>();
  /** The log up to here has been removed. */
  trimmed: LogPlace = { seq: 0, bytes: 0 };
  /** The last snapshot that was written. */
  snapshot: LogPlace = { seq: 0, bytes: 0 };
  /** The one before it. */
  previous: LogPlace = { seq: 0, bytes: 0 };

  /** The next record of `readLog`. Error `unsupported` when a newer cofa wrote it: what it means is not known. */
  apply(record: ReadRecord): void {
    this.fold(record);
    this.pass(record);
  }

  /** Changes the state alone; the place in the log stays. Errors: those of `apply`. */
  fold({ seq, subject, event }: LogRecord): void {
    refuseUnknown(event, seq);
    foldEvent(this.state, idOf(subject), event);
    const aggregate = aggregateOf(subject);
    if (ENDS.has(event.type)) this.sequences.delete(aggregate);
    else this.sequences.set(aggregate, seq);
  }

  /** Moves the place behind a record that is folded. */
  pass({ seq, event, id, bytes }: ReadRecord): void {
    this.seq = seq;
    this.id = id;
    this.events += 1;
    this.bytes += bytes;
    if (event.type === 'engine.started') this.epoch = seq;
    if (event.type === 'engine.trimmed' && event.bytes !== undefined)
      this.trimmed = { seq: event.through, bytes: event.bytes };
  }
}

const KNOWN: ReadonlySet<string> = new Set(EVENT_TYPES);

/** Last events of an aggregate. */
const ENDS: ReadonlySet<string> = new Set([
  'mount.unmounted',
  'mount.failed',
  'image.removed',
  'layer.removed',
  'snapshot.removed',
  'podman.removed',
]);

/** `<kind>.<id>` of a subject of the log. */
export function aggregateOf(subject: string): string {
  // cofa.v1.<node>.event.<kind>.<id>; without a list of tokens, since a start does it for each event.
  let dot = -1;
  for (let token = 0; token < 4; token++) dot = subject.indexOf('.', dot + 1);
  return subject.slice(dot + 1);
}

function refuseUnknown(event: CofaEvent, seq: number): void {
  if (event.v === EVENT_VERSION && KNOWN.has(event.type)) return;
  throw new CofaError(
    'unsupported',
    `event ${seq} of the log (${String(event.type)}, version ${String(event.v)}) is of a newer cofa`,
    { hint: 'use that version: this one would misread what the node knows' },
  );
}
