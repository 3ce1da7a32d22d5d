/** What /proc says of processes and threads (proc(5)). A process may end between two looks: then there is nothing to read. */
import { readdirSync, readFileSync } from 'node:fs';

/** The text of a file of /proc, in latin1; empty where there is none. */
export function readProc(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}

/** Thread ids of a process; none where it has ended. */
export function threadsOf(pid: number | string): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch {
    return [];
  }
}

/**
 * The fields of /proc/PID/stat from field 3 on: field n of proc(5) is at n - 3. The name before them may hold anything, also
 * spaces and brackets.
 */
export const statFields = (stat: string): string[] => stat.slice(stat.lastIndexOf(')') + 2).split(' ');
