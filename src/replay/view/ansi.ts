/** A canvas as codes for a terminal (ECMA-48 SGR, the 16 colours that every terminal's palette decides on). */
import type { Canvas, Style } from './canvas.ts';

const COLOURS: Record<Style, string> = {
  plain: '',
  dim: '90',
  bold: '1',
  title: '7',
  accent: '1;36',
  good: '32',
  warn: '33',
  bad: '1;31',
  image: '35',
  layer: '34',
  mount: '36',
  trace: '33',
  selected: '7',
  bar: '32',
  fresh: '1;93',
};

/** Without colours: what stands out is bold, dim or inverse. https://no-color.org forbids colours alone. */
const ATTRIBUTES: Record<Style, string> = {
  plain: '',
  dim: '2',
  bold: '1',
  title: '7',
  accent: '1',
  good: '',
  warn: '1',
  bad: '1',
  image: '',
  layer: '',
  mount: '',
  trace: '',
  selected: '7',
  bar: '',
  fresh: '1;4',
};

/** Each row as text with its codes; every row ends in the plain style. */
export function toAnsi(canvas: Canvas, options: { colour: boolean }): string[] {
  const codes = options.colour ? COLOURS : ATTRIBUTES;
  return Array.from({ length: canvas.rows }, (_, row) =>
    canvas
      .runs(row)
      .map(({ text, style }) => (codes[style] === '' ? text : `\x1b[${codes[style]}m${text}\x1b[0m`))
      .join(''),
  );
}

/**
 * What to write so that the screen shows `now` where it showed `before`: only the rows that differ. `before` undefined:
 * everything.
 */
export function repaint(now: readonly string[], before: readonly string[] | undefined): string {
  let out = before === undefined ? '\x1b[2J' : '';
  for (const [row, text] of now.entries()) {
    if (before !== undefined && before[row] === text) continue;
    // CUP to the row, EL, its text: behind a text that fills the row EL would take its last mark.
    out += `\x1b[${row + 1};1H\x1b[K${text}`;
  }
  return out;
}
