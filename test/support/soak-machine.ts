/** What the kernel says about an engine under test, which may be unable to answer itself. */
import { readdirSync, readFileSync } from 'node:fs';
import { listMounts } from './temp.ts';

/** `process.hrtime()` in ms: one clock for all processes of the machine. */
export const now = (): number => Number(process.hrtime.bigint()) / 1e6;

/** The processes of an engine by name: supervisor, front-end, front-end-2 (a standby), fetcher-0, nats-server … */
export function enginePids(supervisor: number): Map<string, number> {
  const found = new Map<string, number>([['supervisor', supervisor]]);
  for (const name of list('/proc')) {
    if (!/^\d+$/.test(name) || Number(statOf(name)[1]) !== supervisor) continue;
    const words = read(`/proc/${name}/cmdline`).split('\0');
    const program = words.find((word) => /\/(front-end|fetcher)\/main\.ts$|nats-server$/.test(word));
    if (program === undefined || words[0]?.endsWith('setpriv') === true) continue;
    const plain = program.endsWith('/front-end/main.ts')
      ? 'front-end'
      : program.endsWith('/fetcher/main.ts')
        ? (words.find((word) => /^fetcher-\d+$/.test(word)) ?? name)
        : 'nats-server';
    let free = plain;
    for (let count = 2; found.has(free); count++) free = `${plain}-${count}`;
    found.set(free, Number(name));
  }
  return found;
}

/** Open descriptors of each process. */
export function descriptors(pids: Map<string, number>): Map<string, number> {
  return new Map([...pids].map(([name, pid]) => [name, list(`/proc/${pid}/fd`).length]));
}

/** Resident bytes of a process; 0 when it has ended. */
export function residentBytes(pid: number): number {
  return Number(read(`/proc/${pid}/statm`).split(' ')[1] ?? 0) * 4096;
}

/** Loop devices on files below a folder. */
export function loopsBelow(folder: string): Array<{ name: string; backing: string }> {
  return list('/sys/block').flatMap((name) => {
    const backing = name.startsWith('loop') ? read(`/sys/block/${name}/loop/backing_file`).trim() : '';
    return backing.startsWith(folder) ? [{ name, backing }] : [];
  });
}

/** Sentences about mounts below the folders, and loops on files in them. */
export function leftInKernel(folders: string[]): string[] {
  const mounts = listMounts().filter(({ point }) => folders.some((folder) => point.startsWith(folder)));
  const loops = folders.flatMap(loopsBelow);
  return [
    ...mounts.map(({ point, type }) => `mount ${point} (${type})`),
    ...loops.map(({ name, backing }) => `${name} on ${backing.slice(0, 120)}`),
  ];
}

/** Fields of proc(5)'s stat from the state on: state, parent, … */
export const statOf = (pid: string): string[] => read(`/proc/${pid}/stat`).split(') ')[1]?.split(' ') ?? [];

export function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

export function list(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}
