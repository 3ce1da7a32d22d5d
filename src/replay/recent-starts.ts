/** The last starts of a log, with their times. Found from its end, so that the length of the log costs nothing. */
import { defined } from '../../schemas/defined.ts';
import type { StartSummary } from './documents.ts';
import type { ReplayLog } from './replay-log.ts';
import { expectationOf, isAccounted, type KnownStart, knownStart } from './start-expectation.ts';
import { type MountStory, storyAt } from './start-phases.ts';
import { explainStart } from './why-start.ts';

/** Starts that are shown. */
const MOST_STARTS = 10;
/** Events that are looked through for them. */
const MOST_EVENTS = 200_000;
/** A start may still have reads that wait for so long after it was mounted, ms: it is explained anew. */
const SETTLED_MS = 90_000;

interface Found {
  count: number;
  starts: StartSummary[];
  /** By mount: starts that do not change any more, and those that others are compared with. */
  done: Map<string, StartSummary>;
  known: Map<string, KnownStart>;
}

/** Of each log. */
const found = new WeakMap<ReplayLog, Found>();

/** The newest first. */
export function recentStarts(log: ReplayLog, most = MOST_STARTS): StartSummary[] {
  const before = found.get(log);
  if (before?.count === log.count) return before.starts.slice(0, most);
  const { done, known } = before ?? { done: new Map(), known: new Map() };
  const stories = storiesFromEnd(log, MOST_STARTS);
  const starts = stories.map((story) => {
    const ready = done.get(story.id);
    if (ready !== undefined) return ready;
    const summary = summaryOf(log, story);
    if (summary.state === 'failed' || log.timeOf(log.count) - (story.mountedAt ?? Infinity) > SETTLED_MS)
      done.set(story.id, summary);
    if (summary.startMs !== undefined && !known.has(story.id) && isAccounted(log, story)) {
      const one = knownStart(log, story, summary.startMs);
      if (one !== undefined) known.set(story.id, one);
    }
    return summary;
  });
  for (const map of [done, known])
    for (const id of map.keys()) if (!starts.some(({ mount }) => mount === id)) map.delete(id);
  const beside = starts.map((start) => {
    const one = known.get(start.mount);
    return one === undefined ? start : defined({ ...start, expected: expectationOf(one, known.values()) });
  });
  found.set(log, { count: log.count, starts: beside, done, known });
  return beside.slice(0, most);
}

/** The last mounts that were requested, and what became of them. */
function storiesFromEnd(log: ReplayLog, most: number): MountStory[] {
  const { timeline } = log;
  const stories: MountStory[] = [];
  const first = Math.max(0, log.count - MOST_EVENTS);
  for (let index = log.count - 1; index >= first && stories.length < most; index--)
    if (timeline.typeAt(index) === 'mount.requested') stories.push(storyAt(log, index));
  return stories;
}

function summaryOf(log: ReplayLog, story: MountStory): StartSummary {
  const base = {
    mount: story.id,
    ref: story.ref,
    dir: story.dir,
    time: new Date(story.requestedAt).toISOString(),
    seq: log.timeline.seqAt(story.index),
  };
  if (story.failed !== undefined) return { ...base, state: 'failed', parts: [], failure: story.failed };
  if (story.mountedAt === undefined) return { ...base, state: 'starting', parts: [] };
  const why = explainStart(log, story, { top: 1 });
  const mounted = why.phases.filter(({ phase }) => phase !== 'reads').reduce((sum, { us }) => sum + us, 0);
  return defined({
    ...base,
    time: why.wall.time,
    state: 'ready' as const,
    mountMs: mounted / 1000,
    startMs: why.wall.us / 1000,
    parts: why.wall.parts.map(({ part, us }) => ({ part, us })),
    reads: { count: why.reads.count, blockedUs: why.reads.blockedUs, failed: why.reads.failed },
    bytes: why.bytes,
  });
}
