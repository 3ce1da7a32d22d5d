/** The processes of a cgroup (cgroups(7), cgroup-v2.rst), and what each has worked (proc(5)). */
import { closeSync, openSync, readSync } from 'node:fs';
import type { ProgramReading, ProgramReadings } from '../../actors/start-programs.ts';
import { readProc, statFields } from './proc.ts';
import { TICK_US } from './usage.ts';

/** Version 2, then controllers of version 1 of which runc uses each, then version 2 beside them. */
const MOUNTS = ['', '/pids', '/devices', '/freezer', '/memory', '/systemd', '/unified'].map(
  (name) => `/sys/fs/cgroup${name}`,
);
/** Of a list of processes, bytes: some five hundred of them. The kernel makes more of it only where more is read. */
const LIST_BYTES = 4_096;

/**
 * The processes of a cgroup, `most` of them at most, without those of cgroups below it; undefined where there is no such
 * cgroup. One that ends meanwhile is left out.
 */
export function programsOf(cgroup: string, most: number): ProgramReadings | undefined {
  const pids = processesOf(cgroup);
  if (pids === undefined) return undefined;
  const list = pids.slice(0, most).flatMap((pid) => programAt(pid) ?? []);
  const uptimeMs = Number(readProc('/proc/uptime').split(' ')[0]) * 1000;
  return { uptimeMs: Number.isFinite(uptimeMs) ? uptimeMs : 0, list, more: Math.max(0, pids.length - most) };
}

function processesOf(cgroup: string): number[] | undefined {
  for (const mount of MOUNTS) {
    const text = beginningOf(`${mount}${cgroup}/cgroup.procs`);
    if (text === undefined) continue;
    // A line that was cut off is another number. 0: a process that this one cannot see.
    const lines = text.slice(0, text.lastIndexOf('\n') + 1).split('\n');
    return [...new Set(lines.map(Number))].filter((pid) => Number.isInteger(pid) && pid > 0);
  }
  return undefined;
}

function beginningOf(path: string): string | undefined {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch {
    return undefined;
  }
  try {
    const buffer = Buffer.allocUnsafe(LIST_BYTES);
    return buffer.toString('latin1', 0, readSync(fd, buffer, 0, LIST_BYTES, 0));
  } catch {
    // It is being removed, or its processes are not to be had (EOPNOTSUPP: it is one of threads).
    return '';
  } finally {
    closeSync(fd);
  }
}

function programAt(pid: number): ProgramReading | undefined {
  const stat = readProc(`/proc/${pid}/stat`);
  if (stat === '') return undefined;
  return programIn(pid, stat);
}

/** What the text of /proc/PID/stat, in latin1, says. The name in it may hold anything, also brackets and newlines. */
export function programIn(pid: number, stat: string): ProgramReading {
  const fields = statFields(stat);
  const ticks = (field: number) => {
    const value = Number(fields[field - 3]);
    return Number.isFinite(value) && value > 0 ? Math.round(value) : 0;
  };
  const name = Buffer.from(stat.slice(stat.indexOf('(') + 1, stat.lastIndexOf(')')), 'latin1');
  return {
    pid,
    name: name.toString('utf8'),
    beganMs: (ticks(22) * TICK_US) / 1000,
    cpuUs: (ticks(14) + ticks(15)) * TICK_US,
    childrenUs: (ticks(16) + ticks(17)) * TICK_US,
  };
}
