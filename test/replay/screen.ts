/** What a terminal shows after some output: as much of one as the view uses. Throws on any other code. */

/** The rows of a screen, without blanks at their ends. */
export function screenOf(output: string, { columns, rows }: { columns: number; rows: number }): string[] {
  let cells = blank(columns, rows);
  let row = 0;
  let column = 0;
  // The escape is a control character: \p{Cc}.
  const pattern = /\p{Cc}\[(\??)([0-9;]*)([A-Za-z])|[\s\S]/gu;
  for (const [text, isPrivate = '', parameters = '', final] of output.matchAll(pattern)) {
    if (final === undefined) {
      if (text === '\x1b') throw new Error('an escape that is none of the view’s');
      if (column < columns) (cells[row] as string[])[column] = text;
      column += /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3]/u.test(text) ? 2 : 1;
    } else if (final === 'm') continue;
    else if (isPrivate === '?') {
      if (!['1049', '25'].includes(parameters)) throw new Error(`private mode ${parameters}`);
    } else if (final === 'H') {
      const [toRow = 1, toColumn = 1] = parameters.split(';').map(Number);
      [row, column] = [toRow - 1, toColumn - 1];
    } else if (final === 'J' && parameters === '2') cells = blank(columns, rows);
    else if (final === 'K' && parameters === '') (cells[row] as string[]).fill(' ', column);
    else throw new Error(`code ${JSON.stringify(text)}`);
    if (row >= rows) throw new Error(`row ${row + 1} of ${rows}`);
  }
  return cells.map((line) => line.join('').trimEnd());
}

const blank = (columns: number, rows: number): string[][] =>
  Array.from({ length: rows }, () => Array.from({ length: columns }, () => ' '));
