/**
 * The events of a log in order, for access at any place. Columns hold the sequence, time, type and subject of every
 * event; compressed frames hold the records, in memory or in the file that they came from. A million events take some
 * 30 MB.
 */
import { zstdCompressSync, zstdDecompressSync, constants } from 'node:zlib';
import { CofaError } from '../../schemas/errors.ts';
import { float64, uint16, uint32, Words } from './columns.ts';
import { decodeFrame, FrameBuilder, MAX_FRAME_BYTES } from './frames.ts';
import {
  decodeRecord,
  type DecodedRecord,
  partsOfSubject,
  type RawRecord,
  type ReplayEvent,
} from './record.ts';

/** A frame stored elsewhere: gives its uncompressed bytes. */
export type FrameLoader = () => Buffer;

/** Decoded frames to keep: stepping and the list on the screen stay within a few. */
const HOT_FRAMES = 12;

interface Frame {
  first: number;
  count: number;
  load: FrameLoader;
}

interface HotFrame {
  first: number;
  records: readonly RawRecord[];
  events: Array<ReplayEvent | undefined>;
}

export class Timeline {
  readonly #seq = float64();
  readonly #at = float64();
  /** The latest time up to each event: clocks may step back, a search by time must not. */
  readonly #latest = float64();
  readonly #type = uint16();
  readonly #subject = uint32();
  readonly #types = new Words();
  readonly #subjects = new Words();
  readonly #parts: Array<{ kind: string; id: string }> = [];
  readonly #frames: Frame[] = [];
  readonly #hot = new Map<number, HotFrame>();
  /** Records since the last closed frame. */
  #open = new FrameBuilder();
  #frameBytes = 0;

  get count(): number {
    return this.#seq.length;
  }

  /** Bytes that the columns and the frames in memory take. */
  get memory(): number {
    const columns = [this.#seq, this.#at, this.#latest, this.#type, this.#subject];
    return this.#frameBytes + columns.reduce((sum, column) => sum + column.bytes, 0);
  }

  /** Adds a record to the end, keeping its bytes in memory. `decoded` is what its bytes are. */
  append(raw: RawRecord, decoded: DecodedRecord): void {
    this.#index(raw, decoded);
    this.#open.add(raw);
    if (this.#open.isFull) this.#close();
  }

  /** Adds the records of a frame that can be loaded again. */
  appendFrame(records: readonly RawRecord[], decoded: readonly DecodedRecord[], load: FrameLoader): void {
    if (this.#open.count > 0) this.#close();
    const first = this.count;
    for (const [index, raw] of records.entries()) this.#index(raw, decoded[index] as DecodedRecord);
    this.#frames.push({ first, count: records.length, load });
  }

  seqAt(index: number): number {
    return this.#seq.at(index);
  }

  timeAt(index: number): number {
    return this.#at.at(index);
  }

  typeAt(index: number): string {
    return this.#types.word(this.#type.at(index));
  }

  idAt(index: number): string {
    return this.#partsAt(index).id;
  }

  kindAt(index: number): string {
    return this.#partsAt(index).kind;
  }

  /** The place of its type among `types`. */
  typeNumberAt(index: number): number {
    return this.#type.at(index);
  }

  /** The place of its subject among `subjects`. */
  subjectNumberAt(index: number): number {
    return this.#subject.at(index);
  }

  /** What events are about, in the order in which it came. */
  get subjects(): ReadonlyArray<{ kind: string; id: string }> {
    return this.#parts;
  }

  /** Every type that has come. */
  get types(): Iterable<string> {
    return this.#types;
  }

  /** Number of events up to and with sequence `seq`. */
  positionOfSeq(seq: number): number {
    return this.#seq.lowerBound(seq + 0.5);
  }

  /** Number of events up to and with time `at`. */
  positionOfTime(at: number): number {
    // Half a thousandth: times are whole milliseconds, or fractions of them in traces.
    return this.#latest.lowerBound(at + 0.0005);
  }

  /** Index of the first event that may be of `at` or later, ms: no search from the log's beginning is needed. */
  firstAt(at: number): number {
    return this.#latest.lowerBound(at);
  }

  /** The record as it is stored. */
  rawAt(index: number): RawRecord {
    const hot = this.#hotFrame(index);
    return hot.records[index - hot.first] as RawRecord;
  }

  decodedAt(index: number): DecodedRecord {
    return decodeRecord(this.rawAt(index).bytes);
  }

  /** Error: RangeError where there is no such event. */
  eventAt(index: number): ReplayEvent {
    if (!(index >= 0 && index < this.count)) throw new RangeError(`there is no event ${index}`);
    const hot = this.#hotFrame(index);
    const place = index - hot.first;
    const ready = hot.events[place];
    if (ready !== undefined) return ready;
    const raw = hot.records[place] as RawRecord;
    const event = eventOf(index, raw, decodeRecord(raw.bytes), this.timeAt(index));
    hot.events[place] = event;
    return event;
  }

  #partsAt(index: number): { kind: string; id: string } {
    return this.#parts[this.#subject.at(index)] as { kind: string; id: string };
  }

  #index(raw: RawRecord, decoded: DecodedRecord): void {
    const before = this.count === 0 ? undefined : this.count - 1;
    if (before !== undefined && raw.seq <= this.seqAt(before)) {
      throw new CofaError('integrity', `event ${raw.seq} comes after event ${this.seqAt(before)}`);
    }
    const last = before === undefined ? 0 : this.#at.at(before);
    const at = decoded.at ?? last;
    this.#seq.push(raw.seq);
    this.#at.push(at);
    this.#latest.push(before === undefined ? at : Math.max(at, this.#latest.at(before)));
    this.#type.push(Math.min(this.#types.numberOf(decoded.type), 0xffff));
    const subject = this.#subjects.numberOf(raw.subject);
    if (subject === this.#parts.length) this.#parts.push(partsOfSubject(raw.subject));
    this.#subject.push(subject);
  }

  #close(): void {
    const count = this.#open.count;
    const first = this.count - count;
    const packed = zstdCompressSync(this.#open.take(), {
      params: { [constants.ZSTD_c_compressionLevel]: 1 },
    });
    this.#frameBytes += packed.length;
    this.#frames.push({
      first,
      count,
      load: () => zstdDecompressSync(packed, { maxOutputLength: MAX_FRAME_BYTES }),
    });
    // The open frame's events were made with another `first`.
    this.#hot.delete(OPEN);
  }

  #hotFrame(index: number): HotFrame {
    const closed = this.count - this.#open.count;
    if (index >= closed) {
      let hot = this.#hot.get(OPEN);
      if (hot === undefined || hot.first !== closed) {
        hot = { first: closed, records: this.#open.records, events: [] };
        this.#hot.set(OPEN, hot);
      }
      return hot;
    }
    const number = this.#frameOf(index);
    let hot = this.#hot.get(number);
    if (hot === undefined) {
      const frame = this.#frames[number] as Frame;
      const records = decodeFrame(frame.load());
      if (records.length !== frame.count)
        throw new CofaError('integrity', 'the file of the event log has changed while it was read');
      hot = { first: frame.first, records, events: [] };
    } else {
      this.#hot.delete(number);
    }
    // The map is in the order of use.
    this.#hot.set(number, hot);
    for (const other of this.#hot.keys()) {
      if (this.#hot.size <= HOT_FRAMES) break;
      this.#hot.delete(other);
    }
    return hot;
  }

  #frameOf(index: number): number {
    let low = 0;
    let high = this.#frames.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >>> 1;
      if ((this.#frames[middle] as Frame).first <= index) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}

/** Key of the frame that still grows. */
const OPEN = -1;

export function eventOf(index: number, raw: RawRecord, decoded: DecodedRecord, at: number): ReplayEvent {
  const { v: _v, type: _type, at: _at, ...data } = decoded.record;
  const { kind, id } = partsOfSubject(raw.subject);
  return {
    index,
    seq: raw.seq,
    at,
    subject: raw.subject,
    kind,
    id,
    type: decoded.type,
    data,
    strange: decoded.strange,
  };
}
