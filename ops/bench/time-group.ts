/** Processor time of a benchmark and of all that it starts, also of what has ended: that of a group of the kernel. */
import { existsSync } from 'node:fs';
import { mkdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { eventually } from '../../test/support/engine.ts';

export interface TimeGroup {
  /** Since the group was made, s. */
  seconds(): Promise<number>;
  /** Puts this program back where it was and removes the group, which no other process may be in any more. */
  leave(): Promise<void>;
}

/**
 * Puts this program into a new group; what it starts from now on belongs to it. `root`: where the kernel's groups are. Needs
 * root. Errors: those of the file system.
 */
export async function joinTimeGroup(name: string, root = '/sys/fs/cgroup'): Promise<TimeGroup> {
  // cgroup 1 has a hierarchy for this account, cgroup 2 one for all (cgroup-v2.rst of the kernel, "cpu.stat").
  const isFirst = existsSync(join(root, 'cpuacct'));
  const top = isFirst ? join(root, 'cpuacct') : root;
  const before = join(top, ownGroup(await readFile('/proc/self/cgroup', 'utf8'), isFirst));
  const group = join(top, name);
  await mkdir(group);
  const leave = async () => {
    // A container may not see the group that it was in.
    await enter(existsSync(before) ? before : top);
    // Of a process that has just ended the kernel may still know.
    await eventually(`${group} is empty`, () => rmdir(group).then(() => true), 10_000);
  };
  try {
    await enter(group);
  } catch (error) {
    await rmdir(group);
    throw error;
  }
  return { seconds: () => groupSeconds(name, root), leave };
}

/** Processor time of a group that another program may have made, and of those below it, s. Errors: those of the file system. */
export async function groupSeconds(name: string, root = '/sys/fs/cgroup'): Promise<number> {
  if (existsSync(join(root, 'cpuacct')))
    return Number(await readFile(join(root, 'cpuacct', name, 'cpuacct.usage'), 'utf8')) / 1e9;
  const stat = await readFile(join(root, name, 'cpu.stat'), 'utf8');
  return Number(/^usage_usec (\d+)$/m.exec(stat)?.[1]) / 1e6;
}

/** Of a processor, what programs at rest take; engines ask their NATS and each other now and then. */
const CALM_SHARE = 0.4;
const CALM_LOOK_MS = 5_000;

/**
 * Resolves with true when all of a group has been at rest for some seconds: what processes do when they have just begun is over;
 * with false after `limitMs`. `seconds`: of the group. Error: the signal's reason.
 */
export async function untilCalm(
  seconds: TimeGroup['seconds'],
  { limitMs, signal }: { limitMs: number; signal: AbortSignal },
): Promise<boolean> {
  const end = performance.now() + limitMs;
  while (performance.now() < end) {
    const [before, began] = [await seconds(), performance.now()];
    await sleep(CALM_LOOK_MS, undefined, { signal });
    const share = ((await seconds()) - before) / ((performance.now() - began) / 1000);
    if (share < CALM_SHARE) return true;
  }
  return false;
}

const enter = (group: string): Promise<void> => writeFile(join(group, 'cgroup.procs'), String(process.pid));

/** Of the lines `NUMBER:CONTROLLERS:PATH`, cgroups(7); that of cgroup 2 has no controllers. */
function ownGroup(lines: string, isFirst: boolean): string {
  for (const line of lines.split('\n')) {
    const [, controllers = '', path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    const isIt = isFirst ? controllers.split(',').includes('cpuacct') : controllers === '';
    if (path !== undefined && isIt) return path;
  }
  return '/';
}
