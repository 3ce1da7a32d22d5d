/** What is shown above the panes: help, a whole event, the difference of two moments, why something took long. */
import { CofaError } from '../../../schemas/errors.ts';
import { formatDuration, shortDigest } from '../../terminal/table.ts';
import type { ReplayLog } from '../replay-log.ts';
import { findMount } from '../start-phases.ts';
import { describeState, diffStates } from '../state-document.ts';
import { diffLines } from '../state-text.ts';
import type { TracedRead } from '../trace.ts';
import { explainRead, findRead } from '../why-read.ts';
import { explainStart } from '../why-start.ts';
import { formatUs, renderWhyRead, renderWhyStart } from '../why-text.ts';
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

const HELP: ReadonlyArray<readonly [keys: string, does: string]> = [
  ['→ ←  ↓ ↑  l h  j k', 'the next event, the one before'],
  ['PgDn PgUp  J K', 'ten events on, back'],
  ['] [', 'a thousand'],
  ['g G  Home End', 'the beginning, the end'],
  [': t', 'go to a sequence or time: 1234, 12:00:03, -10m, +3s'],
  ['r R', 'the next read that waited, the one before'],
  ['/', 'search a text; n N: the next, the one before'],
  ['b', 'set a breakpoint; c C: go to the next, back; B: take all away'],
  ['', '  block 4711 present · read > 100ms · read failed · job > 1s'],
  ['', '  event mount.* · layer 3f2a · image app:1 · text "x" · and · or'],
  ['Space', 'play, pause; + -: faster, slower (0.01x to 1000x)'],
  ['f', 'follow a running engine'],
  ['m', 'mark a moment; d: what is different between it and here'],
  ['w', 'why: what reads waited for (on a layer.trace, or whatever waits'],
  ['', '  now), what a start was spent on (on a mount event)'],
  ['Enter', 'the whole event; in a list: open'],
  ['Tab', 'the arrows move in the state, or in the events again'],
  ['x', 'axis by time or by events'],
  ['Esc q', 'close, stop a search; q here: leave'],
  ['Ctrl-L Ctrl-Z', 'draw anew, to the shell (fg comes back)'],
];

export function helpOverlay(): Overlay {
  return overlay('keys', () => [
    ...HELP.map(([keys, does]) => ({ text: `${keys.padEnd(20)} ${does}` })),
    { text: '' },
    { text: 'Bars: a mark stands for a part of a layer, higher where more of it is', style: 'dim' as const },
    { text: 'present. Top: events over time, below it how long reads waited.', style: 'dim' as const },
  ]);
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

/** One read by itself, several as a list to choose from; undefined where there are none. */
export function explainReads(log: ReplayLog, reads: readonly TracedRead[]): Overlay | undefined {
  const [only] = reads;
  if (only === undefined) return undefined;
  if (reads.length === 1) return explainOne(log, only);
  const slowest = [...reads].sort((a, b) => b.us - a.us);
  return overlay('reads that waited; Enter says for what', () =>
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
export function explainMount(log: ReplayLog, id: string): Overlay {
  try {
    const why = explainStart(log, findMount(log, id), { top: 15 });
    return overlay(`why the start of ${why.ref} took ${formatUs(why.us)}`, (width) =>
      renderWhyStart(why, width).map((text) => {
        const read = why.slowest.find((one) => text.includes(` ${one.id} `) && text.includes(' at +'));
        return {
          text,
          style: lineStyle(text),
          ...(read === undefined ? {} : { open: () => explainOne(log, findRead(log, read.id)) }),
        };
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
