/** Two starts beside each other: part by part, what their reads waited for, file by file. */
import type { StartComparison, WhyStart } from '../../schemas/replay.ts';
import { START_PARTS } from '../../schemas/start-parts.ts';
import { formatBytes } from '../terminal/table.ts';
import { formatUs } from './format.ts';

/** A difference of less is not worth a sentence, µs. */
const LEAST_US = 10_000;
/** Differences that become sentences. */
const MOST_SENTENCES = 4;

/** `b` as against `a`. `top`: files that are listed. */
export function compareStarts(a: WhyStart, b: WhyStart, top = 20): StartComparison {
  const parts = START_PARTS.map((part) => ({ part, aUs: partUs(a, part), bUs: partUs(b, part) })).filter(
    ({ aUs, bUs }) => aUs + bUs > 0,
  );
  const names = new Set([...Object.keys(a.wall.steps), ...Object.keys(b.wall.steps)]);
  const steps = [...names]
    .map((step) => ({ step, aUs: a.wall.steps[step] ?? 0, bUs: b.wall.steps[step] ?? 0 }))
    .sort(byDifference);
  const paths = new Map<string, { path: string; aUs: number; bUs: number }>();
  for (const { path, waitedUs } of a.files) paths.set(path, { path, aUs: waitedUs, bUs: 0 });
  for (const { path, waitedUs } of b.files)
    paths.set(path, { path, aUs: paths.get(path)?.aUs ?? 0, bUs: waitedUs });
  const files = [...paths.values()].sort(byDifference).slice(0, top);
  const comparison = {
    kind: 'comparison' as const,
    a: headOf(a),
    b: headOf(b),
    parts,
    steps,
    files,
    reads: { a: a.reads.count, b: b.reads.count },
    bytes: { a: a.bytes, b: b.bytes },
  };
  return { ...comparison, text: sentencesOf(comparison) };
}

const headOf = ({ mount, ref, wall }: WhyStart) => ({ mount, ref, time: wall.time, us: wall.us });

const partUs = ({ wall }: WhyStart, part: string): number =>
  wall.parts.find((one) => one.part === part)?.us ?? 0;

interface Pair {
  aUs: number;
  bUs: number;
}

const byDifference = (one: Pair, other: Pair): number =>
  Math.abs(other.bUs - other.aUs) - Math.abs(one.bUs - one.aUs);

function sentencesOf({ a, b, parts, steps, reads, bytes }: Omit<StartComparison, 'text'>): string[] {
  const text = [
    `The second start took ${formatUs(b.us)}, the first ${formatUs(a.us)}: ${moreOrLess(a.us, b.us)}.`,
  ];
  const told = [...parts].sort(byDifference).filter(({ aUs, bUs }) => Math.abs(bUs - aUs) >= LEAST_US);
  for (const { part, aUs, bUs } of told.slice(0, MOST_SENTENCES)) {
    const why = part === 'reads' ? stepText(steps) : '';
    text.push(`${part}: ${formatUs(bUs)} instead of ${formatUs(aUs)}, ${moreOrLess(aUs, bUs)}${why}.`);
  }
  if (reads.a !== reads.b || bytes.a !== bytes.b)
    text.push(
      `${reads.b} reads waited instead of ${reads.a}, for ${formatBytes(bytes.b)} instead of ${formatBytes(bytes.a)}.`,
    );
  return text;
}

function stepText(steps: StartComparison['steps']): string {
  const [first] = steps;
  if (first === undefined || Math.abs(first.bUs - first.aUs) < LEAST_US) return '';
  return `; most of it ${first.step}: ${formatUs(first.bUs)} instead of ${formatUs(first.aUs)}`;
}

function moreOrLess(aUs: number, bUs: number): string {
  if (aUs === bUs) return 'as long';
  return `${formatUs(Math.abs(bUs - aUs))} ${bUs > aUs ? 'longer' : 'shorter'}`;
}
