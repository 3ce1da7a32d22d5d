/** What a child process of the supervisor needs to know: in ROOT/run/engine.json, readable by root only. */
import { readFile } from 'node:fs/promises';
import type { BusAddress } from '../bus/connection.ts';
import type { ChildRole, ChildUsers } from '../bus/roles.ts';
import type { RegistryClientOptions } from '../registry/client.ts';
import { Layout, writeWhole } from '../store/layout.ts';

export interface EngineSettings {
  root: string;
  node: string;
  nats: BusAddress;
  /** Absent where an engine wrote it that told no users apart, and a newer program of it reads. */
  users?: ChildUsers;
  /** Sequence of the engine's `engine.started`: what its processes append counts while no later one is in the log. */
  epoch: number;
  /** `store_dir` of the private nats-server, for syncs; absent where the operator runs NATS. */
  natsFiles?: string;
  transport: 'kernel' | 'fuse-native';
  /** Kernel transport: the mount can have what was in flight sent again to a successor (FUSE_HAS_RESEND). */
  resend: boolean;
  /** Jobs side by side in one fetcher. */
  slots: number;
  /** A read that waits longer gets EIO, ms. */
  readDeadlineMs: number;
  /** Bytes that the cache may take; absent: what the disk has. */
  cacheLimit?: number | undefined;
  /** Percent of the disk that layers of images that nothing mounts leave free; absent: none. */
  keepFree?: number;
  /** Whether they rehearse starts while there is nothing to do; absent: they do. */
  rehearses?: boolean;
  /** Whether work that no reader waits for gives way to others; absent: it does. */
  defers?: boolean;
  logLevel: string;
  registry: RegistrySettings;
}

/** How registries are reached, for every process that does: `cofa up --insecure-registry` and the like. */
export type RegistrySettings = Pick<
  RegistryClientOptions,
  'dockerConfig' | 'certDirs' | 'hostDirs' | 'insecure' | 'credentialSocket' | 'fleetSocket'
>;

/**
 * Options of a fetcher's registry client. A connection that falls silent is given up early enough that another one can
 * bring the bytes before the deadline of those who wait for them.
 */
export function registryOptions(
  settings: Pick<EngineSettings, 'registry' | 'readDeadlineMs'>,
): RegistryClientOptions {
  const { registry, readDeadlineMs } = settings;
  const share = (part: number, most: number) =>
    Math.min(most, Math.max(LEAST_TIMEOUT_MS, Math.round(readDeadlineMs / part)));
  return {
    ...registry,
    timeouts: { connectMs: share(6, 10_000), headersMs: share(3, 30_000), bodyMs: share(3, 30_000) },
    retry: { maxRetryAfterMs: readDeadlineMs },
  };
}

/** Even where reads are given up sooner, a registry has this long, ms. */
const LEAST_TIMEOUT_MS = 2_000;

/** How a process reaches NATS. */
export const busOf = ({ nats, users }: Pick<EngineSettings, 'nats' | 'users'>, role: ChildRole): BusAddress =>
  users?.[role] ?? nats;

const path = (root: string): string => new Layout(root).in('run/engine.json');

export const writeSettings = (settings: EngineSettings): Promise<void> =>
  writeWhole(path(settings.root), Buffer.from(JSON.stringify(settings)));

export const readSettings = async (root: string): Promise<EngineSettings> =>
  JSON.parse(await readFile(path(root), 'utf8')) as EngineSettings;
