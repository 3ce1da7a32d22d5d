/**
 * A start, or a stretch of the log, as a trace that https://ui.perfetto.dev, chrome://tracing and speedscope open: Chrome's Trace
 * Event Format, "JSON Object Format" (Google's document "Trace Event Format", mirrored in catapult's docs). Times are µs
 * since the beginning of the trace.
 *
 *     process 1   mounts     a slice a mount, and in it the phases of its start
 *     process 2   reads      those that waited; an arrow joins them with each fetch that they waited for
 *     process 3   fetches    by fetcher, with their steps: queue, first byte, transfer, verify, write
 *     process 4   events     one mark an event of the log
 *     process 5   programs   of containers, from their beginning to the last sample that saw them; absent: none was seen
 *
 * Slices of one thread may lie in one another and must not cross: what crosses gets a thread (a lane) of its own. Perfetto's
 * importer (trace_sorter.h, slice_tracker.cc, flow_tracker.cc) has rules of its own:
 *
 * - Of slices that begin together it takes the longer one to be around the other. So a slice without length would lie in
 *   the one that begins where it ends: phases and steps without length have none.
 * - Marks of one moment lie in one another, up to 512 deep.
 * - It turns each arrow so that it leads from the slice that began first, and puts each end into the innermost slice of its
 *   moment.
 */
import { type MountStory, mountsOf, phasesOf } from './start-phases.ts';
import type { ReplayLog } from './replay-log.ts';
import { seenIn } from './start-programs.ts';
import { type Sample, samplesOf } from './start-usage.ts';
import { type TracedJob, type TracedRead, traceOf } from './trace.ts';
import { jobsOf, partsOf } from './why-read.ts';

/** One entry of `traceEvents`. */
export type TraceEvent =
  | { ph: 'M'; name: 'process_name' | 'thread_name'; pid: number; tid: number; args: { name: string } }
  | { ph: 'M'; name: 'process_sort_index'; pid: number; tid: number; args: { sort_index: number } }
  | { ph: 'X'; name: string; cat: string; pid: number; tid: number; ts: number; dur: number; args: Args }
  | { ph: 'i'; name: string; cat: string; pid: number; tid: number; ts: number; s: 't'; args: Args }
  | { ph: 's' | 'f'; name: string; cat: string; id: number; pid: number; tid: number; ts: number; bp?: 'e' };

type Args = Record<string, string | number | boolean | readonly string[]>;

/** Part of a log by time, ms since the epoch, both included. */
export interface Stretch {
  from: number;
  to: number;
}

const MOUNTS = 1;
const READS = 2;
const FETCHES = 3;
const EVENTS = 4;
const PROGRAMS = 5;
const NAMES = { [MOUNTS]: 'mounts', [READS]: 'reads that waited', [FETCHES]: 'fetches', [EVENTS]: 'log' };
/** Threads of a process have numbers from this times its own on: no number is of two processes. */
const MOST_LANES = 100_000;
/** Lane of what belongs to a process as a whole. */
const MAIN = 0;
/** µs of a millisecond, the unit of events' times. */
const US = 1000;
/** Paths that a read names. */
const MOST_PATHS = 8;

/** All of the log. */
export function wholeOf(log: ReplayLog): Stretch {
  const { timeline, count } = log;
  let [from, to] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (let index = 0; index < count; index++) {
    from = Math.min(from, timeline.timeAt(index));
    to = Math.max(to, timeline.timeAt(index));
  }
  for (const { from: first, to: last } of log.traces.spans()) {
    from = Math.min(from, first);
    to = Math.max(to, last);
  }
  return count === 0 ? { from: 0, to: 0 } : { from, to };
}

/** The entries of a stretch. What began before it is left out. */
export function* traceEvents(log: ReplayLog, stretch: Stretch): IterableIterator<TraceEvent> {
  // Perfetto's importer names the last thread with that number and looks at no process (json_trace_parser.cc). What is
  // said of a process belongs to its main thread, which has the number of the process: another would be an empty thread.
  for (const event of entriesOf(log, stretch))
    yield { ...event, tid: event.tid === MAIN ? event.pid : event.pid * MOST_LANES + event.tid };
}

function* entriesOf(log: ReplayLog, stretch: Stretch): IterableIterator<TraceEvent> {
  const us = (at: number) => Math.max(0, Math.round((at - stretch.from) * US));
  for (const [pid, name] of Object.entries(NAMES)) yield* processNamed(Number(pid), name);
  yield* mountEvents(log, stretch, us);
  const { reads, jobs } = tracesOf(log, stretch);
  const placed = new Map<TracedJob, Placed>();
  yield* fetchEvents(jobs, us, placed);
  yield* readEvents(log, reads, us, placed);
  yield* logEvents(log, stretch, us);
  yield* programEvents(log, stretch, us);
}

function* processNamed(pid: number, name: string): IterableIterator<TraceEvent> {
  const own = { ph: 'M', pid, tid: MAIN } as const;
  yield { ...own, name: 'process_name', args: { name } };
  yield { ...own, name: 'process_sort_index', args: { sort_index: pid } };
}

type ToUs = (at: number) => number;

const isIn = ({ from, to }: Stretch, at: number): boolean => at >= from && at <= to;

// ── Mounts ──

function* mountEvents(log: ReplayLog, stretch: Stretch, us: ToUs): IterableIterator<TraceEvent> {
  const lanes = new Lanes();
  const slices: Array<{ mount: MountStory; from: number; to: number }> = [];
  for (const mount of mountsOf(log)) {
    if (mount.mountedAt === undefined) continue;
    const [first] = phasesOf(log, mount, mount.mountedAt);
    const from = Math.min(first?.at ?? mount.requestedAt, mount.requestedAt);
    if (isIn(stretch, from)) slices.push({ mount, from, to: mount.mountedAt });
  }
  slices.sort((a, b) => a.from - b.from);
  for (const { mount, from, to } of slices) {
    const tid = lanes.take(us(from), us(to));
    yield* lanes.named(MOUNTS, tid, `mount ${tid}`);
    const own = { ph: 'X', cat: 'start', pid: MOUNTS, tid } as const;
    const args = { mount: mount.id, ref: mount.ref, manifest: mount.manifest, dir: mount.dir };
    yield { ...own, name: mount.ref, ts: us(from), dur: us(to) - us(from), args };
    for (const { phase, at, end, what } of phasesOf(log, mount, to)) {
      const ts = Math.max(us(at), us(from));
      const dur = Math.min(us(end), us(to)) - ts;
      if (dur > 0) yield { ...own, name: phase, ts, dur, args: { what } };
    }
  }
}

// ── Reads and fetches ──

function tracesOf(log: ReplayLog, stretch: Stretch): { reads: TracedRead[]; jobs: TracedJob[] } {
  const reads: TracedRead[] = [];
  const jobs: TracedJob[] = [];
  for (const index of log.traces.all()) {
    const trace = traceOf(log.timeline.eventAt(index));
    reads.push(...trace.reads.filter(({ at }) => isIn(stretch, at)));
    jobs.push(...trace.jobs.filter(({ queuedAt }) => isIn(stretch, queuedAt)));
  }
  reads.sort((a, b) => a.at - b.at);
  jobs.sort((a, b) => a.queuedAt - b.queuedAt);
  return { reads, jobs };
}

interface Placed {
  tid: number;
  ts: number;
  end: number;
}

function* fetchEvents(
  jobs: readonly TracedJob[],
  us: ToUs,
  placed: Map<TracedJob, Placed>,
): IterableIterator<TraceEvent> {
  const lanes = new Lanes();
  for (const job of jobs) {
    const ts = us(job.queuedAt);
    const end = ts + job.totalUs;
    const fetcher = job.fetcher || 'no fetcher';
    const tid = lanes.take(ts, end, fetcher);
    yield* lanes.named(FETCHES, tid, fetcher);
    placed.set(job, { tid, ts, end });
    const own = { ph: 'X', cat: 'fetch', pid: FETCHES, tid } as const;
    const { layer, span, spans, bytes, error } = job;
    const args = { layer, job: job.job, span, spans, bytes, ...(error === undefined ? {} : { error }) };
    yield {
      ...own,
      name: `${job.class} ${spans === 1 ? `span ${span}` : `${spans} spans`}`,
      ts,
      dur: job.totalUs,
      args,
    };
    for (const { step, startUs, us: dur } of partsOf(job)) {
      const began = ts + startUs;
      if (began < end) yield { ...own, name: step, ts: began, dur: Math.min(dur, end - began), args: {} };
    }
  }
}

function* readEvents(
  log: ReplayLog,
  reads: readonly TracedRead[],
  us: ToUs,
  placed: ReadonlyMap<TracedJob, Placed>,
): IterableIterator<TraceEvent> {
  const lanes = new Lanes();
  const byNumber = new Map<string, TracedJob[]>();
  for (const job of placed.keys()) {
    const key = `${job.layer} ${job.job}`;
    byNumber.set(key, [...(byNumber.get(key) ?? []), job]);
  }
  let flow = 0;
  for (const read of reads) {
    const ts = us(read.at);
    const end = ts + Math.round(read.us);
    const tid = lanes.take(ts, end);
    yield* lanes.named(READS, tid, `reads ${tid}`);
    const paths = pathsOf(log, read);
    const { id, layer, block, blocks, errno } = read;
    const name = paths[0] ?? `${layer.slice(7, 15)} block ${block}`;
    const args = { id, layer, block, blocks, errno, ...(paths.length === 0 ? {} : { paths }) };
    yield {
      ph: 'X',
      name,
      cat: errno === 0 ? 'read' : 'read,failed',
      pid: READS,
      tid,
      ts,
      dur: end - ts,
      args,
    };
    const mine = jobsOf(
      read,
      read.jobs.flatMap((job) => byNumber.get(`${layer} ${job}`) ?? []),
    );
    for (const job of mine) {
      const fetch = placed.get(job);
      if (fetch === undefined) continue;
      flow += 1;
      yield* arrow(flow, { pid: FETCHES, ...fetch }, { pid: READS, tid, ts, end });
    }
  }
}

/** Leads from the slice that began first, or from `one`, to the beginning of the other one. */
function* arrow(
  id: number,
  one: Placed & { pid: number },
  other: Placed & { pid: number },
): IterableIterator<TraceEvent> {
  const [first, next] = one.ts <= other.ts ? [one, other] : [other, one];
  const own = { name: 'waited for', cat: 'wait', id } as const;
  // `queuedAt` is whole milliseconds, so a fetch may seem to begin after its read has ended.
  const left = Math.max(first.ts, Math.min(next.ts, first.end - 1));
  yield { ...own, ph: 's', pid: first.pid, tid: first.tid, ts: left };
  yield { ...own, ph: 'f', bp: 'e', pid: next.pid, tid: next.tid, ts: next.ts };
}

function pathsOf(log: ReplayLog, { layer, block, blocks }: TracedRead): string[] {
  const paths = new Set<string>();
  for (let at = block; at < block + Math.min(blocks, 256) && paths.size < MOST_PATHS; at++)
    for (const path of log.pathsOf(layer, at)) paths.add(path);
  return [...paths].slice(0, MOST_PATHS);
}

// ── Events ──

/** Events of one millisecond lie a microsecond apart, in their order. */
function* logEvents(log: ReplayLog, stretch: Stretch, us: ToUs): IterableIterator<TraceEvent> {
  const { timeline, count } = log;
  const own = { pid: EVENTS, tid: 1 } as const;
  let last = { at: Number.NaN, of: 0 };
  for (let index = 0; index < count; index++) {
    const [at, type] = [timeline.timeAt(index), timeline.typeAt(index)];
    // Traces are the slices above.
    if (type === 'layer.trace' || !isIn(stretch, at)) continue;
    if (Number.isNaN(last.at)) yield { ...own, ph: 'M', name: 'thread_name', args: { name: 'events' } };
    last = { at, of: last.at === at ? Math.min(last.of + 1, US - 1) : 0 };
    yield {
      ...own,
      ph: 'i',
      s: 't',
      cat: timeline.kindAt(index),
      name: type,
      ts: us(at) + last.of,
      args: { seq: timeline.seqAt(index), id: timeline.idAt(index) },
    };
  }
}

// ── Programs ──

/** What ran between two samples alone is in none. */
function* programEvents(log: ReplayLog, stretch: Stretch, us: ToUs): IterableIterator<TraceEvent> {
  const { timeline, count } = log;
  const samples: Sample[] = [];
  for (let index = 0; index < count; index++)
    if (timeline.typeAt(index) === 'engine.measured') samples.push(...samplesOf(log, index));
  const programs = [...seenIn(samples.sort((a, b) => a.at - b.at))]
    .flatMap(([mount, container]) => container.programs.map((program) => ({ mount, ...program })))
    .filter(({ since }) => isIn(stretch, since))
    .sort((a, b) => a.since - b.since);
  if (programs.length > 0) yield* processNamed(PROGRAMS, 'programs of containers');
  const lanes = new Lanes();
  for (const { mount, pid, name, since, seen } of programs) {
    const last = seen.findLast(({ at }) => isIn(stretch, at)) ?? seen[0];
    const ts = us(since);
    const end = Math.max(ts + 1, us(Math.min(stretch.to, last?.at ?? since)));
    const tid = lanes.take(ts, end, mount);
    yield* lanes.named(PROGRAMS, tid, `mount ${mount}`);
    const own = { ph: 'X', cat: 'program', pid: PROGRAMS, tid } as const;
    const { cpuUs = 0, childrenUs = 0 } = last ?? {};
    const args = { mount, process: pid, cpuUs, childrenUs, samples: seen.length };
    yield { ...own, name, ts, dur: end - ts, args };
  }
}

/** Threads of one process, so that slices of one thread do not cross. */
class Lanes {
  /** Of each lane: who has it, and until when. */
  readonly #lanes: Array<{ of: string; free: number }> = [];
  readonly #named = new Set<number>();

  /** The lane of a slice; slices come in the order of their beginnings. `of`: lanes of its own for each. */
  take(from: number, to: number, of = ''): number {
    let lane = this.#lanes.findIndex((one) => one.of === of && one.free <= from);
    if (lane < 0) lane = this.#lanes.push({ of, free: 0 }) - 1;
    // A slice without length still takes its place.
    this.#lanes[lane] = { of, free: Math.max(to, from + 1) };
    return lane + 1;
  }

  *named(pid: number, tid: number, name: string): IterableIterator<TraceEvent> {
    if (this.#named.has(tid)) return;
    this.#named.add(tid);
    yield { ph: 'M', name: 'thread_name', pid, tid, args: { name } };
  }
}
