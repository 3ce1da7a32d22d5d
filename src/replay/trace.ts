/**
 * The content of `layer.trace` events: reads that waited, and the jobs that they waited for. Read leniently: a missing
 * or odd field is 0, an entry without its main fields is left out.
 */
import type { FetchMeasures } from '../../actors/fetch-steps.ts';
import { type Origin, ORIGINS } from '../../schemas/events.ts';
import type { ReplayEvent } from './record.ts';

/** A read of the kernel that found a block missing. */
export interface TracedRead {
  /** `SEQUENCE.N`: the event that tells of it, and its place there. */
  id: string;
  /** `sha256:…` of its layer. */
  layer: string;
  /** Arrival, ms since the epoch. */
  at: number;
  /** µs until the answer. */
  us: number;
  block: number;
  blocks: number;
  errno: number;
  /** Numbers of the jobs that it waited for; they are those of its layer. */
  jobs: readonly number[];
}

/** One fetch. Times in µs, each the length of a step. */
export interface TracedJob extends FetchMeasures {
  layer: string;
  job: number;
  class: 'demand' | 'prefetch' | 'pack';
  span: number;
  spans: number;
  /** [first span, count] of each run, where they are not neighbours. */
  runs: Array<[first: number, count: number]> | undefined;
  /** [first block, count] that it was to bring; undefined: not known. */
  blocks?: Array<[first: number, count: number]> | undefined;
  fetcher: string;
  /** ms since the epoch. */
  queuedAt: number;
  /** Compressed. */
  bytes: number;
  error: string | undefined;
}

/** Blocks that have come, and why they were fetched. */
export type Came = readonly [first: number, count: number, origin: Origin];

export interface Trace {
  reads: TracedRead[];
  jobs: TracedJob[];
  came: Came[];
  /** Entries that were left out because there were too many. */
  dropped: number;
}

const EMPTY: Trace = { reads: [], jobs: [], came: [], dropped: 0 };

/** The trace of an event; empty where it is none. */
export function traceOf(event: Pick<ReplayEvent, 'type' | 'seq' | 'id' | 'data'>): Trace {
  if (event.type !== 'layer.trace') return EMPTY;
  const layer = `sha256:${event.id}`;
  const reads = listOf(event.data.reads).flatMap((read, index): TracedRead[] => {
    const { at, us, block } = read;
    if (typeof at !== 'number' || typeof us !== 'number' || typeof block !== 'number') return [];
    return [
      {
        id: `${event.seq}.${index}`,
        layer,
        at,
        us,
        block,
        blocks: Math.max(1, numberOf(read.blocks)),
        errno: numberOf(read.errno),
        jobs: Array.isArray(read.jobs) ? read.jobs.filter((job) => typeof job === 'number') : [],
      },
    ];
  });
  const jobs = listOf(event.data.jobs).flatMap((job): TracedJob[] => {
    if (typeof job.job !== 'number' || typeof job.queuedAt !== 'number') return [];
    return [
      {
        layer,
        job: job.job,
        class: job.class === 'prefetch' || job.class === 'pack' ? job.class : 'demand',
        span: numberOf(job.span),
        spans: Math.max(1, numberOf(job.spans)),
        runs: Array.isArray(job.runs) ? (job.runs as unknown[]).flatMap(runOf) : undefined,
        blocks: Array.isArray(job.blocks) ? (job.blocks as unknown[]).flatMap(runOf) : undefined,
        fetcher: textOf(job.worker),
        queuedAt: job.queuedAt,
        sentUs: numberOf(job.sentUs),
        lookupUs: numberOf(job.lookupUs),
        firstByteUs: numberOf(job.firstByteUs),
        fetchUs: numberOf(job.fetchUs),
        decodeUs: numberOf(job.decodeUs),
        writeUs: numberOf(job.writeUs),
        totalUs: numberOf(job.totalUs),
        bytes: numberOf(job.bytes),
        error: typeof job.error === 'string' ? job.error : undefined,
      },
    ];
  });
  const came = (Array.isArray(event.data.came) ? (event.data.came as unknown[]) : []).flatMap(cameOf);
  return { reads, jobs, came, dropped: numberOf(event.data.dropped) };
}

function cameOf(value: unknown): Came[] {
  const [first, count, origin] = Array.isArray(value) ? (value as unknown[]) : [];
  return typeof first === 'number' && typeof count === 'number' && isOrigin(origin)
    ? [[first, count, origin]]
    : [];
}

const isOrigin = (value: unknown): value is Origin => (ORIGINS as readonly unknown[]).includes(value);

function runOf(value: unknown): Array<[number, number]> {
  const [first, count] = Array.isArray(value) ? (value as unknown[]) : [];
  return typeof first === 'number' && typeof count === 'number' ? [[first, count]] : [];
}

function listOf(value: unknown): Array<Record<string, unknown>> {
  return Array.isArray(value)
    ? value.filter((one): one is Record<string, unknown> => typeof one === 'object' && one !== null)
    : [];
}

const textOf = (value: unknown): string => (typeof value === 'string' ? value : '');

const numberOf = (value: unknown): number =>
  typeof value === 'number' && Number.isFinite(value) ? Math.max(0, value) : 0;
