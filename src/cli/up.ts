/** `cofa up`: starts the engine and waits until it answers. */
import type { ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import {
  CofaError,
  type ErrorRecord,
  fromErrorRecord,
  isErrorRecord,
  toErrorRecord,
} from '../../schemas/errors.ts';
import { DEFAULT_TRUST, type TrustPolicy } from '../../schemas/trust.ts';
import { PREPARE_POLICIES, type PreparePolicy } from '../../schemas/prepare.ts';
import { byteOption } from './byte-option.ts';
import { checkNats, type NatsOptions, takeNatsUrl, warnOfNats, withNatsUrl } from './nats-options.ts';
import { NODE_FLAGS } from '../process/node-flags.ts';
import { DEFAULT_KEYS } from '../signature/key-directory.ts';
import { type Context, examples, numberOption, oneOf } from './context.ts';
import { TRUST_HELP, trustOption } from './trust-option.ts';
import {
  addRegistryOptions,
  registryArguments,
  registryChoice,
  type RegistryFlags,
} from './registry-options.ts';

interface UpOptions extends RegistryFlags, NatsOptions {
  foreground?: boolean;
  workers?: number;
  transport: 'kernel' | 'fuse-native';
  readDeadline: number;
  hangDeadline: number;
  logLimit?: number;
  node?: string;
  logLevel: string;
  /** False: none; true: at its default path. */
  snapshotter?: string | boolean;
  imageService?: string | boolean;
  prepare: PreparePolicy;
  containerd: string;
  imageCredentialProviderConfig?: string;
  imageCredentialProviderBinDir?: string;
  cacheLimit?: number;
  trust: TrustPolicy;
  keys: string;
  rehearsal: boolean;
  defer: boolean;
  wait: number;
}

const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'];

export function define(command: Command, context: Context): void {
  addRegistryOptions(command)
    .description('Start the engine. It goes on in the background; this command ends when it is ready.')
    .option(
      '--nats <url>',
      'use this NATS (with JetStream) instead of a private nats-server (or: $COFA_NATS)',
    )
    .option(
      '--nats-users <file>',
      'users of this node on that NATS, one for each role: cofa nats-config makes it',
      path,
    )
    .option('--nats-ca <file>', 'authority that has signed the certificate of that NATS', path)
    .option('--api-users <file>', 'users of the API who may do what this file says, and no more', path)
    .option('--foreground', 'stay, and log to the terminal')
    .option('--workers <n>', 'fetcher processes (default: one a core)', count('--workers', 256))
    .option(
      '--transport <name>',
      'how reads reach the engine: kernel or fuse-native',
      oneOf('--transport', ['kernel', 'fuse-native']),
      'kernel',
    )
    .option(
      '--read-deadline <s>',
      'a read that waits longer fails with EIO',
      numberOption('--read-deadline', { min: 0.1, max: 3600, integer: false }),
      30,
    )
    .option(
      '--hang-deadline <s>',
      'a process of the engine that does not answer for so long is started again',
      numberOption('--hang-deadline', { min: 1, max: 3600, integer: false }),
      10,
    )
    .option('--log-limit <size>', 'event log that is kept, about, such as 64M or 1G (default: 256M)', logSize)
    .option(
      '--cache-limit <bytes>',
      'layers may take so much of the disk, such as 20G (default: what the disk has, less 5 %, at most 2 GiB)',
      byteOption('--cache-limit'),
    )
    .option('--node <name>', 'name of this node on NATS (default: the hostname)', nodeName)
    .option('--log-level <level>', LOG_LEVELS.join(', '), oneOf('--log-level', LOG_LEVELS), 'info')
    .option(
      '--snapshotter [socket]',
      'serve containerd at this socket (default: ROOT/run/snapshotter.sock, where containerd runs)',
    )
    .option('--no-snapshotter', 'do not serve containerd')
    .option(
      '--prepare <who>',
      'who prepares an image without a sidecar that containerd pulls: containerd, by unpacking it, or this node (local)',
      oneOf('--prepare', PREPARE_POLICIES),
      'containerd',
    )
    .option(
      '--image-service [socket]',
      'serve a kubelet as its image service, to learn the credentials of its pulls (default: ROOT/run/image-service.sock)',
    )
    .option('--containerd <socket>', 'whose image service that is', path, CONTAINERD_SOCKET)
    .option(
      '--image-credential-provider-config <file>',
      "the kubelet's configuration of credential providers, which cofa is to run, too",
      path,
    )
    .option('--image-credential-provider-bin-dir <dir>', 'where these programs are', path)
    .option('--trust <policy>', TRUST_HELP, trustOption, DEFAULT_TRUST)
    .option('--keys <dir>', 'keys that may vouch for sidecars: cofa trust', path, DEFAULT_KEYS)
    .option(
      '--no-rehearsal',
      'leave idle processors and memory alone: the first starts are slower, and those of unprepared images',
    )
    .option(
      '--no-defer',
      'do what no reader waits for at once, as urgently as all else: the rest of images, hashing, scrubs',
    )
    .option(
      '--wait <s>',
      'wait so long for the engine',
      numberOption('--wait', { min: 1, max: 3600, integer: false }),
      60,
    )
    .action(async (options: UpOptions) => {
      if (process.getuid?.() !== 0) {
        throw new CofaError('environment', 'cofa up mounts file systems, which only root may', {
          hint: 'sudo cofa up',
        });
      }
      // What is wrong is said before anything is started.
      imageService(options, context.root, snapshotterSocket(options.snapshotter, context.root));
      credentialProviders(options);
      takeNatsUrl(options);
      checkNats(options);
      await warnOfNats(options, context);
      if (options.foreground === true) await stay(options, context);
      else await startInBackground(options, context);
    });
  examples(command, [
    ['cofa up', 'state in /var/lib/cofa'],
    ['cofa up --root /srv/cofa', 'state elsewhere'],
    ['cofa up --nats tls://nats.example:4222 --node n1 --nats-users n1.json', 'share a NATS'],
    [
      'cofa up --nats tls://10.0.0.5:4222 --nats-ca ca.pem --nats-users n1.json',
      'with an authority of your own',
    ],
    ['cofa up --workers 8 --read-deadline 60', ''],
    ['cofa up --cache-limit 50G', ''],
    ['cofa up --snapshotter --image-service', 'for private images of pods'],
    ['cofa up --foreground', 'as a service'],
  ]);
}

/** Threads for system calls that block: loops and mounts of a start are made side by side. Read when first used. */
const POOL_THREADS = '16';

async function stay(options: UpOptions, context: Context): Promise<void> {
  process.env.UV_THREADPOOL_SIZE ??= POOL_THREADS;
  const { hostname } = await import('node:os');
  const snapshotter = snapshotterSocket(options.snapshotter, context.root);
  if (process.env.NOTIFY_SOCKET !== undefined) {
    const { reportToServiceManager } = await import('./service.ts');
    void reportToServiceManager(context.root, snapshotter);
  }
  try {
    const { runSupervisor } = await import('../supervisor/main.ts');
    const { giveHeapRoom } = await import('../process/heap.ts');
    giveHeapRoom();
    await runSupervisor({
      root: context.root,
      nats: options.nats,
      natsUsers: options.natsUsers,
      natsCa: options.natsCa,
      apiUsers: options.apiUsers,
      node: options.node ?? nodeName(hostname().replace(/[^A-Za-z0-9_-]+/g, '-')),
      transport: options.transport,
      workers: options.workers,
      cacheLimit: options.cacheLimit,
      readDeadlineMs: Math.round(options.readDeadline * 1000),
      hangMs: Math.round(options.hangDeadline * 1000),
      logLimit: options.logLimit,
      logLevel: options.logLevel,
      snapshotter:
        snapshotter === undefined
          ? undefined
          : {
              socket: snapshotter,
              imageService: imageService(options, context.root, snapshotter),
              prepare: options.prepare,
            },
      credentialProviders: credentialProviders(options),
      registry: registryChoice(options),
      trust: options.trust,
      keys: options.keys,
      rehearses: options.rehearsal,
      defers: options.defer,
    });
  } catch (error) {
    // The `cofa up` that started this one in the background tells its user.
    if (process.connected)
      await new Promise((done) => process.send?.({ failed: toErrorRecord(error) }, done));
    throw error;
  }
}

/** Where containerd runs on this machine; then the snapshotter is on without being asked for. */
const CONTAINERD_SOCKET = '/run/containerd/containerd.sock';

function snapshotterSocket(option: string | boolean | undefined, root: string): string | undefined {
  if (option === false || (option === undefined && !existsSync(CONTAINERD_SOCKET))) return undefined;
  return resolve(typeof option === 'string' ? option : join(root, 'run/snapshotter.sock'));
}

const path = (text: string): string => resolve(text);

function imageService(
  { imageService: option, containerd }: UpOptions,
  root: string,
  snapshotter: string | undefined,
): { socket: string; containerd: string } | undefined {
  if (option === undefined || option === false) return undefined;
  if (snapshotter === undefined) {
    throw new CofaError('invalid-argument', '--image-service goes with --snapshotter', {
      hint: 'the credentials of a pull are of use where containerd unpacks nothing: cofa up --snapshotter --image-service',
    });
  }
  return {
    socket: resolve(typeof option === 'string' ? option : join(root, 'run/image-service.sock')),
    containerd,
  };
}

function credentialProviders({
  imageCredentialProviderConfig: config,
  imageCredentialProviderBinDir: programs,
}: UpOptions): { config: string; programs: string } | undefined {
  if (config === undefined && programs === undefined) return undefined;
  if (config === undefined || programs === undefined) {
    throw new CofaError(
      'invalid-argument',
      '--image-credential-provider-config and --image-credential-provider-bin-dir go together',
    );
  }
  return { config, programs };
}

async function startInBackground(options: UpOptions, context: Context): Promise<void> {
  const [{ spawn }, { mkdir, open }] = await Promise.all([
    import('node:child_process'),
    import('node:fs/promises'),
  ]);
  const { root } = context;
  const started = performance.now();
  const logFile = join(root, 'log/supervisor.log');
  await mkdir(join(root, 'log'), { recursive: true, mode: 0o700 });
  const log = await open(logFile, 'a', 0o600);
  let child: ChildProcess;
  try {
    child = spawn(
      process.execPath,
      [...process.execArgv, ...NODE_FLAGS, process.argv[1] as string, ...foregroundArgs(options, root)],
      {
        detached: true,
        stdio: ['ignore', log.fd, log.fd, 'ipc'],
        env: withNatsUrl(options.nats),
      },
    );
  } finally {
    await log.close();
  }
  const ready = await untilReady(child, root, logFile, options.wait * 1000, context.signal());
  child.disconnect();
  child.unref();
  // Who asks for it by name goes on with a pull.
  if (options.snapshotter !== undefined && options.snapshotter !== false) {
    const { untilAnswered } = await import('./service.ts');
    await untilAnswered(snapshotterSocket(options.snapshotter, root) as string, options.wait * 1000);
  }
  const result = { root, node: ready.node, pid: ready.pid, nats: ready.nats, log: logFile };
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  context.output.data(result, () =>
    context.output.quiet ? '' : `the engine runs: pid ${ready.pid}, root ${root} (ready after ${seconds} s)`,
  );
}

function foregroundArgs(options: UpOptions, root: string): string[] {
  const args = ['up', '--foreground', '--root', root, '--transport', options.transport];
  args.push('--read-deadline', String(options.readDeadline), '--log-level', options.logLevel);
  args.push('--hang-deadline', String(options.hangDeadline));
  args.push('--trust', options.trust, '--keys', options.keys);
  if (!options.rehearsal) args.push('--no-rehearsal');
  if (!options.defer) args.push('--no-defer');
  if (options.natsUsers !== undefined) args.push('--nats-users', options.natsUsers);
  if (options.natsCa !== undefined) args.push('--nats-ca', options.natsCa);
  if (options.apiUsers !== undefined) args.push('--api-users', options.apiUsers);
  if (options.workers !== undefined) args.push('--workers', String(options.workers));
  if (options.logLimit !== undefined) args.push('--log-limit', String(options.logLimit));
  if (options.cacheLimit !== undefined) args.push('--cache-limit', String(options.cacheLimit));
  if (options.node !== undefined) args.push('--node', options.node);
  if (options.snapshotter === false) args.push('--no-snapshotter');
  else if (options.snapshotter !== undefined)
    args.push(options.snapshotter === true ? '--snapshotter' : `--snapshotter=${options.snapshotter}`);
  args.push('--prepare', options.prepare);
  if (options.imageService !== undefined && options.imageService !== false) {
    const { imageService: socket, containerd } = options;
    args.push(socket === true ? '--image-service' : `--image-service=${socket}`, '--containerd', containerd);
  }
  const providers = credentialProviders(options);
  if (providers !== undefined) {
    args.push('--image-credential-provider-config', providers.config);
    args.push('--image-credential-provider-bin-dir', providers.programs);
  }
  args.push(...registryArguments(options));
  return args;
}

interface Ready {
  node: string;
  pid: number;
  nats: string;
}

/** Resolves when the engine answers; throws what it failed with, or `timeout`. */
async function untilReady(
  child: ChildProcess,
  root: string,
  logFile: string,
  waitMs: number,
  signal: AbortSignal,
): Promise<Ready> {
  let failed: ErrorRecord | undefined;
  let ended: string | undefined;
  child.on('message', (message: { failed?: unknown } | null) => {
    if (isErrorRecord(message?.failed)) failed = message.failed;
  });
  child.on('error', (error) => {
    ended = error.message;
  });
  child.on('exit', (code, by) => {
    ended ??= by === null ? `exit code ${code}` : `killed by ${by}`;
  });
  const { setTimeout: sleep } = await import('node:timers/promises');
  const { connectEngine } = await import('../client/client.ts');
  for (const deadline = performance.now() + waitMs; ; await sleep(30)) {
    if (failed !== undefined) throw fromErrorRecord(failed);
    if (ended !== undefined) {
      // The message of a process that ends at once may come after its end.
      await sleep(50);
      if (failed !== undefined) throw fromErrorRecord(failed);
      throw new CofaError('environment', `the engine did not start (${ended})${await lastWords(logFile)}`, {
        hint: `its log: ${logFile}; what this machine lacks: cofa doctor`,
      });
    }
    if (signal.aborted) {
      child.kill('SIGTERM');
      throw signal.reason;
    }
    if (performance.now() > deadline) {
      throw new CofaError('timeout', `the engine (pid ${child.pid}) is not ready after ${waitMs / 1000} s`, {
        hint: `it goes on starting; its log: ${logFile}`,
      });
    }
    const client = await connectEngine(root).catch(() => undefined);
    if (client === undefined) continue;
    try {
      // An endpoint of an engine that ended without removing it names another process.
      if (client.endpoint.pid !== child.pid) continue;
      const status = await client.call('status', {}, { timeoutMs: 2_000 });
      return { node: status.node, pid: client.endpoint.pid, nats: status.nats };
    } catch {
      // not yet
    } finally {
      await client.close();
    }
  }
}

/** The last line of the log that says something, for an engine that ended without a reason of its own. */
async function lastWords(logFile: string): Promise<string> {
  const { readFile } = await import('node:fs/promises');
  const text = await readFile(logFile, 'utf8').catch(() => '');
  const line = text.trimEnd().split('\n').at(-1) ?? '';
  if (line === '') return '';
  try {
    const entry = JSON.parse(line) as { msg?: unknown };
    return typeof entry.msg === 'string' ? `: ${entry.msg}` : '';
  } catch {
    return `: ${line.slice(0, 300)}`;
  }
}

/** Bytes, with `K`, `M` or `G` for powers of 1024; the log needs 1 MiB at least. */
function logSize(text: string): number {
  const [, digits, unit = ''] = /^(\d{1,15})([KMG]?)(?:i?B)?$/i.exec(text) ?? [];
  const bytes = Number(digits) * 1024 ** ' KMG'.indexOf(unit.toUpperCase() || ' ');
  if (digits === undefined || bytes < 2 ** 20 || bytes > 2 ** 40) {
    throw new CofaError(
      'invalid-argument',
      `--log-limit: ${JSON.stringify(text)} is not a size from 1M to 1024G`,
      {
        hint: 'bytes, or with K, M or G behind: --log-limit 256M',
      },
    );
  }
  return bytes;
}

/** One token of a NATS subject. */
function nodeName(text: string): string {
  if (!/^[A-Za-z0-9_-]{1,64}$/.test(text)) {
    throw new CofaError('invalid-argument', `--node: ${JSON.stringify(text)} is not allowed`, {
      hint: 'letters, digits, _ and -, at most 64',
    });
  }
  return text;
}

function count(name: string, max: number): (text: string) => number {
  return numberOption(name, { min: 1, max, integer: true });
}
