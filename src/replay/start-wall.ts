/**
 * The wall time of a start by part, and what machine and processes worked meanwhile. This is the one answer to how long a start took
 * (docs/glossary.md): incidents, the page and the terminal all tell it.
 */
import { defined } from '../../schemas/defined.ts';
import type { StartPart, StartWall } from '../../schemas/replay.ts';
import { START_PARTS } from '../../schemas/start-parts.ts';
import type { ReplayLog } from './replay-log.ts';
import { type Segment, segmentsOf, stretchesOf } from './start-parts.ts';
import type { MountStory } from './start-phases.ts';
import { programsBetween, seenIn } from './start-programs.ts';
import { samplesNear, usageBetween } from './start-usage.ts';
import type { TracedJob, TracedRead } from './trace.ts';

/** What each part of a start is spent on. */
export const PART_TEXT: Record<StartPart, string> = {
  client: 'the command, before it asked the engine',
  resolve: 'what the name means: the registry, or the node',
  log: 'the log takes the request',
  prepare: 'flat metadata and span tables',
  attach: 'devices',
  mount: 'loop devices, flat file system',
  record: 'the log and the disk take the mount; writable root',
  container: 'runc sets the container up',
  reads: 'at least one read waited',
  program: 'programs, waiting for nothing of cofa',
};

export interface StartStory {
  mount: MountStory;
  mountedAt: number;
  /** ms since the epoch */
  from: number;
  to: number;
  segments: Segment[];
}

/** A start until `to` (ms since the epoch), as stretches that follow one another. */
export function storyOf(
  log: ReplayLog,
  { mount, mountedAt, to }: { mount: MountStory; mountedAt: number; to: number },
  reads: readonly TracedRead[],
  jobs: readonly TracedJob[],
): StartStory {
  const stretches = stretchesOf(log, mount, mountedAt, to);
  const from = stretches[0]?.from ?? mount.requestedAt;
  const standing = mount.steps?.standing ?? mountedAt;
  const segments = segmentsOf(stretches, reads, jobs, { origin: from, standing });
  return { mount, mountedAt, from, to, segments };
}

/** The account of a story: µs of each part, steps of the reads, and what machine, processes and programs worked meanwhile. */
export function wallOf(log: ReplayLog, story: StartStory): StartWall {
  const { mount, from, to, segments } = story;
  const { ran } = mount;
  const sums = new Map<StartPart, number>();
  const steps: Record<string, number> = {};
  for (const { part, us, steps: list = [] } of segments) {
    sums.set(part, (sums.get(part) ?? 0) + us);
    for (const { step, us: length } of list) steps[step] = (steps[step] ?? 0) + length;
  }
  const samples = samplesNear(log, from, to);
  const usage = usageBetween(samples, from, to);
  const engineUs = usage?.processes.reduce((sum, { cpuUs }) => sum + cpuUs, 0) ?? 0;
  const accounted = segments.reduce((sum, { us }) => sum + us, 0) - (steps['wait'] ?? 0);
  return defined({
    time: new Date(from).toISOString(),
    us: Math.round((to - from) * 1000),
    accountedUs: Math.max(0, accounted),
    parts: START_PARTS.filter((part) => sums.has(part)).map((part) =>
      defined({
        part,
        us: sums.get(part) ?? 0,
        cpuUs: part === 'program' ? ran?.cpuUs : undefined,
        command: part === 'program' ? ran?.command : undefined,
        what: part === 'program' ? programText(ran) : PART_TEXT[part],
      }),
    ),
    steps,
    processes: usage?.processes ?? [],
    programs: programsBetween(seenIn(samples).get(mount.id), {
      from,
      to,
      ranUs: ran?.cpuUs,
    }),
    machine:
      usage &&
      defined({
        cpus: usage.cpus,
        busyUs: usage.busyUs,
        othersUs: Math.max(0, usage.busyUs - engineUs - (ran?.cpuUs ?? 0)),
        stalledUs: usage.stalledUs,
      }),
  });
}

/** What the part `program` is about; `ran`: undefined where no client has told of a run. */
export function programText(ran: MountStory['ran']): string {
  if (ran === undefined) return 'the container, if there is one: its runtime and programs';
  return ran.command === undefined
    ? PART_TEXT.program
    : `${ran.command} and its children, waiting for nothing of cofa`;
}
