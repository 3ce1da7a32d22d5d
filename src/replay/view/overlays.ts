/** What is shown above the panes: help, a whole event, the difference of two moments, why something took long. */
import { defined } from '../../../schemas/defined.ts';
import { CofaError } from '../../../schemas/errors.ts';
import { formatDuration, shortDigest } from '../../terminal/table.ts';
import { readsInFlight } from '../in-flight.ts';
import type { ReplayLog } from '../replay-log.ts';
import { findMount } from '../start-phases.ts';
import { describeState, diffStates } from '../state-document.ts';
import { diffLines } from '../state-text.ts';
import { type TracedRead, traceOf } from '../trace.ts';
import { explainRead, findRead } from '../why-read.ts';
import { explainStart } from '../why-start.ts';
import { formatUs } from '../format.ts';
import { renderWhyRead, renderWhyStart } from '../why-text.ts';
import type { Style } from './canvas.ts';
import { blocksText, detailsOf } from './summary.ts';

export interface OverlayLine {
  text: string;
  style?: Style;
  /** The line can be chosen, and leads there. */
  open?: () => Overlay;
}

export interface Overlay {
  title: string;
  /** Its lines for a width in columns. */
  lines: (width: number) => readonly OverlayLine[];
  /** The line that is seen for certain; in one with lines to choose, the chosen one. */
  cursor: number;
  /** Where Esc leads; undefined: back to the log. */
  parent?: Overlay | undefined;
}

function overlay(title: string, lines: Overlay['lines']): Overlay {
  // Lines depend on the width alone, and are asked for at every key and drawing.
  const ready = new Map<number, readonly OverlayLine[]>();
  const cached = (width: number) => {
    let known = ready.get(width);
    if (known === undefined) {
      known = lines(width);
      ready.set(width, known);
    }
    return known;
  };
  return { title, lines: cached, cursor: 0 };
}

/** The keys, as lines of keys and what they do. */
export function helpOverlay(rows: ReadonlyArray<readonly [keys: string, does: string]>): Overlay {
  return overlay('keys', () => [
    ...rows.map(([keys, does]) => ({ text: `${keys.padEnd(20)} ${does}` })),
    { text: '' },
    { text: 'Bars: a mark stands for a part of a layer, higher where more of it is', style: 'dim' as const },
    { text: 'present. Top: events over time, below it how long reads waited.', style: 'dim' as const },
  ]);
}

/** Width for which lines are counted when no screen is at hand, columns. */
const NOMINAL_WIDTH = 100;

/** The overlay with its cursor moved by some lines, inside its ends. */
export function movedBy(shown: Overlay, by: number): Overlay {
  const last = shown.lines(NOMINAL_WIDTH).length - 1;
  return { ...shown, cursor: Math.max(0, Math.min(last, shown.cursor + by)) };
}

/** The overlay that the line at the cursor opens; undefined where it opens none. */
export function openedFrom(shown: Overlay): Overlay | undefined {
  const opened = shown.lines(NOMINAL_WIDTH)[shown.cursor]?.open?.();
  return opened === undefined ? undefined : { ...opened, parent: shown };
}

export function explainEvent(log: ReplayLog, index: number): Overlay {
  const event = log.timeline.eventAt(index);
  return overlay(`${event.type}, sequence ${event.seq}`, (width) => [
    ...detailsOf(event).flatMap(({ text, style }) =>
      wrap(text, width).map((line) => ({ text: line, style })),
    ),
    { text: '' },
    ...JSON.stringify(event.data, null, 2)
      .split('\n')
      .flatMap((text) => wrap(text, width).map((line) => ({ text: line, style: 'dim' as const }))),
  ]);
}

export function explainDifference(log: ReplayLog, from: number, to: number): Overlay {
  const diff = diffStates(describeState(log, from), describeState(log, to));
  const span = Math.max(0, log.timeOf(to) - log.timeOf(from));
  return overlay(
    `from sequence ${log.seqOf(from)} to ${log.seqOf(to)}: ${to - from} events, ${formatDuration(span)}`,
    (width) =>
      diffLines(diff).flatMap((text) =>
        wrap(text, width).map((line) => ({
          text: line,
          style: text.includes(' + ')
            ? ('good' as const)
            : text.includes(' - ')
              ? ('bad' as const)
              : ('plain' as const),
        })),
      ),
  );
}

/**
 * Why something took long at a moment: the reads of a trace or those that wait, else the start that a mount event belongs
 * to. `index` is the last event before the moment, `clock` its time (ms). Undefined where nothing waits.
 */
export function explainMoment(log: ReplayLog, index: number | undefined, clock: number): Overlay | undefined {
  const event = index === undefined ? undefined : log.timeline.eventAt(index);
  const reads = event?.type === 'layer.trace' ? traceOf(event).reads : readsInFlight(log, clock);
  if (reads.length > 0) return explainReads(log, reads);
  return event?.kind === 'mount' ? explainMount(log, event.id) : undefined;
}

/** One read by itself, several as a list to choose from; undefined where there are none. */
function explainReads(log: ReplayLog, reads: readonly TracedRead[]): Overlay | undefined {
  const [only] = reads;
  if (only === undefined) return undefined;
  if (reads.length === 1) return explainOne(log, only);
  const slowest = [...reads].sort((a, b) => b.us - a.us);
  return overlay('reads that waited: open one to see for what', () =>
    slowest.map((read) => ({
      text: `${formatUs(read.us).padStart(9)}  ${blocksText(read.block, read.blocks).padEnd(18)} ${shortDigest(read.layer)}  ${read.errno === 0 ? '' : `errno ${read.errno}  `}${log.pathsOf(read.layer, read.block).join(' ')}`,
      style: read.errno === 0 ? 'plain' : 'bad',
      open: () => explainOne(log, read),
    })),
  );
}

function explainOne(log: ReplayLog, read: TracedRead): Overlay {
  const why = explainRead(log, read);
  return overlay(`why read ${read.id} took ${formatUs(read.us)}`, (width) =>
    renderWhyRead(why, width).map((text) => ({ text, style: lineStyle(text) })),
  );
}

/** The start of a mount; a message where the log does not tell of it. */
function explainMount(log: ReplayLog, id: string): Overlay {
  try {
    const why = explainStart(log, findMount(log, id), { top: 15 });
    return overlay(`why the start of ${why.ref} took ${formatUs(why.wall.us)}`, (width) =>
      renderWhyStart(why, width).map((text) => {
        const read = why.slowest.find((one) => text.includes(` ${one.id} `) && text.includes(' at +'));
        const open = read && (() => explainOne(log, findRead(log, read.id)));
        return defined({ text, style: lineStyle(text), open });
      }),
    );
  } catch (error) {
    if (!(error instanceof CofaError)) throw error;
    return overlay('why', () => [{ text: error.message, style: 'warn' }]);
  }
}

const lineStyle = (text: string): Style =>
  text.includes('█') ? 'bar' : text.startsWith(' ') ? 'plain' : text === '' ? 'plain' : 'bold';

/** Pieces of at most `width` characters. */
export function wrap(text: string, width: number): string[] {
  if (text.length <= width) return [text];
  const pieces: string[] = [];
  for (let at = 0; at < text.length; at += width) pieces.push(text.slice(at, at + width));
  return pieces;
}
