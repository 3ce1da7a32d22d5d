/**
 * The blocks of a layer on a canvas, in rows. Each block is a cell; one sees all of them, or comes closer. 160,000 cells are one
 * picture of bytes that is drawn in some milliseconds.
 */
import { useEffect, useMemo, useState } from 'preact/hooks';
import { type Painted, useCanvas } from '../canvas.ts';
import { actOnKey } from '../keys.ts';
import { colourOf, colours } from '../theme.ts';
import { around, type Blocks, type ColourMode, LEGENDS, shadeOf } from './blocks.ts';

/** CSS pixels, at most. */
const HEIGHT = 420;
/** Cells of one block, CSS pixels: at its smallest of all, and closest. */
const CLOSEST = 24;

interface Props {
  blocks: Blocks;
  mode: ColourMode;
  chosen: number;
  choose: (block: number) => void;
  /** What is said of the map to those who do not see it. */
  label: string;
}

export function BlockCanvas({ blocks, mode, chosen, choose, label }: Props) {
  const [closer, setCloser] = useState(0);
  const [topRow, setTopRow] = useState(0);
  const [height, setHeight] = useState(HEIGHT);
  const palette = useMemo(() => paletteOf(mode), [mode, colours.value]);
  const count = blocks.states.length;
  const paint = (painted: Painted) =>
    draw(painted, { blocks, mode, palette, chosen, ...placed(painted.width) });
  const { ref, width } = useCanvas(height, paint, [blocks, mode, palette, chosen, closer, topRow]);

  /** Cells of a row, their size, and which row is the first. */
  function placed(wide: number) {
    const fit = Math.max(1, Math.floor(Math.sqrt((wide * HEIGHT) / Math.max(1, count))));
    const cell = Math.min(CLOSEST, fit * 2 ** closer);
    const columns = Math.max(1, Math.floor(wide / cell));
    const rows = Math.ceil(count / columns);
    const seen = Math.max(1, Math.floor(HEIGHT / cell));
    return { cell, columns, rows, seen, first: Math.max(0, Math.min(topRow, rows - seen)) };
  }

  const { cell, columns, rows, seen, first } = placed(Math.max(1, width));
  useEffect(() => setHeight(Math.max(1, Math.min(HEIGHT, rows * cell))), [rows, cell]);
  const go = (to: number) => {
    const next = Math.max(0, Math.min(count - 1, to));
    choose(next);
    const row = Math.floor(next / columns);
    setTopRow(Math.max(Math.min(first, row), row - seen + 1));
  };
  const zoom = (by: 1 | -1) => {
    const next = Math.max(0, closer + by);
    if (by > 0 && cell >= CLOSEST) return;
    setCloser(next);
    // What is chosen stays in sight.
    const wide = Math.max(1, Math.floor(width / Math.min(CLOSEST, cell * 2 ** by)));
    setTopRow(Math.max(0, Math.floor(chosen / wide) - Math.floor(seen / 4)));
  };
  const onKey = (event: KeyboardEvent) =>
    actOnKey(event, {
      ArrowRight: () => go(chosen + 1),
      ArrowLeft: () => go(chosen - 1),
      ArrowDown: () => go(chosen + columns),
      ArrowUp: () => go(chosen - columns),
      PageDown: () => go(chosen + seen * columns),
      PageUp: () => go(chosen - seen * columns),
      Home: () => go(0),
      End: () => go(count - 1),
      '+': () => zoom(1),
      '=': () => zoom(1),
      '-': () => zoom(-1),
      '0': () => (setCloser(0), setTopRow(0)),
      n: () => go(nextEdge(blocks.states, chosen, 1)),
      N: () => go(nextEdge(blocks.states, chosen, -1)),
    });
  const onWheel = (event: WheelEvent) => {
    if (event.ctrlKey) {
      event.preventDefault();
      return zoom(event.deltaY > 0 ? -1 : 1);
    }
    const next = Math.max(0, Math.min(rows - seen, first + Math.sign(event.deltaY) * Math.ceil(seen / 10)));
    if (next === first) return;
    event.preventDefault();
    setTopRow(next);
  };
  const onClick = (event: MouseEvent) => {
    const column = Math.min(columns - 1, Math.floor(event.offsetX / cell));
    const block = (first + Math.floor(event.offsetY / cell)) * columns + column;
    if (block < count) choose(block);
  };
  return (
    <>
      <div class="canvas">
        <canvas
          ref={ref}
          tabIndex={0}
          role="img"
          aria-label={`${label}. Arrows move from block to block, n to the next that is otherwise, plus and minus zoom.`}
          onKeyDown={onKey}
          onWheel={onWheel}
          onClick={onClick}
        />
      </div>
      <p class="legend">
        {LEGENDS[mode].map(([name, colour]) => (
          <span>
            <i class="swatch" style={{ background: `var(${colour})` }} /> {name}
          </span>
        ))}
      </p>
      <p class="muted facts">
        {columns} blocks in a row, rows {first + 1} to {Math.min(rows, first + seen)} of {rows}
      </p>
    </>
  );
}

/** The next block whose state is another one's, in a direction. */
function nextEdge(states: Uint8Array, from: number, direction: 1 | -1): number {
  for (let block = from + direction; block >= 0 && block < states.length; block += direction)
    if (states[block] !== states[from]) return block;
  return from;
}

/** By shade: a colour as bytes. */
function paletteOf(mode: ColourMode): Uint8ClampedArray[] {
  const probe = document.createElement('canvas');
  probe.width = 1;
  probe.height = 1;
  const context = probe.getContext('2d', { willReadFrequently: true });
  return LEGENDS[mode].map(([, name]) => {
    if (context === null) return new Uint8ClampedArray([0, 0, 0, 255]);
    context.fillStyle = colourOf(name);
    context.fillRect(0, 0, 1, 1);
    return context.getImageData(0, 0, 1, 1).data;
  });
}

function draw(
  { context, width, height }: Painted,
  o: {
    blocks: Blocks;
    mode: ColourMode;
    palette: readonly Uint8ClampedArray[];
    chosen: number;
    cell: number;
    columns: number;
    first: number;
  },
): void {
  const { blocks, mode, palette, cell, columns, first, chosen } = o;
  const count = blocks.states.length;
  const rows = Math.min(Math.ceil(height / cell), Math.ceil(count / columns) - first);
  if (rows <= 0) return;
  // One pixel a block, which the canvas makes as large as a cell.
  const picture = new ImageData(columns, rows);
  const shades = shadeOf(mode, blocks);
  for (let cellAt = 0, block = first * columns; cellAt < columns * rows && block < count; cellAt++, block++)
    picture.data.set(palette[shades(block)] ?? [0, 0, 0, 0], cellAt * 4);
  const small = new OffscreenCanvas(columns, rows);
  small.getContext('2d')?.putImageData(picture, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, columns * cell, rows * cell);
  const left = (chosen % columns) * cell;
  const top = (Math.floor(chosen / columns) - first) * cell;
  if (top < 0 || top > height) return;
  context.strokeStyle = colourOf('--text');
  context.lineWidth = 2;
  const edge = Math.max(cell, 4);
  const [x, right] = around(left, edge, width);
  const [y, bottom] = around(top, edge, height);
  context.strokeRect(x, y, right - x, bottom - y);
}
