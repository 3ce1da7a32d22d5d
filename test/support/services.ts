/**
 * Daemons that tests and benchmarks start for themselves: nats-server, containerd and dockerd, each with its own state,
 * socket and log. None touches the machine's own daemons. Each dies with its parent (PR_SET_PDEATHSIG by setpriv(1))
 * and is stopped by its process id.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { closeSync, existsSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { mountsBelow, removeTree, tempDir } from './temp.ts';

export interface Service {
  pid: number;
  /** Everything it wrote so far. */
  log(): string;
  /** SIGTERM, after ten seconds SIGKILL; returns when it has ended and its remains are removed. May be called twice. */
  stop(): Promise<void>;
}

export interface NatsServer extends Service {
  /** `nats://127.0.0.1:PORT` */
  url: string;
}

export interface Containerd extends Service {
  socket: string;
  /** Runs ctr(8) against it and returns stdout; throws with stderr. Namespace `cofa-test`. */
  ctr(args: string[], options?: RunOptions): Promise<string>;
}

export interface Dockerd extends Service {
  socket: string;
  /** Runs docker(1) against it and returns stdout; throws with stderr. */
  docker(args: string[], options?: RunOptions): Promise<string>;
}

export interface RunOptions {
  timeoutMs?: number;
  env?: Record<string, string>;
  input?: string;
  /** Ends it, with SIGKILL. */
  signal?: AbortSignal;
}

export interface NatsOptions {
  jetstream?: boolean;
  /** Folder of the streams, which outlives the server; by default a temporary one that `stop` removes. */
  store?: string;
  /** Further configuration, such as accounts: the text of a file that is read beside the options. */
  config?: string;
  /** Port to listen on, such as that of a server that has ended; by default a free one. */
  port?: number;
  /** Address to listen on; by default loopback. */
  address?: string;
}

/** A private nats-server on a loopback port; with `jetstream` it stores streams. */
export async function startNats(options: NatsOptions = {}): Promise<NatsServer> {
  const directory = await tempDir('nats');
  const args = [
    '-a',
    options.address ?? '127.0.0.1',
    '-p',
    String(options.port ?? -1),
    '--ports_file_dir',
    directory,
  ];
  if (options.config !== undefined) {
    await writeFile(join(directory, 'nats.conf'), options.config);
    args.push('-c', join(directory, 'nats.conf'));
  }
  if (options.jetstream !== false) args.push('-js', '-sd', options.store ?? join(directory, 'store'));
  let url = '';
  const service = await startService({
    name: 'nats-server',
    command: 'nats-server',
    args,
    directory,
    ready: async (pid) => {
      const ports = join(directory, `nats-server_${pid}.ports`);
      if (!existsSync(ports)) return false;
      const text = await readFile(ports, 'utf8');
      if (!text.trim().endsWith('}')) return false;
      url = (JSON.parse(text) as { nats: string[] }).nats[0] ?? '';
      return url !== '';
    },
  });
  return { ...service, url };
}

export interface ContainerdOptions {
  /** Where its programs are: a PATH; the machine's own by default. */
  path?: string;
  /** Begins its command line and those of ctr: a program that becomes the rest of it. */
  through?: readonly string[];
  /** Changes its configuration file before it starts. */
  configure?: (file: string) => Promise<void>;
  /** Version of the configuration: 2, or 3, which containerd 2 has. */
  configVersion?: 2 | 3;
  /** With the CRI plugin: the image of pods' first container. */
  sandboxImage?: string;
  /** Pods that are not on the host's network get an empty one, from a plugin of CNI that does nothing. */
  emptyNetwork?: boolean;
  /** With the CRI plugin, of configuration 3: seconds between two looks at what snapshots take. */
  statsPeriod?: number;
  /** Beside the test's own variables. */
  env?: Record<string, string>;
  /** A folder for its state that `stop` leaves alone, so that another containerd can continue with it. */
  directory?: string;
}

/** A private containerd with the overlayfs and native snapshotters. */
export async function startContainerd(options: ContainerdOptions = {}): Promise<Containerd> {
  const directory = options.directory ?? (await tempDir('ctrd'));
  const socket = join(directory, 'c.sock');
  const config = join(directory, 'config.toml');
  const network = options.emptyNetwork === true ? await writeEmptyNetwork(directory) : undefined;
  await writeFile(config, containerdConfig({ ...options, directory, socket, network }));
  await options.configure?.(config);
  const env: Record<string, string> = options.path === undefined ? {} : { PATH: options.path };
  const through = (line: string[]): [string, string[]] => {
    const [command = '', ...args] = [...(options.through ?? []), ...line];
    return [command, args];
  };
  const ctr = (args: string[], run: RunOptions = {}) =>
    runCommand(...through(['ctr', '--address', socket, '--namespace', 'cofa-test', ...args]), {
      ...run,
      env: { ...env, ...run.env },
    });
  const [command, args] = through(['containerd', '--config', config]);
  const service = await startService({
    name: 'containerd',
    command,
    args,
    directory,
    env: { ...options.env, ...env },
    keep: options.directory !== undefined,
    ready: () => answers(() => ctr(['version'], { timeoutMs: 5000 }), socket),
    // Shims outlive containerd on purpose; each names its containerd's socket in its command line.
    strays: (commandLine) => commandLine.includes('containerd-shim') && commandLine.includes(socket),
  });
  return { ...service, socket, ctr };
}

export interface Network {
  /** Folder of the plugins and of their configuration. */
  programs: string;
  configs: string;
}

/**
 * CNI's answer to every question (containernetworking/cni, SPEC.md, "Add Success"); 192.0.2.0/24 is for documentation.
 */
export async function writeEmptyNetwork(directory: string): Promise<Network> {
  const [programs, configs] = [join(directory, 'cni/bin'), join(directory, 'cni/conf')];
  for (const folder of [programs, configs]) await mkdir(folder, { recursive: true });
  const interfaces = [{ name: 'eth0', sandbox: '/none' }];
  const added = {
    cniVersion: '0.4.0',
    interfaces,
    ips: [{ version: '4', interface: 0, address: '192.0.2.2/24' }],
  };
  const script = [
    '#!/bin/sh',
    'case $CNI_COMMAND in',
    `ADD) echo '${JSON.stringify(added)}' ;;`,
    `VERSION) echo '{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0"]}' ;;`,
    'esac',
  ].join('\n');
  for (const name of ['empty', 'loopback'])
    await writeFile(join(programs, name), `${script}\n`, { mode: 0o755 });
  const config = { cniVersion: '0.4.0', name: 'empty', plugins: [{ type: 'empty' }] };
  await writeFile(join(configs, '10-empty.conflist'), JSON.stringify(config));
  return { programs, configs };
}

function containerdConfig({
  directory,
  socket,
  sandboxImage,
  network,
  configVersion: version = 2,
  statsPeriod,
}: Pick<ContainerdOptions, 'sandboxImage' | 'configVersion' | 'statsPeriod'> & {
  directory: string;
  socket: string;
  network: Network | undefined;
}): string {
  const quoted = JSON.stringify;
  const disabled = ['aufs', 'btrfs', 'devmapper', 'zfs'].map(
    (name) => `io.containerd.snapshotter.v1.${name}`,
  );
  if (sandboxImage === undefined) {
    disabled.push('io.containerd.grpc.v1.cri');
    if (version === 3) disabled.push('io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime');
  }
  const lines = [
    `version = ${version}`,
    `root = ${quoted(join(directory, 'root'))}`,
    `state = ${quoted(join(directory, 'state'))}`,
    `disabled_plugins = ${quoted(disabled)}`,
    '[grpc]',
    `  address = ${quoted(socket)}`,
    '[ttrpc]',
    `  address = ${quoted(`${socket}.ttrpc`)}`,
  ];
  if (sandboxImage !== undefined) {
    const isOld = version === 2;
    lines.push(
      ...(isOld
        ? ['[plugins."io.containerd.grpc.v1.cri"]', `  sandbox_image = ${quoted(sandboxImage)}`]
        : [
            ...(statsPeriod === undefined
              ? []
              : ['[plugins."io.containerd.cri.v1.images"]', `  stats_collect_period = ${statsPeriod}`]),
            '[plugins."io.containerd.cri.v1.images".pinned_images]',
            `  sandbox = ${quoted(sandboxImage)}`,
            '[plugins."io.containerd.cri.v1.runtime"]',
            '  restrict_oom_score_adj = true',
            '[plugins."io.containerd.grpc.v1.cri"]',
          ]),
      // Only root of this machine can stream; a free port.
      '  stream_server_address = "127.0.0.1"',
      '  stream_server_port = "0"',
      // Machines differ in what a container may set.
      ...(isOld ? ['  restrict_oom_score_adj = true'] : []),
    );
    if (network !== undefined) {
      lines.push(
        `[plugins."${isOld ? 'io.containerd.grpc.v1.cri' : 'io.containerd.cri.v1.runtime'}".cni]`,
        // 2.4 knows the second word alone.
        isOld ? `  bin_dir = ${quoted(network.programs)}` : `  bin_dirs = [${quoted(network.programs)}]`,
        `  conf_dir = ${quoted(network.configs)}`,
      );
    }
  }
  return `${lines.join('\n')}\n`;
}

export interface DockerdOptions {
  insecureRegistries?: string[];
  /** Where its programs are: a PATH; the machine's own by default. */
  path?: string;
  /**
   * A containerd for its containers, and for its images where `configure` says so; by default it starts one of its own.
   */
  containerd?: Containerd;
  /** Changes its configuration file before it starts. */
  configure?: (file: string) => Promise<void>;
  /** docker(1) looks for plugins here, too. */
  cliPlugins?: string;
}

/** A private dockerd without networking of its own; by default it starts a containerd of its own below its folder. */
export async function startDockerd(options: DockerdOptions = {}): Promise<Dockerd> {
  const directory = await tempDir('dockerd');
  const socket = join(directory, 'd.sock');
  await mkdir(join(directory, 'cli'));
  const { containerd, cliPlugins } = options;
  const config = join(directory, 'daemon.json');
  await writeFile(config, '{}');
  await options.configure?.(config);
  await writeFile(
    join(directory, 'cli/config.json'),
    JSON.stringify(cliPlugins === undefined ? {} : { cliPluginsExtraDirs: [cliPlugins] }),
  );
  const env: Record<string, string> = options.path === undefined ? {} : { PATH: options.path };
  const docker = (args: string[], run: RunOptions = {}) =>
    runCommand('docker', ['--host', `unix://${socket}`, '--config', join(directory, 'cli'), ...args], {
      ...run,
      env: { ...env, ...run.env },
    });
  const execRoot = join(directory, 'exec');
  const service = await startService({
    name: 'dockerd',
    command: 'dockerd',
    args: [
      '--config-file',
      config,
      '--data-root',
      join(directory, 'data'),
      '--exec-root',
      execRoot,
      '--pidfile',
      join(directory, 'd.pid'),
      '--host',
      `unix://${socket}`,
      '--bridge=none',
      '--iptables=false',
      '--ip6tables=false',
      ...(options.configure === undefined ? ['--storage-driver=overlay2'] : []),
      ...(containerd === undefined ? [] : [`--containerd=${containerd.socket}`]),
      ...(options.insecureRegistries ?? []).map((registry) => `--insecure-registry=${registry}`),
    ],
    directory,
    env,
    ready: () => answers(() => docker(['version'], { timeoutMs: 5000 }), socket),
    strays: (commandLine) => commandLine.includes(execRoot),
  });
  return { ...service, socket, docker };
}

const execFileAsync = promisify(execFile);

/** Runs a program to its end and returns its stdout; throws with its stderr, or after `timeoutMs` (300,000). */
export async function runCommand(command: string, args: string[], options: RunOptions = {}): Promise<string> {
  const running = execFileAsync(command, args, {
    timeout: options.timeoutMs ?? 300_000,
    killSignal: 'SIGKILL',
    maxBuffer: 256 << 20,
    env: { ...process.env, ...options.env },
    ...(options.signal === undefined ? {} : { signal: options.signal }),
  });
  // A program may end without reading its input.
  running.child.stdin?.on('error', () => {});
  running.child.stdin?.end(options.input ?? '');
  try {
    return (await running).stdout;
  } catch (error) {
    const { stderr = '', code, signal } = error as { stderr?: string; code?: unknown; signal?: unknown };
    throw new Error(
      `${command} ${args.join(' ')} failed (${String(code ?? signal)}): ${stderr.trim().slice(-4000)}`,
      { cause: error },
    );
  }
}

export interface ServiceSpec {
  name: string;
  command: string;
  args: string[];
  /** Holds all its files; removed by `stop`. */
  directory: string;
  ready: (pid: number) => Promise<boolean>;
  /** Beside the test's own variables. */
  env?: Record<string, string>;
  /** `stop` leaves the directory there. */
  keep?: boolean;
  /** Recognises processes that the service leaves behind by their command line. */
  strays?: (commandLine: string) => boolean;
}

export async function startService(spec: ServiceSpec): Promise<Service> {
  const logFile = join(spec.directory, 'log');
  const log = openSync(logFile, 'a');
  const child = spawn('setpriv', ['--pdeathsig', 'TERM', '--', spec.command, ...spec.args], {
    stdio: ['ignore', log, log],
    cwd: spec.directory,
    // Temporary files of daemons are removed with them: dockerd lets a containerd that does not answer in time dump its
    // stacks there, and starts it anew.
    env: { ...process.env, TMPDIR: spec.directory, ...spec.env },
  });
  closeSync(log);
  const ended = new Promise<void>((resolve) => {
    child.once('exit', () => resolve());
    child.once('error', () => resolve());
  });
  let stopping: Promise<void> | undefined;
  const stop = () => (stopping ??= stopService(spec, child, ended));
  const deadline = Date.now() + 60_000;
  for (;;) {
    if (
      child.pid === undefined ||
      child.exitCode !== null ||
      child.signalCode !== null ||
      Date.now() > deadline
    ) {
      const text = existsSync(logFile) ? readFileSync(logFile, 'utf8').slice(-3000) : '';
      await stop();
      throw new Error(`${spec.name} did not start: ${text}`);
    }
    if (await spec.ready(child.pid)) break;
    await sleep(50);
  }
  return { pid: child.pid, stop, log: () => readFileSync(logFile, 'utf8') };
}

async function stopService(spec: ServiceSpec, child: ChildProcess, ended: Promise<void>): Promise<void> {
  if (child.pid !== undefined && child.exitCode === null && child.signalCode === null) {
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), 10_000);
    await ended;
    clearTimeout(timer);
  }
  const { strays } = spec;
  if (strays !== undefined) await endProcesses((_pid, commandLine) => strays(commandLine));
  for (const point of mountsBelow(spec.directory).toReversed()) await runCommand('umount', ['--', point]);
  if (spec.keep !== true) await removeTree(spec.directory);
}

/** Ends the processes that `ours` selects, by SIGTERM, then SIGKILL, and waits for their end. */
export async function endProcesses(ours: (pid: number, commandLine: string) => boolean): Promise<void> {
  for (const [signal, rounds] of [
    ['SIGTERM', 40],
    ['SIGKILL', 40],
  ] as const) {
    let left = listProcesses().filter(({ pid, commandLine }) => ours(pid, commandLine));
    for (const { pid } of left) trySignal(pid, signal);
    for (let round = 0; left.length > 0 && round < rounds; round++) {
      await sleep(50);
      left = listProcesses().filter(({ pid, commandLine }) => ours(pid, commandLine));
    }
    if (left.length === 0) return;
  }
}

/** Processes that are alive (zombies left out), with their command lines, arguments joined by blanks. */
export function listProcesses(): Array<{ pid: number; commandLine: string }> {
  const processes: Array<{ pid: number; commandLine: string }> = [];
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const commandLine = readFileSync(`/proc/${name}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
      if (commandLine !== '') processes.push({ pid: Number(name), commandLine });
    } catch {
      // It ended meanwhile.
    }
  }
  return processes;
}

function trySignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

async function answers(call: () => Promise<unknown>, socket: string): Promise<boolean> {
  if (!existsSync(socket)) return false;
  return call().then(
    () => true,
    () => false,
  );
}
