/** The three rows below the title: how many events there are when, how long reads waited, and where one is. */
import { formatDuration } from '../../terminal/table.ts';
import { type Axis, type Density, densityOf as countDensity, scaleOf, type Stretch } from '../density.ts';
import { countableOf, type ReplayLog } from '../replay-log.ts';
import type { Canvas } from './canvas.ts';
import type { Session } from './session.ts';

const HEIGHTS = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'] as const;

export function drawTimeline(
  canvas: Canvas,
  session: Session,
  { column, row, width }: { column: number; row: number; width: number },
): void {
  const { log, axis } = session;
  const scale = scaleOf(stretchOf(log, axis), width);
  const { events, waits } = densityOf(log, axis, width);
  const most = Math.max(1, ...events);
  const longest = Math.max(1, ...waits);
  for (let cell = 0; cell < width; cell++) {
    const count = events[cell] ?? 0;
    // By the logarithm: one event among thousands is seen too.
    if (count > 0) canvas.text(column + cell, row, height(Math.log1p(count) / Math.log1p(most)), 'bar');
    const wait = waits[cell] ?? 0;
    if (wait > 0) {
      const style = wait >= 1_000_000 ? 'bad' : wait >= 100_000 ? 'warn' : 'trace';
      canvas.text(column + cell, row + 1, height(Math.log1p(wait) / Math.log1p(longest)), style);
    }
  }
  const here = axis === 'time' ? scale(session.clock) : scale(session.position);
  for (const line of [row, row + 1]) canvas.paint(column + here, line, 1, 'selected');
  drawAxis(canvas, session, { column, row: row + 2, width }, scale, here);
}

function drawAxis(
  canvas: Canvas,
  session: Session,
  { column, row, width }: { column: number; row: number; width: number },
  scale: (value: number) => number,
  here: number,
): void {
  const { log, axis } = session;
  canvas.fill(column, row, width, '─', 'dim');
  const [first, last] = [log.timeOf(Math.min(1, log.count)), log.timeOf(log.count)];
  canvas.text(column, row, axis === 'time' ? '0 s ' : '0 ', 'dim');
  canvas.right(
    column + width,
    row,
    axis === 'time' ? ` ${formatDuration(last - first)}` : ` ${log.count}`,
    'dim',
  );
  if (session.mark !== undefined) {
    const at = scale(axis === 'time' ? log.timeOf(session.mark) : session.mark);
    canvas.text(column + at, row, '◆', 'accent');
  }
  canvas.text(column + here, row, '▲', 'accent');
  const state = session.isFollowing
    ? ' following '
    : session.isPlaying
      ? ` ▶ ${session.speed}x `
      : ` paused${session.speed === 1 ? '' : ` (${session.speed}x)`} `;
  const count = session.breakpoints.length;
  const breakpoints = count > 0 ? `${state}· ${count} breakpoint${count === 1 ? '' : 's'} ` : state;
  const at = Math.floor((width - breakpoints.length) / 2);
  // The marker is seen wherever it is.
  if (here < at || here >= at + breakpoints.length) canvas.text(column + at, row, breakpoints, 'accent');
  else
    canvas.text(
      column + (here < width / 2 ? here + 2 : here - breakpoints.length - 1),
      row,
      breakpoints,
      'accent',
    );
}

const height = (share: number): string =>
  HEIGHTS[Math.max(0, Math.min(HEIGHTS.length - 1, Math.ceil(share * HEIGHTS.length) - 1))] ?? '█';

/** The whole log. */
function stretchOf(log: ReplayLog, axis: Axis): Stretch {
  return axis === 'time'
    ? { axis, from: log.timeOf(Math.min(1, log.count)), to: log.timeOf(log.count) }
    : { axis, from: 0, to: log.count };
}

const ready = new WeakMap<ReplayLog, { key: string; density: Density }>();

/** Counted again when the log has grown or the screen has changed. */
function densityOf(log: ReplayLog, axis: Axis, width: number): Density {
  const key = `${log.count} ${axis} ${width}`;
  const known = ready.get(log);
  if (known?.key === key) return known.density;
  const density = countDensity(countableOf(log), stretchOf(log, axis), width);
  ready.set(log, { key, density });
  return density;
}
