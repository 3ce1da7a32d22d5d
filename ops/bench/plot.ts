/**
 * The starts as a picture: for each image and way how much longer a cold start took than a warm one on overlayfs,
 * median and spread. On its scale twice as far is ten times as long.
 *
 *     node ops/bench/plot.ts RESULT.json > PICTURE.svg
 */
import { readFileSync } from 'node:fs';
import { addedDelays } from './goals.ts';
import { median } from './measure.ts';
import type { Results } from './results.ts';
import type { Starts } from './starts.ts';

const WIDTH = 860;
const LEFT = 190;
const RIGHT = 90;
const ROW = 20;
const HEAD = 34;
const TOP = 56;
const BOTTOM = 40;
const INK = '#24292f';
const FAINT = '#d0d7de';
const COLOURS = { containerd: '#6e7781', peer: '#bc4c00', cofa: '#0969da' };

/** Shorter times are drawn as this, ms: the scale has no zero. */
const LEAST_MS = 10;

/** The picture; images without starts are left out. */
export function plotStarts(starts: readonly Starts[], caption: string): string {
  const images = starts
    .map(({ image, imageBytes, ways }) => {
      const added = addedDelays(ways);
      return {
        title: `${image}, ${(imageBytes / 1e6).toFixed(0)} MB`,
        rows: ways
          .map(({ name, peer }) => ({ name, peer, delays: added[name] ?? [] }))
          .filter(({ delays }) => delays.length > 0),
      };
    })
    .filter(({ rows }) => rows.length > 0);
  const all = images.flatMap(({ rows }) => rows.flatMap(({ delays }) => delays.map(shown)));
  const ticks = ticksFor(Math.min(...all, 1_000), Math.max(...all, 1_000));
  const [from, to] = [ticks[0] ?? 100, ticks.at(-1) ?? 10_000];
  const x = (ms: number) =>
    round(LEFT + ((WIDTH - LEFT - RIGHT) * Math.log(shown(ms) / from)) / Math.log(to / from));
  const height = TOP + images.reduce((sum, { rows }) => sum + HEAD + rows.length * ROW, 0) + BOTTOM;
  const end = height - BOTTOM + 4;
  const parts: string[] = [text(16, 26, 'Added delay of a cold start', 'font-weight="bold" font-size="15"')];
  parts.push(text(16, 44, caption, 'fill="#57606a"'));
  for (const tick of ticks) {
    parts.push(`<path d="M${x(tick)} ${TOP}V${end}" stroke="${FAINT}"/>`);
    parts.push(text(x(tick), end + 16, seconds(tick), 'text-anchor="middle" fill="#57606a"'));
  }
  let y = TOP;
  for (const { title, rows } of images) {
    parts.push(text(16, y + 22, title, 'font-weight="bold"'));
    y += HEAD;
    for (const { name, peer, delays } of rows) {
      const middle = y + ROW / 2;
      const colour =
        peer === undefined ? COLOURS[name.startsWith('containerd') ? 'containerd' : 'cofa'] : COLOURS.peer;
      const [least, most] = [x(Math.min(...delays)), x(Math.max(...delays))];
      parts.push(text(LEFT - 12, middle + 4, name, 'text-anchor="end"'));
      parts.push(`<path d="M${least} ${middle}H${most}" stroke="${colour}" stroke-width="3" opacity="0.4"/>`);
      parts.push(`<circle cx="${x(median(delays))}" cy="${middle}" r="5" fill="${colour}"/>`);
      parts.push(text(most + 10, middle + 4, seconds(median(delays)), `fill="${colour}"`));
      y += ROW;
    }
  }
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="12" fill="${INK}">`,
    `<rect width="${WIDTH}" height="${height}" rx="8" fill="#ffffff"/>`,
    ...parts,
    '</svg>',
    '',
  ].join('\n');
}

/** 1, 2 and 5 of each power of ten, from the last that is not above `least` to the first that is not below `most`. */
function ticksFor(least: number, most: number): number[] {
  const steps = [1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7].flatMap((power) => [power, 2 * power, 5 * power]);
  const first = steps.findLastIndex((step) => step <= least);
  const last = steps.findIndex((step) => step >= most);
  return steps.slice(Math.max(0, first), last + 1);
}

const shown = (ms: number) => Math.max(LEAST_MS, ms);
const round = (value: number) => Math.round(value * 10) / 10;

function seconds(ms: number): string {
  return `${Number((ms / 1000).toPrecision(2))} s`;
}

function text(x: number, y: number, words: string, attributes: string): string {
  const safe = words.replace(/[&<>]/g, (mark) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[mark] ?? mark);
  return `<text x="${x}" y="${y}" ${attributes}>${safe}</text>`;
}

/** What the picture says below its title. */
export function captionOf({ link, starts }: Pick<Results, 'link' | 'starts'>): string {
  const rounds = Math.max(0, ...starts.flatMap(({ ways }) => ways.map(({ cold }) => cold.length)));
  return `beyond a warm start on overlayfs; link of ${link.rate}bit/s and ${link.rttMs} ms; median and spread of ${rounds} rounds`;
}

if (process.argv[1] === import.meta.filename) {
  const [file] = process.argv.slice(2);
  if (file === undefined) {
    process.stderr.write('usage: node ops/bench/plot.ts RESULT.json > PICTURE.svg\n');
    process.exit(2);
  }
  const results = JSON.parse(readFileSync(file, 'utf8')) as Results;
  process.stdout.write(plotStarts(results.starts, captionOf(results)));
}
