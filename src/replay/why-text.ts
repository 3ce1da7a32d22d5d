/** Why a read or a start took so long, as lines of at most `width` columns. */
import type { WhyJob, WhyRead, WhyStart, WhyStep } from '../../schemas/replay.ts';
import { printable } from '../terminal/output.ts';
import { CAUSE_TEXT } from './causes.ts';
import { formatUs } from './format.ts';
import { formatBytes, formatShare, shortDigest } from '../terminal/table.ts';

/** What a step is, for people. */
export const STEP_TEXT: Record<WhyStep['step'], string> = {
  wait: 'before its fetch was asked for',
  queue: 'in the queue, for a fetcher',
  lookup: "look up the registry's name",
  'first-byte': "request to the registry's first byte",
  transfer: 'the other bytes',
  verify: 'decode and verify',
  write: 'write to the device file',
  other: 'messages and scheduling',
  reply: 'answer to the kernel',
};

/** One read: its steps as bars, and the fetches that it waited for. */
export function renderWhyRead(why: WhyRead, width: number): string[] {
  const end = why.block + why.blocks - 1;
  const blocks = why.blocks === 1 ? `block ${why.block}` : `blocks ${why.block}-${end}`;
  const outcome = why.errno === 0 ? '' : `, ended with errno ${why.errno}`;
  const lines = [
    `read ${why.id}: ${blocks} of layer ${shortDigest(why.layer)} waited ${formatUs(why.us)}${outcome}`,
    `  at ${why.time}`,
    ...why.paths.slice(0, 4).map((path) => `  of ${printable(path)}`),
    '',
    ...waterfall(why.steps, why.us, width),
  ];
  for (const job of why.jobs) {
    const began = job.beganUs < -1_000 ? `, begun ${formatUs(-job.beganUs)} before the read` : '';
    lines.push(
      '',
      `fetch ${job.job} (${job.class}, ${spansOf(job)}, ${formatBytes(job.bytes)}${job.worker === '' ? '' : `, ${printable(job.worker)}`}): ${formatUs(job.totalUs)}${began}`,
      ...(job.error === undefined ? [] : [`  failed: ${printable(job.error)}`]),
      ...waterfall(job.steps, Math.max(1, job.totalUs), width),
    );
  }
  if (why.jobs.length === 0) lines.push('', 'the log tells of no fetch that it waited for');
  else if (why.missing > 0) lines.push('', `${why.missing} more fetches are not in the log`);
  return lines.map((line) => line.slice(0, width));
}

/** A bar for each step, where it lies in the whole. */
export function waterfall(steps: readonly WhyStep[], total: number, width: number): string[] {
  const isWide = width >= 96;
  const room = Math.max(10, Math.min(60, width - (isWide ? 66 : 31)));
  return steps.map(({ step, startUs, us }) => {
    const from = Math.min(room - 1, Math.floor((startUs / total) * room));
    const length = Math.max(1, Math.min(room - from, Math.round((us / total) * room)));
    const bar = `${' '.repeat(from)}${'█'.repeat(length)}`.padEnd(room);
    return `  ${step.padEnd(10)} ${formatUs(us).padStart(9)} ${formatShare(us, total).padStart(6)} ${bar} ${isWide ? STEP_TEXT[step] : ''}`.trimEnd();
  });
}

/** One start: its parts as bars, what would have made it faster, and the reads, fetches and files that it waited for most. */
export function renderWhyStart(why: WhyStart, width: number): string[] {
  const { reads } = why;
  const lines = [
    `start of ${printable(why.ref)} at ${printable(why.dir)} (mount ${why.mount.slice(0, 16)}): ${formatUs(why.wall.us)}`,
    `  from ${why.wall.time}`,
    '',
    ...wallLines(why, width),
    '',
    `${reads.count} reads waited ${formatUs(reads.waitedUs)} in all; for ${formatUs(reads.blockedUs)} at least one of them did`,
    `  median ${formatUs(reads.p50Us)}, 99 % within ${formatUs(reads.p99Us)}, longest ${formatUs(reads.maxUs)}${reads.failed > 0 ? `, ${reads.failed} failed` : ''}`,
    `  ${formatBytes(why.bytes)} fetched for them, ${formatBytes(why.prefetchedBytes)} in the background`,
  ];
  if (reads.dropped > 0) lines.push(`  ${reads.dropped} more reads and fetches were too many for the trace`);
  const waited = Object.entries(why.steps).sort(([, a], [, b]) => b - a);
  if (waited.length > 0) {
    lines.push('', 'what they waited for');
    for (const [step, us] of waited)
      lines.push(
        `  ${step.padEnd(10)} ${formatUs(us).padStart(9)} ${formatShare(us, reads.waitedUs).padStart(6)} ${STEP_TEXT[step as WhyStep['step']] ?? ''}`,
      );
  }
  if (why.path.length > 0) {
    const gap = why.path.reduce((sum, one) => sum + one.gapUs, 0);
    lines.push(
      '',
      `critical path: ${why.path.length} reads one after the other, ${formatUs(why.criticalUs)}; ${formatUs(gap)} between them`,
    );
  }
  if (why.slowest.length > 0) lines.push('', 'slowest reads');
  for (const { id, us, startUs, layer, block, paths } of why.slowest)
    lines.push(
      `  ${formatUs(us).padStart(9)}  at +${formatUs(startUs).padEnd(9)}  ${shortDigest(layer)} block ${String(block).padEnd(6)} ${id.padEnd(9)} ${printable(paths.join(' '))}`,
    );
  if (why.spans.length > 0) lines.push('', 'fetches that were waited for most');
  for (const cost of why.spans)
    lines.push(
      `  ${formatUs(cost.waitedUs).padStart(9)}  ${String(cost.reads).padStart(4)} reads  ${shortDigest(cost.layer)} ${spansOf(cost)}, ${formatBytes(cost.bytes)}`,
    );
  if (why.files.length > 0) lines.push('', 'files that were waited for most (a block may hold several)');
  for (const { path, reads: count, waitedUs } of why.files)
    lines.push(`  ${formatUs(waitedUs).padStart(9)}  ${String(count).padStart(4)} reads  ${printable(path)}`);
  return lines.map((line) => line.slice(0, width));
}

/** The whole start by part, what processes worked, and what would have made it faster. */
function wallLines({ wall, cause, faster }: WhyStart, width: number): string[] {
  const { parts, steps, processes, machine } = wall;
  const lines = [`${formatShare(wall.accountedUs, wall.us)} of its wall time is accounted for`];
  for (const { part, us, cpuUs, what } of parts) {
    const cpu = cpuUs === undefined ? '' : `; ${formatUs(cpuUs)} of processor time with runc's`;
    lines.push(
      `  ${part.padEnd(10)} ${formatUs(us).padStart(9)} ${formatShare(us, wall.us).padStart(6)} ${what}${cpu}`,
    );
    if (part !== 'reads') continue;
    for (const [step, length] of Object.entries(steps).sort(([, a], [, b]) => b - a))
      lines.push(
        `    ${step.padEnd(10)} ${formatUs(length).padStart(9)} ${formatShare(length, wall.us).padStart(6)} ${STEP_TEXT[step as WhyStep['step']] ?? ''}`,
      );
  }
  if (machine !== undefined) {
    const { cpus, busyUs, othersUs, stalledUs } = machine;
    lines.push(
      '',
      `processors: ${cpus}, ${formatShare(busyUs, cpus * Math.max(1, wall.us))} busy, ${formatShare(othersUs, cpus * Math.max(1, wall.us))} for other programs`,
    );
    if (stalledUs !== undefined)
      lines.push(
        `  tasks of the machine waited for a processor ${formatUs(stalledUs.cpu)}, for the disk ${formatUs(stalledUs.io)}, for memory ${formatUs(stalledUs.memory)}`,
      );
    for (const { name, cpuUs, waitUs } of [...processes].sort((a, b) => b.cpuUs - a.cpuUs))
      lines.push(
        `  ${name.padEnd(14)} ${formatUs(cpuUs).padStart(9)} worked, ${formatUs(waitUs)} waited for a processor`,
      );
  }
  lines.push(...programLines(wall));
  if (cause !== undefined) lines.push('', `held up most by: ${CAUSE_TEXT[cause]}`);
  if (faster.length > 0) lines.push('', 'what would have made it faster (estimates, each alone)');
  for (const { savedUs, text } of faster)
    lines.push(...wrapped(`- ${formatUs(savedUs)}: ${text}`, width - 2));
  return lines;
}

/** Programs of a container that are listed. */
const MOST_PROGRAMS = 20;

/** The programs in the container, those that worked most first. */
function programLines({ programs }: WhyStart['wall']): string[] {
  if (programs === undefined) return [];
  const { seen, more, unseenUs } = programs;
  const lines = ['', 'programs of the container, as samples saw them'];
  for (const { name, pid, startUs, seenUs, cpuUs, childrenUs } of [...seen]
    .sort((a, b) => b.cpuUs - a.cpuUs)
    .slice(0, MOST_PROGRAMS)) {
    const children = childrenUs > 0 ? `; children that ended ${formatUs(childrenUs)}` : '';
    lines.push(
      `  ${formatUs(cpuUs).padStart(9)} worked  ${printable(name)} (${pid}), from +${formatUs(startUs)}, seen first at +${formatUs(seenUs)}${children}`,
    );
  }
  if (seen.length > MOST_PROGRAMS) lines.push(`  and ${seen.length - MOST_PROGRAMS} more (--json has them)`);
  if (more > 0) lines.push(`  and at least ${more} at once that the samples left out`);
  if (unseenUs !== undefined && unseenUs > 0)
    lines.push(
      `  ${formatUs(unseenUs).padStart(9)} worked  runc, what ended between two samples, and all behind the last one`,
    );
  return lines;
}

/** Lines of at most so many columns, the first of them further left. */
function wrapped(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of printable(text).split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width - 2) {
      lines.push(line);
      line = word;
    } else line = line === '' ? word : `${line} ${word}`;
  }
  lines.push(line);
  return lines.map((one, index) => (index === 0 ? `  ${one}` : `    ${one}`));
}

/** Runs of a fetch that are named. */
const MOST_RUNS = 4;

/** The spans of a fetch: `span 3`, `spans 3-5, 9`. */
function spansOf({ span, spans, runs = [[span, spans]] }: Spans): string {
  const named = runs
    .slice(0, MOST_RUNS)
    .map(([first, count]) => (count === 1 ? String(first) : `${first}-${first + count - 1}`));
  return `${spans === 1 ? 'span' : 'spans'} ${named.join(', ')}${runs.length > MOST_RUNS ? ', …' : ''}`;
}

type Spans = Pick<WhyJob, 'span' | 'spans' | 'runs'>;
