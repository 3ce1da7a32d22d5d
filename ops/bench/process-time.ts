/** Processor time of one process, finer than the clock ticks of /proc/PID/stat. */
import { readProc, statFields, threadsOf } from '../../src/kernel/proc.ts';

/** USER_HZ of every architecture that cofa runs on. */
const TICKS = 100;

/**
 * Of its threads that live, and of its children that have ended and were waited for, s. By schedstat(5), first field, and
 * by cutime and cstime of proc(5).
 */
export function processSeconds(pid: number): number {
  let ns = 0;
  for (const tid of threadsOf(pid))
    ns += Number(readProc(`/proc/${pid}/task/${tid}/schedstat`).split(' ')[0]);
  const fields = statFields(readProc(`/proc/${pid}/stat`));
  return ns / 1e9 + (Number(fields[13]) + Number(fields[14])) / TICKS;
}
