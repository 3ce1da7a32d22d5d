/**
 * Draws a screen of `cofa replay` as a picture, for the documentation:
 *
 *     node ops/replay-picture.ts FILE COLUMNSxROWS KEYS > PICTURE.svg
 *
 * FILE is an exported log; KEYS are pressed before, as a JSON string without its quotes: `:+2s\r`, `w\r`.
 * `ops/replay-picture.ts --docs` writes those of docs/.
 */
import { writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { loadFile } from '../src/replay/load.ts';
import type { Canvas, Style } from '../src/replay/view/canvas.ts';
import { KeyReader } from '../src/replay/view/keys.ts';
import { render } from '../src/replay/view/render.ts';
import { Session } from '../src/replay/view/session.ts';

/** Pixels of a cell. */
const CELL = { width: 8, height: 17 };
const MARGIN = 12;
/** With this size the advance of DejaVu Sans Mono is a cell; `textLength` fits other fonts. */
const FONT = 13.29;
const BACKGROUND = '#12161c';
const FOREGROUND = '#c9d1d9';

const COLOURS: Record<Style, { fill: string; bold?: true; inverse?: true }> = {
  plain: { fill: FOREGROUND },
  dim: { fill: '#6b7480' },
  bold: { fill: '#e6edf3', bold: true },
  title: { fill: '#9ecbff', inverse: true },
  accent: { fill: '#58c7f3', bold: true },
  good: { fill: '#56d364' },
  warn: { fill: '#e3b341' },
  bad: { fill: '#ff7b72', bold: true },
  image: { fill: '#d2a8ff' },
  layer: { fill: '#79b8ff' },
  mount: { fill: '#5fd7c4' },
  trace: { fill: '#e3b341' },
  selected: { fill: FOREGROUND, inverse: true },
  bar: { fill: '#3fb950' },
  fresh: { fill: '#ffe36e', bold: true },
};

/** A screen as SVG. Draws block marks as rectangles: fonts disagree about their size. */
export function toSvg(canvas: Canvas): string {
  const width = canvas.columns * CELL.width + 2 * MARGIN;
  const height = canvas.rows * CELL.height + 2 * MARGIN;
  const parts: string[] = [];
  for (let row = 0; row < canvas.rows; row++) {
    const y = MARGIN + row * CELL.height;
    for (const { text, style, column } of canvas.runs(row)) {
      const { fill, bold, inverse } = COLOURS[style];
      const marks = [...text];
      if (inverse) parts.push(rect(column, y, marks.length * CELL.width, CELL.height, fill));
      const ink = inverse ? BACKGROUND : fill;
      // Runs of letters; blocks between them are rectangles.
      let at = 0;
      while (at < marks.length) {
        const block = BLOCKS.get(marks[at] ?? '');
        if (block !== undefined) {
          let end = at + 1;
          while (end < marks.length && marks[end] === marks[at]) end++;
          const tall = block.share * CELL.height;
          parts.push(
            rect(column + at, y + CELL.height - tall, (end - at) * CELL.width, tall, ink, block.opacity),
          );
          at = end;
          continue;
        }
        let end = at;
        while (end < marks.length && !BLOCKS.has(marks[end] ?? '')) end++;
        const letters = marks.slice(at, end).join('');
        if (letters.trim() !== '') {
          const lead = letters.length - letters.trimStart().length;
          const shown = letters.trim();
          parts.push(
            `<text x="${MARGIN + (column + at + lead) * CELL.width}" y="${y + 13}" textLength="${[...shown].length * CELL.width}" fill="${ink}"${bold ? ' font-weight="bold"' : ''}>${escape(shown)}</text>`,
          );
        }
        at = end;
      }
    }
  }
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}">`,
    `<rect width="${width}" height="${height}" rx="8" fill="${BACKGROUND}"/>`,
    `<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="${FONT}" lengthAdjust="spacingAndGlyphs" xml:space="preserve">`,
    ...parts,
    '</g>',
    '</svg>',
    '',
  ].join('\n');
}

const BLOCKS = new Map<string, { share: number; opacity?: number }>([
  ...['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'].map(
    (mark, index) => [mark, { share: (index + 1) / 8 }] as const,
  ),
  ['░', { share: 1, opacity: 0.25 }],
]);

function rect(
  column: number,
  y: number,
  width: number,
  height: number,
  fill: string,
  opacity?: number,
): string {
  const shade = opacity === undefined ? '' : ` opacity="${opacity}"`;
  return `<rect x="${MARGIN + column * CELL.width}" y="${Math.round(y * 10) / 10}" width="${width}" height="${Math.round(height * 10) / 10}" fill="${fill}"${shade}/>`;
}

const escape = (text: string): string =>
  text.replace(/[&<>]/g, (mark) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[mark] ?? mark);

async function draw(file: string, columns: number, rows: number, keys: string): Promise<string> {
  const loaded = await loadFile(file);
  try {
    const session = new Session(loaded.log, { title: basename(file).replace('-v1', ''), now: () => 0 });
    const reader = new KeyReader();
    for (const key of [...reader.feed(keys), ...reader.flush()]) {
      session.press(key);
      while (session.busy !== undefined) session.tick(0);
    }
    return toSvg(render(session, { columns, rows }));
  } finally {
    await loaded.close();
  }
}

/** The pictures of the documentation, by their names. */
export async function docsPictures(): Promise<Map<string, string>> {
  const log = new URL('../test/fixtures/replay/start-v1.cofa-log', import.meta.url).pathname;
  return new Map([
    ['replay.svg', await draw(log, 118, 36, 'bread > 100ms\r/mount.mounted\rm:+15.9s\r')],
    ['replay-why.svg', await draw(log, 118, 44, '/mount.requested\rw')],
  ]);
}

if (process.argv[1] === import.meta.filename) {
  const [first, size = '', keys = ''] = process.argv.slice(2);
  if (first === '--docs') {
    for (const [name, svg] of await docsPictures())
      writeFileSync(new URL(`../docs/${name}`, import.meta.url), svg);
  } else {
    const [columns, rows] = size.split('x').map(Number);
    if (first === undefined || !columns || !rows) {
      process.stderr.write('usage: node ops/replay-picture.ts FILE COLUMNSxROWS KEYS\n');
      process.exit(2);
    }
    process.stdout.write(await draw(first, columns, rows, JSON.parse(`"${keys}"`) as string));
  }
}
