/**
 * Where the start of a mount spent its time: its phases until it was mounted, then the reads that waited, by
 * themselves, by fetch and by file, and the chain of waits that led to the last of them. A start ends at the first
 * pause of half a second without a waiting read, as in the engine.
 */
import { defined } from '../../schemas/defined.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { WhyStart } from '../../schemas/replay.ts';
import type { ReplayLog } from './replay-log.ts';
import { evictionsOf } from './evictions.ts';
import { fasterOf } from './faster.ts';
import { layersOf, type MountStory, originOf, pathsOfRead, type Phase, phasesOf } from './start-phases.ts';
import { type StartStory, storyOf, wallOf } from './start-wall.ts';
import { type TracedJob, type TracedRead, traceOf } from './trace.ts';
import { jobsNear, jobsOf, stepsOf } from './why-read.ts';

/** Unless options say otherwise. */
const QUIET_MS = 500;
const LIMIT_MS = 60_000;
/** The deadline of reads, unless an option says otherwise: one that waits is not in the log before it is answered, ms. */
const READ_MS = 30_000;

export interface StartOptions {
  /** A pause without a waiting read that ends the start, ms. */
  quietMs?: number;
  /** The start lasts no longer than this behind its mount, ms. */
  limitMs?: number;
  /** Entries of each list. */
  top?: number;
}

/**
 * Why the start of a mount took as long as it did. Error: `not-found` where it never became ready, with
 * the reason of a failure.
 */
export function explainStart(log: ReplayLog, mount: MountStory, options: StartOptions = {}): WhyStart {
  const { quietMs = QUIET_MS, limitMs = LIMIT_MS, top = 20 } = options;
  if (mount.mountedAt === undefined) {
    throw new CofaError(
      'not-found',
      mount.failed === undefined
        ? `the log does not tell of mount ${mount.id} being ready`
        : `mount ${mount.id} failed: ${mount.failed}`,
    );
  }
  const start = startOf(log, mount, mount.mountedAt, { quietMs, limitMs });
  const { phases, startAt, layers, reads, lastAt, jobs, story } = start;
  const wall = wallOf(log, story);
  const us = (at: number) => Math.max(0, Math.round((at - startAt) * 1000));
  const costs = costsOf(reads.list, jobs, log);
  const path = criticalPath(reads.list, mount.mountedAt);
  const faster = fasterOf({
    wall,
    ref: mount.ref,
    origin: originOf(log, mount),
    lookupUs: mount.steps?.lookupUs ?? 0,
    logUs: mount.steps?.logUs ?? 0,
    jobs: jobs.filter((job) => job.error === undefined),
    waitedBytes: costs.bytes,
    ...evictionsOf(log, layers, startAt, story.to),
  });
  const cause = faster.find((one) => one.cause !== 'sidecar' && one.cause !== 'pack')?.cause;
  return {
    kind: 'start',
    mount: mount.id,
    ref: mount.ref,
    manifest: mount.manifest,
    dir: mount.dir,
    time: new Date(startAt).toISOString(),
    us: us(lastAt),
    phases: [
      ...phases.map(({ phase, at, end, what }) => ({ phase, startUs: us(at), us: us(end) - us(at), what })),
      {
        phase: 'reads',
        startUs: us(mount.mountedAt),
        us: us(lastAt) - us(mount.mountedAt),
        what: `${reads.list.length} reads waited`,
      },
    ],
    reads: { ...summaryOf(reads.list), dropped: reads.dropped },
    bytes: costs.bytes,
    prefetchedBytes: jobs.filter((job) => !costs.used.has(job)).reduce((sum, job) => sum + job.bytes, 0),
    steps: costs.steps,
    slowest: slowestOf(log, reads.list, top, us),
    spans: costs.spans.slice(0, top),
    files: costs.files.slice(0, top),
    path: path.map(({ read, gapMs }) => ({
      id: read.id,
      startUs: us(read.at),
      us: read.us,
      gapUs: Math.round(gapMs * 1000),
    })),
    criticalUs: path.reduce((sum, { read }) => sum + read.us, 0),
    wall,
    ...(cause !== undefined && { cause }),
    faster,
  };
}

/** Whether the log goes on for so long that a start of this wall time is over, and no event behind it could make it longer. */
export function isOver(
  log: ReplayLog,
  { mountedAt, began, ran }: MountStory,
  wall: WhyStart['wall'],
): boolean {
  if (mountedAt === undefined) return false;
  const last = log.timeOf(log.count);
  if (ran !== undefined || last > mountedAt + LIMIT_MS) return true;
  // A client that told when it began also tells when its container ended.
  return began === undefined && last > Date.parse(wall.time) + wall.us / 1000 + QUIET_MS + READ_MS;
}

/** What of the log is about one start. Times in ms since the epoch. */
export interface Start {
  phases: Phase[];
  startAt: number;
  /** Ids of its layers. */
  layers: ReadonlySet<string>;
  reads: { list: TracedRead[]; dropped: number };
  /** When the last of the reads was answered; that of the mount where there was none. */
  lastAt: number;
  /** Fetches of its layers in that time. */
  jobs: TracedJob[];
  story: StartStory;
}

/** The start of a mount that was ready at `mountedAt`. One whose container ended within the limit lasts until then. */
export function startOf(
  log: ReplayLog,
  mount: MountStory,
  mountedAt: number,
  { quietMs = QUIET_MS, limitMs = LIMIT_MS }: Pick<StartOptions, 'quietMs' | 'limitMs'> = {},
): Start {
  const phases = phasesOf(log, mount, mountedAt);
  const startAt = phases[0]?.at ?? mount.requestedAt;
  const layers = layersOf(log, mount.manifest);
  const ended = mount.ran?.ended;
  const ranTo = ended !== undefined && ended - mountedAt <= limitMs ? ended : undefined;
  const limits = { quietMs: ranTo === undefined ? quietMs : limitMs, limitMs };
  const all = readsOfStart(log, layers, startAt, mountedAt, limits);
  const list = ranTo === undefined ? all.list : all.list.filter(({ at }) => at <= ranTo);
  const lastAt = list.reduce((last, read) => Math.max(last, endOf(read)), mountedAt);
  const to = ranTo ?? lastAt;
  const jobs = jobsNear(log, startAt, to).filter((job) => layers.has(job.layer));
  const story = storyOf(log, { mount, mountedAt, to: Math.max(to, mountedAt) }, list, jobs);
  return { phases, startAt, layers, reads: { ...all, list }, lastAt, jobs, story };
}

/** Counts of the reads that waited, and how long. */
function summaryOf(reads: readonly TracedRead[]): Omit<WhyStart['reads'], 'dropped'> {
  const lengths = reads.map((read) => read.us).sort((a, b) => a - b);
  return {
    count: reads.length,
    failed: reads.filter(({ errno }) => errno !== 0).length,
    waitedUs: lengths.reduce((sum, one) => sum + one, 0),
    blockedUs: blockedUs(reads),
    p50Us: percentile(lengths, 0.5),
    p99Us: percentile(lengths, 0.99),
    maxUs: lengths.at(-1) ?? 0,
  };
}

/** The `top` reads that waited longest. `us`: a time as µs of the start. */
function slowestOf(
  log: ReplayLog,
  reads: readonly TracedRead[],
  top: number,
  us: (at: number) => number,
): WhyStart['slowest'] {
  return [...reads]
    .sort((a, b) => b.us - a.us)
    .slice(0, top)
    .map((read) => ({
      id: read.id,
      layer: read.layer,
      block: read.block,
      us: read.us,
      startUs: us(read.at),
      paths: [...pathsOfRead(log, read)],
    }));
}

const endOf = (read: TracedRead): number => read.at + read.us / 1000;

function readsOfStart(
  log: ReplayLog,
  layers: ReadonlySet<string>,
  startAt: number,
  mountedAt: number,
  { quietMs, limitMs }: { quietMs: number; limitMs: number },
): { list: TracedRead[]; dropped: number } {
  const all: TracedRead[] = [];
  const losses: Array<{ at: number; dropped: number }> = [];
  for (const index of log.traces.between(startAt, mountedAt + limitMs)) {
    const event = log.timeline.eventAt(index);
    if (!layers.has(`sha256:${event.id}`)) continue;
    const trace = traceOf(event);
    losses.push({ at: event.at, dropped: trace.dropped });
    all.push(...trace.reads.filter((read) => read.at >= startAt && read.at <= mountedAt + limitMs));
  }
  all.sort((a, b) => a.at - b.at);
  const list: TracedRead[] = [];
  let busyUntil = mountedAt;
  for (const read of all) {
    // Programs in the container take their own time before their first read.
    if (list.length > 0 && read.at - busyUntil > quietMs) break;
    list.push(read);
    busyUntil = Math.max(busyUntil, endOf(read));
  }
  // A trace is written a moment after its reads.
  const dropped = losses.reduce(
    (sum, loss) => (loss.at <= busyUntil + quietMs ? sum + loss.dropped : sum),
    0,
  );
  return { list, dropped };
}

/** Time in which at least one read waited. */
function blockedUs(reads: readonly TracedRead[]): number {
  let sum = 0;
  let until = Number.NEGATIVE_INFINITY;
  for (const read of [...reads].sort((a, b) => a.at - b.at)) {
    sum += Math.max(0, endOf(read) - Math.max(until, read.at));
    until = Math.max(until, endOf(read));
  }
  return Math.round(sum * 1000);
}

function percentile(ascending: readonly number[], share: number): number {
  if (ascending.length === 0) return 0;
  return ascending[Math.min(ascending.length - 1, Math.ceil(share * ascending.length) - 1)] ?? 0;
}

function costsOf(reads: readonly TracedRead[], jobs: readonly TracedJob[], log: ReplayLog) {
  const spans = new Map<TracedJob, { reads: number; waitedUs: number }>();
  const files = new Map<string, { reads: number; waitedUs: number }>();
  const steps: Record<string, number> = {};
  const add = <K>(map: Map<K, { reads: number; waitedUs: number }>, key: K, us: number) => {
    const cost = map.get(key) ?? { reads: 0, waitedUs: 0 };
    map.set(key, { reads: cost.reads + 1, waitedUs: cost.waitedUs + us });
  };
  for (const read of reads) {
    const mine = jobsOf(read, jobs);
    for (const { step, us } of stepsOf(read, mine)) steps[step] = (steps[step] ?? 0) + us;
    for (const job of mine) add(spans, job, read.us);
    for (const path of pathsOfRead(log, read)) add(files, path, read.us);
  }
  const bySpan = [...spans]
    .sort(([, a], [, b]) => b.waitedUs - a.waitedUs)
    .map(([{ layer, span, spans: count, runs, bytes }, cost]) =>
      defined({ layer, span, spans: count, runs, bytes, ...cost }),
    );
  return {
    steps,
    spans: bySpan,
    files: [...files]
      .sort(([, a], [, b]) => b.waitedUs - a.waitedUs)
      .map(([path, cost]) => ({ path, ...cost })),
    bytes: [...spans.keys()].reduce((sum, { bytes }) => sum + bytes, 0),
    used: new Set(spans.keys()) as ReadonlySet<TracedJob>,
  };
}

/**
 * The waits that followed one another up to the last answer: before each the one that was answered last before it
 * arrived. The time between two of them would remain with any storage.
 */
function criticalPath(
  reads: readonly TracedRead[],
  mountedAt: number,
): Array<{ read: TracedRead; gapMs: number }> {
  const byEnd = [...reads].sort((a, b) => endOf(a) - endOf(b));
  const path: Array<{ read: TracedRead; gapMs: number }> = [];
  let index = byEnd.length - 1;
  while (index >= 0) {
    const read = byEnd[index] as TracedRead;
    let before = index - 1;
    // A tenth of a millisecond: the clocks of two reads.
    while (before >= 0 && endOf(byEnd[before] as TracedRead) > read.at + 0.1) before--;
    const previous = before >= 0 ? endOf(byEnd[before] as TracedRead) : mountedAt;
    path.unshift({ read, gapMs: Math.max(0, read.at - previous) });
    index = before;
  }
  return path;
}
