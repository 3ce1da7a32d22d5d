/**
 * A container from an image that is not there yet, in the foreground:
 *
 *     engine mounts the image → overlay → config.json → runc run → exit code
 *
 * and back again on every path, also on an error or a signal in the middle of it: runc delete, overlay, image, folder.
 * A step that cannot be undone does not stop the later ones; it is reported, and `cofa ps` shows what is left.
 */
import type { ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { chmod, chown, copyFile, open, readFile, stat, writeFile } from 'node:fs/promises';
import { constants as os } from 'node:os';
import type { Mount, Progress } from '../../schemas/api.ts';
import type { TrustPolicy } from '../../schemas/trust.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { EngineClient } from '../bus/client.ts';
import { findCommand, StartError, startErrorOf } from './command.ts';
import { hostFacts } from './host.ts';
import { parseImageConfig } from './image-config.ts';
import { type RunOptions, startKey } from './options.ts';
import { type ContainerFolder, type ContainerRecord, createFolder } from './record.ts';
import { readTextInRoot } from './rootfs.ts';
import { Runc, startFailure } from './runc.ts';
import { Interrupted, relaySignals, type SignalRelay, stopSignalOf } from './signals.ts';
import { buildSpec, type HostFacts, type Spec } from './spec.ts';
import { hasTerminal } from './terminal.ts';
import { takeBack } from './take-back.ts';
import { lookupUser } from './users.ts';

export interface RunRequest {
  /** The cofa root. */
  root: string;
  ref: string;
  /** Undefined: an id by chance. */
  name: string | undefined;
  /** Do not throw away what the container wrote. */
  keep: boolean;
  /** Fetch the rest of the image in the background. */
  prefetch: boolean;
  /** Bytes per second of that; undefined: no limit. */
  prefetchLimit?: number | undefined;
  /** Which sidecars may be used before they are proven; undefined: the engine's policy. */
  trust?: TrustPolicy | undefined;
  options: RunOptions;
}

export interface RunDependencies {
  engine: Pick<EngineClient, 'call'>;
  now: Date;
  /** Sentences for the user: what could not be cleaned up, where a kept layer lies. */
  note: (text: string) => void;
  onProgress?: (progress: Progress) => void;
  /** The image is there; from now on the terminal is the container's. */
  onMounted?: () => void;
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
    await checkVolumes(options);
    const { folder, record } = await createFolder(request.root, {
      name: request.name,
      ref: request.ref,
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
  #mountAsked = false;
  #mounted = false;
  #runcStarted = false;

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
  }

  async run(signals: SignalRelay): Promise<number> {
    const { options } = this.#request;
    const folder = this.#folder;
    this.#mountAsked = true;
    const mounting = this.#deps.engine.call(
      'mount',
      {
        ref: this.#request.ref,
        dir: folder.image,
        container: folder.id,
        prefetch: this.#request.prefetch,
        ...(this.#request.prefetchLimit === undefined ? {} : { prefetchLimit: this.#request.prefetchLimit }),
        start: startKey(options),
        ...(this.#request.trust === undefined ? {} : { trust: this.#request.trust }),
        ...(options.platform === undefined ? {} : { platform: options.platform }),
      },
      {
        signal: signals.early,
        ...(this.#deps.onProgress === undefined ? {} : { onProgress: this.#deps.onProgress }),
      },
    );
    // All that does not need the image happens while the engine works.
    const [mounted, host, files, { mountOverlay }] = await settleAll([
      mounting,
      hostFacts(options.tty),
      prepareEtc(folder, options),
      import('./overlay.ts'),
    ]);
    this.#mounted = true;
    this.#deps.onMounted?.();
    throwIfStopped(signals);
    await adoptRoot(folder);
    await mountOverlay({
      lower: folder.image,
      upper: folder.upper,
      work: folder.work,
      target: folder.rootfs,
      temporary: !this.#request.keep,
    });
    const { spec, stopSignal } = await this.#configure(mounted, host, files);
    await writeFile(folder.config, JSON.stringify(spec), { mode: 0o600 });
    throwIfStopped(signals);
    this.#runcStarted = true;
    const child = await this.#start();
    signals.deliverTo(
      (signal) => child.kill(signal === 'SIGTERM' ? (stopSignal ?? signal) : signal),
      () => void this.#runc.kill(folder.id, 'KILL'),
    );
    return exitOf(await ended(child), folder, signals);
  }

  /** Undoes `run`, however far it came. `exit`: the container's exit code, undefined when it never ran to its end. */
  async remove(exit: number | undefined): Promise<void> {
    const { removeFolder, unmountContainer } = await import('./reap.ts');
    const folder = this.#folder;
    const steps: Array<() => Promise<void>> = [
      async () => {
        // After an orderly end runc has removed it all itself.
        if (this.#runcStarted && (exit === undefined || (await this.#leftByRunc()))) {
          await this.#runc.delete(folder.id);
        }
      },
      () =>
        this.#mountAsked ? unmountContainer(folder, (dir) => this.#unmountImage(dir)) : Promise.resolve(),
      async () => {
        if (this.#request.keep && exit !== undefined) {
          await folder.write({ ...this.#record, exit });
          this.#deps.note(`kept what ${folder.id} wrote: ${folder.upper}; remove it: cofa rm ${folder.id}`);
        } else await removeFolder(folder);
      },
    ];
    for (const step of steps) {
      try {
        await step();
      } catch (error) {
        const text = error instanceof Error ? error.message : String(error);
        this.#deps.note(`what ${folder.id} left stays until the engine starts again, or cofa rm: ${text}`);
        // The later steps stand on this one; the engine goes on with it, or `cofa rm`.
        return;
      }
    }
  }

  /**
   * The overlay uses a private copy of the image's mount, which does not count as a user of that mount: it could be
   * unmounted, and an engine could stop, below a running container. An open folder of the image makes it busy.
   */
  async #start(): Promise<ChildProcess> {
    const folder = this.#folder;
    const hold = await open(folder.image, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      const stdin = this.#request.options.interactive ? 'inherit' : 'ignore';
      return this.#runc.run(folder.id, folder.path, { stdin, hold: hold.fd });
    } finally {
      await hold.close();
    }
  }

  async #leftByRunc(): Promise<boolean> {
    return stat(`${this.#request.root}/runc/${this.#folder.id}`).then(
      () => true,
      () => false,
    );
  }

  async #unmountImage(dir: string): Promise<void> {
    if (this.#mounted) await this.#deps.engine.call('unmount', { dir }, { timeoutMs: 60_000 });
    else await takeBack(this.#deps.engine, dir);
  }

  async #configure(
    mounted: Mount,
    host: HostFacts,
    files: Array<{ source: string; target: string }>,
  ): Promise<{ spec: Spec; stopSignal: NodeJS.Signals | undefined }> {
    const { options } = this.#request;
    const folder = this.#folder;
    const config = parseImageConfig(await readFile(mounted.configPath));
    const wanted = options.user ?? config.user;
    const [passwd, group] = await Promise.all([
      readTextInRoot(folder.rootfs, '/etc/passwd', MAX_ACCOUNTS),
      readTextInRoot(folder.rootfs, '/etc/group', MAX_ACCOUNTS),
    ]);
    const spec = buildSpec({
      rootfs: folder.rootfs,
      config,
      options,
      user: lookupUser(wanted, passwd, group),
      host,
      cgroupsPath: cgroupOf(this.#request.root, folder.id),
      files,
    });
    await checkCommand(folder.rootfs, spec);
    return { spec, stopSignal: stopSignalOf(config.stopSignal, os.signals) };
  }
}

/** Two roots may each have a container of the same name, so the root is part of it. */
export function cgroupOf(root: string, id: string): string {
  return `/cofa/${createHash('sha256').update(root).digest('hex').slice(0, 8)}.${id}`;
}

/** Bytes of /etc/passwd and /etc/group that are looked at. */
const MAX_ACCOUNTS = 4 << 20;

/** Waits for all, also when one fails, so that nothing goes on behind the clean-up; then throws the first error. */
async function settleAll<T extends readonly unknown[]>(
  work: readonly [...{ [K in keyof T]: Promise<T[K]> }],
): Promise<T> {
  await Promise.allSettled(work);
  return Promise.all(work) as unknown as Promise<T>;
}

function throwIfStopped(signals: SignalRelay): void {
  if (signals.early.aborted) throw signals.early.reason;
}

/** The folder `upper` is the container's `/` to all who look at it: it takes mode and owner from the image's. */
async function adoptRoot(folder: ContainerFolder): Promise<void> {
  const root = await stat(folder.image);
  await chown(folder.upper, root.uid, root.gid);
  await chmod(folder.upper, root.mode & 0o7777);
}

async function checkVolumes(options: RunOptions): Promise<void> {
  for (const volume of options.volumes) {
    await stat(volume.source).catch((cause: unknown) => {
      throw new CofaError('not-found', `volume: ${volume.source} is not there`, {
        cause,
        hint: `mkdir -p ${volume.source}`,
      });
    });
  }
}

/** Copies of the node's files, so that the container may change its own. Missing ones are left to the image. */
async function prepareEtc(
  folder: ContainerFolder,
  options: RunOptions,
): Promise<Array<{ source: string; target: string }>> {
  const { hostname } = await import('node:os');
  const name = options.hostname ?? hostname();
  const files: Array<{ source: string; target: string }> = [];
  const add = async (file: string, write: (path: string) => Promise<void>) => {
    const source = `${folder.etc}/${file}`;
    try {
      await write(source);
      await chmod(source, 0o644);
      files.push({ source, target: `/etc/${file}` });
    } catch (error) {
      if ((error as { code?: unknown }).code !== 'ENOENT') throw error;
    }
  };
  await add('hostname', (path) => writeFile(path, `${name}\n`));
  await add('resolv.conf', (path) => copyFile('/etc/resolv.conf', path));
  await add('hosts', async (path) => {
    const hosts = await readFile('/etc/hosts', 'utf8');
    const own = options.hostname === undefined ? '' : `127.0.1.1\t${options.hostname}\n`;
    await writeFile(path, hosts === '' || hosts.endsWith('\n') ? hosts + own : `${hosts}\n${own}`);
  });
  return files;
}

async function checkCommand(rootfs: string, spec: Spec): Promise<void> {
  const command = spec.process.args[0] as string;
  const path = spec.process.env.find((entry) => entry.startsWith('PATH='))?.slice(5) ?? '';
  const check = await findCommand(rootfs, command, {
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
  // runc itself was killed: by the signal passed on before it listened, or by somebody else.
  const stopped = signals.last();
  if (stopped !== undefined && ending.signal === stopped) throw new Interrupted(stopped);
  throw new StartError(125, `runc was killed by ${ending.signal ?? 'a signal'}`);
}
