/** A screen as a grid of cells: drawn into by the panes, turned into text, terminal codes or a picture. No I/O. */

/** The meaning of a piece of text; ansi.ts decides how it looks. */
export type Style =
  | 'plain'
  | 'dim'
  | 'bold'
  | 'title'
  | 'accent'
  | 'good'
  | 'warn'
  | 'bad'
  | 'image'
  | 'layer'
  | 'mount'
  | 'trace'
  | 'selected'
  | 'bar'
  | 'fresh';

export interface Size {
  columns: number;
  rows: number;
}

export interface Run {
  text: string;
  style: Style;
  /** Column of its first cell. */
  column: number;
}

export class Canvas {
  readonly columns: number;
  readonly rows: number;
  readonly #texts: string[];
  readonly #styles: Style[];

  constructor({ columns, rows }: Size) {
    this.columns = columns;
    this.rows = rows;
    this.#texts = Array.from({ length: columns * rows }, () => ' ');
    this.#styles = Array.from({ length: columns * rows }, (): Style => 'plain');
  }

  /**
   * Writes text from a cell on, at most `width` columns and never beyond the row; what does not fit ends in `…`.
   * Returns the column behind it. Control characters become `·`.
   */
  text(column: number, row: number, text: string, style: Style = 'plain', width = this.columns): number {
    if (row < 0 || row >= this.rows || column >= this.columns) return column;
    const end = Math.min(this.columns, column + width);
    let at = column;
    let last = -1;
    for (const mark of graphemes(text)) {
      const cells = widthOf(mark);
      if (cells === 0) continue;
      if (at + cells > end) {
        // The last mark makes room for the sign that there is more.
        const place = last >= 0 ? (at >= end ? last : at) : -1;
        if (place >= 0)
          for (let cell = place; cell < end; cell++) this.#put(cell, row, cell === place ? '…' : ' ', style);
        return end;
      }
      last = at;
      this.#put(at, row, mark, style);
      if (cells === 2) this.#put(at + 1, row, '', style);
      at += cells;
    }
    return at;
  }

  /** Text that ends at the row's column `end`. */
  right(end: number, row: number, text: string, style: Style = 'plain'): void {
    this.text(Math.max(0, end - textWidth(text)), row, text, style);
  }

  /** Gives cells a style, keeping what stands in them. */
  paint(column: number, row: number, width: number, style: Style): void {
    if (row < 0 || row >= this.rows) return;
    for (let at = Math.max(0, column); at < Math.min(this.columns, column + width); at++)
      this.#styles[row * this.columns + at] = style;
  }

  fill(column: number, row: number, width: number, mark: string, style: Style = 'plain'): void {
    if (row < 0 || row >= this.rows) return;
    for (let at = column; at < Math.min(this.columns, column + width); at++) this.#put(at, row, mark, style);
  }

  /** Empties a rectangle. */
  clear(column: number, row: number, width: number, height: number): void {
    for (let at = row; at < Math.min(this.rows, row + height); at++) this.fill(column, at, width, ' ');
  }

  /** The rows as they read, without blanks at their ends. */
  lines(): string[] {
    return Array.from({ length: this.rows }, (_, row) =>
      this.#texts
        .slice(row * this.columns, (row + 1) * this.columns)
        .join('')
        .trimEnd(),
    );
  }

  /** The pieces of one style of a row, blanks at the end left out where they are plain. */
  runs(row: number): Run[] {
    const runs: Run[] = [];
    for (let column = 0; column < this.columns; column++) {
      const cell = row * this.columns + column;
      const style = this.#styles[cell] as Style;
      const text = this.#texts[cell] as string;
      const last = runs.at(-1);
      if (last !== undefined && last.style === style) last.text += text;
      else runs.push({ text, style, column });
    }
    const last = runs.at(-1);
    if (last !== undefined && last.style !== 'selected' && last.style !== 'title') {
      last.text = last.text.trimEnd();
      if (last.text === '') runs.pop();
    }
    return runs;
  }

  #put(column: number, row: number, mark: string, style: Style): void {
    if (column < 0 || column >= this.columns) return;
    const cell = row * this.columns + column;
    this.#texts[cell] = mark;
    this.#styles[cell] = style;
  }
}

const segmenter = new Intl.Segmenter(undefined, { granularity: 'grapheme' });

/** Splits text into what a user takes for one character each. Foreign text may hold anything. */
function* graphemes(text: string): IterableIterator<string> {
  if (/^[\x20-\x7e]*$/.test(text)) {
    yield* text;
    return;
  }
  for (const { segment } of segmenter.segment(text)) {
    yield /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u.test(segment) && !/\p{Extended_Pictographic}/u.test(segment)
      ? '·'
      : segment;
  }
}

/** Columns that a character takes in a terminal (Unicode East Asian Width: W and F are two). */
function widthOf(mark: string): number {
  const code = mark.codePointAt(0) ?? 0;
  if (code < 0x1100) return /^\p{M}/u.test(mark) ? 0 : 1;
  if (/^\p{M}/u.test(mark)) return 0;
  const wide =
    code <= 0x115f ||
    (code >= 0x2e80 && code <= 0x303e) ||
    (code >= 0x3041 && code <= 0xa4cf) ||
    (code >= 0xac00 && code <= 0xd7a3) ||
    (code >= 0xf900 && code <= 0xfaff) ||
    (code >= 0xfe30 && code <= 0xfe6f) ||
    (code >= 0xff00 && code <= 0xff60) ||
    (code >= 0xffe0 && code <= 0xffe6) ||
    (code >= 0x1f300 && code <= 0x1f64f) ||
    (code >= 0x1f900 && code <= 0x1f9ff) ||
    (code >= 0x20000 && code <= 0x3fffd);
  return wide ? 2 : 1;
}

export function textWidth(text: string): number {
  let width = 0;
  for (const mark of graphemes(text)) width += widthOf(mark);
  return width;
}
