/** The options of `cofa run` beside the image: docker's words for environment, volumes and names, as plain data. */
import { posix } from 'node:path';
import { CofaError } from '../../schemas/errors.ts';
import { sha256Hex } from './digest.ts';

export interface RunOptions {
  /** Arguments after the image; they replace the image's Cmd. */
  args: string[];
  /** Undefined: the image's. One empty word: none. */
  entrypoint: string | undefined;
  /** `NAME=value`, or `NAME` alone for the caller's own value; later ones win. */
  env: string[];
  workdir: string | undefined;
  /** `user[:group]`; undefined: the image's. */
  user: string | undefined;
  hostname: string | undefined;
  volumes: Volume[];
  network: Network;
  tty: boolean;
  interactive: boolean;
  readOnly: boolean;
  /** setuid programs gain no rights. */
  noNewPrivileges: boolean;
  /** Without the seccomp profile. */
  unconfined: boolean;
}

export const NETWORKS = ['host', 'none'] as const;
/** `none`: loopback alone. */
export type Network = (typeof NETWORKS)[number];

export interface Volume {
  /** Absolute path on the host. */
  source: string;
  /** Absolute path in the container. */
  target: string;
  readOnly: boolean;
  propagation: 'rprivate' | 'rslave' | 'rshared' | 'private' | 'slave' | 'shared';
}

/**
 * Parses `HOST:CONTAINER[:ro|rw,…]`. A relative host path counts from `cwd` and must start with a dot.
 * Error: `invalid-argument`.
 */
export function parseVolume(text: string, cwd: string): Volume {
  const parts = text.split(':');
  const [host, target, flags = ''] = parts;
  const bad = (why: string) =>
    new CofaError('invalid-argument', `volume ${JSON.stringify(text)}: ${why}`, {
      hint: 'write HOST-DIR:CONTAINER-DIR or HOST-DIR:CONTAINER-DIR:ro',
    });
  if (parts.length > 3) throw bad('more than two colons');
  if (!host || !target || text.includes('\0')) throw bad('a host path and a container path are needed');
  if (!target.startsWith('/')) throw bad('the path in the container must be absolute');
  if (normalise(target) === '/') throw bad('the root of the container cannot be replaced');
  let source: string;
  if (host.startsWith('/')) source = normalise(host);
  else if (host === '.' || host === '..' || host.startsWith('./') || host.startsWith('../')) {
    source = normalise(`${cwd}/${host}`);
  } else throw bad('named volumes do not exist in cofa; the host path must be absolute or start with ./');

  const volume: Volume = { source, target: normalise(target), readOnly: false, propagation: 'rprivate' };
  for (const flag of flags.split(',').filter((one) => one !== '')) {
    if (flag === 'ro') volume.readOnly = true;
    else if (flag === 'rw') volume.readOnly = false;
    else if (isPropagation(flag)) volume.propagation = flag;
    // Relabelling is for SELinux; without SELinux docker ignores it too.
    else if (flag !== 'z' && flag !== 'Z') throw bad(`unknown option ${JSON.stringify(flag)}`);
  }
  return volume;
}

/**
 * Parses the text of an `--env-file`: one `NAME=value` or `NAME` a line, taken literally (no quotes, no substitution).
 * Ignores empty lines and lines that start with `#`. Error: `invalid-argument` with the line.
 */
export function parseEnvFile(text: string, name: string): string[] {
  const entries: string[] = [];
  for (const [index, raw] of text
    .replace(/^\uFEFF/, '')
    .split('\n')
    .entries()) {
    const line = raw.replace(/\r$/, '').trimStart();
    if (line === '' || line.startsWith('#')) continue;
    try {
      checkEnv(line);
    } catch (error) {
      throw new CofaError('invalid-argument', `${name}, line ${index + 1}: ${(error as Error).message}`);
    }
    entries.push(line);
  }
  return entries;
}

/** Refuses an entry that no environment can hold. Error: `invalid-argument`. */
export function checkEnv(entry: string): string {
  const name = entry.split('=', 1)[0] ?? '';
  if (name === '') throw new CofaError('invalid-argument', `environment ${JSON.stringify(entry)}: no name`);
  if (/\s/.test(name) || entry.includes('\0')) {
    throw new CofaError('invalid-argument', `environment ${JSON.stringify(entry)}: white space in the name`);
  }
  return entry;
}

/** Parses docker's `--security-opt`, of which two are known. Error: `invalid-argument`. */
export function parseSecurity(words: readonly string[]): Pick<RunOptions, 'noNewPrivileges' | 'unconfined'> {
  const security = { noNewPrivileges: false, unconfined: false };
  for (const word of words) {
    if (/^no-new-privileges([:=]true)?$/.test(word)) security.noNewPrivileges = true;
    else if (/^seccomp[:=]unconfined$/.test(word)) security.unconfined = true;
    else {
      throw new CofaError('invalid-argument', `--security-opt: ${JSON.stringify(word)} is not known`, {
        hint: 'there are no-new-privileges and seccomp=unconfined',
      });
    }
  }
  return security;
}

/**
 * Which start of the image this is, as startup packs tell starts apart: `default` for the image's own command, else a
 * digest of the program and its first argument. Further arguments do not count: they name what the program works on,
 * not the program.
 */
export function startKey({ args, entrypoint }: Pick<RunOptions, 'args' | 'entrypoint'>): string {
  if (args.length === 0 && entrypoint === undefined) return 'default';
  const text = JSON.stringify([entrypoint ?? null, ...args.slice(0, entrypoint === undefined ? 2 : 1)]);
  return sha256Hex(text).slice(0, 16);
}

/** Docker's rule for names, and short enough for a path and a cgroup. Error: `invalid-argument`. */
export function checkName(name: string): string {
  if (!/^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$/.test(name)) {
    throw new CofaError('invalid-argument', `container name ${JSON.stringify(name)} is not allowed`, {
      hint: 'letters, digits, _ . and - only; the first a letter or digit; at most 64 characters',
    });
  }
  return name;
}

/** A host name as in RFC 1123, at most 63 bytes a label, 64 in all (what the kernel keeps). */
export function checkHostname(name: string): string {
  if (name.length > 64 || !/^[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?$/.test(name)) {
    throw new CofaError('invalid-argument', `hostname ${JSON.stringify(name)} is not allowed`);
  }
  return name;
}

/** Resolves `.`, `..` and double slashes by text alone; the path stays absolute. */
export function normalise(path: string): string {
  return posix.resolve('/', path);
}

const PROPAGATIONS = ['rprivate', 'rslave', 'rshared', 'private', 'slave', 'shared'] as const;
function isPropagation(flag: string): flag is Volume['propagation'] {
  return (PROPAGATIONS as readonly string[]).includes(flag);
}
