/** What `kubectl get pods` said of pods on each kind of node, as SVG: one scale of time for all, and both listings at one moment. */
import {
  type Case,
  listingAt,
  middleOf,
  phasesOf,
  type PodResults,
  type PodStart,
  type Side,
  sidesOf,
  timesOf,
  titleOf,
} from './pod-times.ts';

const WIDTH = 860;
const MARGIN = 16;
const LEFT = 200;
/** For what stands behind the longest bar. */
const RIGHT = 120;
const ROW = 20;
const HEAD = 30;
const TOP = 62;
const GAP = 8;
const INK = '#24292f';
const FAINT = '#57606a';
const LINE = '#d0d7de';
const RUNS = '#1a7f37';
const WAITS: Record<Side, string> = { overlayfs: '#8c959f', 'overlayfs, tuned': '#6e7781', cofa: '#0969da' };
/** A listing: kubectl's columns in letters, and the width of one at this size, pixels. */
const COLUMNS = [0, 14, 21, 40, 50];
const LETTER = 7.23;
const SIZE = 12;
const SCREEN = { background: '#12161c', ink: '#c9d1d9', faint: '#8b949e' };

/** `caption`: below the title. Of several rounds that of the middle end is drawn. Cases that no side has ended are left out. */
export function podsPicture(results: PodResults, caption: string): string {
  const sides = sidesOf(results);
  const cases = results.cases
    .map((one) => ({
      one,
      starts: sides.flatMap((side) => {
        const start = middleOf(results, one, side);
        return start === undefined ? [] : [start];
      }),
    }))
    .filter(({ starts }) => starts.length > 0);
  const longest = Math.max(
    1,
    ...cases.flatMap(({ one, starts }) => starts.map((start) => timesOf(start, one).completed / 1000)),
  );
  const x = (s: number) => round(LEFT + ((WIDTH - LEFT - RIGHT) * s) / longest);
  const parts: string[] = [];
  let y = TOP;
  for (const { one, starts } of cases) {
    parts.push(text(MARGIN, y + 20, titleOf(one), 'font-weight="bold"'));
    y += HEAD;
    for (const start of starts) {
      for (const { pod } of one.pods) {
        parts.push(...bar(start, pod, { x, y, isAlone: one.pods.length === 1 }));
        y += ROW;
      }
      y += GAP;
    }
  }
  const end = y;
  const grid = ticks(longest).flatMap((tick) => [
    `<path d="M${x(tick)} ${TOP}V${end}" stroke="${LINE}"/>`,
    text(x(tick), end + 16, `${tick} s`, `text-anchor="middle" fill="${FAINT}"`),
  ]);
  parts.push(...legend(sides, end + 40));
  y = end + 56;
  const last = cases.at(-1);
  if (last !== undefined) {
    const { svg, height } = screens(last.one, last.starts, y);
    parts.push(...svg);
    y += height;
  }
  const height = y + MARGIN;
  const words = cases
    .map(
      ({ one, starts }) =>
        `${titleOf(one)}: ${starts.map((start) => `${start.side} ${seconds(timesOf(start, one).completed)}`).join(', ')}`,
    )
    .join('; ');
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="12" fill="${INK}">`,
    `<title>${safe(`From kubectl apply to Completed. ${words}`)}</title>`,
    `<rect width="${WIDTH}" height="${height}" rx="8" fill="#ffffff"/>`,
    text(MARGIN, 26, 'Pods on a node that has nothing of their images', 'font-weight="bold" font-size="15"'),
    text(MARGIN, 44, caption, `fill="${FAINT}"`),
    ...grid,
    ...parts,
    '</svg>',
    '',
  ].join('\n');
}

function bar(
  start: PodStart,
  pod: string,
  at: { x: (s: number) => number; y: number; isAlone: boolean },
): string[] {
  const { running = 0, completed = 0 } = phasesOf(start, pod);
  const [from, runs, ends] = [0, running / 1000, completed / 1000].map(at.x) as [number, number, number];
  const box = (left: number, right: number, fill: string) =>
    `<rect x="${left}" y="${at.y + 2}" width="${round(right - left)}" height="${ROW - 5}" fill="${fill}"/>`;
  return [
    text(
      LEFT - 10,
      at.y + 14,
      at.isAlone ? start.side : `${start.side}: ${pod}`,
      `text-anchor="end" fill="${INK}"`,
    ),
    box(from, runs, WAITS[start.side]),
    box(runs, ends, RUNS),
    text(ends + 6, at.y + 14, `Completed ${seconds(completed)}`, ''),
  ];
}

function legend(sides: readonly Side[], y: number): string[] {
  const entries = [
    ...sides.map((side) => [WAITS[side], `${side}: ContainerCreating`] as const),
    [RUNS, 'Running'] as const,
  ];
  return entries.flatMap(([fill, words], at) => {
    const left = MARGIN + at * 225;
    return [
      `<rect x="${left}" y="${y - 10}" width="12" height="12" fill="${fill}"/>`,
      text(left + 18, y, words, ''),
    ];
  });
}

/** The listings of both sides at the second in which the quickest one's pods have all ended. */
function screens(one: Case, starts: readonly PodStart[], top: number): { svg: string[]; height: number } {
  const shown = [starts[0], starts.at(-1)].filter((start) => start !== undefined);
  const moment = Math.ceil(Math.min(...shown.map((start) => timesOf(start, one).completed)) / 1000);
  const width = (WIDTH - 3 * MARGIN) / 2;
  const height = (one.pods.length + 3) * 17 + 8;
  const svg = shown.flatMap((start, at) => {
    const left = MARGIN + at * (width + MARGIN);
    const row = (line: number) => top + 22 + line * 17;
    const word = (letters: number, line: number, words: string, fill: string) =>
      text(
        left + 12 + letters * LETTER,
        row(line),
        words,
        `fill="${fill}" textLength="${round(words.length * LETTER)}" lengthAdjust="spacingAndGlyphs"`,
      );
    return [
      `<rect x="${left}" y="${top}" width="${width}" height="${height}" rx="6" fill="${SCREEN.background}"/>`,
      `<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="${SIZE}">`,
      word(0, 0, `$ kubectl get pods # ${start.side}, ${moment} s after apply`, SCREEN.faint),
      ...listingAt(start, moment * 1000).flatMap((cells, line) =>
        cells.map((cell, column) => word(COLUMNS[column] ?? 0, line + 1, cell, SCREEN.ink)),
      ),
      '</g>',
    ];
  });
  return { svg, height };
}

/** Of a scale from 0 to `longest` seconds: at most twelve. */
function ticks(longest: number): number[] {
  const step = [1, 2, 5, 10, 20, 50, 100].find((one) => longest / one <= 12) ?? 200;
  return Array.from({ length: Math.floor(longest / step) + 1 }, (_, at) => at * step);
}

const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;
const round = (value: number): number => Math.round(value * 10) / 10;
const safe = (words: string): string =>
  words.replaceAll(/[&<>]/g, (mark) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[mark] ?? mark);
const text = (x: number, y: number, words: string, attributes: string): string =>
  `<text x="${round(x)}" y="${y}"${attributes === '' ? '' : ` ${attributes}`}>${safe(words)}</text>`;
