/** Processor time of an engine's processes, by what their threads do. */
import { readdirSync } from 'node:fs';
import { policyOf } from '../../src/kernel/priority.ts';
import { readProc, statFields, threadsOf } from '../../src/kernel/proc.ts';

/** Seconds of processor time, by process; of a Node process by kind of thread, such as `fetcher-0 V8Worker`. */
export type EngineTime = Map<string, number>;

/** USER_HZ of every architecture that cofa runs on. */
const TICKS = 100;

/** Processes whose command line names the root. Each thread as /proc/PID/task/TID/stat of proc(5) has it. */
export function engineTime(root: string): EngineTime {
  const times: EngineTime = new Map();
  for (const pid of readdirSync('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    const name = roleOf(readProc(`/proc/${pid}/cmdline`), root);
    if (name === undefined) continue;
    for (const tid of threadsOf(pid)) {
      const stat = readProc(`/proc/${pid}/task/${tid}/stat`);
      const [, thread = ''] = /\((.*)\)/.exec(stat) ?? [];
      // Behind the name: state is field 3, utime 14, stime 15.
      const fields = statFields(stat);
      const seconds = (Number(fields[11]) + Number(fields[12])) / TICKS;
      const kind = tid === pid ? 'main' : thread.replaceAll(/[-_ ]?\d+$/g, '');
      const key = `${name} ${kind}`;
      if (Number.isFinite(seconds)) times.set(key, (times.get(key) ?? 0) + seconds);
    }
  }
  return times;
}

/** The processor time of some work, by process, in seconds. */
export function timeBetween(from: EngineTime, to: EngineTime): EngineTime {
  return new Map([...to].map(([name, seconds]) => [name, seconds - (from.get(name) ?? 0)]));
}

/** Names that differ in their threads become one. */
export function byProcess(times: EngineTime): EngineTime {
  const all: EngineTime = new Map();
  for (const [name, seconds] of times) {
    const [process = ''] = name.split(' ');
    all.set(process, (all.get(process) ?? 0) + seconds);
  }
  return all;
}

/**
 * Processor time of an engine's processes by the priority that their threads have, as often as it is looked at: a change between
 * two looks is not seen.
 */
export class TimeByPriority {
  readonly #root: string;
  readonly #seconds: EngineTime = new Map();
  /** By thread, of the last look. */
  #last = new Map<string, number>();

  constructor(root: string) {
    this.#root = root;
    this.look();
    this.#seconds.clear();
  }

  /** By process and priority, such as `fetcher-0 idle`. */
  get seconds(): EngineTime {
    return this.#seconds;
  }

  look(): void {
    const last = new Map<string, number>();
    for (const pid of readdirSync('/proc')) {
      if (!/^\d+$/.test(pid)) continue;
      const name = roleOf(readProc(`/proc/${pid}/cmdline`), this.#root);
      if (name === undefined) continue;
      for (const tid of threadsOf(pid)) {
        // Time on a processor, ns (Documentation/scheduler/sched-stats.rst).
        const [ns = ''] = readProc(`/proc/${pid}/task/${tid}/schedstat`).split(' ');
        const seconds = Number(ns) / 1e9;
        const priority = policyOf(Number(pid), Number(tid));
        if (ns === '' || priority === undefined) continue;
        const key = `${name} ${priority}`;
        const gone = seconds - (this.#last.get(tid) ?? 0);
        this.#seconds.set(key, (this.#seconds.get(key) ?? 0) + gone);
        last.set(tid, seconds);
      }
    }
    this.#last = last;
  }
}

function roleOf(commandLine: string, root: string): string | undefined {
  const words = commandLine.split('\0');
  if (!words.some((word) => word === root || word.startsWith(`${root}/`))) return undefined;
  const program = words.find((word) => /\/src\/[a-z-]+\/[a-z-]+\.ts$/.test(word));
  if (program === undefined) return words[0]?.split('/').at(-1);
  const folder = /\/src\/([a-z-]+)\//.exec(program)?.[1] ?? '';
  if (folder === 'cli') return words.includes('--foreground') ? 'supervisor' : 'client';
  return words.find((word) => /^fetcher-\d+$/.test(word)) ?? folder;
}
