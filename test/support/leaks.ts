/**
 * Finds what tests leave behind: mounts, loop devices, processes and temporary folders. global-setup.ts gives a run a
 * temporary folder of its own and looks once at the end; after-file.ts looks after each test file, so that the culprit
 * has a name.
 *
 * A run must not be blamed for its neighbours, so marks tell who owns what. Everything temporary lies below the run's
 * TMPDIR, every process inherits the variable COFA_TEST_RUN, and a container's root file system is mounted from there.
 * Files run side by side, and each has marks of its own within those of the run. Where the machine is ours alone (CI is
 * set), any new mount or loop device counts at the end of the run.
 */
import { execFile } from 'node:child_process';
import {
  existsSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { endProcesses } from './services.ts';
import { listMounts, type MountPoint } from './temp.ts';

/** The marks of a run. */
export interface RunMarks {
  /** Value of COFA_TEST_RUN: RUN, or RUN.FILE for what belongs to one file of a run. */
  id: string;
  /** The TMPDIR of the run or of the file; those of files lie in their run's. */
  directory: string;
  /** Count every new mount and loop device, wherever it lies. */
  alone: boolean;
}

/** The mounts, loops, processes and files of one moment. */
export interface Snapshot {
  mounts: Map<number, MountPoint>;
  /** Loop number to backing file. */
  loops: Map<number, string>;
  /** Process id and start time (ids are used again) to command line; only processes with the run's mark. */
  processes: Map<string, { pid: number; commandLine: string }>;
  /** Names in the run's temporary folder. */
  entries: Set<string>;
}

export interface Leftovers {
  mounts: MountPoint[];
  loops: Array<{ number: number; backing: string }>;
  processes: Array<{ pid: number; commandLine: string }>;
  entries: string[];
}

export function takeSnapshot(marks: RunMarks): Snapshot {
  return {
    mounts: new Map(listMounts().map((mount) => [mount.id, mount])),
    loops: listLoops(),
    processes: markedProcesses(marks),
    entries: new Set(
      existsSync(marks.directory) ? readdirSync(marks.directory).filter((name) => name !== OWNER_FILE) : [],
    ),
  };
}

/** The run's own things that exist now and did not exist in `before`. */
export function findLeftovers(marks: RunMarks, before: Snapshot): Leftovers {
  const ours = (path: string) => marks.alone || isBelow(marks.directory, path);
  // A reader that waits for a dead FUSE server can hold locks that make /proc hang for every process that looks at
  // it. So such connections are aborted before processes are listed.
  for (const mount of listMounts())
    if (!before.mounts.has(mount.id) && ours(mount.point)) abortFuse(mount, 'waiting');
  const now = takeSnapshot(marks);
  return {
    mounts: [...now.mounts.values()].filter(
      // The kernel's own view of FUSE connections: the first process that aborts one mounts it, for the whole machine.
      (mount) => !before.mounts.has(mount.id) && mount.type !== 'fusectl' && ours(mount.point),
    ),
    loops: [...now.loops]
      .filter(([number, backing]) => before.loops.get(number) !== backing && ours(backing))
      .map(([number, backing]) => ({ number, backing })),
    processes: [...now.processes].filter(([key]) => !before.processes.has(key)).map(([, value]) => value),
    entries: [...now.entries].filter((name) => !before.entries.has(name)),
  };
}

/** As `findLeftovers`, but gives things that are about to end up to `graceMs` to do so. */
export async function awaitLeftovers(marks: RunMarks, before: Snapshot, graceMs = 3000): Promise<Leftovers> {
  for (let waited = 0; ; waited += 50) {
    const left = findLeftovers(marks, before);
    if (isClean(left) || waited >= graceMs) return left;
    await sleep(50);
  }
}

/** In the run's folder: the process that made it, so that the next run recognizes a folder whose owner has died. */
const OWNER_FILE = '.owner';

/** Notes this process as the owner of the run's folder. */
export function claim(marks: RunMarks): void {
  const owner: Owner = { id: marks.id, pid: process.pid, start: startTime(process.pid) };
  writeFileSync(join(marks.directory, OWNER_FILE), JSON.stringify(owner));
}

/** Removes the run's folder, which has to be empty up to the note of its owner. */
export function release(marks: RunMarks): void {
  rmSync(join(marks.directory, OWNER_FILE), { force: true });
  try {
    rmdirSync(marks.directory);
  } catch (error) {
    // Of a killed run: another run that begins now sweeps it, too.
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}

/** Cleans up after killed runs: folders `cofa-t-…` in `tmp` whose owner has died. */
export async function sweepDeadRuns(tmp: string): Promise<string[]> {
  const swept: string[] = [];
  for (const name of readdirSync(tmp)) {
    const directory = join(tmp, name);
    const note = name.startsWith('cofa-t-') ? readOrEmpty(join(directory, OWNER_FILE)) : '';
    if (note === '') continue;
    const owner = JSON.parse(note) as Owner;
    if (startTime(owner.pid) === owner.start) continue;
    const marks: RunMarks = { id: owner.id, directory, alone: false };
    const nothing: Snapshot = {
      mounts: new Map(),
      loops: new Map(),
      processes: new Map(),
      entries: new Set(),
    };
    await removeLeftovers(marks, findLeftovers(marks, nothing));
    if (isClean(await awaitLeftovers(marks, nothing))) {
      try {
        release(marks);
      } catch (error) {
        // Another run that begins at the same time has swept it.
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      }
    }
    swept.push(directory);
  }
  return swept;
}

interface Owner {
  id: string;
  pid: number;
  /** Start time of that process in clock ticks: ids are used again. */
  start: string;
}

export function isClean(left: Leftovers): boolean {
  return left.mounts.length + left.loops.length + left.processes.length + left.entries.length === 0;
}

export function describeLeftovers(left: Leftovers): string {
  return [
    ...left.processes.map(({ pid, commandLine }) => `process ${pid}: ${commandLine.slice(0, 200)}`),
    ...left.mounts.map(({ point, type }) => `mount ${point} (${type})`),
    ...left.loops.map(({ number, backing }) => `/dev/loop${number} on ${backing}`),
    ...left.entries.map((name) => `in the temporary folder: ${name}`),
  ].join('\n');
}

/** Removes leftovers, so that one careless test does not fail the next; best effort, never hangs. */
export async function removeLeftovers(marks: RunMarks, left: Leftovers): Promise<void> {
  const pids = new Set(left.processes.map(({ pid }) => pid));
  // A FUSE mount whose server has died or hangs answers no one: its connection is aborted before anything touches it.
  for (const mount of left.mounts) abortFuse(mount, 'always');
  await endProcesses((pid) => pids.has(pid));
  for (const mount of left.mounts.toReversed()) await quietly('umount', ['-l', '--', mount.point]);
  for (const { number } of left.loops) await quietly('losetup', ['-d', `/dev/loop${number}`]);
  if (listMounts().some(({ point }) => isBelow(marks.directory, point))) return;
  for (const name of left.entries)
    await quietly('rm', ['-rf', '--one-file-system', '--', join(marks.directory, name)]);
}

function abortFuse(mount: MountPoint, when: 'always' | 'waiting'): void {
  if (!mount.type.startsWith('fuse')) return;
  const connection = `/sys/fs/fuse/connections/${mount.device.split(':')[1]}`;
  if (!existsSync(connection)) return;
  if (when === 'always' || Number(readOrEmpty(`${connection}/waiting`)) > 0)
    writeFileSync(`${connection}/abort`, '1');
}

function isBelow(directory: string, path: string): boolean {
  return path === directory || path.startsWith(`${directory}/`);
}

/** Loop devices in use and the files behind them, as the kernel names them. */
function listLoops(): Map<number, string> {
  const loops = new Map<number, string>();
  for (const name of readdirSync('/sys/block')) {
    if (!name.startsWith('loop')) continue;
    const backing = readOrEmpty(`/sys/block/${name}/loop/backing_file`).trim();
    if (backing !== '') loops.set(Number(name.slice(4)), backing);
  }
  return loops;
}

function markedProcesses(marks: RunMarks): Snapshot['processes'] {
  const found: Snapshot['processes'] = new Map();
  const mark = `COFA_TEST_RUN=${marks.id}`;
  const kin = ancestors();
  const ownNamespace = readlinkSync('/proc/self/ns/mnt');
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name) || kin.has(Number(name))) continue;
    const commandLine = readOrEmpty(`/proc/${name}/cmdline`).replaceAll('\0', ' ').trim();
    // Kernel threads and zombies have none; vitest's own processes come and go by themselves.
    if (commandLine === '' || /^(node \()?vitest|\/vitest\//.test(commandLine)) continue;
    const marked = readOrEmpty(`/proc/${name}/environ`)
      .split('\0')
      .some((variable) => variable === mark || variable.startsWith(`${mark}.`));
    if (!marked && !rootedIn(marks.directory, name, ownNamespace)) continue;
    found.set(`${name}:${startTime(Number(name))}`, { pid: Number(name), commandLine });
  }
  return found;
}

/** Field 22 of proc(5)'s stat; empty when there is no such process. */
function startTime(pid: number): string {
  return readOrEmpty(`/proc/${pid}/stat`).split(') ')[1]?.split(' ')[19] ?? '';
}

/**
 * Whether a process lives in a mount namespace whose root is made of folders below `directory`: a container of ours.
 */
function rootedIn(directory: string, pid: string, ownNamespace: string): boolean {
  try {
    if (readlinkSync(`/proc/${pid}/ns/mnt`) === ownNamespace) return false;
  } catch {
    return false;
  }
  return readOrEmpty(`/proc/${pid}/mountinfo`)
    .split('\n')
    .some((line) => line.split(' ')[4] === '/' && line.includes(directory));
}

/** This process and those that started it. */
function ancestors(): Set<number> {
  const kin = new Set<number>();
  for (let pid = process.pid; pid > 0 && !kin.has(pid); ) {
    kin.add(pid);
    pid = Number(readOrEmpty(`/proc/${pid}/stat`).split(') ')[1]?.split(' ')[1] ?? 0);
  }
  return kin;
}

function readOrEmpty(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

async function quietly(command: string, args: string[]): Promise<void> {
  await promisify(execFile)(command, args, { timeout: 20_000, killSignal: 'SIGKILL' }).catch(() => {});
}
