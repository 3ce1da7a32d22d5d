/**
 * One record of an event log as the replay sees it: the stored bytes, and what they decode to. The bytes are kept as
 * they are, so that a log of a later cofa passes through an export unharmed; what this cofa cannot read is shown as
 * such.
 */
import { Unpackr } from 'msgpackr';
import { flawOfStored } from '../../schemas/check-event.ts';
import { EVENT_TYPES, type CofaEvent, type EventType } from '../../schemas/events.ts';
import { foldEvent, type NodeState } from '../../actors/node-state.ts';

export interface RawRecord {
  /** Place in the stream; rises, with gaps. */
  seq: number;
  /** `cofa.v1.<node>.event.<kind>.<id>` */
  subject: string;
  /** msgpack */
  bytes: Uint8Array;
}

/** Why a record is not folded. */
export type Strangeness = 'unknown type' | 'later version' | 'unreadable' | 'damaged';

export interface ReplayEvent {
  /** Place in this replay, from 0. */
  index: number;
  seq: number;
  /** Milliseconds since the epoch, by the writer's clock. */
  at: number;
  subject: string;
  kind: string;
  /** Last token of the subject: hex digits of a manifest or a diffID, or the id of a mount. */
  id: string;
  type: string;
  /** Everything but `v`, `type` and `at`. */
  data: Readonly<Record<string, unknown>>;
  /** Undefined: this cofa knows what it means, and folds it. */
  strange: Strangeness | undefined;
}

/** What `at`, `type` and fields become when the bytes are no record. */
export interface DecodedRecord {
  at: number | undefined;
  type: string;
  strange: Strangeness | undefined;
  /** The whole map. */
  record: Record<string, unknown>;
}

/** The last time that a date can have, ms since the epoch: who shows a later one fails. */
const LAST_TIME = 8.64e15;
const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true, int64AsType: 'number' });
const KNOWN: ReadonlySet<string> = new Set<EventType>(EVENT_TYPES);

/** Never throws. */
export function decodeRecord(bytes: Uint8Array): DecodedRecord {
  let record: unknown;
  try {
    record = unpackr.unpack(bytes);
  } catch {
    record = undefined;
  }
  if (typeof record !== 'object' || record === null || Array.isArray(record)) return UNREADABLE;
  const { v, type, at } = record as { v?: unknown; type?: unknown; at?: unknown };
  if (typeof type !== 'string') return UNREADABLE;
  const strange = !KNOWN.has(type)
    ? 'unknown type'
    : v !== 1
      ? 'later version'
      : flawOfStored(record) === undefined
        ? undefined
        : 'damaged';
  return {
    at: typeof at === 'number' && at >= 0 && at <= LAST_TIME ? at : undefined,
    type,
    strange,
    record: record as Record<string, unknown>,
  };
}

const UNREADABLE: DecodedRecord = { at: undefined, type: '(unreadable)', strange: 'unreadable', record: {} };

/**
 * Folds one record as the engine does. False where the record is strange, or the fold cannot take it. Never throws.
 */
export function foldRecord(state: NodeState, id: string, decoded: DecodedRecord): boolean {
  if (decoded.strange !== undefined) return false;
  try {
    foldEvent(state, id, decoded.record as unknown as CofaEvent);
    return true;
  } catch {
    return false;
  }
}

/** `kind` and `id` of a subject; both empty where it is none of cofa's. */
export function partsOfSubject(subject: string): { node: string; kind: string; id: string } {
  const [cofa, version, node = '', event, kind = '', ...rest] = subject.split('.');
  if (cofa !== 'cofa' || version !== 'v1' || event !== 'event') return { node: '', kind: '', id: '' };
  return { node, kind, id: rest.join('.') };
}

/** Block roots that a record `image.prepared` names, whatever wrote it. */
export function rootsIn({ devices }: Record<string, unknown>): string[] {
  const list: unknown[] = Array.isArray(devices) ? devices : [];
  return list.flatMap((device) => {
    const { root } = (device ?? {}) as { root?: unknown };
    return typeof root === 'string' ? [root] : [];
  });
}
