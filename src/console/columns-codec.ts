/**
 * Parts of a log as columns of numbers: what the page keeps of every event. Little-endian, as every browser's arrays are; columns
 * stand one after the other, those of 8 bytes first.
 *
 *     events  sequence (f64), time (f64, ms), subject (u32, its place in log/words), type (u16)
 *     waits   from, to (f64, ms), longest (f64, µs), index of the trace event (u32)
 */
import type { ReplayLog } from '../replay/replay-log.ts';

/** Bytes of an event, and of a wait. */
export const EVENT_BYTES = 22;
export const WAIT_BYTES = 28;

export function encodeEvents(
  { timeline, count }: ReplayLog,
  from: number,
  to: number,
): Uint8Array<ArrayBuffer> {
  const length = Math.max(0, Math.min(to, count) - from);
  const bytes = new ArrayBuffer(length * EVENT_BYTES);
  const seq = new Float64Array(bytes, 0, length);
  const at = new Float64Array(bytes, 8 * length, length);
  const subject = new Uint32Array(bytes, 16 * length, length);
  const type = new Uint16Array(bytes, 20 * length, length);
  for (let place = 0; place < length; place++) {
    seq[place] = timeline.seqAt(from + place);
    at[place] = timeline.timeAt(from + place);
    subject[place] = timeline.subjectNumberAt(from + place);
    type[place] = timeline.typeNumberAt(from + place);
  }
  return new Uint8Array(bytes);
}

/** Of the trace events from the `from`-th on. */
export function encodeWaits({ traces }: ReplayLog, from: number, to: number): Uint8Array<ArrayBuffer> {
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
