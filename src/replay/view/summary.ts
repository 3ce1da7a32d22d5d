/** What an event says, in a few words; and all of it, line by line. */
import { DIGEST } from '../../../schemas/digest.ts';
import { formatBytes, shortDigest } from '../../terminal/table.ts';
import { printable } from '../../terminal/output.ts';
import type { MatchContext } from '../conditions.ts';
import type { ReplayEvent } from '../record.ts';
import { eventWords } from '../event-words.ts';
import { measuredLines } from '../measured-text.ts';
import { countBlocks } from '../state-document.ts';
import { rangesText } from '../state-text.ts';
import { traceOf } from '../trace.ts';
import { formatUs } from '../format.ts';
import type { Style } from './canvas.ts';

/** Whom the event is about, short: a directory, an image's name, digits of a layer. */
export function subjectOf(event: ReplayEvent, context: MatchContext): string {
  if (event.kind === 'image') {
    const name = context.nameOfImage(`sha256:${event.id}`);
    return name === undefined ? event.id.slice(0, 8) : (name.split('/').at(-1) ?? name);
  }
  if (event.kind === 'mount')
    return shortPath(context.namesOfMount(event.id).at(-1) ?? event.id.slice(0, 8), 20);
  if (event.kind === 'engine') return '';
  return event.id.slice(0, 8);
}

/** The end of a long path says more than its beginning. */
export const shortPath = (path: string, most: number): string =>
  path.length > most ? `…${path.slice(1 - most)}` : path;

export function summaryOf(event: ReplayEvent): string {
  const { data } = event;
  if (event.strange !== undefined) return event.strange;
  const words = eventWords(event);
  if (words !== undefined) return printable(words);
  switch (event.type) {
    case 'layer.blocks':
    case 'layer.evicted': {
      const ranges = rangesIn(data.ranges);
      return `${event.type === 'layer.blocks' ? '+' : '-'}${countBlocks(ranges)}: ${rangesText(ranges, 3)}`;
    }
    case 'layer.opened':
      return `${formatBytes(Number(data.size))}, ${String(data.blockCount)} blocks`;
    case 'image.prepared':
      return String(data.origin);
    case 'image.verified':
      return `flat image ${shortDigest(String(data.flat))} is what the layers give`;
    case 'image.refuted':
      return `flat image ${shortDigest(String(data.flat))} is not what the layers give: ${printable(String(data.message))}`;
    case 'engine.started':
      return `pid ${String(data.pid)}, cofa ${String(data.version)}`;
    case 'mount.requested':
    case 'image.resolved':
      return String(data.ref);
    default:
      return Object.entries(data)
        .map(([name, value]) => `${name}=${short(value)}`)
        .join(' ');
  }
}

/** All that an event says. */
export function detailsOf(event: ReplayEvent): Array<{ text: string; style: Style }> {
  const lines: Array<{ text: string; style: Style }> = [
    { text: `${event.type}  sequence ${event.seq}`, style: 'bold' },
    { text: new Date(event.at).toISOString(), style: 'plain' },
    { text: event.subject, style: 'dim' },
  ];
  if (event.strange !== undefined)
    lines.push({ text: `${event.strange}: this cofa does not know what it means`, style: 'warn' });
  if (event.type === 'layer.trace') {
    const { reads, jobs, dropped } = traceOf(event);
    for (const { id, block, blocks, us, errno } of [...reads].sort((a, b) => b.us - a.us))
      lines.push({
        text: `read ${id}  ${blocksText(block, blocks)}  ${formatUs(us)}${errno === 0 ? '' : `  errno ${errno}`}`,
        style: errno === 0 ? 'plain' : 'bad',
      });
    for (const job of jobs)
      lines.push({
        text: `fetch ${job.job}  ${job.class}  span ${job.span}${job.spans > 1 ? `-${job.span + job.spans - 1}` : ''}  ${formatBytes(job.bytes)}  ${formatUs(job.totalUs)}${job.error === undefined ? '' : `  ${printable(job.error)}`}`,
        style: job.error === undefined ? 'plain' : 'bad',
      });
    if (dropped > 0) lines.push({ text: `${dropped} more were too many`, style: 'warn' });
    return lines;
  }
  if (event.type === 'engine.measured')
    return [...lines, ...measuredLines(event).map((text) => ({ text, style: 'plain' as const }))];
  for (const [name, value] of Object.entries(event.data)) {
    if (name === 'ranges') {
      const ranges = rangesIn(value);
      lines.push({ text: `${countBlocks(ranges)} blocks: ${rangesText(ranges, 40)}`, style: 'plain' });
    } else if (Array.isArray(value)) {
      lines.push({ text: `${name}:`, style: 'plain' });
      for (const one of value) lines.push({ text: `  ${entryText(one)}`, style: 'plain' });
    } else {
      lines.push({ text: `${name}: ${short(value, 300)}`, style: 'plain' });
    }
  }
  return lines;
}

/** `12:00:03.123`, UTC as everywhere in the log. */
export const clockText = (at: number): string => new Date(at).toISOString().slice(11, 23);

export const blocksText = (block: number, blocks: number): string =>
  blocks === 1 ? `block ${block}` : `blocks ${block}-${block + blocks - 1}`;

export function styleOf(event: { type: string; kind: string; strange?: unknown }): Style {
  if (event.strange !== undefined) return 'warn';
  if (/\.(failed|dropped|refuted)$/.test(event.type)) return 'bad';
  if (event.type === 'layer.trace') return 'trace';
  if (event.kind === 'image' || event.kind === 'layer' || event.kind === 'mount') return event.kind;
  return 'bold';
}

function rangesIn(value: unknown): Array<[number, number]> {
  if (!Array.isArray(value)) return [];
  return value.filter(
    (range): range is [number, number] =>
      Array.isArray(range) && typeof range[0] === 'number' && typeof range[1] === 'number',
  );
}

function short(value: unknown, most = 40): string {
  const text =
    typeof value === 'string'
      ? DIGEST.test(value)
        ? shortDigest(value)
        : value
      : (JSON.stringify(value) ?? '');
  const plain = printable(text);
  return plain.length > most ? `${plain.slice(0, most - 1)}…` : plain;
}

function entryText(value: unknown): string {
  if (typeof value !== 'object' || value === null) return short(value, 200);
  return Object.entries(value)
    .map(([name, item]) => `${name}=${short(item)}`)
    .join(' ');
}
