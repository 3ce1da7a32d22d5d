/**
 * The time line on canvas: how many events there are when, facts that are few by their kinds, how long reads waited, and where one
 * is. What lies below is drawn when the log, the stretch or the size changes; a move draws the cursor alone.
 */
import { effect, type Signal, signal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import { type Density, densityOf, scaleOf, type Stretch } from '../../../replay/density.ts';
import { formatDuration } from '../../../terminal/table.ts';
import { colourOf, colours } from '../theme.ts';
import type { Debugger } from './debugger.ts';

const HEIGHT = 116;
/** Rows, px: events, facts, waits, axis. */
const EVENTS = { top: 2, height: 52 };
const FACTS = { top: 56, height: 10 };
const WAITS = { top: 68, height: 28 };
const AXIS = 98;

/** The part of the axis that is shown. */
export const stretchOf = (debug: Debugger): Stretch =>
  debug.zoom.value === undefined ? wholeOf(debug) : { axis: debug.axis.value, ...debug.zoom.value };

function wholeOf({ axis, count, columns, grown, isWhole, log }: Debugger): Stretch {
  if (axis.value === 'events') return { axis: 'events', from: 0, to: Math.max(1, count.value) };
  const isKnown = grown.value > 0 && isWhole.value && columns.count > 0;
  const last = isKnown ? columns.timeAt(columns.count - 1) : log.lastAt;
  return { axis: 'time', from: log.firstAt, to: Math.max(last, log.firstAt + 1) };
}

/** The least that is shown: ms, or events. */
const LEAST = { time: 0.01, events: 10 } as const;

/** `factor` below 1: nearer. `around`: a place on the axis that stays where it is; by default where one is. */
export function zoomBy(debug: Debugger, factor: number, around?: number): void {
  const { axis, from, to } = stretchOf(debug);
  const whole = wholeOf(debug);
  const middle = around ?? (axis === 'time' ? debug.clock.value : debug.position.value);
  const left = Math.max(whole.from, middle - (middle - from) * factor);
  const right = Math.min(whole.to, middle + (to - middle) * factor);
  if (right - left < LEAST[axis]) return;
  debug.zoom.value = left <= whole.from && right >= whole.to ? undefined : { from: left, to: right };
}

export function TimeLine({ debug }: { debug: Debugger }) {
  const box = useRef<HTMLDivElement>(null);
  const ground = useRef<HTMLCanvasElement>(null);
  const cursor = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const [whole, below, above] = [box.current, ground.current, cursor.current];
    if (whole === null || below === null || above === null) return undefined;
    const width = signal(whole.clientWidth);
    const observer = new ResizeObserver(() => (width.value = whole.clientWidth));
    observer.observe(whole);
    const ends = [
      effect(() => drawGround(below, debug, width)),
      effect(() => drawCursor(above, debug, width)),
    ];
    const wheel = (event: WheelEvent) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      zoomBy(debug, event.deltaY > 0 ? 1.25 : 0.8, placeOf(debug, whole, event.clientX));
    };
    whole.addEventListener('wheel', wheel, { passive: false });
    return () => {
      observer.disconnect();
      whole.removeEventListener('wheel', wheel);
      for (const end of ends) end();
    };
  }, [debug]);
  const scrub = (event: PointerEvent) => {
    if (event.buttons !== 1 || box.current === null) return;
    box.current.setPointerCapture(event.pointerId);
    debug.scrub(placeOf(debug, box.current, event.clientX));
  };
  const position = debug.position.value;
  return (
    <div
      ref={box}
      class="time-line"
      role="slider"
      tabIndex={0}
      aria-label="Time line of all events"
      aria-valuemin={0}
      aria-valuemax={debug.count.value}
      aria-valuenow={position}
      aria-valuetext={`event ${position} of ${debug.count.value}`}
      onPointerDown={scrub}
      onPointerMove={scrub}
    >
      <canvas ref={ground} aria-hidden="true" />
      <canvas ref={cursor} aria-hidden="true" />
    </div>
  );
}

function placeOf(debug: Debugger, box: HTMLElement, clientX: number): number {
  const { from, to } = stretchOf(debug);
  const { left, width } = box.getBoundingClientRect();
  return from + (Math.max(0, Math.min(width, clientX - left)) / Math.max(1, width)) * (to - from);
}

/** A clean canvas of that width, px of CSS. */
function prepare(canvas: HTMLCanvasElement, width: number): CanvasRenderingContext2D | undefined {
  const scale = devicePixelRatio;
  const [w, h] = [Math.max(1, Math.round(width * scale)), Math.round(HEIGHT * scale)];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${HEIGHT}px`;
  }
  const draw = canvas.getContext('2d') ?? undefined;
  draw?.setTransform(scale, 0, 0, scale, 0, 0);
  draw?.clearRect(0, 0, width, HEIGHT);
  return draw;
}

const KINDS = ['engine', 'process', 'image', 'mount', 'snapshot'] as const;
const KIND_COLOURS: Record<(typeof KINDS)[number], string> = {
  engine: '--text',
  process: '--muted',
  image: '--image',
  mount: '--mount',
  snapshot: '--layer',
};

function drawGround(canvas: HTMLCanvasElement, debug: Debugger, width: Signal<number>): void {
  void colours.value;
  const stretch = stretchOf(debug);
  const draw = prepare(canvas, width.value);
  if (draw === undefined) return;
  const cells = Math.max(1, Math.floor(width.value / 2));
  const { events, waits } = densityFor(debug, stretch, cells);
  const size = width.value / events.length;
  const most = Math.max(1, ...events);
  const longest = Math.max(1, ...waits);
  draw.fillStyle = colourOf('--good');
  for (const [cell, count] of events.entries()) {
    if (count === 0) continue;
    // By the logarithm: one event among thousands is seen too.
    const height = Math.max(1, (Math.log1p(count) / Math.log1p(most)) * EVENTS.height);
    draw.fillRect(cell * size, EVENTS.top + EVENTS.height - height, Math.max(1, size - 0.5), height);
  }
  const [slow, slower, calm] = ['--warn', '--bad', '--layer'].map(colourOf) as [string, string, string];
  for (const [cell, wait] of waits.entries()) {
    if (wait === 0) continue;
    draw.fillStyle = wait >= 1_000_000 ? slower : wait >= 100_000 ? slow : calm;
    const height = Math.max(1, (Math.log1p(wait) / Math.log1p(longest)) * WAITS.height);
    draw.fillRect(cell * size, WAITS.top + WAITS.height - height, Math.max(1, size - 0.5), height);
  }
  drawFacts(draw, debug, stretch, width.value);
  drawAxis(draw, stretch, width.value);
}

/** What the server has counted at first, and from then on what the columns give. */
function densityFor(debug: Debugger, stretch: Stretch, cells: number): Density {
  const { columns, log } = debug;
  if (!debug.isWhole.value && debug.zoom.value === undefined && stretch.axis === 'time') return log.density;
  const [first, end] = rangeOf(debug, stretch);
  return densityOf(columns, stretch, cells, first, end);
}

/** The events of a stretch. */
function rangeOf({ columns }: Debugger, { axis, from, to }: Stretch): [first: number, end: number] {
  if (axis === 'events') return [Math.max(0, Math.floor(from) - 1), Math.min(columns.count, Math.ceil(to))];
  return [Math.max(0, columns.positionOfTime(from) - 1), columns.positionOfTime(to)];
}

function drawFacts(draw: CanvasRenderingContext2D, debug: Debugger, stretch: Stretch, width: number): void {
  const { columns } = debug;
  const [first, end] = rangeOf(debug, stretch);
  const scale = scaleOf(stretch, Math.floor(width));
  const seen = new Map<string, Set<number>>();
  for (let index = first; index < end; index++) {
    const kind = columns.kindAt(index);
    if (kind === 'layer') continue;
    let places = seen.get(kind);
    if (places === undefined) seen.set(kind, (places = new Set()));
    places.add(scale(stretch.axis === 'time' ? columns.timeAt(index) : index + 1));
  }
  for (const kind of KINDS) {
    draw.fillStyle = colourOf(KIND_COLOURS[kind]);
    for (const x of seen.get(kind) ?? []) draw.fillRect(x, FACTS.top, 1.5, FACTS.height);
  }
}

function drawAxis(draw: CanvasRenderingContext2D, { axis, from, to }: Stretch, width: number): void {
  draw.fillStyle = colourOf('--line');
  draw.fillRect(0, AXIS, width, 1);
  draw.fillStyle = colourOf('--muted');
  draw.font = '12px system-ui, sans-serif';
  draw.textBaseline = 'top';
  const steps = Math.max(1, Math.floor(width / 250));
  for (let step = 0; step <= steps; step++) {
    const place = from + ((to - from) * step) / steps;
    const x = (width * step) / steps;
    draw.textAlign = step === 0 ? 'left' : step === steps ? 'right' : 'center';
    draw.fillText(
      axis === 'events'
        ? Math.round(place).toLocaleString('en')
        : step === 0
          ? new Date(from).toISOString().slice(0, 23).replace('T', ' ')
          : `+${formatDuration(place - from)}`,
      x,
      AXIS + 3,
    );
  }
}

function drawCursor(canvas: HTMLCanvasElement, debug: Debugger, width: Signal<number>): void {
  void colours.value;
  const { from, to, axis } = stretchOf(debug);
  const draw = prepare(canvas, width.value);
  if (draw === undefined) return;
  const x = (place: number) => ((place - from) / Math.max(1e-9, to - from)) * width.value;
  const line = (at: number, colour: string, flag: boolean) => {
    draw.fillStyle = colourOf(colour);
    draw.fillRect(Math.max(0, Math.min(width.value - 2, at - 1)), 0, 2, AXIS);
    if (!flag) return;
    draw.beginPath();
    draw.moveTo(at - 5, 0);
    draw.lineTo(at + 5, 0);
    draw.lineTo(at, 7);
    draw.fill();
  };
  const mark = debug.mark.value;
  if (mark !== undefined) line(x(axis === 'time' ? debug.timeOf(mark) : mark), '--image', true);
  line(x(axis === 'time' ? debug.clock.value : debug.position.value), '--accent', true);
}
