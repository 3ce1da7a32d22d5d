/**
 * How many events a log has when, and how long reads waited: what the time lines of the terminal view and of the page draw. Pure,
 * and without Node: the page counts anew in the browser when one zooms.
 */

export type Axis = 'time' | 'events';

/** What is counted: all events of a log, or what a page has of it. */
export interface Countable {
  readonly count: number;
  /** ms since the epoch */
  timeAt(index: number): number;
  /** Of each trace event: its index, the times of its reads (ms) and the longest wait (µs). */
  waits(): Iterable<{ index: number; from: number; to: number; longest: number }>;
}

/** A part of the axis: ms since the epoch, or positions. */
export interface Stretch {
  axis: Axis;
  from: number;
  to: number;
}

export interface Density {
  /** Events in each cell. */
  events: number[];
  /** The longest wait in each cell, µs. */
  waits: number[];
}

/** From a time (ms) or a position to a cell; what lies outside comes to an end. */
export function scaleOf({ from, to }: Stretch, cells: number): (value: number) => number {
  const length = Math.max(1, to - from);
  return (value) => Math.max(0, Math.min(cells - 1, Math.floor(((value - from) / length) * (cells - 1))));
}

/** `first`, `end`: the events that can lie in the stretch; all by default. */
export function densityOf(
  log: Countable,
  stretch: Stretch,
  cells: number,
  first = 0,
  end = log.count,
): Density {
  const { axis, from, to } = stretch;
  const scale = scaleOf(stretch, cells);
  const events = Array.from({ length: cells }, () => 0);
  const waits = Array.from({ length: cells }, () => 0);
  for (let index = first; index < end; index++) {
    const place = axis === 'time' ? log.timeAt(index) : index + 1;
    if (place < from || place > to) continue;
    const cell = scale(place);
    events[cell] = (events[cell] ?? 0) + 1;
  }
  for (const { index, from: began, to: ended, longest } of log.waits()) {
    const [left, right] = axis === 'time' ? [began, ended] : [index + 1, index + 1];
    if (right < from || left > to) continue;
    const last = scale(right);
    for (let cell = scale(left); cell <= last; cell++) waits[cell] = Math.max(waits[cell] ?? 0, longest);
  }
  return { events, waits };
}
