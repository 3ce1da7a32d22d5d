/**
 * The wall time of a start, divided: each moment belongs to one part, so parts follow one another and never overlap.
 *
 *     client · resolve · log · prepare · attach · mount · record · container · program
 *      └ before the call          └ the engine's, as the log says ┘   └ as the client that ran it says
 *
 * From the moment that the file system stands, a read may wait at any time. Those moments are taken out of the part that they
 * fall into and belong to `reads`, and in it to the read that was answered last, step by step. So the list is at the same time the
 * critical path: what had to end before the next could go on.
 */
import type { StartPart, WhyStep } from '../../schemas/replay.ts';
import type { MountStory } from './start-phases.ts';
import { phasesOf } from './start-phases.ts';
import type { ReplayLog } from './replay-log.ts';
import type { TracedJob, TracedRead } from './trace.ts';
import { jobsOf, stepsOf } from './why-read.ts';

/** One stretch of the start; times in µs since its beginning. */
export interface Segment {
  part: StartPart;
  startUs: number;
  us: number;
  /** Of `reads`: which read, and what it waited for. */
  read?: string;
  steps?: WhyStep[];
}

/** Of a start: a stretch that has a name. ms since the epoch. */
interface Stretch {
  part: StartPart;
  from: number;
  to: number;
}

/**
 * The stretches of a start without the waits of reads, ascending and without overlaps. `to`: its end. What lies between two of them
 * the log tells nothing of.
 */
export function stretchesOf(log: ReplayLog, mount: MountStory, mountedAt: number, to: number): Stretch[] {
  const { began, asked, steps, ran, requestedAt } = mount;
  const phases = phasesOf(log, mount, mountedAt);
  const phase = (name: string) => phases.find((one) => one.phase === name);
  const called = asked ?? phase('resolve')?.at ?? requestedAt;
  const resolved = steps?.resolved ?? requestedAt;
  const marks: Array<[part: StartPart, from: number, to: number]> = [
    ['client', began ?? called, called],
    ['resolve', called, resolved],
    ['log', resolved, steps?.logged ?? requestedAt],
    ['prepare', steps?.logged ?? requestedAt, phase('prepare')?.end ?? requestedAt],
    ['attach', phase('attach')?.at ?? mountedAt, phase('attach')?.end ?? mountedAt],
    ['mount', phase('mount')?.at ?? mountedAt, steps?.standing ?? mountedAt],
    ['record', steps?.standing ?? mountedAt, ran?.answered ?? mountedAt],
    ['container', ran?.answered ?? mountedAt, ran?.program ?? ran?.spawned ?? mountedAt],
    ['program', ran?.program ?? ran?.spawned ?? mountedAt, ran?.ended ?? to],
  ];
  // What clocks of several processes say need not fit: none begins before the end of the one in front of it.
  const stretches: Stretch[] = [];
  let open = began ?? called;
  for (const [part, from, end] of marks) {
    const begin = Math.min(Math.max(from, open), to);
    const last = Math.min(Math.max(end, begin), to);
    if (last > begin) stretches.push({ part, from: begin, to: last });
    open = Math.max(open, last);
  }
  return stretches;
}

/** Takes the waits of reads out of the stretches. `origin`: the beginning of the start, ms since the epoch. */
export function segmentsOf(
  stretches: readonly Stretch[],
  reads: readonly TracedRead[],
  jobs: readonly TracedJob[],
  { origin, standing }: { origin: number; standing: number },
): Segment[] {
  const us = (at: number) => Math.max(0, Math.round((at - origin) * 1000));
  const waits = waitsOf(reads, standing);
  const segments: Segment[] = [];
  const add = (segment: Segment) => {
    if (segment.us > 0) segments.push(segment);
  };
  const byNumber = groupBy(jobs, ({ layer, job }) => `${layer} ${job}`);
  let next = 0;
  for (const { part, from, to } of stretches) {
    let open = from;
    while (next < waits.length) {
      const wait = waits[next] as Wait;
      if (wait.to <= open) {
        next += 1;
        continue;
      }
      if (wait.from >= to) break;
      const [begin, end] = [Math.max(wait.from, open), Math.min(wait.to, to)];
      add({ part, startUs: us(open), us: us(begin) - us(open) });
      const { layer } = wait.read;
      const named = wait.read.jobs.flatMap((job) => byNumber.get(`${layer} ${job}`) ?? []);
      const mine = jobsOf(wait.read, named);
      add({
        part: 'reads',
        startUs: us(begin),
        us: us(end) - us(begin),
        read: wait.read.id,
        steps: stepsWithin(wait.read, mine, begin, end, us),
      });
      open = end;
      if (wait.to > to) break;
      next += 1;
    }
    add({ part, startUs: us(open), us: us(to) - us(open) });
  }
  return segments;
}

/** A stretch in which reads waited, as the one that was answered last tells it. ms since the epoch. */
interface Wait {
  from: number;
  to: number;
  read: TracedRead;
}

/** Waits without overlaps, ascending: at each moment the read that arrived first of those that wait, from the end backwards. */
function waitsOf(reads: readonly TracedRead[], standing: number): Wait[] {
  const byEnd = reads
    .map((read) => ({ read, from: Math.max(read.at, standing), to: read.at + read.us / 1000 }))
    .filter(({ from, to }) => to > from)
    .sort((a, b) => b.to - a.to);
  const waits: Wait[] = [];
  let cursor = Number.POSITIVE_INFINITY;
  let place = 0;
  // Of those that end at or behind the cursor, the one that arrived first reaches back furthest.
  let reach: (typeof byEnd)[number] | undefined;
  while (place < byEnd.length || (reach !== undefined && reach.from < cursor)) {
    while (place < byEnd.length && (byEnd[place] as Wait).to >= cursor) {
      const one = byEnd[place++] as (typeof byEnd)[number];
      if (reach === undefined || one.from < reach.from) reach = one;
    }
    if (reach !== undefined && reach.from < cursor) {
      waits.push({ from: reach.from, to: cursor, read: reach.read });
      cursor = reach.from;
      continue;
    }
    const one = byEnd[place++];
    if (one === undefined) break;
    // Nothing waited between the cursor and its end.
    waits.push({ from: one.from, to: one.to, read: one.read });
    cursor = one.from;
    reach = undefined;
  }
  return waits.reverse();
}

/** The steps of a read that fall into a stretch; `startUs` as that of the segments. */
function stepsWithin(
  read: TracedRead,
  jobs: readonly TracedJob[],
  from: number,
  to: number,
  us: (at: number) => number,
): WhyStep[] {
  return stepsOf(read, jobs).flatMap(({ step, startUs, us: length }): WhyStep[] => {
    const begin = Math.max(from, read.at + startUs / 1000);
    const end = Math.min(to, read.at + (startUs + length) / 1000);
    return end > begin && us(end) > us(begin) ? [{ step, startUs: us(begin), us: us(end) - us(begin) }] : [];
  });
}

function groupBy<T>(list: readonly T[], keyOf: (one: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const one of list) {
    const key = keyOf(one);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [one]);
    else group.push(one);
  }
  return groups;
}
