/** What a child process of the supervisor needs to know: in ROOT/run/engine.json, readable by root only. */
import { readFile } from 'node:fs/promises';
import type { BusAddress } from '../bus/connection.ts';
import { Layout, writeWhole } from '../store/layout.ts';

export interface EngineSettings {
  root: string;
  node: string;
  nats: BusAddress;
  /** Sequence of the engine's `engine.started`: what its processes append counts while no later one is in the log. */
  epoch: number;
  transport: 'kernel' | 'fuse-native';
  /** Kernel transport: the mount can have what was in flight sent again to a successor (FUSE_HAS_RESEND). */
  resend: boolean;
  /** Jobs side by side in one fetcher. */
  slots: number;
  /** A read that waits longer gets EIO, ms. */
  readDeadlineMs: number;
  logLevel: string;
}

const path = (root: string): string => new Layout(root).in('run/engine.json');

export const writeSettings = (settings: EngineSettings): Promise<void> =>
  writeWhole(path(settings.root), Buffer.from(JSON.stringify(settings)));

export const readSettings = async (root: string): Promise<EngineSettings> =>
  JSON.parse(await readFile(path(root), 'utf8')) as EngineSettings;
