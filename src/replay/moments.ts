/**
 * Moments of a log as people say them, as positions (numbers of events):
 *
 *   start, end          the beginning, the end
 *   1234                after the event with this sequence, or the last before it
 *   #1234               after so many events of this log
 *   2026-11-24T12:00Z   by time, UTC without a zone, as all times are shown; 12:00:03.5 is on the day of the log's end
 *   -10m, -2.5s         so long before the end of the log; of a running engine's log: before now
 *   +3s                 so long after its first event
 */
import { CofaError } from '../../schemas/errors.ts';
import type { ReplayLog } from './replay-log.ts';

const UNITS = { us: 0.001, ms: 1, s: 1_000, m: 60_000, min: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/** `100ms`, `1.5s`, `10m`, `250us` in ms; undefined for anything else. */
export function parseDuration(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)(us|ms|s|min|m|h|d)$/.exec(text);
  if (match === null) return undefined;
  return Number(match[1]) * UNITS[match[2] as keyof typeof UNITS];
}

export type Moment =
  | { kind: 'start' }
  | { kind: 'end' }
  | { kind: 'seq'; seq: number }
  | { kind: 'position'; position: number }
  /** ms since the epoch */
  | { kind: 'time'; at: number }
  | { kind: 'clock'; ms: number }
  | { kind: 'before-end'; ms: number }
  | { kind: 'after-start'; ms: number };

/** Error: `invalid-argument`. */
export function parseMoment(text: string): Moment {
  const word = text.trim();
  if (word === 'start') return { kind: 'start' };
  if (word === 'end') return { kind: 'end' };
  if (/^\d{1,15}$/.test(word)) return { kind: 'seq', seq: Number(word) };
  if (/^#\d{1,15}$/.test(word)) return { kind: 'position', position: Number(word.slice(1)) };
  const ms = /^[+-]/.test(word) ? parseDuration(word.slice(1)) : undefined;
  if (ms !== undefined)
    return word.startsWith('-') ? { kind: 'before-end', ms } : { kind: 'after-start', ms };
  const clock = /^(\d{1,2}):(\d{2})(?::(\d{2}(?:\.\d+)?))?$/.exec(word);
  if (clock !== null) {
    const [, hours, minutes, seconds = '0'] = clock;
    return { kind: 'clock', ms: (Number(hours) * 60 + Number(minutes)) * 60_000 + Number(seconds) * 1000 };
  }
  const at = /^\d{4}-\d{2}-\d{2}/.test(word) ? timeOf(word.replace(' ', 'T')) : Number.NaN;
  if (!Number.isNaN(at)) return { kind: 'time', at };
  throw new CofaError('invalid-argument', `${JSON.stringify(text)} is no moment`, { hint: MOMENT_HINT });
}

/** A date alone is UTC already, by ECMA-262; a time without a zone would be the machine's. */
const timeOf = (text: string): number =>
  Date.parse(/T/.test(text) && !/(?:Z|[+-]\d{2}:?\d{2})$/i.test(text) ? `${text}Z` : text);

export const MOMENT_HINT =
  'a sequence (1234), a time (2026-11-24T12:00:03Z, 12:00:03), -10m before the end, +3s after the start, start, end';

/** What a moment refers to. Times in ms since the epoch. */
export interface MomentFrame {
  firstAt: number;
  /** Of the last event, or now while the log grows. */
  endAt: number;
}

/** The time that a moment names; undefined for those that are no time. */
export function timeOfMoment(moment: Moment, frame: MomentFrame): number | undefined {
  switch (moment.kind) {
    case 'time':
      return moment.at;
    case 'before-end':
      return frame.endAt - moment.ms;
    case 'after-start':
      return frame.firstAt + moment.ms;
    case 'clock': {
      const day = new Date(frame.endAt);
      return day.setUTCHours(0, 0, 0, 0) + moment.ms;
    }
    default:
      return undefined;
  }
}

const frameOf = (log: ReplayLog): MomentFrame => ({
  firstAt: log.timeOf(Math.min(1, log.count)),
  endAt: log.timeOf(log.count),
});

/** The time that a moment names, or else `otherwise`, held between the first and the last event; ms since the epoch. */
export function clockOf(moment: Moment, log: ReplayLog, otherwise: number): number {
  const frame = frameOf(log);
  return Math.max(frame.firstAt, Math.min(frame.endAt, timeOfMoment(moment, frame) ?? otherwise));
}

/** The number of events that have happened by the moment. `now`: while the log grows. */
export function positionOf(moment: Moment, log: ReplayLog, now?: number): number {
  if (moment.kind === 'start') return 0;
  if (moment.kind === 'end') return log.count;
  if (moment.kind === 'seq') return log.timeline.positionOfSeq(moment.seq);
  if (moment.kind === 'position') return Math.min(moment.position, log.count);
  const frame = frameOf(log);
  const at = timeOfMoment(moment, { ...frame, endAt: now ?? frame.endAt });
  return log.timeline.positionOfTime(at ?? 0);
}
