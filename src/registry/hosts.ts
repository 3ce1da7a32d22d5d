/**
 * Which hosts are asked for what a registry has: those of containerd's `hosts.toml` (hosts-toml.ts), so that the mirrors of a
 * node's containerd serve cofa as well. The file of a registry is found as containerd finds it: `DIR/HOST_PORT_/`,
 * `DIR/HOST:PORT/`, `DIR/_default/`, in the first folder that has one of these.
 *
 * A file may change while the engine runs: it is looked at again after some seconds. A broken one is passed over with a warning,
 * as containerd does, since its images would be pulled without mirrors too.
 */
import { readFile, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import type { Capability, HostEntry } from './hosts-toml.ts';
import { domainOf } from './reference.ts';

export interface RegistryHosts {
  /** Asked before the registry, in this order; each has an origin. */
  mirrors: readonly Mirror[];
  /** The registry itself, where the file says something of it. */
  server: HostEntry | undefined;
}

export interface Mirror extends HostEntry {
  origin: string;
}

const NONE: RegistryHosts = { mirrors: [], server: undefined };
/** The folders that containerd 2 looks into by default. */
export const CONTAINERD_HOSTS = '/etc/containerd/certs.d';

const MAX_FILE = 256 * 1024;
/** A changed file counts after so long, ms. */
const LOOK_MS = 10_000;
const MOST_REGISTRIES = 1024;

interface Known {
  hosts: RegistryHosts;
  /** Path, size and time of the file; empty where there is none. */
  mark: string;
  lookAt: number;
}

export interface HostsSettings {
  /** In the order of search. */
  dirs: readonly string[];
  now: () => number;
  warn: (fields: object, message: string) => void;
}

export class HostsFiles {
  readonly #settings: HostsSettings;
  readonly #known = new Map<string, Promise<Known>>();

  constructor(settings: HostsSettings) {
    this.#settings = settings;
  }

  /** The hosts of a registry (`HOST[:PORT]`). Never fails. */
  async of(registry: string): Promise<RegistryHosts> {
    if (this.#settings.dirs.length === 0) return NONE;
    const known = this.#known.get(registry);
    const before = await known;
    if (before !== undefined && this.#settings.now() < before.lookAt) return before.hosts;
    // Another call may have begun to look meanwhile.
    const newer = this.#known.get(registry);
    if (newer !== undefined && newer !== known) return (await newer).hosts;
    const look = this.#look(registry, before);
    this.#known.set(registry, look);
    if (this.#known.size > MOST_REGISTRIES) this.#known.delete(this.#known.keys().next().value as string);
    return (await look).hosts;
  }

  async #look(registry: string, before: Known | undefined): Promise<Known> {
    const { dirs, now, warn } = this.#settings;
    const lookAt = now() + LOOK_MS;
    try {
      const file = await findHostsFile(dirs, registry);
      if (file === undefined) return { hosts: NONE, mark: '', lookAt };
      if (file.mark === before?.mark) return { ...before, lookAt };
      const hosts = await readHosts(file.path, registry).catch((error: unknown) => {
        warn({ file: file.path, reason: toErrorRecord(error).message }, 'a hosts.toml is passed over');
        return NONE;
      });
      return { hosts, mark: file.mark, lookAt };
    } catch (error) {
      warn({ registry, reason: toErrorRecord(error).message }, 'hosts.toml cannot be looked for');
      return { hosts: before?.hosts ?? NONE, mark: '', lookAt };
    }
  }
}

/** Whether a host may be asked for this. */
export const may = (host: HostEntry, need: readonly Capability[]): boolean =>
  need.every((one) => host.capabilities.has(one));

/** The file of a registry, with a mark that changes when the file does. Errors: those of the file system. */
export async function findHostsFile(
  dirs: readonly string[],
  registry: string,
): Promise<{ path: string; mark: string } | undefined> {
  for (const dir of dirs)
    for (const name of folderNames(registry)) {
      const folder = join(dir, name);
      if (!(await isThere(folder))) continue;
      const path = join(folder, 'hosts.toml');
      const found = await isThere(path);
      // A folder without the file has certificates alone: then no other folder counts (HostDirFromRoot in hosts.go).
      return found === undefined
        ? undefined
        : { path, mark: `${path} ${found.size} ${found.mtimeMs} ${found.ino}` };
    }
  return undefined;
}

/** What a file says of a registry. Error `invalid-argument`, `environment` where it cannot be read. */
export async function readHosts(path: string, registry: string): Promise<RegistryHosts> {
  const { size } = await stat(path);
  if (size > MAX_FILE)
    throw new CofaError('invalid-argument', `it has ${size} bytes, more than the ${MAX_FILE} that are read`);
  const { parseHosts } = await import('./hosts-toml.ts');
  const entries = parseHosts(await readFile(path, 'utf8'), dirname(path));
  const server = entries.pop();
  const hosts = entries.flatMap((entry): Mirror[] => {
    const { origin } = entry;
    return origin === undefined ? [] : [{ ...entry, origin }];
  });
  const isItself = ({ origin }: Mirror) => new URL(origin).host === registry;
  return {
    mirrors: hosts.filter((host) => !isItself(host)),
    // Where the file names the registry among its hosts, it says there how the registry is reached.
    server: server?.origin === undefined ? (hosts.find(isItself) ?? server) : server,
  };
}

/** How the folder of a registry may be spelled; files are named by the host as references name it. */
function folderNames(registry: string): string[] {
  const host = domainOf(registry);
  // A host has no slash, so this cannot leave the folder; ".." is no host.
  if (host.includes('/') || host.startsWith('.')) return [];
  const colon = host.lastIndexOf(':');
  const spelled = colon > 0 ? [`${host.slice(0, colon)}_${host.slice(colon + 1)}_`] : [];
  return [...spelled, host, '_default'];
}

async function isThere(path: string) {
  return await stat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return undefined;
    throw error;
  });
}
