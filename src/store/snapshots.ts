/**
 * Snapshots of a node's log, in a stream of their own: `COFA_SNAPSHOTS`. In NATS, like the log, because the two are of use
 * only together: whoever keeps one keeps the other. In a stream of their own, because a log that is full must not keep
 * the snapshot out that makes room in it, and because the log's beginning can then be removed in one piece.
 *
 * A snapshot counts when all its parts are there, fit their digest, and its last event is in the log or was removed from
 * it. One that does not count is said so and the one before is taken: two are kept, and the log is removed up to the
 * older one at most.
 */
import { zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { jetstream, jetstreamManager, JetStreamApiError } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/nats-core';
import { sha256Hex } from '../digest/digest.ts';
import { CofaError } from '../../schemas/errors.ts';
import { SNAPSHOT_VERSION, SnapshotBody, SnapshotPart } from '../../schemas/snapshots.ts';
import { SNAPSHOT_STREAM, SNAPSHOT_SUBJECTS, STREAM, type Subjects } from '../../schemas/subjects.ts';
import { decode, encode } from '../bus/connection.ts';
import { readLog, storedRecord } from './log-reader.ts';
import { checkedState, fromPlain, toPlain } from './node-codec.ts';
import { NodeFold } from './node-fold.ts';
import { prepareStream, storeError } from './stream.ts';

/** Bytes of all snapshots of all nodes at most. */
const MAX_BYTES = 256 << 20;
/** Bytes of a part at most: NATS takes 1 MiB in a message by default, and answers with base64. */
const PART_BYTES = 512 << 10;
/** Bytes of a body at most, so that a damaged one cannot take all memory. No larger one is written either. */
export const MAX_BODY: number = 512 << 20;
/** Parts of a snapshot at most: with messages of 64 KiB, which is less than any NATS takes by default, 128 MiB. */
const MAX_PARTS = 4_096;
const TIMEOUT_MS = 10_000;

/** Makes the stream where there is none. Error `unavailable` where JetStream does not. */
export const prepareSnapshots = (bus: NatsConnection): Promise<void> =>
  prepareStream(bus, { name: SNAPSHOT_STREAM, subjects: [SNAPSHOT_SUBJECTS], max_bytes: MAX_BYTES });

export interface LoadedNode {
  fold: NodeFold;
  /** Snapshots that do not count, as sentences. */
  problems: string[];
}

/**
 * What a node's log says: the newest snapshot that counts, and the events behind it. Errors: `integrity` when the log's
 * beginning is gone and no snapshot stands for it; `unsupported` when a newer cofa wrote.
 */
export async function loadNode(bus: NatsConnection, names: Subjects): Promise<LoadedNode> {
  for (let round = 1; ; round++) {
    const stored = await snapshotSequences(bus, names);
    const { base, ...loaded } = await loadFrom(bus, names, stored);
    if (round === ROUNDS || (await isWhole(bus, names, base, stored))) return loaded;
  }
}

/** How often a start looks again when the log is cut short under it. */
const ROUNDS = 5;

/**
 * Whether the log had all events behind `base` while it was read. It is never removed beyond the older of two snapshots,
 * and older ones than that go first.
 */
async function isWhole(
  bus: NatsConnection,
  names: Subjects,
  base: number,
  before: readonly number[],
): Promise<boolean> {
  const now = await snapshotSequences(bus, names);
  return (now.at(-1) ?? 0) <= base || now.join() === before.join();
}

async function loadFrom(
  bus: NatsConnection,
  names: Subjects,
  stored: readonly number[],
): Promise<LoadedNode & { base: number }> {
  const problems: string[] = [];
  for (const seq of stored) {
    try {
      const fold = await readSnapshot(bus, names, seq);
      await checkPlace(bus, names, fold);
      for await (const record of readLog(bus, names.allEvents, {
        from: seq + 1,
        follow: false,
        epoch: fold.epoch,
      }))
        fold.apply(record);
      if (fold.state.trimmed > seq)
        throw new CofaError('integrity', `the log behind it was removed up to ${fold.state.trimmed}`);
      return { fold, problems, base: seq };
    } catch (error) {
      if (!(error instanceof CofaError) || error.code !== 'integrity') throw error;
      problems.push(`snapshot ${seq} of the log cannot be used: ${error.message}`);
    }
  }
  const fold = new NodeFold();
  for await (const record of readLog(bus, names.allEvents, { from: 'start', follow: false }))
    fold.apply(record);
  if (fold.state.trimmed > 0) {
    const why = problems.length > 0 ? problems.join('; ') : 'there is no snapshot';
    throw new CofaError(
      'integrity',
      `the log's events up to ${fold.state.trimmed} were removed, and nothing stands for them: ${why}`,
      {
        hint: 'bring back the files of NATS from a copy, or begin anew: cofa up --node NAME with another name, or move ROOT/nats away. Mounts are then forgotten and blocks fetched again',
      },
    );
  }
  return { fold, problems, base: 0 };
}

/** `fold` with the events that have come since; loaded anew where those are no longer all in the log. */
export async function continueNode(bus: NatsConnection, names: Subjects, fold: NodeFold): Promise<NodeFold> {
  const { seq, epoch } = fold;
  const stored = await snapshotSequences(bus, names);
  for await (const record of readLog(bus, names.allEvents, { from: seq + 1, follow: false, epoch }))
    fold.apply(record);
  const isGone = fold.state.trimmed > seq || (stored.at(-1) ?? 0) > seq;
  return isGone || !(await isWhole(bus, names, seq, stored)) ? (await loadNode(bus, names)).fold : fold;
}

/** Sequences of the stored snapshots of a node, newest first; whether they count is not looked at. */
export async function snapshotSequences(bus: NatsConnection, names: Subjects): Promise<number[]> {
  const manager = await jetstreamManager(bus, { timeout: TIMEOUT_MS, checkAPI: false });
  try {
    const { state } = await manager.streams.info(SNAPSHOT_STREAM, { subjects_filter: names.allFolds });
    const sequences = Object.keys(state.subjects ?? {}).map((subject) => Number(subject.split('.').at(-2)));
    return [...new Set(sequences)].sort((a, b) => b - a);
  } catch (error) {
    if (error instanceof JetStreamApiError && error.status === 404) return [];
    throw storeError(error);
  }
}

/** One stored snapshot. Error `integrity` when it is not whole. */
export async function readSnapshot(bus: NatsConnection, names: Subjects, seq: number): Promise<NodeFold> {
  const manager = await jetstreamManager(bus, { timeout: TIMEOUT_MS, checkAPI: false });
  const part = async (index: number): Promise<SnapshotPart> => {
    const message = await manager.streams
      .getMessage(SNAPSHOT_STREAM, { last_by_subj: names.fold(seq, index) })
      .catch((cause: unknown) => {
        throw storeError(cause);
      });
    if (message === null) throw new CofaError('integrity', `its part ${index} is not there`);
    return decodePart(message.data);
  };
  const first = await part(0);
  if (first.parts > MAX_PARTS)
    throw new CofaError(
      'integrity',
      `it says that it has ${first.parts} parts, at most ${MAX_PARTS} are read`,
    );
  const rest = await Promise.all(
    Array.from({ length: Math.max(0, first.parts - 1) }, (_, at) => part(at + 1)),
  );
  return decodeSnapshot([first, ...rest]);
}

/**
 * Stores a snapshot of `fold` as it is at the time of the call, and reads it back; `first` is done before. Returns its
 * bytes. Errors: `unavailable` when NATS does not take it, `unsupported` when it would be too large to be read, and nothing is
 * stored.
 */
export async function writeSnapshot(
  bus: NatsConnection,
  names: Subjects,
  fold: NodeFold,
  first?: () => Promise<void>,
): Promise<number> {
  const { seq } = fold;
  const parts = encodeSnapshot(fold, Math.min(PART_BYTES, (bus.info?.max_payload ?? 1 << 20) / 2));
  await first?.();
  const stream = jetstream(bus, { timeout: TIMEOUT_MS });
  let bytes = 0;
  try {
    for (const part of parts) {
      const data = encode(part);
      bytes += data.length;
      await stream.publish(names.fold(part.seq, part.part), data, {
        msgID: `${names.fold(part.seq, part.part)}.${part.digest.slice(0, 16)}`,
        expect: { streamName: SNAPSHOT_STREAM },
        retries: 3,
      });
    }
  } catch (cause) {
    throw storeError(cause);
  }
  await readSnapshot(bus, names, seq);
  return bytes;
}

/** Removes all parts of the snapshot at this sequence; no error where there are none. */
export async function removeSnapshot(bus: NatsConnection, names: Subjects, seq: number): Promise<void> {
  const manager = await jetstreamManager(bus, { timeout: TIMEOUT_MS, checkAPI: false });
  await manager.streams.purge(SNAPSHOT_STREAM, { filter: names.foldsOf(seq) });
}

/** A snapshot as parts of at most `partBytes`. Error `unsupported` where no reader would take it, or more than `maxBody` bytes. */
export function encodeSnapshot(
  fold: NodeFold,
  partBytes = PART_BYTES,
  maxBody: number = MAX_BODY,
): SnapshotPart[] {
  const { seq, id, epoch, events, bytes, trimmed, snapshot } = fold;
  const body = encode({
    v: SNAPSHOT_VERSION,
    seq,
    id,
    epoch,
    events,
    bytes,
    previous: snapshot,
    trimmed,
    sequences: toPlain(fold.sequences),
    state: toPlain(fold.state),
  });
  if (body.length > maxBody)
    throw tooLarge(`the node's state has ${body.length} bytes, a log snapshot ${maxBody} at most`);
  const smaller = zstdCompressSync(body);
  const encoding = smaller.length < body.length ? 'zstd' : 'none';
  const stored = encoding === 'zstd' ? smaller : body;
  const digest = sha256Hex(stored);
  const parts = Math.max(1, Math.ceil(stored.length / partBytes));
  if (parts > MAX_PARTS) {
    throw tooLarge(
      `the node's state has ${stored.length} bytes, which are ${parts} parts of a log snapshot, and ${MAX_PARTS} are the most`,
    );
  }
  return Array.from({ length: parts }, (_, part) => ({
    v: SNAPSHOT_VERSION,
    seq,
    part,
    parts,
    encoding,
    size: body.length,
    digest,
    bytes: stored.subarray(part * partBytes, (part + 1) * partBytes),
  }));
}

const tooLarge = (what: string): CofaError =>
  new CofaError('unsupported', `${what}: the one before stays`, {
    hint: 'cofa rmi and cofa prune remove images that nothing runs from; a NATS with a larger max_payload takes larger parts',
  });

/** Errors: `integrity` when the parts do not make a snapshot, which a newer cofa's are not for this one. */
export function decodeSnapshot(parts: readonly SnapshotPart[]): NodeFold {
  const [first] = parts;
  if (first === undefined || parts.length !== first.parts)
    throw new CofaError('integrity', 'parts are missing');
  for (const [index, part] of parts.entries()) {
    if (part.part !== index || part.digest !== first.digest || part.seq !== first.seq)
      throw new CofaError('integrity', `part ${index} belongs to another snapshot`);
  }
  const stored = Buffer.concat(parts.map(({ bytes }) => bytes));
  if (sha256Hex(stored) !== first.digest) throw new CofaError('integrity', 'its bytes do not fit its digest');
  if (first.size > MAX_BODY)
    throw new CofaError('integrity', `it says that it has ${first.size} bytes, at most ${MAX_BODY} are read`);
  try {
    const plain =
      first.encoding === 'zstd' ? zstdDecompressSync(stored, { maxOutputLength: first.size }) : stored;
    const body = SnapshotBody.parse(decode(plain));
    const fold = new NodeFold();
    Object.assign(fold, {
      seq: body.seq,
      id: body.id,
      epoch: body.epoch,
      events: body.events,
      bytes: body.bytes,
      trimmed: body.trimmed,
      previous: body.previous,
      snapshot: { seq: body.seq, bytes: body.bytes },
      sequences: fromPlain(body.sequences),
      state: checkedState(fromPlain(body.state)),
    } satisfies Partial<Record<keyof NodeFold, unknown>>);
    return fold;
  } catch (cause) {
    if (cause instanceof CofaError) throw cause;
    throw new CofaError('integrity', `it cannot be read: ${String(cause)}`, { cause });
  }
}

function decodePart(data: Uint8Array): SnapshotPart {
  let value: { v?: unknown } | undefined;
  try {
    value = decode(data);
    return SnapshotPart.parse(value);
  } catch (cause) {
    const newer = typeof value?.v === 'number' && value.v > SNAPSHOT_VERSION;
    throw new CofaError(
      'integrity',
      newer ? `a newer cofa wrote it (version ${value?.v})` : 'a part is damaged',
      {
        cause,
      },
    );
  }
}

/** The log that the snapshot was taken of: a log that has lost its end, or another one, reuses sequence numbers. */
async function checkPlace(bus: NatsConnection, names: Subjects, fold: NodeFold): Promise<void> {
  const manager = await jetstreamManager(bus, { timeout: TIMEOUT_MS, checkAPI: false });
  const { state } = await manager.streams.info(STREAM);
  if (state.last_seq < fold.seq)
    throw new CofaError('integrity', `the log ends at ${state.last_seq}, before it: its end was lost`);
  const record = await storedRecord(bus, { seq: fold.seq, next_by_subj: names.allEvents });
  if (record !== undefined && record.seq === fold.seq && record.id !== fold.id)
    throw new CofaError('integrity', 'the log has another event at its place: its end was lost');
}
