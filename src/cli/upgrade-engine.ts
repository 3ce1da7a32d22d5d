/**
 * `cofa upgrade --engine`: another engine, with the code that is on the disk now, takes the place of the one that runs, under
 * the containers that use its images. The supervisor and nats-server change too, and the old one may be of an earlier version:
 * it takes no part.
 *
 *     hold the FUSE mount ── offer it ── kill the engine ── start the next ── it answers ── let go
 *                                        └──────────── readers wait ───────────────┘
 *
 * `cofa up --take-over` does the same for itself, where no service manager or command line says how the next one is started: in
 * a DaemonSet, whose next pod starts beside the old one.
 *
 * The engine is killed, not stopped: one that stops takes its mounts away. The next one finds what a killed one leaves
 * (docs/recovery.md), and goes on with the FUSE mount besides, so that no read fails.
 */
import { spawn } from 'node:child_process';
import { closeSync, existsSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { CofaError } from '../../schemas/errors.ts';
import { connectEngine } from '../client/client.ts';
import { readEndpoint } from '../client/endpoint.ts';
import { identify, isAlive } from '../container/host.ts';
import { type HeldMount, holdMount, offerMount, withdrawOffer } from '../fuse/hand-over.ts';
import { readProc, statFields } from '../kernel/proc.ts';
import { readSettings } from '../process/settings.ts';
import { Layout } from '../store/layout.ts';
import { takeLock } from '../store/lock.ts';
import { problemError, readConfig } from './config-file.ts';
import { ownNode } from './up-options.ts';

export interface EngineSwap {
  /** Process ids of the supervisors. */
  from: number;
  to: number;
  /** From the end of the old one until the next one answered, ms. */
  pauseMs: number;
}

/** A killed engine has this long to be gone, and the next one to answer, ms. */
const GONE_MS = 10_000;
const START_MS = 120_000;

const COFA = fileURLToPath(new URL('../../ops/cofa', import.meta.url));

/**
 * Errors: `not-running`; `unsupported` where the engine's readers cannot be handed over, or the next one would have another name,
 * and `invalid-argument` where its file of settings is wrong: the engine then is left as it is; `environment` where the next one
 * does not start.
 */
export async function replaceEngine(root: string, signal: AbortSignal): Promise<EngineSwap> {
  const { pid } = await readEndpoint(root);
  const old = identify(pid);
  if (old === undefined)
    throw new CofaError('not-running', `no engine runs with its state in ${root}`, {
      hint: 'start it: cofa up',
    });
  const layout = new Layout(root);
  const next = starterOf(pid, root);
  await checkName(root, await nextName(pid));
  const held = await holdReaders(pid, layout);
  try {
    offerMount(layout.handOver(), held);
    signal.throwIfAborted();
    // From here on it is carried through: until the next one serves, readers wait.
    const since = performance.now();
    endAtOnce(pid);
    await until(GONE_MS, () => !isAlive(old), `the engine (pid ${pid}) does not end`);
    await next();
    const to = await answered(root, pid);
    return { from: pid, to, pauseMs: Math.round(performance.now() - since) };
  } finally {
    withdrawOffer(layout.handOver());
    closeSync(held.fd);
  }
}

/** Of the engine that starts next: of its words, else of its file of settings, else the machine's. Error: `invalid-argument`. */
async function nextName(pid: number): Promise<string> {
  const words = commandOf(pid);
  const said = (option: string): string | undefined => {
    const at = words.findLastIndex((word) => word === option || word.startsWith(`${option}=`));
    const word = words[at];
    return word?.startsWith(`${option}=`) ? word.slice(option.length + 1) : words[at < 0 ? at : at + 1];
  };
  const file = said('--config') ?? environmentOf(pid).COFA_CONFIG;
  const isIn = file === undefined ? undefined : resolve(`/proc/${pid}/cwd`, file);
  const config = await readConfig(words.includes('--no-config') ? false : isIn);
  const [first] = config.problems;
  if (first !== undefined) throw problemError(config, first);
  const value = config.values.get('node')?.value;
  return said('--node') ?? (typeof value === 'string' ? value : ownNode(hostname()));
}

/**
 * The log has the mounts of an engine by its name: one of another name would know of none, and take them away from their readers.
 * Error: `unsupported`.
 */
async function checkName(root: string, next: string): Promise<void> {
  const { node } = await readSettings(root);
  if (node === next) return;
  throw new CofaError('unsupported', `the engine is node ${node}, and the next one would be node ${next}`, {
    hint: `keep the name (node = "${node}" in the file of settings), or, when nothing runs from its images: cofa down, cofa up`,
  });
}

/**
 * This process is about to become the engine of `root`, by the name `node`. Where another one is, its readers are held, it is
 * killed, and the start that follows goes on with its FUSE mount. Without one this does nothing. Errors: `unsupported` where the
 * engine's readers cannot be held, it has another name, or its processes are not to be seen from here (a container with process
 * ids of its own): it is left as it is.
 */
export async function takeOver(root: string, node: string): Promise<void> {
  const layout = new Layout(root);
  const pid = await runningEngine(layout);
  if (pid === undefined) return rmSync(layout.replaced(), { force: true });
  const old = identify(pid);
  if (old === undefined)
    throw new CofaError(
      'unsupported',
      `the engine of ${root} runs where its process ids are others than here`,
      {
        hint: 'end it first: in a DaemonSet delete its pod',
      },
    );
  await checkName(root, node);
  const held = await holdReaders(pid, layout);
  try {
    offerMount(layout.handOver(), held);
    writeFileSync(layout.replaced(), `${pid}\n`, { mode: 0o600 });
    endAtOnce(pid);
    await until(GONE_MS, () => !isAlive(old), `the engine (pid ${pid}) does not end`);
  } catch (error) {
    withdrawOffer(layout.handOver());
    closeSync(held.fd);
    throw error;
  }
}

/** Process id of the engine that has the root's lock. One that starts is waited for, until it has readers. */
async function runningEngine(layout: Layout): Promise<number | undefined> {
  let pid: number | undefined;
  await until(
    START_MS,
    async () => {
      if (isFree(layout)) return true;
      pid = await readEndpoint(layout.root).then(
        (endpoint) => endpoint.pid,
        () => undefined,
      );
      return pid !== undefined;
    },
    'the engine that has this root does not get ready',
  );
  return pid;
}

function isFree(layout: Layout): boolean {
  if (!existsSync(layout.lock())) return true;
  try {
    takeLock(layout.lock(), layout.root)();
    return true;
  } catch (error) {
    if (error instanceof CofaError && error.code === 'conflict') return false;
    throw error;
  }
}

/** Error: `unsupported`. */
async function holdReaders(pid: number, layout: Layout): Promise<HeldMount> {
  const { transport, resend } = await readSettings(layout.root);
  if (transport !== 'kernel' || !resend)
    throw new CofaError('unsupported', 'this engine cannot hand its readers over to another one', {
      hint: 'it takes the transport "kernel" and Linux 6.9; else: cofa down, cofa up',
    });
  return holdMount(pid, layout.devices());
}

/** Its guards first: they would abort the mount when it dies (src/fuse/guard.ts). */
function endAtOnce(pid: number): void {
  for (const child of childrenOf(pid))
    if (commandOf(child).includes('cofa-guard')) process.kill(child, 'SIGKILL');
  process.kill(pid, 'SIGKILL');
}

/** How the next one is started: by the service manager that has started this one, else with the same words. */
function starterOf(pid: number, root: string): () => Promise<void> {
  const [, unit] = /\/([^/\n]+\.service)$/m.exec(readProc(`/proc/${pid}/cgroup`)) ?? [];
  if (unit !== undefined && existsSync('/run/systemd/system'))
    return () => run('systemctl', ['restart', unit], {});
  const command = commandOf(pid);
  const at = command.indexOf('up');
  if (at < 0)
    throw new CofaError('unsupported', `process ${pid} was not started by cofa up: ${command.join(' ')}`);
  const words = command.slice(at + 1).filter((word, index, all) => {
    const isRoot = word === '--root' || all[index - 1] === '--root' || word.startsWith('--root=');
    return !isRoot && word !== '--foreground' && word !== '--take-over';
  });
  const env = environmentOf(pid);
  const cwd = readlinkSync(`/proc/${pid}/cwd`);
  return () =>
    run(COFA, ['--quiet', '--root', root, 'up', ...words], { env, cwd: existsSync(cwd) ? cwd : '/' });
}

/** What an engine has of its own life is not for the next one. */
const OWN =
  /^(NODE_CHANNEL_|NODE_COMPILE_CACHE|NOTIFY_SOCKET|WATCHDOG_|LISTEN_|INVOCATION_ID|UV_THREADPOOL_SIZE)/;

function environmentOf(pid: number): NodeJS.ProcessEnv {
  const entries = readProc(`/proc/${pid}/environ`)
    .split('\0')
    .filter((entry) => entry.includes('=') && !OWN.test(entry))
    .map((entry) => [entry.slice(0, entry.indexOf('=')), entry.slice(entry.indexOf('=') + 1)]);
  return Object.fromEntries(entries) as NodeJS.ProcessEnv;
}

const commandOf = (pid: number): string[] => readProc(`/proc/${pid}/cmdline`).split('\0').slice(0, -1);

function childrenOf(pid: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && statFields(readProc(`/proc/${name}/stat`))[1] === String(pid))
    .map(Number);
}

async function run(
  program: string,
  args: readonly string[],
  options: { env?: NodeJS.ProcessEnv; cwd?: string },
): Promise<void> {
  // Ctrl-C in the terminal is for this process alone: the next engine comes, or readers would get errors.
  const child = spawn(program, args, { ...options, detached: true, stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  child.stderr.on('data', (bytes: Buffer) => (said = (said + bytes.toString()).slice(-2_000)));
  const code = await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', resolve);
  });
  child.stderr.destroy();
  if (code !== 0)
    throw new CofaError('environment', `the next engine does not start: ${said.trim()}`, {
      hint: 'reads of images that have not arrived fail; its log tells more, and cofa up tries again',
    });
}

/** Resolves with the pid of the engine that answers and is not `old`. */
async function answered(root: string, old: number): Promise<number> {
  let to = old;
  const answers = async () => {
    const engine = await connectEngine(root).catch(() => undefined);
    if (engine === undefined || engine.endpoint.pid === old) return false;
    try {
      await engine.call('status', {}, { timeoutMs: 5_000 });
      to = engine.endpoint.pid;
      return true;
    } catch {
      return false;
    } finally {
      await engine.close();
    }
  };
  await until(START_MS, answers, 'the next engine does not answer');
  return to;
}

async function until(ms: number, holds: () => boolean | Promise<boolean>, failure: string): Promise<void> {
  for (const end = performance.now() + ms; !(await holds()); await sleep(20))
    if (performance.now() > end) throw new CofaError('timeout', failure);
}
