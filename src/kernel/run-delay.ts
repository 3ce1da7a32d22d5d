/** How long a process stood ready and had no processor (Documentation/scheduler/sched-stats.rst: /proc/PID/schedstat). */
import { readProc, threadsOf } from './proc.ts';

/**
 * Time since its start, ms, that the first thread of a process stood in the queue for a processor: of a Node process the one that
 * answers; with `all` the sum of all its threads. 0 where the process has ended or the kernel does not count (CONFIG_SCHED_INFO).
 */
export function queuedMs(pid: number, threads: 'first' | 'all' = 'first'): number {
  const files =
    threads === 'first'
      ? [`/proc/${pid}/schedstat`]
      : threadsOf(pid).map((thread) => `/proc/${pid}/task/${thread}/schedstat`);
  return files.reduce((sum, file) => sum + (Number(readProc(file).split(' ')[1]) || 0) / 1e6, 0);
}

/** Between two looks: the share of the time, 0 to 1, in which it had no processor. */
export class QueueWatch {
  readonly #queuedMs: (pid: number) => number;
  #pid = 0;
  #queued = 0;
  #at = 0;

  constructor(look: (pid: number) => number) {
    this.#queuedMs = look;
  }

  /** Since the look before; 0 at the first one at a process. `now`: ms, monotonic. */
  share(pid: number, now: number): number {
    const queued = this.#queuedMs(pid);
    const [grown, passed] = [queued - this.#queued, now - this.#at];
    const isFirst = pid !== this.#pid;
    this.#pid = pid;
    this.#queued = queued;
    this.#at = now;
    return isFirst || passed <= 0 ? 0 : Math.max(0, Math.min(1, grown / passed));
  }
}
