/** `cofa up`: starts the engine and waits until it answers. */
import type { ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import type { Command } from 'commander';
import {
  CofaError,
  type ErrorRecord,
  fromErrorRecord,
  isErrorRecord,
  toErrorRecord,
} from '../../schemas/errors.ts';
import { fillFromFile } from './config-file.ts';
import { addOptions, type Context, examples } from './context.ts';
import { incidentChoice } from './incident-options.ts';
import { fleetChoice } from './fleet-options.ts';
import { metricsChoice } from './metrics-options.ts';
import { tracesChoice } from '../traces/settings.ts';
import { checkFleetTrust } from './trust-option.ts';
import { checkNats, takeNatsUrl, warnOfNats, withNatsUrl } from './nats-options.ts';
import { makeFolder } from '../kernel/make-folder.ts';
import { NODE_FLAGS } from '../process/node-flags.ts';
import { registryChoice } from './registry-options.ts';
import type { SnapshotterOptions } from '../process/snapshotter-options.ts';
import { CONTAINERD_SOCKET, ownNode, UP_OPTIONS, type UpOptions, upArguments } from './up-options.ts';

export function define(command: Command, context: Context): void {
  command.description('Start the engine. It goes on in the background; this command ends when it is ready.');
  addOptions(command, UP_OPTIONS);
  command.action(async (options: UpOptions) => {
    if (process.getuid?.() !== 0) {
      throw new CofaError('environment', 'cofa up mounts file systems, which only root may', {
        hint: 'sudo cofa up',
      });
    }
    // What is wrong is said before anything is started.
    takeNatsUrl(options);
    await fillFromFile(command, options);
    imageService(options, context.root, snapshotterSocket(options.snapshotter, context.root));
    credentialProviders(options);
    metricsChoice(options);
    // The engine in the background is another `cofa up`; this one tells the user.
    const { notes } = tracesSettings(options);
    if (!process.connected) for (const note of notes) context.output.warn(note);
    checkNats(options);
    fleetChoice(options, options.nats);
    checkFleetTrust(options);
    await warnOfNats(options, context);
    if (options.takeOver === true && options.foreground !== true)
      throw new CofaError('invalid-argument', '--take-over needs --foreground', {
        hint: 'an engine in the background: cofa upgrade --engine',
      });
    if (options.foreground === true) await stay(options, context);
    else await startInBackground(options, upArguments(options), context);
  });
  command.addHelpText(
    'after',
    `
/etc/cofa/config.toml may say the same, for each start: cofa config default, man cofa-config.toml`,
  );
  examples(command, [
    ['cofa up', 'state in /var/lib/cofa'],
    ['cofa up --root /srv/cofa', 'state elsewhere'],
    ['cofa up --nats tls://nats.example:4222 --node n1 --nats-users n1.json', 'share a NATS'],
    [
      'cofa up --nats tls://10.0.0.5:4222 --nats-ca ca.pem --nats-users n1.json',
      'with an authority of your own',
    ],
    ['cofa up --nats tls://10.0.0.5:4222 --nats-users n1.json --fleet --zone rack-1', 'in a fleet'],
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
  const node = options.node ?? ownNode(hostname());
  const snapshotter = snapshotterSocket(options.snapshotter, context.root);
  const images = imageService(options, context.root, snapshotter);
  if (process.env.NOTIFY_SOCKET !== undefined) {
    const { reportToServiceManager } = await import('./service.ts');
    void reportToServiceManager(context.root, snapshotter);
  }
  try {
    const { runSupervisor } = await import('../supervisor/main.ts');
    const { giveHeapRoom } = await import('../process/heap.ts');
    giveHeapRoom();
    const { boundLogs } = await import('../process/bounded-logs.ts');
    const { realPorts } = await import('../process/ports.ts');
    boundLogs(join(context.root, 'log'), realPorts().clock);
    await makeFolder(context.root, 0o700);
    for (const socket of [snapshotter, images?.socket])
      if (socket !== undefined && !socket.startsWith(`${context.root}/`))
        await makeFolder(dirname(socket), 0o755);
    if (options.takeOver === true && options.transport === 'kernel') {
      const { takeOver } = await import('./upgrade-engine.ts');
      await takeOver(context.root, node);
    }
    await runSupervisor({
      root: context.root,
      nats: options.nats,
      natsUsers: options.natsUsers,
      natsCa: options.natsCa,
      apiUsers: options.apiUsers,
      node,
      transport: options.transport,
      workers: options.workers,
      cacheLimit: options.cacheLimit,
      keepFree: options.keepFree,
      readDeadlineMs: Math.round(options.readDeadline * 1000),
      hangMs: Math.round(options.hangDeadline * 1000),
      logLimit: options.logLimit,
      logLevel: options.logLevel,
      snapshotter:
        snapshotter === undefined
          ? undefined
          : {
              socket: snapshotter,
              imageService: images,
              prepare: options.prepare,
              lazyBlobs: lazyBlobs(options),
            },
      credentialProviders: credentialProviders(options),
      registry: registryChoice(options),
      metrics: metricsChoice(options),
      traces: tracesSettings(options).settings,
      incidents: incidentChoice(options),
      fleet: fleetChoice(options, options.nats),
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

const tracesSettings = ({ traces, tracesProtocol, tracesHeaders, tracesCa, tracesSample }: UpOptions) =>
  tracesChoice({ traces, tracesProtocol, tracesHeaders, tracesCa, tracesSample }, process.env);

function snapshotterSocket(option: string | boolean | undefined, root: string): string | undefined {
  if (option === false || (option === undefined && !existsSync(CONTAINERD_SOCKET))) return undefined;
  return resolve(typeof option === 'string' ? option : join(root, 'run/snapshotter.sock'));
}

function lazyBlobs({ lazyBlobs: names, containerd }: UpOptions): SnapshotterOptions['lazyBlobs'] {
  return names === 'none' ? undefined : { containerd, namespaces: names.split(',') };
}

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

async function startInBackground(
  options: UpOptions,
  args: readonly string[],
  context: Context,
): Promise<void> {
  const [{ spawn }, { open }] = await Promise.all([import('node:child_process'), import('node:fs/promises')]);
  const { root } = context;
  const started = performance.now();
  const logFile = join(root, 'log/supervisor.log');
  await makeFolder(join(root, 'log'), 0o700);
  const log = await open(logFile, 'a', 0o600);
  let child: ChildProcess;
  try {
    child = spawn(
      process.execPath,
      [
        ...process.execArgv,
        ...NODE_FLAGS,
        process.argv[1] as string,
        'up',
        '--foreground',
        '--root',
        root,
        ...args,
      ],
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
