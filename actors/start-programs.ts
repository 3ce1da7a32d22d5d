/**
 * Which programs of which containers are looked at while they start, and what of it the log is told. The supervisor reads what
 * a container's cgroup has at the moments of its sampler; time comes in with each call. All of it is bounded: a container may
 * have as many processes as it likes, and its programs call themselves as they like.
 */
import type { EventOf } from '../schemas/events.ts';
import { programName } from '../schemas/program-name.ts';

/** A process, as the kernel has it. */
export interface ProgramReading {
  pid: number;
  /** What it calls itself; any text. */
  name: string;
  /** When it began, ms since the machine started. */
  beganMs: number;
  /** User and system time of all its threads, µs. */
  cpuUs: number;
  /** The same of its children that have ended and were waited for, with theirs, µs. */
  childrenUs: number;
}

/** The processes of one container. */
export interface ProgramReadings {
  /** ms since the machine started. */
  uptimeMs: number;
  list: readonly ProgramReading[];
  /** At least so many that are not in the list. */
  more: number;
}

/** What a sample tells of a container. */
export type SeenPrograms = NonNullable<EventOf<'engine.measured'>['samples'][number]['programs']>[number];

/** A container to look at. */
export interface ProgramsDue {
  /** Id of the mount. */
  mount: string;
  cgroup: string;
  /** So many processes are read at most. */
  most: number;
}

/** So long after its mount a container starts, ms. */
const YOUNG_MS = 60_000;
/** Processes of one sample, of all containers. */
export const MOST_A_SAMPLE = 64;
/** Processes that the log names of one start. */
export const MOST_A_START = 256;

interface Followed {
  mount: string;
  cgroup: string;
  /** By the clock of the calls, ms. */
  since: number;
  /** When each process began, ms since the epoch; told alike each time, though the clocks are not exact. */
  began: Map<string, number>;
  /** A look has found its cgroup: where it is missing from then on, the container has ended. */
  wasThere: boolean;
}

export class StartPrograms {
  /** The oldest first. */
  #followed: Followed[] = [];

  /** A container's image is mounted. `now`: ms, monotonic. */
  began({ mount, cgroup }: Pick<ProgramsDue, 'mount' | 'cgroup'>, now: number): void {
    // It may have been that of another container with this name, which has ended.
    this.#followed = this.#followed.filter((one) => one.cgroup !== cgroup).slice(1 - MOST_A_SAMPLE);
    this.#followed.push({ mount, cgroup, since: now, began: new Map(), wasThere: false });
  }

  /** The containers that are to be looked at now; together they have no more processes than a sample may hold. */
  due(now: number): ProgramsDue[] {
    this.#followed = this.#followed.filter(({ since }) => now - since <= YOUNG_MS);
    const most = Math.floor(MOST_A_SAMPLE / Math.max(1, this.#followed.length));
    return this.#followed.map(({ mount, cgroup }) => ({ mount, cgroup, most }));
  }

  /** What was found; undefined: the container is not there. `wallMs`: ms since the epoch. The result: what the log is told, if anything. */
  take(mount: string, found: ProgramReadings | undefined, wallMs: number): SeenPrograms | undefined {
    const followed = this.#followed.find((one) => one.mount === mount);
    if (followed === undefined) return undefined;
    if (found === undefined) {
      // A cgroup that no look has found yet is one that runc is about to make.
      if (followed.wasThere) this.#followed = this.#followed.filter((one) => one !== followed);
      return undefined;
    }
    followed.wasThere = true;
    let { more } = found;
    const seen = new Map<string, SeenPrograms['seen'][number]>();
    for (const { pid, name, beganMs, cpuUs, childrenUs } of found.list) {
      const key = `${pid} ${beganMs}`;
      const since =
        followed.began.get(key) ?? Math.round(wallMs - Math.max(0, found.uptimeMs - Math.max(0, beganMs)));
      if (seen.size >= MOST_A_SAMPLE || (!followed.began.has(key) && followed.began.size >= MOST_A_START)) {
        more += 1;
        continue;
      }
      followed.began.set(key, since);
      seen.set(key, { pid, name: programName(name), since, cpuUs, childrenUs });
    }
    if (seen.size === 0 && more === 0) return undefined;
    return { mount, seen: [...seen.values()], ...(more > 0 && { more }) };
  }
}
