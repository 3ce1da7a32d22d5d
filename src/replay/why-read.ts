/**
 * Why a read took as long as it did: the chain of fetches that it waited for. A fetch is laid out one step after the
 * other (queue, first byte, transfer, verify, write, then the rest: messages and scheduling), although transfer,
 * verification and writing of a long one take turns. The read waited for the parts that fall into its own time. A read
 * may be answered before its fetch ends, and a fetch may have begun before the read arrived.
 */
import { defined } from '../../schemas/defined.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { WhyJob, WhyRead, WhyStep } from '../../schemas/replay.ts';
import { fetchSteps } from '../../actors/fetch-steps.ts';
import type { ReplayLog } from './replay-log.ts';
import { type TracedJob, type TracedRead, traceOf } from './trace.ts';

/** A fetch may end, and be written to the log, as long as this after a read that waited for it, ms. */
const LATE_MS = 120_000;

/** Error: `not-found` where no read has this id (`SEQUENCE.N`), `invalid-argument` where it is none. */
export function findRead(log: ReplayLog, id: string): TracedRead {
  const match = /^(\d{1,15})\.(\d{1,6})$/.exec(id);
  if (match === null) {
    throw new CofaError('invalid-argument', `${JSON.stringify(id)} is no read`, {
      hint: 'a read is named SEQUENCE.N, or slowest; cofa replay why --start lists them',
    });
  }
  const position = log.timeline.positionOfSeq(Number(match[1]));
  const event =
    position > 0 && log.timeline.seqAt(position - 1) === Number(match[1])
      ? log.timeline.eventAt(position - 1)
      : undefined;
  const read = event === undefined ? undefined : traceOf(event).reads.find((one) => one.id === id);
  if (read === undefined)
    throw new CofaError('not-found', `the log has no read ${id}`, {
      hint: 'cofa replay why --start lists those of the last start',
    });
  return read;
}

/** The read that waited longest; error `not-found` where there is none. */
export function slowestRead(log: ReplayLog): TracedRead {
  let slowest: TracedRead | undefined;
  for (const read of allReads(log)) if (slowest === undefined || read.us > slowest.us) slowest = read;
  if (slowest === undefined)
    throw new CofaError('not-found', 'the log tells of no read that waited', {
      hint: 'its reads found their blocks present; another stretch: --from and --to, or another FILE',
    });
  return slowest;
}

export function* allReads(log: ReplayLog): IterableIterator<TracedRead> {
  for (const index of log.traces.all()) yield* traceOf(log.timeline.eventAt(index)).reads;
}

export function explainRead(log: ReplayLog, read: TracedRead): WhyRead {
  return explain(read, jobsNear(log, read.at, read.at + read.us / 1000), log);
}

/** The chain of one read, `jobs` being the fetches around its time. */
export function explain(read: TracedRead, jobs: readonly TracedJob[], log?: ReplayLog): WhyRead {
  const mine = jobsOf(read, jobs).sort((a, b) => endOf(b) - endOf(a));
  const paths = new Set<string>();
  for (let block = read.block; block < read.block + Math.min(read.blocks, 256); block++)
    for (const path of log?.pathsOf(read.layer, block) ?? []) paths.add(path);
  return {
    kind: 'read',
    id: read.id,
    layer: read.layer,
    time: new Date(read.at).toISOString(),
    block: read.block,
    blocks: read.blocks,
    errno: read.errno,
    us: read.us,
    paths: [...paths],
    jobs: mine.map((job) => describeJob(job, read)),
    steps: stepsOf(read, mine),
    missing: Math.max(0, read.jobs.length - mine.length),
  };
}

/** Fetches whose trace was written at or after `from` and that had begun by `to`, ms. */
export function jobsNear(log: ReplayLog, from: number, to: number): TracedJob[] {
  const { timeline } = log;
  const jobs: TracedJob[] = [];
  for (const index of log.traces.all(timeline.firstAt(from - 1000))) {
    const at = timeline.timeAt(index);
    if (at < from - 1000 || at > to + LATE_MS) continue;
    for (const job of traceOf(timeline.eventAt(index)).jobs)
      if (job.queuedAt <= to + 1 && endOf(job) >= from - 1) jobs.push(job);
  }
  return jobs;
}

/** Its own among them: numbers of jobs begin again with each front end, so time decides too. */
export function jobsOf(read: TracedRead, jobs: readonly TracedJob[]): TracedJob[] {
  const [from, to] = [read.at, read.at + read.us / 1000];
  const best = new Map<number, TracedJob>();
  for (const job of jobs) {
    if (job.layer !== read.layer || !read.jobs.includes(job.job)) continue;
    // A millisecond: `queuedAt` is rounded to one.
    if (job.queuedAt > to + 1 || endOf(job) < from - 1) continue;
    const other = best.get(job.job);
    if (other === undefined || Math.abs(job.queuedAt - from) < Math.abs(other.queuedAt - from))
      best.set(job.job, job);
  }
  return [...best.values()];
}

const endOf = (job: TracedJob): number => job.queuedAt + job.totalUs / 1000;

function describeJob(job: TracedJob, read: TracedRead): WhyJob {
  const beganUs = (job.queuedAt - read.at) * 1000;
  return defined({
    job: job.job,
    class: job.class,
    span: job.span,
    spans: job.spans,
    runs: job.runs,
    worker: job.fetcher,
    bytes: job.bytes,
    beganUs: Math.round(beganUs),
    totalUs: job.totalUs,
    error: job.error,
    steps: partsOf(job),
  });
}

/** The steps of a fetch, from its own beginning on. */
export function partsOf(job: TracedJob): WhyStep[] {
  let startUs = 0;
  return fetchSteps(job).flatMap(([step, us]) => {
    const begin = startUs;
    startUs += us;
    return us > 0 ? [{ step, startUs: begin, us }] : [];
  });
}

/**
 * The read's time from arrival to answer, divided among its waits: each moment belongs to the fetch in flight that
 * ended last. The time before the first fetch is `wait`, the time after the last one `reply`.
 */
export function stepsOf(read: TracedRead, jobs: readonly TracedJob[]): WhyStep[] {
  const steps: WhyStep[] = [];
  // From the end of the read backwards.
  let open = read.us;
  let isLast = true;
  for (const job of [...jobs].sort((a, b) => endOf(b) - endOf(a))) {
    const began = (job.queuedAt - read.at) * 1000;
    const ended = Math.min(began + job.totalUs, open);
    if (began >= open || ended <= 0) continue;
    if (ended < open) steps.unshift({ step: isLast ? 'reply' : 'wait', startUs: ended, us: open - ended });
    isLast = false;
    const parts = partsOf(job).flatMap(({ step, startUs, us }): WhyStep[] => {
      const from = Math.max(0, began + startUs);
      const to = Math.min(ended, began + startUs + us);
      return to > from ? [{ step, startUs: from, us: to - from }] : [];
    });
    steps.unshift(...parts);
    open = Math.max(0, began);
    // Steps that the job does not name (it lasted longer than they add up to) stay with it.
    if (open <= 0) break;
  }
  if (open > 0) steps.unshift({ step: 'wait', startUs: 0, us: open });
  return joinSteps(steps, read.us);
}

/** Whole microseconds, without gaps, that add up to `total`. */
function joinSteps(steps: readonly WhyStep[], total: number): WhyStep[] {
  const result: WhyStep[] = [];
  let at = 0;
  for (const [index, { step, startUs, us }] of steps.entries()) {
    const end = index + 1 === steps.length ? total : Math.round(startUs + us);
    if (end > at) result.push({ step, startUs: at, us: end - at });
    at = Math.max(at, end);
  }
  return result;
}
