/** Events of which only numbers and lists are stored, in words: one line each. */
import { flawOfStored } from '../../schemas/check-event.ts';
import { formatBytes } from '../terminal/table.ts';
import { formatUs } from './format.ts';
import { measuredText } from './measured-text.ts';
import type { ReplayEvent } from './record.ts';
import { traceOf } from './trace.ts';
import { checkedEvent } from './checked.ts';

/** Undefined: the fields of the event say it as well. */
export function eventWords(event: ReplayEvent): string | undefined {
  if (event.strange !== undefined) return undefined;
  switch (event.type) {
    case 'layer.trace':
      return traceText(event);
    case 'engine.measured':
      return measuredText(event);
    case 'layer.started':
      return startedText(event);
    default:
      return undefined;
  }
}

/** The same of an event that nothing has looked at yet; what is not as its schema says has no words. */
export function wordsOfStored(stored: Pick<ReplayEvent, 'seq' | 'subject' | 'type' | 'data'>, at: number) {
  const { seq, subject, type, data } = stored;
  if (flawOfStored({ v: 1, type, at, ...data }) !== undefined) return undefined;
  const id = subject.split('.').at(-1) ?? '';
  return eventWords({ index: 0, seq, at, subject, kind: '', id, type, data, strange: undefined });
}

function traceText(event: ReplayEvent): string {
  const { reads, jobs } = traceOf(event);
  const longest = Math.max(0, ...reads.map(({ us }) => us));
  const failed = reads.filter(({ errno }) => errno !== 0).length;
  const waited = reads.length > 0 ? ` ≤ ${formatUs(longest)}` : '';
  const bad = failed > 0 ? `, ${failed} failed` : '';
  return `${counted(reads.length, 'read')}${waited}, ${counted(jobs.length, 'fetch')}${bad}`;
}

function startedText(event: ReplayEvent): string | undefined {
  const started = checkedEvent(event, 'layer.started');
  if (started === undefined) return undefined;
  const { start, ahead, reads, pack } = started;
  const blocks = reads.reduce((sum, [, count]) => sum + count, 0);
  const packed = pack === undefined ? '' : `, a pack of ${formatBytes(pack.bytes)}`;
  return `${start} has read ${blocks} blocks of it; ahead: ${ahead}${packed}`;
}

function counted(count: number, name: 'read' | 'fetch'): string {
  return `${count} ${name}${count === 1 ? '' : name === 'fetch' ? 'es' : 's'}`;
}
