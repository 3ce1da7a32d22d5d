/**
 * What the start of a mount was spent on: its phases until the mount was there, then the reads that waited, by themselves,
 * by fetch, by file, and the chain of waits that led to the last of them. A start is over at the first pause of half a
 * second without a read that waits, as the engine itself sees it.
 */
import { CofaError } from '../../schemas/errors.ts';
import type { WhyStart } from '../../schemas/replay.ts';
import type { ReplayLog } from './replay-log.ts';
import { type TracedJob, type TracedRead, traceOf } from './trace.ts';
import { jobsNear, jobsOf, stepsOf } from './why-read.ts';

export interface StartOptions {
  /** A pause without a waiting read that ends the start, ms. */
  quietMs?: number;
  /** The start lasts no longer than this, ms. */
  limitMs?: number;
  /** Entries of each list. */
  top?: number;
}

interface MountStory {
  id: string;
  ref: string;
  manifest: string;
  dir: string;
  /** Of `mount.requested`. */
  index: number;
  requestedAt: number;
  mountedAt: number | undefined;
  failed: string | undefined;
}

/** Every mount of the log, in the order of their requests. */
export function* mountsOf(log: ReplayLog): IterableIterator<MountStory> {
  const { timeline } = log;
  for (let index = 0; index < log.count; index++) {
    if (timeline.typeAt(index) !== 'mount.requested') continue;
    const { id, data, at } = timeline.eventAt(index);
    const story: MountStory = {
      id,
      ref: String(data.ref),
      manifest: String(data.manifest),
      dir: String(data.dir),
      index,
      requestedAt: at,
      mountedAt: undefined,
      failed: undefined,
    };
    for (let next = index + 1; next < log.count; next++) {
      if (timeline.kindAt(next) !== 'mount' || timeline.idAt(next) !== id) continue;
      const type = timeline.typeAt(next);
      if (type === 'mount.mounted') story.mountedAt = timeline.timeAt(next);
      else if (type === 'mount.failed') story.failed = String(timeline.eventAt(next).data.message);
      break;
    }
    yield story;
  }
}

/** The mount with this id or directory (the last one there); without, the last of the log. Error: `not-found`. */
export function findMount(log: ReplayLog, wanted: string | undefined): MountStory {
  let found: MountStory | undefined;
  for (const mount of mountsOf(log))
    if (wanted === undefined || mount.id === wanted || mount.dir === wanted || mount.ref === wanted)
      found = mount;
  if (found !== undefined) return found;
  throw new CofaError(
    'not-found',
    wanted === undefined
      ? 'the log tells of no mount being made'
      : `the log does not tell of mount ${wanted} being made`,
    { hint: 'cofa replay --events --type mount.requested lists those of a log' },
  );
}

/** Why the start of a mount took as long as it did. Error: `unsupported` where it failed, with its message. */
export function explainStart(log: ReplayLog, mount: MountStory, options: StartOptions = {}): WhyStart {
  const { quietMs = 500, limitMs = 60_000, top = 20 } = options;
  if (mount.mountedAt === undefined) {
    throw new CofaError(
      'not-found',
      mount.failed === undefined
        ? `the log does not tell of mount ${mount.id} being ready`
        : `mount ${mount.id} failed: ${mount.failed}`,
    );
  }
  const phases = phasesOf(log, mount, mount.mountedAt);
  const startAt = phases[0]?.at ?? mount.requestedAt;
  const layers = layersOf(log, mount.manifest);
  const reads = readsOfStart(log, layers, startAt, mount.mountedAt, { quietMs, limitMs });
  const lastAt = Math.max(mount.mountedAt, ...reads.list.map(endOf));
  const jobs = jobsNear(log, startAt, lastAt).filter((job) => layers.has(job.layer));
  const us = (at: number) => Math.max(0, Math.round((at - startAt) * 1000));
  const lengths = reads.list.map((read) => read.us).sort((a, b) => a - b);
  const waitedUs = lengths.reduce((sum, one) => sum + one, 0);
  const costs = costsOf(reads.list, jobs, log);
  const path = criticalPath(reads.list, mount.mountedAt);
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
        phase: 'reads' as const,
        startUs: us(mount.mountedAt),
        us: us(lastAt) - us(mount.mountedAt),
        what: `${reads.list.length} reads waited`,
      },
    ],
    reads: {
      count: reads.list.length,
      failed: reads.list.filter(({ errno }) => errno !== 0).length,
      waitedUs,
      blockedUs: blockedUs(reads.list),
      p50Us: percentile(lengths, 0.5),
      p99Us: percentile(lengths, 0.99),
      maxUs: lengths.at(-1) ?? 0,
      dropped: reads.dropped,
    },
    bytes: costs.bytes,
    prefetchedBytes: jobs.filter((job) => !costs.used.has(job)).reduce((sum, job) => sum + job.bytes, 0),
    steps: costs.steps,
    slowest: [...reads.list]
      .sort((a, b) => b.us - a.us)
      .slice(0, top)
      .map((read) => ({
        id: read.id,
        layer: read.layer,
        block: read.block,
        us: read.us,
        startUs: us(read.at),
        paths: [...pathsOf(log, read)],
      })),
    spans: costs.spans.slice(0, top),
    files: costs.files.slice(0, top),
    path: path.map(({ read, gapMs }) => ({
      id: read.id,
      startUs: us(read.at),
      us: read.us,
      gapUs: Math.round(gapMs * 1000),
    })),
    criticalUs: path.reduce((sum, { read }) => sum + read.us, 0),
  };
}

const endOf = (read: TracedRead): number => read.at + read.us / 1000;

type Phase = { phase: 'resolve' | 'prepare' | 'attach' | 'mount'; at: number; end: number; what: string };

/** A resolve that ended so long before the mount was asked for belongs to another, ms. */
const RESOLVE_MS = 2_000;

function phasesOf(log: ReplayLog, mount: MountStory, mountedAt: number): Phase[] {
  const { timeline } = log;
  const hex = mount.manifest.slice(7);
  const layers = layersOf(log, mount.manifest);
  const phases: Phase[] = [];
  let resolvedAt: number | undefined;
  for (let index = mount.index - 1; index >= 0; index--) {
    if (mount.requestedAt - timeline.timeAt(index) > RESOLVE_MS) break;
    if (timeline.typeAt(index) === 'image.resolved' && timeline.idAt(index) === hex) {
      resolvedAt = timeline.timeAt(index);
      break;
    }
  }
  const { asked } = timeline.eventAt(mount.index).data as { asked?: unknown };
  if (typeof asked === 'number' && asked <= mount.requestedAt) {
    phases.push({
      phase: 'resolve',
      at: asked,
      end: mount.requestedAt,
      what: 'the registry says what the name means',
    });
  } else if (resolvedAt !== undefined) {
    phases.push({
      phase: 'resolve',
      at: resolvedAt,
      end: mount.requestedAt,
      what: 'the image was new to the node',
    });
  }
  let preparedAt = mount.requestedAt;
  let what = 'the image was prepared before';
  let openedAt: number | undefined;
  let opened = 0;
  for (let index = mount.index + 1; index < log.count; index++) {
    const at = timeline.timeAt(index);
    const type = timeline.typeAt(index);
    const id = timeline.idAt(index);
    if (type === 'mount.mounted' && id === mount.id) break;
    if (type === 'image.prepared' && id === hex) {
      preparedAt = at;
      const { origin } = timeline.eventAt(index).data;
      what = origin === 'node' ? 'indexed on this node' : 'sidecar and span tables from the registry';
    } else if (type === 'layer.opened' && layers.has(`sha256:${id}`)) {
      openedAt = at;
      opened += 1;
    }
  }
  phases.push({ phase: 'prepare', at: mount.requestedAt, end: preparedAt, what });
  const attachedAt = Math.min(Math.max(openedAt ?? preparedAt, preparedAt), mountedAt);
  phases.push({
    phase: 'attach',
    at: preparedAt,
    end: attachedAt,
    what: opened === 0 ? 'its layers were open before' : `${opened} layers opened`,
  });
  phases.push({ phase: 'mount', at: attachedAt, end: mountedAt, what: 'loop devices, flat file system' });
  return phases;
}

/** Layers of an image, as the log says it before its end. */
function layersOf(log: ReplayLog, manifest: string): Set<string> {
  const known = log.stateAt(log.count).images.get(manifest) ?? log.beginning.state.images.get(manifest);
  return new Set((known?.resolved.layers ?? []).map(({ diffId }) => diffId));
}

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
    // What runs in the container takes its own time before its first read.
    if (list.length > 0 && read.at - busyUntil > quietMs) break;
    list.push(read);
    busyUntil = Math.max(busyUntil, endOf(read));
  }
  // A trace is written a moment after what it tells of.
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

function* pathsOf(log: ReplayLog, read: TracedRead): IterableIterator<string> {
  const seen = new Set<string>();
  for (let block = read.block; block < read.block + Math.min(read.blocks, 256); block++) {
    for (const path of log.pathsOf(read.layer, block)) {
      if (!seen.has(path)) yield path;
      seen.add(path);
    }
  }
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
    for (const path of pathsOf(log, read)) add(files, path, read.us);
  }
  const bySpan = [...spans]
    .sort(([, a], [, b]) => b.waitedUs - a.waitedUs)
    .map(([{ layer, span, spans: count, runs, bytes }, cost]) => ({
      layer,
      span,
      spans: count,
      ...(runs === undefined ? {} : { runs }),
      bytes,
      ...cost,
    }));
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
 * The waits that followed one another up to the last answer: before each the one that was answered last before it came.
 * What lies between two of them is time that no storage would have saved.
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
