/** A start on a time line, and two starts beside each other, as lines of at most `width` columns. */
import type { StartComparison, Waterfall } from '../../schemas/replay.ts';
import { printable } from '../terminal/output.ts';
import { formatBytes, formatShare, shortDigest } from '../terminal/table.ts';
import { formatUs } from './format.ts';

/** Lines of each list. */
const MOST_LINES = 40;
/** Columns in front of the bars. */
const NAME = 34;
const TIME = 10;
/** One mark a step, in the order of a fetch. */
const MARKS: Record<string, string> = {
  queue: '·',
  lookup: 'd',
  'first-byte': '░',
  transfer: '▓',
  verify: 'v',
  write: 'w',
  other: '-',
};

/** Lists are cut off after `MOST_LINES`, and say how many lines are left. */
export function renderWaterfall(fall: Waterfall, width: number): string[] {
  const room = Math.max(10, width - NAME - TIME - 4);
  const place = (at: number) =>
    Math.max(0, Math.min(room - 1, Math.floor((at / Math.max(1, fall.us)) * room)));
  const bar = (startUs: number, us: number, mark = '█') => {
    const from = place(startUs);
    const to = Math.max(from + 1, Math.min(room, Math.round(((startUs + us) / Math.max(1, fall.us)) * room)));
    return ' '.repeat(from) + mark.repeat(to - from);
  };
  const line = (name: string, us: number, marks: string) =>
    `  ${printable(name).slice(0, NAME).padEnd(NAME)}${formatUs(us).padStart(TIME)} ${marks}`.trimEnd();
  const programLines = () => [
    ...(fall.programs.length > 0
      ? ['', 'programs of the container, as samples saw them: what they worked, and when']
      : []),
    ...fall.programs
      .slice(0, MOST_LINES)
      .map(({ name, pid, startUs, lastUs, cpuUs }) =>
        line(`${name} (${pid})`, cpuUs, bar(startUs, Math.max(0, Math.min(lastUs, fall.us) - startUs), '─')),
      ),
    ...restOf(fall.programs.length, fall.left.programs),
  ];
  const lines = [
    `start of ${printable(fall.ref)} (mount ${fall.mount.slice(0, 16)}): ${formatUs(fall.us)} from ${fall.time}`,
    '',
    'parts',
    ...fall.phases.map((phase) => line(phaseName(phase), phase.us, bar(phase.startUs, phase.us))),
    line('reads waited', sumOf(fall.path), overlay(fall, room, place)),
    ...programLines(),
    '',
    `fetches  ${Object.entries(MARKS)
      .map(([step, mark]) => `${mark} ${step}`)
      .join('  ')}`,
  ];
  for (const job of fall.jobs.slice(0, MOST_LINES)) {
    const cells = Array.from({ length: room }, () => ' ');
    for (const { step, startUs, us } of job.steps) {
      const from = place(job.startUs + startUs);
      const to = Math.max(from + 1, place(job.startUs + startUs + us));
      for (let cell = from; cell < to; cell++) cells[cell] = MARKS[step] ?? '-';
    }
    const name = `${job.class} ${formatBytes(job.bytes)} ${shortDigest(job.layer)}${job.waited > 0 ? ` ${job.waited} reads` : ''}`;
    lines.push(line(name, job.us, cells.join('')));
  }
  lines.push(...restOf(fall.jobs.length, fall.left.jobs));
  lines.push('', 'files that reads waited for');
  for (const file of fall.files.slice(0, MOST_LINES))
    lines.push(line(file.path, file.waitedUs, bar(file.startUs, file.us, '─')));
  lines.push(...restOf(fall.files.length, fall.left.files));
  return lines.map((one) => one.slice(0, width));
}

/** What a part is called: of the programs' one, where it is known, the name of the first program. */
const phaseName = ({ part, command }: Waterfall['phases'][number]): string =>
  command === undefined ? part : `${command} and its children`;

const sumOf = (path: Waterfall['path']): number =>
  path.reduce((sum, { part, us }) => (part === 'reads' ? sum + us : sum), 0);

function overlay(fall: Waterfall, room: number, place: (at: number) => number): string {
  const cells = Array.from({ length: room }, () => ' ');
  for (const { part, startUs, us } of fall.path)
    if (part === 'reads')
      for (let cell = place(startUs); cell <= place(startUs + us); cell++) cells[cell] = '█';
  return cells.join('');
}

function restOf(listed: number, left: number): string[] {
  const more = Math.max(0, listed - MOST_LINES) + left;
  return more === 0 ? [] : [`  and ${more} more (--json has them)`];
}

/** Two starts side by side: parts, steps and files, with the differences. */
export function renderComparison(comparison: StartComparison, width: number): string[] {
  const { a, b, parts, steps, files, text } = comparison;
  const head = (name: string) =>
    `${name.padEnd(NAME)}${'first'.padStart(TIME)}${'second'.padStart(TIME)}  difference`;
  const row = (name: string, aUs: number, bUs: number) =>
    `  ${printable(name)
      .slice(0, NAME - 2)
      .padEnd(
        NAME - 2,
      )}${formatUs(aUs).padStart(TIME)}${formatUs(bUs).padStart(TIME)}  ${signed(bUs - aUs)} ${formatShare(Math.abs(bUs - aUs), Math.max(aUs, bUs))}`;
  const lines = [
    `first:  ${printable(a.ref)} (mount ${a.mount.slice(0, 16)}) from ${a.time}`,
    `second: ${printable(b.ref)} (mount ${b.mount.slice(0, 16)}) from ${b.time}`,
    '',
    ...text.map((one) => `- ${one}`),
    '',
    head('part'),
    row('all', a.us, b.us),
    ...parts.map(({ part, aUs, bUs }) => row(part, aUs, bUs)),
  ];
  if (steps.length > 0)
    lines.push('', head('reads waited for'), ...steps.map(({ step, aUs, bUs }) => row(step, aUs, bUs)));
  if (files.length > 0)
    lines.push('', head('file'), ...files.map(({ path, aUs, bUs }) => row(path, aUs, bUs)));
  return lines.map((one) => one.slice(0, width));
}

const signed = (us: number): string => `${us < 0 ? '-' : '+'}${formatUs(Math.abs(us))}`.padStart(10);
