/** `engine.measured` in words: what the machine and the engine's processes worked between samples. */
import type { EventOf } from '../../schemas/events.ts';
import { printable } from '../terminal/printable.ts';
import { formatShare } from '../terminal/table.ts';
import { checkedEvent } from './checked.ts';
import { formatUs } from './format.ts';
import type { ReplayEvent } from './record.ts';
import { seenIn } from './start-programs.ts';

type Sample = EventOf<'engine.measured'>['samples'][number];

const samplesOf = (event: ReplayEvent): readonly Sample[] =>
  checkedEvent(event, 'engine.measured')?.samples ?? [];

const counted = (count: number): string => `${count} sample${count === 1 ? '' : 's'}`;

/** In a line. */
export function measuredText(event: ReplayEvent): string {
  const samples = samplesOf(event);
  const [first, last] = [samples[0], samples.at(-1)];
  if (first === undefined || last === undefined || first === last)
    return first === undefined ? 'no samples' : `1 sample of ${first.processes.length} processes`;
  return `${counted(samples.length)} in ${formatUs((last.at - first.at) * 1_000)}: ${betweenText(first, last)}`;
}

/** Each stretch between two samples, and then what each process worked in all, and the programs in containers. */
export function measuredLines(event: ReplayEvent): string[] {
  const samples = samplesOf(event);
  const lines = [measuredText(event)];
  for (const [index, sample] of samples.entries()) {
    const before = samples[index - 1];
    if (before !== undefined && samples.length > 2)
      lines.push(`  ${new Date(sample.at).toISOString().slice(11, 23)}  ${betweenText(before, sample)}`);
  }
  const [first, last] = [samples[0], samples.at(-1)];
  for (const { name, cpuUs, waitUs } of last?.processes ?? []) {
    const before = first?.processes.find((one) => one.name === name);
    // Of a process that began in between, all of it.
    const base = before === undefined || first === last || before.cpuUs > cpuUs ? undefined : before;
    lines.push(
      `${name} worked ${formatUs(cpuUs - (base?.cpuUs ?? 0))}, waited ${formatUs(Math.max(0, waitUs - (base?.waitUs ?? 0)))} for a processor${first === last ? ' so far' : ''}`,
    );
  }
  for (const [mount, { programs }] of seenIn(samples))
    for (const { name, pid, seen } of programs)
      lines.push(
        `${printable(name)} (${pid}) in the container of mount ${mount.slice(0, 16)} had worked ${formatUs(seen.at(-1)?.cpuUs ?? 0)}`,
      );
  return lines;
}

function betweenText(before: Sample, after: Sample): string {
  const all = Math.max(1, (after.at - before.at) * 1_000 * after.cpus);
  const busy = Math.max(0, after.busyUs - before.busyUs);
  const stalled = (of: 'cpu' | 'io' | 'memory') =>
    Math.max(0, (after.stalledUs?.[of] ?? 0) - (before.stalledUs?.[of] ?? 0));
  const waits =
    after.stalledUs === undefined
      ? ''
      : `; tasks waited ${formatUs(stalled('cpu'))} for a processor, ${formatUs(stalled('io'))} for the disk`;
  return `${after.cpus} processors ${formatShare(Math.min(busy, all), all)} busy${waits}`;
}
