/**
 * The config.json that runc takes (OCI runtime-spec, config.md and config-linux.md), made from the image's
 * configuration and the options of `cofa run`. Pure: facts of the host come in as `HostFacts`.
 */
import { defined } from '../../schemas/defined.ts';
import { CofaError } from '../../schemas/errors.ts';
import {
  DEFAULT_CAPABILITIES,
  DEFAULT_MOUNTS,
  DEFAULT_PATH,
  MASKED_PATHS,
  READONLY_PATHS,
} from './defaults.ts';
import type { ImageConfig } from './image-config.ts';
import type { RunOptions } from './options.ts';
import { type Seccomp, seccompProfile } from './seccomp.ts';
import type { TerminalSize } from './terminal.ts';
import type { ContainerUser } from './users.ts';

export interface SpecMount {
  destination: string;
  type: string;
  source: string;
  options: string[];
}

export interface Spec {
  ociVersion: string;
  process: {
    terminal: boolean;
    consoleSize?: TerminalSize;
    user: { uid: number; gid: number; additionalGids?: number[] };
    args: string[];
    env: string[];
    cwd: string;
    capabilities: { bounding: string[]; permitted?: string[]; effective?: string[] };
    rlimits: Array<{ type: string; soft: number; hard: number }>;
    noNewPrivileges: boolean;
  };
  root: { path: string; readonly: boolean };
  hostname: string;
  mounts: SpecMount[];
  linux: {
    cgroupsPath: string;
    resources: { devices: Array<{ allow: boolean; access: string }> };
    namespaces: Array<{ type: string }>;
    maskedPaths: string[];
    readonlyPaths: string[];
    seccomp?: Seccomp;
  };
}

/** Facts of the node; see `host.ts`. */
export interface HostFacts {
  hostname: string;
  /** Environment of the caller, for `-e NAME`. */
  env: Readonly<Record<string, string | undefined>>;
  /** Capability numbers that this process could pass on (CapBnd). */
  bounding: bigint;
  /** Hard limit of open files; undefined: unlimited. */
  maxOpenFiles: number | undefined;
  /** Of the caller's terminal: known from the start, or a program may see a size of 0 at first. */
  terminal: TerminalSize | undefined;
  /** As `process.arch` names it. */
  machine: string;
  /** The node mounts only cgroup v2: the container gets a cgroup namespace, as under docker. */
  cgroup2: boolean;
}

export interface SpecInput {
  /** Path of the mounted overlay, absolute. */
  rootfs: string;
  config: ImageConfig;
  options: RunOptions;
  user: ContainerUser;
  host: HostFacts;
  cgroupsPath: string;
  /** Files of the host side that appear in the container: such as /etc/hosts. */
  files: ReadonlyArray<{ source: string; target: string }>;
}

/** Builds the configuration. Error: `invalid-argument` when there is no command at all. */
export function buildSpec(input: SpecInput): Spec {
  const { config, options, user, host } = input;
  const hostname = options.hostname ?? host.hostname;
  const seccomp = options.unconfined ? undefined : seccompProfile(host.machine);
  return {
    ociVersion: '1.0.2',
    process: {
      terminal: options.tty,
      ...(options.tty && host.terminal !== undefined ? { consoleSize: host.terminal } : {}),
      user: {
        uid: user.uid,
        gid: user.gid,
        ...(user.additionalGids.length > 0 ? { additionalGids: user.additionalGids } : {}),
      },
      args: commandOf(config, options),
      env: environmentOf(config, options, { hostname, home: user.home, caller: host.env }),
      cwd: workingDirOf(config, options),
      capabilities: capabilitiesOf(user, host),
      rlimits: openFilesLimit(host),
      // By default as under docker: an image may rely on sudo or other setuid programs.
      noNewPrivileges: options.noNewPrivileges,
    },
    root: { path: input.rootfs, readonly: options.readOnly },
    hostname,
    mounts: mountsOf(input),
    linux: defined({
      cgroupsPath: input.cgroupsPath,
      // runc itself adds the harmless ones (null, zero, full, random, urandom, tty, pts).
      resources: { devices: [{ allow: false, access: 'rwm' }] },
      namespaces: namespacesOf(options, host).map((type) => ({ type })),
      maskedPaths: [...MASKED_PATHS],
      readonlyPaths: [...READONLY_PATHS],
      seccomp,
    }),
  };
}

/**
 * Docker's rule: arguments replace Cmd; `--entrypoint` replaces Entrypoint and drops the image's Cmd as well, since
 * that was written for the other program. Error: `invalid-argument` when no word is left.
 */
export function commandOf(config: ImageConfig, options: Pick<RunOptions, 'args' | 'entrypoint'>): string[] {
  const own = options.entrypoint === undefined;
  let entrypoint = config.entrypoint;
  if (!own) entrypoint = options.entrypoint === '' ? [] : [options.entrypoint as string];
  const cmd = options.args.length > 0 || !own ? options.args : config.cmd;
  const command = [...entrypoint, ...cmd];
  if (command.length === 0 || command[0] === '') {
    throw new CofaError('invalid-argument', 'no command: the image names none', {
      hint: 'write it after the image: cofa run REF COMMAND…',
    });
  }
  return command;
}

/** The folder that the command starts in: `--workdir`, else the image's. */
export function workingDirOf(config: ImageConfig, options: Pick<RunOptions, 'workdir'>): string {
  return options.workdir ?? config.workingDir;
}

/** Image first, then `-e`; PATH, HOSTNAME, HOME (and TERM with a terminal) only where neither says something. */
export function environmentOf(
  config: ImageConfig,
  options: Pick<RunOptions, 'env' | 'tty'>,
  facts: { hostname: string; home: string; caller: HostFacts['env'] },
): string[] {
  const values = new Map<string, string>([
    ['PATH', DEFAULT_PATH],
    ['HOSTNAME', facts.hostname],
  ]);
  if (options.tty) values.set('TERM', 'xterm');
  values.set('HOME', facts.home);
  for (const entry of config.env) {
    const equals = entry.indexOf('=');
    values.set(entry.slice(0, equals), entry.slice(equals + 1));
  }
  for (const entry of options.env) {
    const equals = entry.indexOf('=');
    const name = equals < 0 ? entry : entry.slice(0, equals);
    const value = equals < 0 ? facts.caller[name] : entry.slice(equals + 1);
    if (value === undefined) values.delete(name);
    else values.set(name, value);
  }
  return [...values].map(([name, value]) => `${name}=${value}`);
}

/**
 * What execve(2) gives to a user other than root: the bounding set alone. Never more than this process itself has,
 * since in a nested container runc could not give it.
 */
function capabilitiesOf(user: ContainerUser, host: HostFacts): Spec['process']['capabilities'] {
  const names = DEFAULT_CAPABILITIES.filter(([, bit]) => ((host.bounding >> BigInt(bit)) & 1n) === 1n).map(
    ([name]) => name,
  );
  return user.uid === 0 ? { bounding: names, permitted: names, effective: names } : { bounding: names };
}

/**
 * Node raises its own soft limit to the hard one, and children inherit that. Programs that walk over all possible
 * descriptors then take very long, so the container gets the customary 1024 and may raise it.
 */
function openFilesLimit(host: HostFacts): Spec['process']['rlimits'] {
  if (host.maxOpenFiles === undefined) return [];
  return [{ type: 'RLIMIT_NOFILE', soft: Math.min(1024, host.maxOpenFiles), hard: host.maxOpenFiles }];
}

/** Without a network namespace a container uses the network of the host; in one of its own runc gives it loopback. */
function namespacesOf({ network }: RunOptions, { cgroup2 }: HostFacts): string[] {
  const own = ['pid', 'ipc', 'uts', 'mount'];
  if (network === 'none') own.push('network');
  if (cgroup2) own.push('cgroup');
  return own;
}

function mountsOf(input: SpecInput): SpecMount[] {
  const volumes = input.options.volumes.map(
    (volume): SpecMount => ({
      destination: volume.target,
      type: 'bind',
      source: volume.source,
      options: ['rbind', volume.propagation, volume.readOnly ? 'ro' : 'rw'],
    }),
  );
  const taken = new Set(volumes.map((volume) => volume.destination));
  const files = input.files
    .filter((file) => !taken.has(file.target))
    .map(
      (file): SpecMount => ({
        destination: file.target,
        type: 'bind',
        source: file.source,
        options: ['rbind', 'rprivate', 'rw'],
      }),
    );
  const standard = DEFAULT_MOUNTS.filter((mount) => !taken.has(mount.destination));
  // Outer folders first, or an inner mount would be covered by the outer one.
  const depth = (mount: SpecMount) => mount.destination.split('/').length;
  return [...standard, ...[...files, ...volumes].sort((a, b) => depth(a) - depth(b))];
}
