/**
 * Draws the view: a pure function of the session and the size of the screen.
 *
 *     title, moment
 *     events over time, waits below them, axis
 *     events         │ state of the node
 *     the event      │ reads in flight
 *     prompt, message or keys
 */
import { formatDuration } from '../../terminal/table.ts';
import { contextOf } from '../search.ts';
import { Canvas, type Size, textWidth } from './canvas.ts';
import { drawDetails, drawEvents, drawFlight, drawState } from './panes.ts';
import { PROMPTS } from './prompts.ts';
import type { Session } from './session.ts';
import { drawTimeline } from './timeline-bar.ts';
import type { OverlayLine } from './overlays.ts';
import { clockText } from './summary.ts';

/** Below this nothing can be shown. */
const SMALLEST: Size = { columns: 60, rows: 16 };

export function render(session: Session, size: Size): Canvas {
  const canvas = new Canvas(size);
  if (size.columns < SMALLEST.columns || size.rows < SMALLEST.rows) {
    canvas.text(0, 0, `this needs ${SMALLEST.columns} columns and ${SMALLEST.rows} rows`, 'warn');
    return canvas;
  }
  drawTitle(canvas, session);
  drawTimeline(canvas, session, { column: 0, row: 1, width: size.columns });
  const top = 4;
  const bottom = size.rows - 1;
  const height = bottom - top;
  const upper = Math.max(6, Math.ceil(height * 0.6));
  const left = Math.floor(size.columns * 0.5);
  const names = contextOf(session.log);
  const right = { column: left + 1, width: size.columns - left - 1 };
  drawEvents(canvas, session, names, { column: 0, row: top, width: left, height: upper });
  drawState(canvas, session, { ...right, row: top, height: upper });
  drawDetails(canvas, session, { column: 0, row: top + upper, width: left, height: height - upper });
  drawFlight(canvas, session, { ...right, row: top + upper, height: height - upper });
  for (let row = top; row < bottom; row++) canvas.text(left, row, '│', 'dim');
  if (session.overlay !== undefined) drawOverlay(canvas, session);
  drawFooter(canvas, session, size.rows - 1);
  return canvas;
}

function drawTitle(canvas: Canvas, session: Session): void {
  const { log, position } = session;
  canvas.fill(0, 0, canvas.columns, ' ', 'title');
  const moment = [
    `seq ${log.seqOf(position)}`,
    `${position}/${log.count}`,
    session.clock > 0 ? clockText(session.clock) : '',
    session.clock > 0 ? `+${formatDuration(session.clock - log.timeOf(Math.min(1, log.count)))}` : '',
  ]
    .filter((part) => part !== '')
    .join('  ');
  const room = canvas.columns - textWidth(moment) - 3;
  canvas.text(1, 0, `cofa replay  ${session.title}`, 'title', room);
  canvas.right(canvas.columns - 1, 0, moment, 'title');
}

function drawFooter(canvas: Canvas, session: Session, row: number): void {
  const { prompt, message, busy } = session;
  if (prompt !== undefined) {
    const { label, hint } = PROMPTS[prompt.kind];
    const end = canvas.text(0, row, `${label}: `, 'accent');
    // The end of a long text is what is being typed.
    const room = canvas.columns - end - 2;
    const shown = prompt.text.length > room ? `…${prompt.text.slice(1 - room)}` : prompt.text;
    const at = canvas.text(end, row, shown);
    canvas.text(at, row, '█', 'accent');
    if (prompt.text === '') canvas.text(at + 2, row, hint, 'dim');
    else if (message !== undefined) canvas.text(at + 2, row, message.text, 'bad');
    return;
  }
  if (busy !== undefined) {
    canvas.text(0, row, `${busy.label}: ${Math.floor(busy.share * 100)} %  Esc stops it`, 'accent');
    return;
  }
  if (message !== undefined) {
    canvas.text(0, row, message.text, message.bad ? 'bad' : 'accent');
    return;
  }
  const keys =
    session.overlay !== undefined
      ? '↑↓ move  Enter open  Esc back  ? keys'
      : '? keys  q quit  ←→ step  Space play  : go to  / search  r read  w why  b break  c next  m mark  d diff';
  canvas.text(0, row, keys, 'dim');
}

function drawOverlay(canvas: Canvas, session: Session): void {
  const { overlay } = session;
  if (overlay === undefined) return;
  const area = { column: 2, row: 3, width: canvas.columns - 4, height: canvas.rows - 5 };
  canvas.clear(area.column, area.row, area.width, area.height);
  frame(canvas, area, overlay.title);
  const width = area.width - 4;
  const height = area.height - 2;
  const lines = overlay.lines(width);
  const isList = lines.some((line) => line.open !== undefined);
  // Text without choices moves as a whole; in a list the cursor goes to the last row before it does.
  const wanted = isList ? Math.max(0, overlay.cursor - height + 1) : overlay.cursor;
  const first = Math.max(0, Math.min(wanted, lines.length - height));
  for (const [offset, line] of lines.slice(first, first + height).entries()) {
    const { text, style, open }: OverlayLine = line;
    const row = area.row + 1 + offset;
    canvas.text(area.column + 2, row, text, style ?? 'plain', width);
    if (!isList || first + offset !== overlay.cursor) continue;
    if (open === undefined) canvas.text(area.column + 1, row, '›', 'accent');
    else canvas.paint(area.column + 2, row, width, 'selected');
  }
  if (lines.length > height)
    canvas.right(
      area.column + area.width - 2,
      area.row + area.height - 1,
      ` ${first + 1}-${Math.min(lines.length, first + height)} of ${lines.length} `,
      'dim',
    );
}

function frame(
  canvas: Canvas,
  { column, row, width, height }: { column: number; row: number; width: number; height: number },
  title: string,
): void {
  const last = row + height - 1;
  canvas.text(column, row, `┌${'─'.repeat(width - 2)}┐`, 'accent');
  canvas.text(column, last, `└${'─'.repeat(width - 2)}┘`, 'accent');
  for (let at = row + 1; at < last; at++) {
    canvas.text(column, at, '│', 'accent');
    canvas.text(column + width - 1, at, '│', 'accent');
  }
  canvas.text(column + 2, row, ` ${title} `, 'accent', width - 4);
}
