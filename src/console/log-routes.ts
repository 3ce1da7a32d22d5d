/** The documents of the view Log: the time line, events, moments, differences, searches. */
import { z } from 'zod';
import { CofaError } from '../../schemas/errors.ts';
import { densityOf } from '../replay/density.ts';
import type { EventLine, Explanation, FoundEvent, FoundMoment, LogDocument } from '../replay/documents.ts';
import { describeDifference, describeEvent, describeMoment, linesOf } from '../replay/moment-document.ts';
import { clockOf, parseMoment, positionOf } from '../replay/moments.ts';
import { neighbourRead } from '../replay/in-flight.ts';
import { countableOf, type ReplayLog } from '../replay/replay-log.ts';
import { search, type Wanted } from '../replay/search.ts';
import { anyOf, type Breakpoint, describeHit, withBreakpoint } from '../replay/view/breakpoints.ts';
import { explainMoment, openedFrom } from '../replay/view/overlays.ts';
import { encodeEvents, encodeWaits } from './columns-codec.ts';
import { number, position, route } from './route.ts';
import type { Source } from './source.ts';

/** Cells of the time line at first sight. */
const CELLS = 600;
/** Searches at once; each takes a processor while it runs. */
const MOST_SEARCHES = 4;
/** Columns of an explanation. */
const TEXT_WIDTH = 112;

const clock = z
  .string()
  .regex(/^\d{1,15}(\.\d{1,9})?$/, 'must be ms since the epoch')
  .transform(Number);
const text = z.string().min(1).max(2_000);
const nothing = z.strictObject({});

export const LOG_ROUTES = [
  route('log', nothing, (source) => describeLog(source)),
  route(
    'log/events',
    z.strictObject({ from: position, count: number(1, 131_072) }),
    ({ log }, { from, count }) => encodeEvents(log, from, from + count),
  ),
  route(
    'log/waits',
    z.strictObject({ from: position, count: number(1, 131_072) }),
    ({ log }, { from, count }) => encodeWaits(log, from, from + count),
  ),
  route(
    'log/words',
    z.strictObject({ types: position, subjects: position, count: number(1, 131_072) }),
    ({ log: { timeline } }, { types, subjects, count }) => ({
      types: [...timeline.types].slice(types),
      subjects: timeline.subjects.slice(subjects, subjects + count).map(({ kind, id }) => [kind, id]),
    }),
  ),
  route(
    'log/lines',
    z.strictObject({ from: position, count: number(1, 500) }),
    ({ log }, { from, count }): { lines: EventLine[] } => ({ lines: linesOf(log, from, from + count) }),
  ),
  route('log/event', z.strictObject({ index: position }), ({ log }, { index }) => {
    if (index >= log.count) throw new CofaError('not-found', `the log has no event ${index}`);
    return describeEvent(log, index);
  }),
  route(
    'log/state',
    z.strictObject({ position, clock: clock.optional() }),
    ({ log }, { position, clock }) => {
      const at = Math.min(position, log.count);
      return describeMoment(log, at, clock ?? log.timeOf(at));
    },
  ),
  route('log/difference', z.strictObject({ from: position, to: position }), ({ log }, { from, to }) =>
    describeDifference(log, Math.min(from, log.count), Math.min(to, log.count)),
  ),
  route('log/moment', z.strictObject({ text: text.max(100) }), (source, { text }) => momentOf(source, text)),
  route(
    'log/read',
    z.strictObject({ clock, direction: z.enum(['next', 'previous']) }),
    ({ log }, { clock, direction }): FoundMoment => {
      const read = neighbourRead(log, clock, direction === 'next' ? 1 : -1);
      if (read === undefined)
        throw new CofaError('not-found', `no read waited ${direction === 'next' ? 'later' : 'earlier'}`);
      return { position: log.timeline.positionOfTime(read.at), clock: read.at };
    },
  ),
  route(
    'log/why',
    z.strictObject({
      position,
      clock,
      open: z
        .string()
        .regex(/^\d{1,5}(\.\d{1,5}){0,3}$/, 'must be numbers of lines')
        .optional()
        .describe('lines that were opened, one in the explanation of the other: 3.0'),
    }),
    ({ log }, { position, clock, open }) => explain(log, Math.min(position, log.count), clock, open),
  ),
  route('log/condition', z.strictObject({ text }), (_, { text }) => {
    const [breakpoint] = withBreakpoint([], text);
    return { text: breakpoint?.text ?? '' };
  }),
  route(
    'log/find',
    z.strictObject({
      kind: z.enum(['text', 'conditions']).describe('conditions: one a line, any of which may be fulfilled'),
      text,
      from: position,
      to: z
        .string()
        .regex(/^(-1|\d{1,15})$/, 'must be a position, or -1: backwards to the first event')
        .transform(Number),
    }),
    async ({ log }, { kind, text, from, to }, { signal }) =>
      await findEvent(log, kind === 'text' ? [] : breakpointsOf(text), text, { from, to }, signal),
  ),
];

const known = new WeakMap<ReplayLog, { count: number; density: LogDocument['density'] }>();

function describeLog(source: Source): LogDocument {
  const { log, title, generation, isLive } = source;
  const { count } = log;
  const [firstAt, lastAt] = [log.timeOf(Math.min(1, count)), log.timeOf(count)];
  let ready = known.get(log);
  if (ready?.count !== count) {
    const density = densityOf(countableOf(log), { axis: 'time', from: firstAt, to: lastAt }, CELLS);
    ready = { count, density };
    known.set(log, ready);
  }
  const { node, notes, beginning } = log;
  const { density } = ready;
  return {
    node,
    title,
    generation,
    count,
    beginning: beginning.seq,
    firstAt,
    lastAt,
    isLive,
    notes,
    density,
  };
}

function momentOf({ log, isLive }: Source, text: string): FoundMoment {
  const moment = parseMoment(text);
  const position = positionOf(moment, log, isLive ? Date.now() : undefined);
  return { position, clock: clockOf(moment, log, log.timeOf(position)) };
}

function explain(log: ReplayLog, position: number, clock: number, open: string | undefined): Explanation {
  let why = explainMoment(log, position > 0 ? position - 1 : undefined, clock);
  for (const line of open?.split('.') ?? [])
    why = why === undefined ? undefined : openedFrom({ ...why, cursor: Number(line) });
  if (why === undefined)
    throw new CofaError('not-found', 'nothing waits at this moment', {
      hint: 'reads (layer.trace) and mounts can be explained',
    });
  const lines = why.lines(TEXT_WIDTH).map(({ text, open: next }) => ({ text, opens: next !== undefined }));
  return { title: why.title, lines };
}

const breakpointsOf = (text: string): Breakpoint[] =>
  text
    .split('\n')
    .slice(0, 20)
    .reduce<Breakpoint[]>((list, line) => withBreakpoint(list, line), []);

let searches = 0;

/** Searches in slices, so that others are answered meanwhile; it ends when its client leaves. */
async function findEvent(
  log: ReplayLog,
  breakpoints: readonly Breakpoint[],
  text: string,
  { from, to }: { from: number; to: number },
  signal: AbortSignal,
): Promise<FoundEvent> {
  const condition = anyOf(breakpoints);
  const wanted: Wanted = condition === undefined ? { text } : { condition };
  if (searches >= MOST_SEARCHES)
    throw new CofaError('busy', 'too many searches run', { hint: 'wait for their ends' });
  searches += 1;
  try {
    const start = Math.min(from, to < from ? log.count - 1 : log.count);
    const end = Math.min(to, log.count);
    if (start < 0 || start === end) return { index: null, what: '' };
    const steps = search(log, wanted, start, end);
    for (;;) {
      const next = steps.next();
      if (next.done === true) {
        if (next.value === undefined) return { index: null, what: '' };
        return {
          index: next.value,
          what: condition === undefined ? text : describeHit(log, breakpoints, next.value),
        };
      }
      await new Promise<void>((resolve) => setImmediate(resolve));
      signal.throwIfAborted();
    }
  } finally {
    searches -= 1;
  }
}
