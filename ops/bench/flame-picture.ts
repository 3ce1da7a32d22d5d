/** A flame graph of several processes as SVG: one below the other, on one scale of processor time; callers above what they call. */
import type { Frame } from './cpu-profiles.ts';

const WIDTH = 1200;
const MARGIN = 12;
const ROW = 15;
const TITLE = 22;
/** Narrower frames are not drawn, nor what is called deeper. Pixels, and frames. */
const LEAST = 1.5;
const DEEPEST = 16;
/** Width of a letter, pixels. */
const LETTER = 5.6;
const COLOURS: ReadonlyArray<readonly [RegExp, string]> = [
  [/^\(garbage collector\)/, '#d0d7de'],
  [/^\(program\)/, '#d0d7de'],
  [/ {2}(?:src|actors|schemas)\//, '#9fd3f5'],
  // What belongs to no file is Node's, too.
  [/ {2}node:|^[^ ]+$/, '#f6d9a8'],
];
/** Of a library. */
const OTHER = '#f3b8a6';

/** `caption`: below the title. */
export function flamePicture(
  processes: ReadonlyArray<readonly [name: string, frame: Frame]>,
  title: string,
  caption: string,
): string {
  const most = Math.max(1, ...processes.map(([, { us }]) => us));
  const scale = (WIDTH - 2 * MARGIN) / most;
  const parts: string[] = [];
  let y = 58;
  for (const [name, frame] of processes) {
    parts.push(
      text(MARGIN, y + 15, `${name}: ${milliseconds(frame.us)}`, 'font-weight="bold" font-size="12"'),
    );
    y += TITLE;
    let deepest = 0;
    const draw = (one: Frame, x: number, depth: number) => {
      let left = x;
      for (const child of [...one.children.values()].toSorted((a, b) => b.us - a.us)) {
        const width = child.us * scale;
        if (width < LEAST || depth >= DEEPEST) break;
        deepest = Math.max(deepest, depth + 1);
        parts.push(box(child, left, y + depth * ROW, width));
        draw(child, left, depth + 1);
        left += width;
      }
    };
    draw(frame, MARGIN, 0);
    y += deepest * ROW + 8;
  }
  const height = y + MARGIN;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="10" fill="#24292f">`,
    `<rect width="${WIDTH}" height="${height}" rx="8" fill="#ffffff"/>`,
    text(MARGIN, 26, title, 'font-weight="bold" font-size="15"'),
    text(MARGIN, 44, caption, 'fill="#57606a" font-size="12"'),
    ...parts,
    '</svg>',
    '',
  ].join('\n');
}

function box({ name, us }: Frame, x: number, y: number, width: number): string {
  const fill = COLOURS.find(([pattern]) => pattern.test(name))?.[1] ?? OTHER;
  const room = Math.floor((width - 6) / LETTER);
  const [short = ''] = name.split('  ');
  const label =
    room >= 3 ? text(x + 3, y + 11, short.length > room ? `${short.slice(0, room - 1)}…` : short, '') : '';
  const about = `<title>${safe(`${name}: ${milliseconds(us)}`)}</title>`;
  return `<g>${about}<rect x="${round(x)}" y="${y}" width="${round(Math.max(0.5, width - 0.5))}" height="${ROW - 1}" fill="${fill}"/>${label}</g>`;
}

const milliseconds = (us: number): string => `${(us / 1000).toFixed(us < 10_000 ? 1 : 0)} ms`;
const round = (value: number): number => Math.round(value * 10) / 10;
const safe = (words: string): string =>
  words.replaceAll(/[&<>]/g, (mark) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[mark] ?? mark);
const text = (x: number, y: number, words: string, attributes: string): string =>
  `<text x="${round(x)}" y="${y}" ${attributes}>${safe(words)}</text>`;
