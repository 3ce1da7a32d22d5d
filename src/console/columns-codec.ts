/**
 * Parts of a log as columns of numbers: what the page keeps of every event, both sides of it. Little-endian, as every browser's arrays
 * are. A part has each column as narrow as its values allow, so that a million events are 7 MB where they are like most: one
 * sequence after the other, whole milliseconds.
 *
 *     events  head      first sequence (f64), earliest time (f64, ms), events (u32), then a byte each: bytes of a value of
 *                       sequence (0: each one more than the last, 4: from the first on, 8), time (4: ms since the
 *                       earliest, 8), subject (2, 4), type (1, 2)
 *             columns   sequence, time, subject (its place in log/words), type: the widest first
 *     waits   from, to (f64, ms), longest (f64, µs), index of the trace event (u32)
 */

/** Bytes of the head of events, and of a wait. */
const HEAD_BYTES = 24;
export const WAIT_BYTES = 28;

/** What of a log is encoded; `to` is held at its end. */
export interface EncodedLog {
  readonly count: number;
  readonly timeline: {
    seqAt(index: number): number;
    timeAt(index: number): number;
    subjectNumberAt(index: number): number;
    typeNumberAt(index: number): number;
  };
  readonly traces: {
    readonly count: number;
    at(place: number): { index: number; from: number; to: number; longest: number };
  };
}

/** Columns of as many events. */
export interface EventColumns {
  seq: Float64Array;
  at: Float64Array;
  subject: Uint32Array;
  type: Uint16Array;
}

export function encodeEvents(
  { timeline, count }: EncodedLog,
  from: number,
  to: number,
): Uint8Array<ArrayBuffer> {
  const length = Math.max(0, Math.min(to, count) - from);
  const seq = new Float64Array(length);
  const at = new Float64Array(length);
  const subject = new Uint32Array(length);
  const type = new Uint16Array(length);
  let earliest = length === 0 ? 0 : Number.POSITIVE_INFINITY;
  for (let place = 0; place < length; place++) {
    seq[place] = timeline.seqAt(from + place);
    const time = timeline.timeAt(from + place);
    at[place] = time;
    if (time < earliest) earliest = time;
    subject[place] = timeline.subjectNumberAt(from + place);
    type[place] = timeline.typeNumberAt(from + place);
  }
  return packed({ seq, at, subject, type }, earliest);
}

function packed(columns: EventColumns, earliest: number): Uint8Array<ArrayBuffer> {
  const { seq, at, subject, type } = columns;
  const { length } = seq;
  const first = seq[0] ?? 0;
  const widths = widthsOf(columns, earliest);
  const bytes = new ArrayBuffer(HEAD_BYTES + length * (widths[0] + widths[1] + widths[2] + widths[3]));
  const head = new DataView(bytes);
  head.setFloat64(0, first, true);
  head.setFloat64(8, earliest, true);
  head.setUint32(16, length, true);
  for (const [place, width] of widths.entries()) head.setUint8(20 + place, width);
  const places = placesOf(widths, length);
  if (widths[0] === 4) setSteps(new Uint32Array(bytes, places[0], length), seq, first);
  if (widths[0] === 8) new Float64Array(bytes, places[0], length).set(seq);
  if (widths[1] === 4) setSteps(new Uint32Array(bytes, places[1], length), at, earliest);
  else new Float64Array(bytes, places[1], length).set(at);
  new (widths[2] === 2 ? Uint16Array : Uint32Array)(bytes, places[2], length).set(subject);
  new (widths[3] === 1 ? Uint8Array : Uint16Array)(bytes, places[3], length).set(type);
  return new Uint8Array(bytes);
}

type Widths = [seq: 0 | 4 | 8, at: 4 | 8, subject: 2 | 4, type: 1 | 2];

function widthsOf({ seq, at, subject, type }: EventColumns, earliest: number): Widths {
  const first = seq[0] ?? 0;
  const widths: Widths = [0, 4, 2, 1];
  for (let place = 0; place < seq.length; place++) {
    const step = (seq[place] ?? 0) - first;
    if (step !== place) widths[0] = widths[0] === 8 || !isU32(step) ? 8 : 4;
    if (!isU32((at[place] ?? 0) - earliest)) widths[1] = 8;
    if ((subject[place] ?? 0) > 0xffff) widths[2] = 4;
    if ((type[place] ?? 0) > 0xff) widths[3] = 2;
  }
  return widths;
}

function setSteps(to: Uint32Array, values: Float64Array, from: number): void {
  for (let place = 0; place < to.length; place++) to[place] = (values[place] ?? 0) - from;
}

/** Of an answer of `encodeEvents`. Error: RangeError where it is none. */
export function decodeEvents(bytes: ArrayBuffer): EventColumns {
  const head = new DataView(bytes);
  const [first, earliest, length] = [
    head.getFloat64(0, true),
    head.getFloat64(8, true),
    head.getUint32(16, true),
  ];
  const widths = [20, 21, 22, 23].map((at) => head.getUint8(at)) as [number, number, number, number];
  const places = placesOf(widths, length);
  const seq = new Float64Array(length);
  if (widths[0] === 8) seq.set(new Float64Array(bytes, places[0], length));
  else {
    const steps = widths[0] === 4 ? new Uint32Array(bytes, places[0], length) : undefined;
    for (let place = 0; place < length; place++) seq[place] = first + (steps?.[place] ?? place);
  }
  const at = new Float64Array(length);
  if (widths[1] === 8) at.set(new Float64Array(bytes, places[1], length));
  else {
    const steps = new Uint32Array(bytes, places[1], length);
    for (let place = 0; place < length; place++) at[place] = earliest + (steps[place] ?? 0);
  }
  return {
    seq,
    at,
    subject: new Uint32Array(new (widths[2] === 2 ? Uint16Array : Uint32Array)(bytes, places[2], length)),
    type: new Uint16Array(new (widths[3] === 1 ? Uint8Array : Uint16Array)(bytes, places[3], length)),
  };
}

const isU32 = (value: number): boolean => Number.isInteger(value) && value >= 0 && value < 2 ** 32;

/** Where each column begins: those of wide values first, so that all lie at multiples of their width. */
function placesOf(widths: readonly number[], length: number): [number, number, number, number] {
  const places: [number, number, number, number] = [HEAD_BYTES, HEAD_BYTES, HEAD_BYTES, HEAD_BYTES];
  let next = HEAD_BYTES;
  for (const wanted of [8, 4, 2, 1])
    for (const [column, width] of widths.entries()) {
      if (width !== wanted) continue;
      places[column] = next;
      next += width * length;
    }
  return places;
}

/** Of the trace events from the `from`-th on. */
export function encodeWaits({ traces }: EncodedLog, from: number, to: number): Uint8Array<ArrayBuffer> {
  const length = Math.max(0, Math.min(to, traces.count) - from);
  const bytes = new ArrayBuffer(length * WAIT_BYTES);
  const columns = [0, 1, 2].map((place) => new Float64Array(bytes, 8 * length * place, length));
  const index = new Uint32Array(bytes, 24 * length, length);
  const [began, ended, longest] = columns as [Float64Array, Float64Array, Float64Array];
  for (let place = 0; place < length; place++) {
    const wait = traces.at(from + place);
    began[place] = wait.from;
    ended[place] = wait.to;
    longest[place] = wait.longest;
    index[place] = wait.index;
  }
  return new Uint8Array(bytes);
}
