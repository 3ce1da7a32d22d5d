/** A prediction as lines of at most `width` columns. */
import type { WhatIf } from '../../../schemas/replay.ts';
import { printable } from '../../terminal/output.ts';
import { formatBytes } from '../../terminal/table.ts';
import { formatUs } from '../format.ts';
import { policyOf, sentenceOf } from './conditions-text.ts';

type Outcome = WhatIf['predicted']['outcome'];

export function renderWhatIf(what: WhatIf, width: number): string[] {
  const { recorded, predicted } = what;
  const columns: Array<readonly [string, Outcome]> = [
    ['recorded', recorded.measured],
    ['its model', recorded.model],
    ['what if', predicted.outcome],
  ];
  const row = (name: string, cell: (outcome: Outcome) => string) =>
    `  ${name.padEnd(24)}${columns.map(([, outcome]) => cell(outcome).padStart(16)).join('')}`;
  const phase = (wanted: Outcome['phases'][number]['phase']) => (outcome: Outcome) => {
    const found = outcome.phases.find((one) => one.phase === wanted);
    return found === undefined ? '' : formatUs(found.us);
  };
  const lines = [
    `start of ${printable(what.ref)} at ${printable(what.dir)} (mount ${what.mount.slice(0, 16)}), ${what.time}`,
    `  recorded  ${sentenceOf(recorded.conditions)}`,
    `  what if   ${sentenceOf(predicted.conditions)}`,
    '',
    `  ${''.padEnd(24)}${columns.map(([name]) => name.padStart(16)).join('')}`,
    row('start', ({ us }) => formatUs(us)),
    ...(predicted.outcome.endUs === undefined
      ? []
      : [row("to the container's end", ({ endUs = 0 }) => formatUs(endUs))]),
    ...(['resolve', 'prepare', 'attach', 'reads'] as const).map((name) => row(`  ${name}`, phase(name))),
    row('reads that waited', ({ reads }) => String(reads.waited)),
    ...(predicted.outcome.reads.failed > 0
      ? [row('  failed: EIO', ({ reads }) => String(reads.failed))]
      : []),
    row('  at least one waited', ({ reads }) => formatUs(reads.blockedUs)),
    row('  median, longest', ({ reads }) => `${shortUs(reads.p50Us)}, ${shortUs(reads.maxUs)}`),
    row('bytes', ({ bytes }) => formatBytes(Object.values(bytes).reduce((sum, one) => sum + one, 0))),
    ...(['sidecar', 'pack', 'demand', 'ahead', 'rest'] as const).map((name) =>
      row(`  ${name}`, ({ bytes }) => formatBytes(bytes[name])),
    ),
    row('requests', ({ requests }) => String(requests)),
  ];
  if (what.best !== undefined) lines.push('', ...bestLines(what.best));
  if (what.notes.length > 0) lines.push('', ...what.notes.map((note) => `note: ${note}`));
  return lines.map((line) => line.slice(0, width));
}

/** Policies that are shown. */
const SHOWN = 6;

function bestLines(best: NonNullable<WhatIf['best']>): string[] {
  const lines = ['policies over this link, the fastest first'];
  for (const { conditions, outcome } of best.slice(0, SHOWN)) {
    const bytes = Object.values(outcome.bytes).reduce((sum, one) => sum + one, 0);
    lines.push(
      `  ${formatUs(outcome.us).padStart(9)}  ${formatBytes(bytes).padStart(9)}  ${String(outcome.requests).padStart(4)} requests  ${policyOf(conditions)}`,
    );
  }
  return lines;
}

const shortUs = (us: number): string => `${Math.round(us / 1_000)} ms`;
