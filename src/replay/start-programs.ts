/**
 * The programs of containers, as the supervisor's samples saw them (`engine.measured`). What ran between two samples alone is in
 * no sample, so nothing here says that no other program ran.
 */
import { defined } from '../../schemas/defined.ts';
import type { EventOf } from '../../schemas/events.ts';
import type { StartWall } from '../../schemas/replay.ts';

type Sample = EventOf<'engine.measured'>['samples'][number];
type Told = NonNullable<Sample['programs']>[number]['seen'][number];
export type StartPrograms = NonNullable<StartWall['programs']>;

/** Processes that are kept of a mount. The engine tells of no more; a log may come from elsewhere. */
const MOST = 256;

/** One process. Times in ms since the epoch. */
export interface SeenProgram {
  pid: number;
  /** What it called itself last. */
  name: string;
  since: number;
  /** What each sample saw, ascending. */
  seen: Array<Pick<Told, 'cpuUs' | 'childrenUs'> & { at: number }>;
}

/** What samples saw of one container. */
export interface SeenContainer {
  programs: SeenProgram[];
  /** Programs that were too many for a sample: of the sample that left out most. */
  more: number;
}

/** By mount. `samples`: ascending. */
export function seenIn(samples: Iterable<Sample>): Map<string, SeenContainer> {
  const containers = new Map<string, SeenContainer>();
  const byKey = new Map<string, SeenProgram>();
  for (const { at, programs = [] } of samples)
    for (const { mount, seen, more = 0 } of programs) {
      const container: SeenContainer = containers.get(mount) ?? { programs: [], more: 0 };
      containers.set(mount, container);
      let left = more;
      for (const { pid, name, since, cpuUs, childrenUs } of seen) {
        const key = `${mount} ${pid} ${since}`;
        let program = byKey.get(key);
        if (program === undefined && container.programs.length < MOST) {
          program = { pid, name, since: Math.min(since, at), seen: [] };
          byKey.set(key, program);
          container.programs.push(program);
        }
        if (program === undefined) {
          left += 1;
          continue;
        }
        program.name = name;
        program.seen.push({ at, cpuUs, childrenUs });
      }
      container.more = Math.max(container.more, left);
    }
  return containers;
}

/**
 * The programs of a start from `from` to `to` (ms since the epoch), in the order of their beginnings; undefined where no sample saw
 * any. `ranUs`: processor time of all that ran in the container; undefined: not known.
 */
export function programsBetween(
  container: SeenContainer | undefined,
  { from, to, ranUs }: { from: number; to: number; ranUs: number | undefined },
): StartPrograms | undefined {
  if (container === undefined) return undefined;
  const us = (at: number) => Math.max(0, Math.round((at - from) * 1000));
  const seen = container.programs
    .filter(({ since }) => since <= to)
    .sort((a, b) => a.since - b.since || a.pid - b.pid)
    .map((program) => ({
      pid: program.pid,
      name: program.name,
      startUs: us(program.since),
      seenUs: us(program.seen[0]?.at ?? program.since),
      lastUs: us(program.seen.at(-1)?.at ?? program.since),
      cpuUs: until(program, to, 'cpuUs'),
      childrenUs: until(program, to, 'childrenUs'),
    }));
  if (seen.length === 0 && container.more === 0) return undefined;
  const seenUs = seen.reduce((sum, { cpuUs }) => sum + cpuUs, 0);
  const unseenUs = ranUs === undefined ? undefined : Math.max(0, ranUs - seenUs);
  return defined({ seen, more: container.more, unseenUs });
}

/** How far a counter had come at a moment. Between two samples the work is taken as even, and behind the last one as none. */
function until({ since, seen }: SeenProgram, at: number, of: 'cpuUs' | 'childrenUs'): number {
  let before = { at: since, value: 0 };
  for (const sample of seen) {
    const value = Math.max(before.value, sample[of]);
    if (sample.at > at) {
      const share = (at - before.at) / Math.max(1, sample.at - before.at);
      return Math.round(before.value + (value - before.value) * Math.max(0, Math.min(1, share)));
    }
    before = { at: sample.at, value };
  }
  return before.value;
}
