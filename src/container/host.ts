/** Facts of this node that a container gets, read from /proc and /etc. */
import { readFileSync } from 'node:fs';
import { access, readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { statFields } from '../kernel/proc.ts';
import type { HostFacts } from './spec.ts';
import { terminalSize } from './terminal.ts';

/** Reads the facts; cheap, starts no process. Asks for the terminal's size only with `tty`. */
export async function hostFacts(tty = false): Promise<HostFacts> {
  const [status, limits, cgroup2] = await Promise.all([
    readFile('/proc/self/status', 'utf8'),
    readFile('/proc/self/limits', 'utf8'),
    access('/sys/fs/cgroup/cgroup.controllers').then(
      () => true,
      () => false,
    ),
  ]);
  const bounding = /^CapBnd:\s*([0-9a-f]+)$/m.exec(status)?.[1];
  const openFiles = /^Max open files\s+\S+\s+(\d+)/m.exec(limits)?.[1];
  return {
    hostname: hostname(),
    env: process.env,
    bounding: BigInt(`0x${bounding ?? '0'}`),
    maxOpenFiles: openFiles === undefined ? undefined : Number(openFiles),
    cgroup2,
    machine: process.arch,
    terminal: tty ? await terminalSize() : undefined,
  };
}

/** Names one process. A pid alone does not, since the kernel uses pids again: pid, start time, boot. */
export interface ProcessIdentity {
  pid: number;
  /** Clock ticks since the boot: field 22 of /proc/PID/stat, proc(5). */
  start: string;
  /** /proc/sys/kernel/random/boot_id */
  boot: string;
}

/** Undefined when there is no such process (a zombie counts as none). */
export function identify(pid: number): ProcessIdentity | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The name in parentheses may hold spaces and parentheses itself.
    const fields = statFields(stat);
    const [state, start] = [fields[0], fields[19]];
    if (start === undefined || state === 'Z' || state === 'X') return undefined;
    return { pid, start, boot: readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim() };
  } catch {
    return undefined;
  }
}

/** Whether exactly this process still runs. */
export function isAlive(identity: ProcessIdentity): boolean {
  const now = identify(identity.pid);
  return now !== undefined && now.start === identity.start && now.boot === identity.boot;
}
