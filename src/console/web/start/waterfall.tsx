/** The waterfall on a canvas: rows of bars that one moves through by keys, wheel and pointer. */
import { useMemo, useState } from 'preact/hooks';
import type { Waterfall as Fall } from '../../../../schemas/replay.ts';
import { formatUs } from '../../../replay/format.ts';
import { type Painted, useCanvas } from '../canvas.ts';
import { actOnKey } from '../keys.ts';
import { colourOf } from '../theme.ts';
import { type Row, rowsOf } from './rows.ts';

const ROW = 18;
/** Rows that are seen at once, at most. */
const MOST_SEEN = 28;
const AXIS = 22;

interface Props {
  fall: Fall;
  /** Length of the time line, µs: that of the longer one of two. */
  span: number;
  title: string;
}

/** What of the time line is seen, µs. */
interface Window {
  from: number;
  us: number;
}

export function Waterfall({ fall, span, title }: Props) {
  const rows = useMemo(() => rowsOf(fall), [fall]);
  const [wanted, choose] = useState(0);
  const [wantedTop, setTop] = useState(0);
  // Undefined: all of it, also when that is more than before.
  const [shown, show] = useState<Window | undefined>(undefined);
  const seen = Math.min(rows.length, MOST_SEEN);
  // Of a start that was read anew there may be fewer rows.
  const chosen = Math.min(wanted, rows.length - 1);
  const top = Math.min(wantedTop, rows.length - seen);
  const window = shown === undefined || shown.us >= span ? { from: 0, us: span } : shown;
  const height = AXIS + seen * ROW;
  const paint = (painted: Painted) =>
    draw(painted, { rows: rows.slice(top, top + seen), chosen: chosen - top, window });
  const { ref, width } = useCanvas(height, paint, [rows, top, seen, chosen, window.from, window.us]);

  const go = (to: number) => {
    const next = Math.max(0, Math.min(rows.length - 1, to));
    choose(next);
    setTop(Math.max(Math.min(top, next), next - seen + 1));
  };
  const zoom = (factor: number, at = window.from + window.us / 2) => {
    const us = Math.max(1_000, Math.min(span, window.us * factor));
    const from = at - ((at - window.from) / window.us) * us;
    show({ us, from: Math.max(0, Math.min(span - us, from)) });
  };
  const pan = (share: number) =>
    show({ us: window.us, from: Math.max(0, Math.min(span - window.us, window.from + share * window.us)) });

  const onKey = (event: KeyboardEvent) =>
    actOnKey(event, {
      ArrowDown: () => go(chosen + 1),
      ArrowUp: () => go(chosen - 1),
      PageDown: () => go(chosen + seen),
      PageUp: () => go(chosen - seen),
      Home: () => go(0),
      End: () => go(rows.length - 1),
      ArrowRight: () => pan(0.2),
      ArrowLeft: () => pan(-0.2),
      '+': () => zoom(0.5, middleOf(rows[chosen]) ?? undefined),
      '=': () => zoom(0.5, middleOf(rows[chosen]) ?? undefined),
      '-': () => zoom(2),
      '0': () => show(undefined),
    });
  const onWheel = (event: WheelEvent) => {
    if (event.ctrlKey) {
      event.preventDefault();
      return zoom(
        event.deltaY > 0 ? 1.25 : 0.8,
        window.from + (event.offsetX / Math.max(1, width)) * window.us,
      );
    }
    const most = Math.max(0, rows.length - seen);
    const next = Math.max(0, Math.min(most, top + Math.sign(event.deltaY) * 3));
    // At its ends the page scrolls on.
    if (next === top) return;
    event.preventDefault();
    setTop(next);
  };
  const onClick = (event: MouseEvent) => {
    const row = top + Math.floor((event.offsetY - AXIS) / ROW);
    if (event.offsetY >= AXIS && row < rows.length) choose(row);
  };

  return (
    <figure class="waterfall">
      <figcaption>{title}</figcaption>
      <div class="canvas">
        <canvas
          ref={ref}
          tabIndex={0}
          role="img"
          aria-label={`${title}: ${rows.length} rows over ${formatUs(span)}. Arrows move, plus and minus zoom.`}
          onKeyDown={onKey}
          onWheel={onWheel}
          onClick={onClick}
        />
      </div>
      <p class="facts chosen" role="status">
        {rows[chosen]?.text ?? ''}
      </p>
      <p class="muted facts">
        rows {top + 1} to {top + seen} of {rows.length}; {formatUs(window.us)} from +{formatUs(window.from)}{' '}
        on
        {leftOf(fall)}
      </p>
    </figure>
  );
}

const leftOf = ({ left }: Fall): string => {
  const sum = left.jobs + left.reads + left.files;
  const shorter = sum === 0 ? '' : `; ${sum} shorter ones are left out`;
  return left.programs === 0 ? shorter : `${shorter}; samples left out at least ${left.programs} programs`;
};

function middleOf(row: Row | undefined): number | undefined {
  const first = row?.bars[0];
  const last = row?.bars.at(-1);
  return first === undefined || last === undefined ? undefined : (first.from + last.from + last.us) / 2;
}

/** Width of the names, of that of all. */
const nameWidth = (width: number): number => Math.min(220, Math.round(width * 0.3));

function draw(
  { context, width }: Painted,
  { rows, chosen, window }: { rows: readonly Row[]; chosen: number; window: Window },
): void {
  const names = nameWidth(width);
  const room = width - names - 8;
  const x = (at: number) => names + 4 + ((at - window.from) / window.us) * room;
  const colours = new Map<string, string>();
  const colour = (name: string) => {
    const known = colours.get(name) ?? colourOf(name);
    colours.set(name, known);
    return known;
  };
  context.font = '12px system-ui, sans-serif';
  context.textBaseline = 'middle';
  axis(context, { window, x, width, height: AXIS + rows.length * ROW, colour });
  for (const [index, row] of rows.entries()) {
    const y = AXIS + index * ROW;
    if (index === chosen) {
      context.fillStyle = colour('--selected');
      context.fillRect(0, y, width, ROW);
    }
    context.fillStyle = row.kind === 'part' || row.kind === 'path' ? colour('--text') : colour('--muted');
    context.fillText(fitted(context, row.name, names - 6), 2, y + ROW / 2);
    context.save();
    context.beginPath();
    context.rect(names + 4, y, room, ROW);
    context.clip();
    for (const { from, us, colour: name } of row.bars) {
      const left = x(from);
      const wide = Math.max(1, (us / window.us) * room);
      if (left > width || left + wide < names) continue;
      context.fillStyle = colour(name);
      context.fillRect(left, y + 3, wide, ROW - 6);
    }
    context.restore();
  }
}

function axis(
  context: CanvasRenderingContext2D,
  o: {
    window: Window;
    x: (at: number) => number;
    width: number;
    height: number;
    colour: (name: string) => string;
  },
): void {
  const step = niceStep(o.window.us / Math.max(2, Math.floor((o.width * 0.7) / 90)));
  for (let at = Math.ceil(o.window.from / step) * step; at <= o.window.from + o.window.us; at += step) {
    const left = Math.round(o.x(at)) + 0.5;
    context.strokeStyle = o.colour('--line');
    context.beginPath();
    context.moveTo(left, AXIS - 4);
    context.lineTo(left, o.height);
    context.stroke();
    const text = formatUs(at);
    context.fillStyle = o.colour('--muted');
    if (left + context.measureText(text).width < o.width) context.fillText(text, left + 2, AXIS / 2);
  }
}

/** 1, 2 or 5 of a power of ten, not below. */
function niceStep(least: number): number {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, least)));
  return [1, 2, 5, 10].map((one) => one * power).find((one) => one >= least) ?? 10 * power;
}

/** The end of a path says more than its beginning. */
function fitted(context: CanvasRenderingContext2D, text: string, width: number): string {
  if (context.measureText(text).width <= width) return text;
  let [low, high] = [0, text.length];
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if (context.measureText(`…${text.slice(middle)}`).width <= width) high = middle;
    else low = middle + 1;
  }
  return `…${text.slice(low)}`;
}
