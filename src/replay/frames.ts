/**
 * A frame: a run of records as one block of bytes, the unit in which a log is compressed, stored and read again.
 *
 *   count, number of subjects, subjects (length, bytes)
 *   for each record: sequence as difference to the one before, index of its subject, length of its bytes
 *   the bytes of all records, one after the other
 *
 * Numbers are LEB128. A frame can be read alone.
 */
import { CofaError } from '../../schemas/errors.ts';
import { ByteReader, ByteWriter } from '../image/bytes.ts';
import type { RawRecord } from './record.ts';

/** A frame is closed when it holds this many bytes or records. */
export const FRAME_BYTES = 256 * 1024;
export const FRAME_RECORDS = 4096;
/** A record is at most a NATS message (8 MB here); with what a frame held before, a frame stays below this. */
export const MAX_FRAME_BYTES = 64 * 2 ** 20;

/** Collects records until they fill a frame. */
export class FrameBuilder {
  #records: RawRecord[] = [];
  #bytes = 0;

  get count(): number {
    return this.#records.length;
  }

  get isFull(): boolean {
    return this.#bytes >= FRAME_BYTES || this.#records.length >= FRAME_RECORDS;
  }

  add(record: RawRecord): void {
    this.#records.push(record);
    this.#bytes += record.bytes.length;
  }

  /** The records so far. */
  get records(): readonly RawRecord[] {
    return this.#records;
  }

  /** Empties the builder. */
  take(): Buffer {
    const frame = encodeFrame(this.#records);
    this.#records = [];
    this.#bytes = 0;
    return frame;
  }
}

export function encodeFrame(records: readonly RawRecord[]): Buffer {
  const subjects = new Map<string, number>();
  for (const { subject } of records) if (!subjects.has(subject)) subjects.set(subject, subjects.size);
  const out = new ByteWriter();
  out.number(records.length);
  out.number(subjects.size);
  for (const subject of subjects.keys()) {
    const bytes = Buffer.from(subject);
    out.number(bytes.length);
    out.bytes(bytes);
  }
  let before = 0;
  for (const { seq, subject, bytes } of records) {
    out.number(seq - before);
    out.number(subjects.get(subject) as number);
    out.number(bytes.length);
    before = seq;
  }
  for (const { bytes } of records) out.bytes(bytes);
  return Buffer.from(out.written());
}

/** The records of a frame; their bytes are parts of `frame`. Error: `integrity`. */
export function decodeFrame(frame: Buffer): RawRecord[] {
  const reader = new ByteReader(frame, fault);
  const count = reader.number();
  const subjectCount = reader.number();
  // What a few KB of zstd unpack to may count twenty million.
  if (count > FRAME_RECORDS || subjectCount > count) throw fault('it counts more than a frame holds');
  const subjects: string[] = [];
  for (let index = 0; index < subjectCount; index++)
    subjects.push(reader.bytes(reader.number()).toString('utf8'));
  const records: RawRecord[] = [];
  const lengths: number[] = [];
  let seq = 0;
  for (let index = 0; index < count; index++) {
    seq += reader.number();
    const subject = subjects[reader.number()];
    if (subject === undefined) throw fault('a record has no subject');
    lengths.push(reader.number());
    records.push({ seq, subject, bytes: EMPTY });
  }
  for (const [index, record] of records.entries()) record.bytes = reader.bytes(lengths[index] as number);
  reader.end();
  return records;
}

const EMPTY = new Uint8Array();

function fault(what: string): CofaError {
  return new CofaError('integrity', `a frame of the event log is damaged: ${what}`);
}
