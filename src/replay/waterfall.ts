/**
 * A start on a time line: phases, fetches with their steps, reads that waited, files, processes, and the critical path through them.
 * The same model for the terminal and for the page. Long lists keep the longest.
 */
import { defined } from '../../schemas/defined.ts';
import type { Waterfall } from '../../schemas/replay.ts';
import type { ReplayLog } from './replay-log.ts';
import { stretchesOf } from './start-parts.ts';
import { type MountStory, pathsOfRead } from './start-phases.ts';
import { PART_TEXT, programText, wallOf } from './start-wall.ts';
import type { TracedJob } from './trace.ts';
import { jobsOf, partsOf } from './why-read.ts';
import { startOf } from './why-start.ts';

export interface WaterfallOptions {
  /** Entries of each list. */
  most?: number;
}

/** Paths that a read names. */
const MOST_PATHS = 8;

/** `mount` was ready at `mountedAt`, ms since the epoch. */
export function waterfallOf(
  log: ReplayLog,
  mount: MountStory,
  mountedAt: number,
  { most = 2_000 }: WaterfallOptions = {},
): Waterfall {
  const { reads, jobs, story } = startOf(log, mount, mountedAt);
  const wall = wallOf(log, story);
  const us = (at: number) => Math.max(0, Math.round((at - story.from) * 1000));
  const critical = new Set(story.segments.flatMap(({ read }) => read ?? []));
  const byNumber = new Map<string, TracedJob[]>();
  for (const job of jobs) {
    const key = `${job.layer} ${job.job}`;
    byNumber.set(key, [...(byNumber.get(key) ?? []), job]);
  }
  const waited = new Map<TracedJob, number>();
  const files = new Map<string, Waterfall['files'][number]>();
  for (const read of reads.list) {
    const named = read.jobs.flatMap((job) => byNumber.get(`${read.layer} ${job}`) ?? []);
    for (const job of jobsOf(read, named)) waited.set(job, (waited.get(job) ?? 0) + 1);
    const [startUs, endUs] = [us(read.at), us(read.at) + read.us];
    for (const path of pathsOfRead(log, read)) {
      const file = files.get(path) ?? { path, reads: 0, waitedUs: 0, startUs, us: 0 };
      file.reads += 1;
      file.waitedUs += read.us;
      file.us = Math.max(file.us, endUs - file.startUs);
      files.set(path, file);
    }
  }
  const kept = {
    jobs: longest(jobs, most, ({ totalUs }) => totalUs),
    reads: longest(reads.list, most, (read) => (critical.has(read.id) ? 1e12 : 0) + read.us),
    files: longest([...files.values()], most, ({ waitedUs }) => waitedUs),
  };
  return {
    kind: 'waterfall',
    mount: mount.id,
    ref: mount.ref,
    time: new Date(story.from).toISOString(),
    us: us(story.to),
    path: story.segments.map(({ part, startUs, us: length, read }) =>
      defined({ part, startUs, us: length, read }),
    ),
    phases: stretchesOf(log, mount, mountedAt, story.to).map(({ part, from, to }) =>
      defined({
        part,
        startUs: us(from),
        us: us(to) - us(from),
        command: part === 'program' ? mount.ran?.command : undefined,
        what: part === 'program' ? programText(mount.ran) : PART_TEXT[part],
      }),
    ),
    jobs: kept.jobs
      .sort((a, b) => a.queuedAt - b.queuedAt)
      .map((job) => {
        const startUs = Math.round((job.queuedAt - story.from) * 1000);
        return defined({
          job: job.job,
          layer: job.layer,
          class: job.class,
          fetcher: job.fetcher,
          startUs,
          us: job.totalUs,
          bytes: job.bytes,
          waited: waited.get(job) ?? 0,
          error: job.error,
          steps: partsOf(job),
        });
      }),
    reads: kept.reads
      .sort((a, b) => a.at - b.at)
      .map((read) => ({
        id: read.id,
        layer: read.layer,
        block: read.block,
        blocks: read.blocks,
        startUs: us(read.at),
        us: read.us,
        errno: read.errno,
        isCritical: critical.has(read.id),
        paths: [...pathsOfRead(log, read)].slice(0, MOST_PATHS),
      })),
    files: kept.files.sort((a, b) => a.startUs - b.startUs),
    programs: wall.programs?.seen ?? [],
    processes: wall.processes,
    left: {
      programs: wall.programs?.more ?? 0,
      jobs: jobs.length - kept.jobs.length,
      reads: reads.list.length - kept.reads.length,
      files: files.size - kept.files.length,
    },
  };
}

function longest<T>(list: readonly T[], most: number, lengthOf: (one: T) => number): T[] {
  return list.length <= most ? [...list] : [...list].sort((a, b) => lengthOf(b) - lengthOf(a)).slice(0, most);
}
