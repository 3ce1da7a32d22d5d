/**
 * A whole engine in a root of its own, started as a service manager would (`cofa up --foreground`). `stop` leaves
 * nothing behind, whatever state the engine is in: it aborts the FUSE connection where a process waits on it, then ends
 * processes, unmounts, and detaches loop devices.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { ImageStatus, Mount, Status } from '../../schemas/api.ts';
import type { ErrorRecord } from '../../schemas/errors.ts';
import { connectEngine, type EngineClient } from '../../src/client/client.ts';
import { runFolder } from '../../src/supervisor/podman/files.ts';
import { endProcesses } from './services.ts';
import { listMounts, mountsBelow, removeTree, tempDir } from './temp.ts';

export interface EngineOptions {
  transport?: 'kernel' | 'fuse-native';
  /** Fetcher processes; 2 by default. */
  workers?: number;
  /** Beside the test's own variables, for the engine and for `cli`. */
  env?: Record<string, string>;
  readDeadlineMs?: number;
  /** Rehearses starts, as an engine does by default: seconds of processor time. */
  rehearses?: boolean;
  /** Work that no reader waits for gives way to others; by default it does not, since tests wait for it. */
  defers?: boolean;
  /** Begins the engine's command line: a program that becomes the rest of it. */
  through?: string[];
  /** Further arguments of `cofa up`. */
  args?: string[];
  /**
   * An existing folder, such as that of an engine that has stopped; it stays. By default a new one that `stop` removes.
   */
  root?: string;
}

export interface CliResult {
  code: number | null;
  stdout: string;
  stderr: string;
}

export interface CliOptions {
  /** Killed after this many ms; 60,000 by default. */
  timeoutMs?: number;
  env?: Record<string, string>;
}

export interface Engine {
  root: string;
  /** Of the supervisor. */
  pid: number;
  client: EngineClient;
  /** Runs `cofa ARGS` against this engine. */
  cli(args: string[], options?: CliOptions): Promise<CliResult>;
  status(): Promise<Status>;
  /**
   * Process ids by name, as `status` says: supervisor, front-end, fetcher-0, …, nats-server. Waits for one that is about to be
   * started again; one that does not come is left out, since its number is 0, which to kill(2) is the test's own group.
   */
  pids(): Promise<Record<string, number>>;
  /** Resolves when the supervisor has ended. */
  ended: Promise<void>;
  /** The log of one process, such as `front-end`. */
  log(name: string): string;
  /** Ends the engine and removes its remains. Never hangs; may be called twice, and after `cofa down`. */
  stop(): Promise<void>;
}

const MAIN = join(import.meta.dirname, '../../src/cli/main.ts');

/** Time for a process to be started again, on a busy machine too, ms. */
const START_MS = 30_000;

/** Starts an engine and waits until it answers. Throws with its log when it does not. */
export async function startEngine(options: EngineOptions = {}): Promise<Engine> {
  const root = options.root ?? (await tempDir('engine'));
  // The machine's own settings are no test's.
  const env = { ...process.env, COFA_CONFIG: '/dev/null', ...options.env, COFA_ROOT: root };
  mkdirSync(join(root, 'log'), { recursive: true });
  const logFile = join(root, 'log/supervisor.log');
  const log = openSync(logFile, 'a');
  const args = ['up', '--foreground', '--transport', options.transport ?? 'kernel'];
  args.push('--workers', String(options.workers ?? 2));
  args.push('--read-deadline', String((options.readDeadlineMs ?? 30_000) / 1000), ...(options.args ?? []));
  if (options.rehearses !== true) args.push('--no-rehearsal');
  if (options.defers !== true) args.push('--no-defer');
  // Tests of other things prepare images without signing them.
  if (options.args?.includes('--trust') !== true) args.push('--trust', 'registry');
  const command = ['--pdeathsig', 'TERM', '--', ...(options.through ?? []), process.execPath, MAIN, ...args];
  const child = spawn('setpriv', command, { stdio: ['ignore', log, log], env });
  closeSync(log);
  const ended = new Promise<void>((resolve) => {
    child.once('exit', () => resolve());
    child.once('error', () => resolve());
  });
  let client: EngineClient | undefined;
  let stopping: Promise<void> | undefined;
  const stop = () =>
    (stopping ??= (async () => {
      await client?.close().catch(() => {});
      const loops = loopsOn(root);
      await endChild(child, root, ended);
      await endEngine(root, loops);
      if (options.root === undefined) await removeTree(root);
    })());
  try {
    client = await untilReady(root, child);
  } catch (error) {
    const text = readFileSync(logFile, 'utf8').slice(-3000);
    await stop();
    throw new Error(`the engine did not start: ${String(error)}\n${text}`, { cause: error });
  }
  const status = async () => {
    // A connection of its own: the test may have closed the one of `client`.
    const own = await connectEngine(root);
    try {
      return await own.call('status', {}, { timeoutMs: 30_000 });
    } finally {
      await own.close();
    }
  };
  return {
    root,
    pid: child.pid as number,
    client,
    cli: (args, cli = {}) => runCofa(args, { ...cli, env: { ...options.env, ...cli.env, COFA_ROOT: root } }),
    status,
    pids: async () => {
      const all = async () => (await status()).processes.map(({ name, pid }) => [name, pid] as const);
      let found = await all();
      for (const end = performance.now() + START_MS; performance.now() < end; found = await all()) {
        if (found.every(([, pid]) => pid > 0)) break;
        await sleep(100);
      }
      return Object.fromEntries(found.filter(([, pid]) => pid > 0));
    },
    ended,
    log: (name) => readFileSync(join(root, `log/${name}.log`), 'utf8'),
    stop,
  };
}

/** Runs `cofa ARGS` to its end. */
export async function runCofa(args: string[], options: CliOptions = {}): Promise<CliResult> {
  const child = spawn(process.execPath, [MAIN, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...options.env },
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), options.timeoutMs ?? 60_000);
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk) => (stdout += chunk));
  child.stderr.on('data', (chunk) => (stderr += chunk));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  clearTimeout(timer);
  return { code, stdout, stderr };
}

/** The one error that `cofa --json` printed. */
export function errorOf(result: CliResult): ErrorRecord {
  return (JSON.parse(result.stdout) as { error: ErrorRecord }).error;
}

/** `cofa mount --json`; throws when it fails. */
export async function mountImage(
  engine: Engine,
  ref: string,
  dir: string,
  options: { prefetch?: boolean } = {},
): Promise<Mount> {
  const args = ['mount', '--json', ...(options.prefetch === true ? [] : ['--no-prefetch']), ref, dir];
  const result = await engine.cli(args);
  if (result.code !== 0) throw new Error(`mount of ${ref} failed: ${result.stdout}${result.stderr}`);
  return JSON.parse(result.stdout) as Mount;
}

/** The status of one image. */
export async function imageOf(engine: Engine, ref: string): Promise<ImageStatus> {
  const image = (await engine.status()).images.find((one) => one.ref === ref);
  if (image === undefined) throw new Error(`status knows no image ${ref}`);
  return image;
}

/** Waits until `check` returns a value; throws after `timeoutMs` (60,000) with the last error of `check`. */
export async function eventually<T>(
  what: string,
  check: () => T | undefined | false | Promise<T | undefined | false>,
  timeoutMs = 60_000,
): Promise<T> {
  let last: unknown;
  for (const end = performance.now() + timeoutMs; performance.now() < end; await sleep(100)) {
    try {
      const value = await check();
      if (value !== undefined && value !== false) return value;
      last = undefined;
    } catch (error) {
      last = error;
    }
  }
  throw new Error(`did not come about: ${what}`, { cause: last });
}

/** Waits until nothing is degraded: processes that have just started may take some seconds until they have joined. */
export async function untilWell(engine: Engine): Promise<void> {
  let degraded: unknown;
  await eventually('nothing is degraded', async () => {
    degraded = (await engine.status()).degraded;
    return Array.isArray(degraded) && degraded.length === 0;
  }).catch((cause: unknown) => {
    throw new Error(`degraded for good: ${JSON.stringify(degraded)}`, { cause });
  });
}

async function untilReady(root: string, child: ChildProcess): Promise<EngineClient> {
  let last: unknown = 'no answer';
  for (const end = performance.now() + 60_000; performance.now() < end; await sleep(50)) {
    if (child.exitCode !== null || child.signalCode !== null) throw new Error('it ended');
    const client = await connectEngine(root).catch((error: unknown) => void (last = error));
    if (client === undefined) continue;
    try {
      if (client.endpoint.pid === child.pid) {
        await client.call('status', {}, { timeoutMs: 10_000 });
        return client;
      }
    } catch (error) {
      last = error;
    }
    await client.close();
  }
  throw last;
}

/** A supervisor that does not end within this time, ms, is killed. */
const GRACE_MS = 20_000;

async function endChild(child: ChildProcess, root: string, ended: Promise<void>): Promise<void> {
  if (child.pid !== undefined && child.exitCode === null && child.signalCode === null) {
    child.kill('SIGTERM');
    // Readers that still wait would hold it up; a stopped engine fails them anyway.
    const cut = setTimeout(() => abortFuse(root), GRACE_MS / 2);
    const kill = setTimeout(() => child.kill('SIGKILL'), GRACE_MS);
    await ended;
    clearTimeout(cut);
    clearTimeout(kill);
  }
}

/** Loops on files of a root, and the name of each one's file. Without the FUSE mount a device's file is `/<its name>`. */
function loopsOn(root: string): Map<string, string> {
  const files = readdirSync('/sys/block').map((loop) => [loop, backingOf(loop)] as const);
  return new Map(files.filter(([, file]) => file.startsWith(`${root}/`)));
}

const backingOf = (loop: string): string =>
  loop.startsWith('loop') ? readOrEmpty(`/sys/block/${loop}/loop/backing_file`).trim() : '';

/**
 * Ends what runs in a root, at once, and removes what it leaves in the kernel. `earlier`: its loops while its FUSE mount was
 * there, where an engine has ended since.
 */
export async function endEngine(
  root: string,
  earlier: ReadonlyMap<string, string> = new Map(),
): Promise<void> {
  abortFuse(root);
  await endProcesses((_pid, commandLine) => commandLine.split(' ').some((word) => word.startsWith(root)));
  const loops = new Map([...earlier, ...loopsOn(root)]);
  const run = dirname(runFolder(root));
  for (const folder of [root, run])
    for (const point of mountsBelow(folder).toReversed()) await quietly('umount', ['-l', '--', point]);
  if (mountsBelow(run).length === 0) await rm(run, { recursive: true, force: true });
  // The kernel detaches loops in use with their last user.
  for (const [loop, file] of loops)
    if ([file, `/${basename(file)}`].includes(backingOf(loop)))
      await quietly('losetup', ['-d', `/dev/${loop}`]);
}

/** Aborts the FUSE connection of the engine at `root`, so that no process waits for it any more. */
export function abortFuse(root: string): void {
  for (const mount of listMounts()) {
    if (mount.point !== join(root, 'run/devices')) continue;
    try {
      writeFileSync(`/sys/fs/fuse/connections/${mount.device.split(':')[1]}/abort`, '1');
    } catch {
      // It has ended already.
    }
  }
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
