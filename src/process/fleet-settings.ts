/**
 * What a member of a fleet needs to know (src/fleet/main.ts): in ROOT/run/fleet.json, readable by root only. An engine's
 * supervisor writes it, or `cofa fetcher`, which has no engine.
 */
import { readFile } from 'node:fs/promises';
import type { MemberRole } from '../../schemas/fleet.ts';
import type { BusAddress } from '../bus/connection.ts';
import { Layout, writeWhole } from '../store/layout.ts';
import type { RegistrySettings } from './settings.ts';

/** What `cofa up --fleet` and `cofa fetcher` say. */
export interface FleetChoice {
  /** Its name: several fleets may share a NATS. */
  fleet: string;
  zone: string;
  /** `HOST:PORT` that it listens on; without, the address by which this machine reaches NATS, and any port. */
  listen?: string | undefined;
  /** `HOST:PORT` by which others reach it, where that is another one. */
  address?: string | undefined;
  /** Pieces may take so much of the disk, bytes. */
  cacheBytes: number;
  /** Bytes a second that others may read from it; undefined: no limit. */
  uploadBytes?: number | undefined;
  /** Members that have to vouch for a sidecar under `--trust fleet`; undefined: one. */
  witnesses?: number | undefined;
}

export interface FleetSettings extends FleetChoice {
  root: string;
  /** The member's name. */
  node: string;
  role: MemberRole;
  nats: BusAddress;
  /** How registries are reached. A member has no credentials: it fetches as everyone, or with the token that an asker brings. */
  registry: Pick<RegistrySettings, 'certDirs' | 'hostDirs' | 'insecure'>;
  logLevel: string;
  /** Whether the member rehearses a start while it has nothing to do; by default it does. */
  rehearses?: boolean;
}

const path = (root: string): string => new Layout(root).in('run/fleet.json');

/** For root only, and whole or not at all. */
export const writeFleetSettings = (settings: FleetSettings): Promise<void> =>
  writeWhole(path(settings.root), Buffer.from(JSON.stringify(settings)));

/** Throws where the file is not there, or is no JSON. */
export const readFleetSettings = async (root: string): Promise<FleetSettings> =>
  JSON.parse(await readFile(path(root), 'utf8')) as FleetSettings;
