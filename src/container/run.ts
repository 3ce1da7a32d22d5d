/**
 * Runs a container in the foreground, from an image whose data the node does not have yet:
 *
 *     engine mounts the image → overlay → config.json → runc run → exit code
 *
 * and cleans up on every path, also after an error or a signal in the middle of it: runc delete, overlay, image,
 * folder. A step that cannot be undone does not stop the later ones; this reports it, and `cofa ps` shows what is left.
 */
import type { ChildProcess } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  constants,
  copyFileSync,
  existsSync,
  openSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { hostname, constants as os } from 'node:os';
import type { Progress, RequestOf } from '../../schemas/api.ts';
import { CofaError } from '../../schemas/errors.ts';
import { type CallEngine, sent } from '../client/call.ts';
import { cgroupOf } from './cgroup.ts';
import { findCommand, StartError, startErrorOf } from './command.ts';
import { Interrupted } from '../terminal/interrupted.ts';
import { hostFacts } from './host.ts';
import { parseImageConfig } from './image-config.ts';
import { type RunOptions, startKey } from './options.ts';
import { type ContainerFolder, type ContainerRecord, createFolder } from './record.ts';
import { removeFolder } from './remove-folder.ts';
import { readTextInRoot } from './rootfs.ts';
import { pidFileOf, Runc, startFailure } from './runc.ts';
import { RunWatch } from './run-watch.ts';
import { relaySignals, type SignalRelay, stopSignalOf } from './signals.ts';
import { buildSpec, type HostFacts, type Spec } from './spec.ts';
import { hasTerminal } from './terminal.ts';
import { takeBack } from './take-back.ts';
import { type ContainerUser, lookupUser } from './users.ts';

export interface RunRequest {
  /** The cofa root. */
  root: string;
  image: ImageRequest;
  /** Undefined: an id by chance. */
  name: string | undefined;
  /** Keep what the container wrote. */
  keep: boolean;
  options: RunOptions;
}

/** What the user says of the image. */
export type ImageRequest = Pick<
  RequestOf<'mount'>,
  'ref' | 'platform' | 'prefetch' | 'prefetchLimit' | 'trust' | 'traceparent' | 'tracestate'
>;

export interface RunDependencies {
  engine: { readonly call: CallEngine };
  now: Date;
  /** Sentences for the user: which step of the clean-up failed, where a kept layer lies. */
  note: (text: string) => void;
  onProgress?: (progress: Progress) => void;
  /** The image is mounted; from now on the terminal is the container's. */
  onMounted?: () => void;
  /** The container runs, and there is nothing to do until it ends. */
  onRunning?: () => void;
}

/**
 * Runs a container to its end; the result is its exit code (128 + n after signal n).
 * Errors: `StartError` when it did not start; `Interrupted` when a signal came before; those of the engine's mount.
 */
export async function runContainer(request: RunRequest, deps: RunDependencies): Promise<number> {
  const { options } = request;
  if (options.tty && !hasTerminal()) {
    throw new CofaError('invalid-argument', '--tty needs a terminal, and there is none', {
      hint: 'leave out -t',
    });
  }
  const signals = relaySignals();
  try {
    const runc = await Runc.find(request.root);
    checkVolumes(options);
    const { folder, record } = createFolder(request.root, {
      name: request.name,
      ref: request.image.ref,
      args: options.args,
      keep: request.keep,
      now: deps.now,
    });
    const container = new Container(request, deps, runc, folder, record);
    let exit: number | undefined;
    try {
      exit = await container.run(signals);
      return exit;
    } finally {
      await container.remove(exit);
    }
  } finally {
    signals.close();
  }
}

class Container {
  readonly #request: RunRequest;
  readonly #deps: RunDependencies;
  readonly #runc: Runc;
  readonly #folder: ContainerFolder;
  readonly #record: ContainerRecord;
  readonly #watch: RunWatch;
  #mountAsked = false;
  #mounted = false;
  /** The engine has mounted the overlay, too, and unmounts it at the end. */
  #overlaid = false;
  #runcStarted = false;
  /** The engine has moved the folder away. */
  #discarded = false;

  constructor(
    request: RunRequest,
    deps: RunDependencies,
    runc: Runc,
    folder: ContainerFolder,
    record: ContainerRecord,
  ) {
    this.#request = request;
    this.#deps = deps;
    this.#runc = runc;
    this.#folder = folder;
    this.#record = record;
    this.#watch = new RunWatch(pidFileOf(folder.path));
  }

  async run(signals: SignalRelay): Promise<number> {
    const { options } = this.#request;
    const folder = this.#folder;
    this.#mountAsked = true;
    const standing = Promise.withResolvers<string>();
    const mounting = this.#mount(signals, standing.resolve);
    mounting.catch(standing.reject);
    standing.promise.catch(() => {});
    // The request is on its way before anything else begins.
    await sent();
    // The steps that need no image run while the engine works, and those that read it while the engine tells the log.
    const host = hostFacts(options.tty);
    const files = prepareEtc(folder, options);
    const configuring = Promise.all([standing.promise, host, files]).then((all) => this.#configure(...all));
    const [, { spec, stopSignal }] = await settleAll([mounting, configuring, host, files]);
    throwIfStopped(signals);
    writeFileSync(folder.config, JSON.stringify(spec), { mode: 0o600 });
    throwIfStopped(signals);
    this.#runcStarted = true;
    this.#watch.spawned(spec.process.args[0]);
    const child = this.#start();
    signals.deliverTo(
      (signal) => child.kill(signal === 'SIGTERM' ? (stopSignal ?? signal) : signal),
      () => void this.#runc.kill(folder.id, 'KILL'),
    );
    const ending = ended(child).finally(() => this.#watch.ended());
    this.#deps.onRunning?.();
    return exitOf(await ending, folder, signals);
  }

  /**
   * Mounts the image, and the overlay on it: the engine has loaded the code for that, and `cofa run` would have to. The
   * answer says whether there is an overlay; engines of protocol 1 mount none. `onStanding` gets the path of the image's
   * configuration when the container's root can be read.
   */
  async #mount(signals: SignalRelay, onStanding: (configPath: string) => void): Promise<void> {
    const { options, keep, image } = this.#request;
    const folder = this.#folder;
    // One empty word stands for no program.
    const program = (options.entrypoint ?? options.args[0] ?? '').slice(0, LONGEST_WORD);
    const request: RequestOf<'mount'> = {
      ...image,
      dir: folder.image,
      container: folder.id,
      start: startKey(options),
      program: program === '' ? undefined : program,
      began: performance.timeOrigin,
      overlay: keep ? 'kept' : 'temporary',
    };
    const onProgress = (progress: Progress) => {
      if (progress.config !== undefined) onStanding(progress.config);
      this.#deps.onProgress?.(progress);
    };
    const mounted = await this.#deps.engine.call('mount', request, { signal: signals.early, onProgress });
    this.#mounted = true;
    this.#overlaid = mounted.overlay === true;
    this.#watch.answered();
    this.#deps.onMounted?.();
    if (!this.#overlaid) {
      const { mountRoot } = await import('./overlay.ts');
      await mountRoot(folder, { temporary: !keep });
    }
    onStanding(mounted.configPath);
  }

  /** Undoes `run` after any step. `exit`: the container's exit code, undefined when it never ran to its end. */
  async remove(exit: number | undefined): Promise<void> {
    const folder = this.#folder;
    const isKept = this.#request.keep && exit !== undefined;
    const steps: Array<() => Promise<void>> = [
      async () => {
        // After an orderly end runc has removed its state itself.
        if (this.#runcStarted && (exit === undefined || this.#leftByRunc())) {
          await this.#runc.delete(folder.id);
        }
      },
      async () => {
        if (!this.#mountAsked || (this.#overlaid && (await this.#unmountByEngine(isKept)))) return;
        const { unmountContainer } = await import('./reap.ts');
        await unmountContainer(folder, (dir) => this.#unmountImage(dir));
      },
      async () => {
        if (this.#discarded) return;
        if (isKept) {
          folder.write({ ...this.#record, exit });
          this.#deps.note(`kept what ${folder.id} wrote: ${folder.upper}; remove it: cofa rm ${folder.id}`);
        } else await removeFolder(folder.path);
      },
    ];
    for (const step of steps) {
      try {
        await step();
      } catch (error) {
        const text = error instanceof Error ? error.message : String(error);
        this.#deps.note(`what ${folder.id} left stays until the engine starts again, or cofa rm: ${text}`);
        // The later steps depend on this one; the engine continues with it, or `cofa rm`.
        return;
      }
    }
  }

  /**
   * The overlay uses a private copy of the image's mount, which does not count as a user of that mount: it could be
   * unmounted, and an engine could stop, below a running container. An open folder of the image makes it busy.
   */
  #start(): ChildProcess {
    const folder = this.#folder;
    const hold = openSync(folder.image, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      const stdin = this.#request.options.interactive ? 'inherit' : 'ignore';
      return this.#runc.run(folder.id, folder.path, { stdin, hold });
    } finally {
      closeSync(hold);
    }
  }

  #leftByRunc(): boolean {
    return existsSync(`${this.#request.root}/runc/${this.#folder.id}`);
  }

  /**
   * False where it has to be done here: the engine is not there, or is another one than that which mounted. What is not kept
   * the engine throws away as well, and answers before it has.
   */
  async #unmountByEngine(isKept: boolean): Promise<boolean> {
    const discard = isKept ? undefined : true;
    const ran = this.#watch.take();
    const request = { dir: this.#folder.image, overlay: true, discard, ran } as const;
    try {
      const { discarded } = await this.#deps.engine.call('unmount', request, { timeoutMs: UNMOUNT_MS });
      this.#discarded = discarded === true;
      return true;
    } catch {
      return false;
    }
  }

  async #unmountImage(dir: string): Promise<void> {
    if (this.#mounted) await this.#deps.engine.call('unmount', { dir }, { timeoutMs: UNMOUNT_MS });
    else await takeBack(this.#deps.engine, dir);
  }

  async #configure(
    configPath: string,
    host: HostFacts,
    files: Array<{ source: string; target: string }>,
  ): Promise<{ spec: Spec; stopSignal: NodeJS.Signals | undefined }> {
    const { options } = this.#request;
    const folder = this.#folder;
    const config = parseImageConfig(readFileSync(configPath));
    const wanted = options.user ?? config.user;
    const specFor = (user: ContainerUser) =>
      buildSpec({
        rootfs: folder.rootfs,
        config,
        options,
        user,
        host,
        cgroupsPath: cgroupOf(this.#request.root, folder.id),
        files,
      });
    const accounts = Promise.all([
      readTextInRoot(folder.rootfs, '/etc/passwd', MAX_ACCOUNTS),
      readTextInRoot(folder.rootfs, '/etc/group', MAX_ACCOUNTS),
    ]);
    accounts.catch(() => {});
    // The place of the command does not depend on the user: it is looked up while the accounts are read.
    checkCommand(folder.rootfs, specFor(lookupUser('', undefined, undefined)));
    const spec = specFor(lookupUser(wanted, ...(await accounts)));
    return { spec, stopSignal: stopSignalOf(config.stopSignal, os.signals) };
  }
}

/** For an unmount, ms. */
const UNMOUNT_MS = 60_000;
/** Bytes of /etc/passwd and /etc/group that are read. */
const MAX_ACCOUNTS = 4 << 20;

/** Waits for all, also when one fails, so that no step runs on behind the clean-up; then throws the first error. */
async function settleAll<T extends readonly unknown[]>(
  work: readonly [...{ [K in keyof T]: Promise<T[K]> }],
): Promise<T> {
  await Promise.allSettled(work);
  return Promise.all(work) as unknown as Promise<T>;
}

function throwIfStopped(signals: SignalRelay): void {
  if (signals.early.aborted) throw signals.early.reason;
}

/** Longest word of a command that the engine gets, bytes. */
const LONGEST_WORD = 4_096;

function checkVolumes(options: RunOptions): void {
  for (const volume of options.volumes) {
    try {
      statSync(volume.source);
    } catch (cause) {
      throw new CofaError('not-found', `volume: ${volume.source} is not there`, {
        cause,
        hint: `mkdir -p ${volume.source}`,
      });
    }
  }
}

/**
 * Copies of the node's files, so that the container may change its own. Where the node lacks one the image's file
 * stays.
 */
async function prepareEtc(
  folder: ContainerFolder,
  options: RunOptions,
): Promise<Array<{ source: string; target: string }>> {
  const name = options.hostname ?? hostname();
  const files: Array<{ source: string; target: string }> = [];
  const add = (file: string, write: (path: string) => void) => {
    const source = `${folder.etc}/${file}`;
    try {
      write(source);
      chmodSync(source, 0o644);
      files.push({ source, target: `/etc/${file}` });
    } catch (error) {
      if ((error as { code?: unknown }).code !== 'ENOENT') throw error;
    }
  };
  add('hostname', (path) => writeFileSync(path, `${name}\n`));
  add('resolv.conf', (path) => copyFileSync('/etc/resolv.conf', path));
  add('hosts', (path) => {
    const hosts = readFileSync('/etc/hosts', 'utf8');
    const own = options.hostname === undefined ? '' : `127.0.1.1\t${options.hostname}\n`;
    writeFileSync(path, hosts === '' || hosts.endsWith('\n') ? hosts + own : `${hosts}\n${own}`);
  });
  return files;
}

function checkCommand(rootfs: string, spec: Spec): void {
  const command = spec.process.args[0] as string;
  const path = spec.process.env.find((entry) => entry.startsWith('PATH='))?.slice(5) ?? '';
  const check = findCommand(rootfs, command, {
    path,
    cwd: spec.process.cwd,
    covered: spec.mounts.map((mount) => mount.destination),
  });
  const name = JSON.stringify(command);
  if (check.kind === 'missing') {
    throw new StartError(
      127,
      `the image has no command ${name}${command.includes('/') ? '' : ` in ${path}`}`,
    );
  }
  if (check.kind === 'not-executable') {
    throw new StartError(126, `the command ${name} cannot be executed: ${check.why}`);
  }
}

interface Ending {
  code: number | null;
  signal: NodeJS.Signals | null;
}

function ended(child: ChildProcess): Promise<Ending> {
  return new Promise((resolve, reject) => {
    child.once('error', (cause) =>
      reject(new StartError(125, `runc cannot be started: ${cause.message}`, { cause })),
    );
    child.once('exit', (code, signal) => resolve({ code, signal }));
  });
}

async function exitOf(ending: Ending, folder: ContainerFolder, signals: SignalRelay): Promise<number> {
  const failure = ending.code === 0 ? undefined : await startFailure(folder.path);
  if (failure !== undefined) throw startErrorOf(failure);
  if (ending.code !== null) return ending.code;
  // A signal killed runc itself: the one passed on before runc listened, or one of another process.
  const stopped = signals.last();
  if (stopped !== undefined && ending.signal === stopped) throw new Interrupted(stopped);
  throw new StartError(125, `runc was killed by ${ending.signal ?? 'a signal'}`);
}
