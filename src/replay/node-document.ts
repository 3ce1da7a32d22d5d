/** How a node is, for people: as its engine says it, or as a log tells it at its end. */
import { defined } from '../../schemas/defined.ts';
import type { Status } from '../../schemas/api.ts';
import type { ReplayState } from '../../schemas/replay.ts';
import type { Health, NodeDocument, NodeImage, NodeProcess, StartSummary } from './documents.ts';
import { recentStarts } from './recent-starts.ts';
import type { ReplayLog } from './replay-log.ts';
import { describeState } from './state-document.ts';

export type { NodeDocument } from './documents.ts';

/** As the engine says it. `time`: of the answer, ISO 8601. */
export function nodeOfStatus(status: Status, log: ReplayLog, time: string): NodeDocument {
  const starts = recentStarts(log);
  return defined({
    node: status.node,
    version: status.version,
    root: status.root,
    time,
    isLive: true,
    health: healthOf(status, starts),
    startedAt: status.startedAt,
    processes: status.processes,
    mounts: status.mounts.map(({ id, dir, ref, state, trust, container }) =>
      defined({ id, dir, ref, state, trust, container }),
    ),
    images: status.images.map(({ layers, ...image }) => ({ ...image, layers: layers.length })),
    cache: status.cache,
    log: defined({
      events: status.log?.events ?? log.count,
      bytes: status.log?.bytes,
      limit: status.log?.limit,
    }),
    starts,
  });
}

/** As the log tells it at its end. `why`: why the engine does not say it; absent: the log is a file. */
export function nodeOfLog(log: ReplayLog, why?: string): NodeDocument {
  const state = describeState(log, log.count);
  const starts = recentStarts(log);
  const mounts = state.mounts.filter(({ state: now }) => now !== 'unmounted');
  return {
    node: state.node,
    time: state.time,
    isLive: false,
    health: healthOfLog(state, why),
    processes: state.processes.map(processOf),
    mounts: mounts.map(({ id, dir, ref, state: now, container }) =>
      defined({ id, dir, ref, state: now, container }),
    ),
    images: imagesOf(state),
    log: { events: log.count },
    starts,
  };
}

/** In words: what works, and what is under way. */
function healthOf(status: Status, starts: readonly StartSummary[]): Health {
  const { degraded, processes, images, mounts } = status;
  const down = processes.filter(({ state }) => state !== 'running');
  const arriving = images.filter(({ blocks }) => blocks.fetching > 0);
  const starting = starts.filter(({ state }) => state === 'starting');
  const failed = [
    ...degraded,
    ...down.map(({ name, state, lastEnd }) => `${name} is ${state}${lastEnd ? `: ${lastEnd.reason}` : ''}`),
  ];
  const mounted = mounts.filter(({ state }) => state === 'mounted').length;
  const facts = [
    mounted === 0
      ? 'nothing is mounted'
      : `${counted(mounted, 'mount')} ${mounted === 1 ? 'is' : 'are'} served`,
    ...(starting.length > 0 ? [`${counted(starting.length, 'image')} being mounted`] : []),
    ...(arriving.length > 0
      ? [`${counted(arriving.length, 'image')} ${arriving.length === 1 ? 'is' : 'are'} arriving`]
      : []),
  ].join(', ');
  if (!status.ready)
    return {
      level: 'bad',
      headline: 'No front end serves: reads of what has not arrived wait.',
      degraded: failed,
    };
  if (failed.length > 0) return { level: 'bad', headline: `Something is wrong; ${facts}.`, degraded: failed };
  return { level: arriving.length > 0 ? 'busy' : 'good', headline: `All is well: ${facts}.`, degraded: [] };
}

function healthOfLog(state: ReplayState, why: string | undefined): Health {
  const failed = state.images.flatMap(({ ref, failure }) =>
    failure === undefined ? [] : [`${ref}: ${failure.message}`],
  );
  const crash = state.crashed ? ['the engine before ended without saying so'] : [];
  if (why !== undefined) return { level: 'bad', headline: why, degraded: [...crash, ...failed] };
  return {
    level: failed.length + crash.length > 0 ? 'bad' : 'good',
    headline: state.running ? 'The log ends while the engine runs.' : 'The log ends with the engine stopped.',
    degraded: [...crash, ...failed],
  };
}

function processOf({ name, role, pid, starts }: ReplayState['processes'][number]): NodeProcess {
  return {
    name,
    role: role as NodeProcess['role'],
    pid: pid ?? 0,
    state: pid === null ? 'ended' : 'running',
    restarts: Math.max(0, starts - 1),
  };
}

function imagesOf(state: ReplayState): NodeImage[] {
  const layers = new Map<string, ReplayState['layers']>();
  for (const layer of state.layers)
    for (const ref of layer.images) layers.set(ref, [...(layers.get(ref) ?? []), layer]);
  return state.images.map(({ ref, manifest, state: now, origin, trust }): NodeImage => {
    const own = layers.get(ref) ?? [];
    const sum = (of: (layer: ReplayState['layers'][number]) => number) =>
      own.reduce((total, layer) => total + of(layer), 0);
    const present = sum(({ presentCount }) => presentCount);
    return defined({
      ref,
      manifest,
      state: now,
      origin,
      trust,
      layers: own.length,
      blocks: { absent: sum(({ blockCount }) => blockCount) - present, fetching: 0, present },
      bytes: {
        total: sum(({ size }) => size),
        present: sum(({ presentCount, blockSize, size }) => Math.min(size, presentCount * blockSize)),
        fetched: 0,
      },
    });
  });
}

const counted = (count: number, what: string): string => `${count} ${what}${count === 1 ? '' : 's'}`;
