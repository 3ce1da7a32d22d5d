/** The engine as a user has it: started, asked and stopped by `cofa`, over a registry that can be watched. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type Relay, startRelay } from '../../ops/bench/relay.ts';
import { spanRun, spansOf } from '../../actors/ranges.ts';
import { Status } from '../../schemas/api.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { type RunOptions, runCommand } from '../support/services.ts';
import type { Cleanup } from '../support/temp.ts';

export const COFA = fileURLToPath(new URL('../../ops/cofa', import.meta.url));

export interface Engine {
  root: string;
  /** Runs `cofa` with this engine's root; returns stdout, throws with stderr. */
  cofa(args: string[], options?: RunOptions): Promise<string>;
  status(): Promise<Status>;
  /** What its processes wrote, the last lines of each log. */
  logs(): string;
  up(args?: string[]): Promise<void>;
  down(): Promise<void>;
}

/**
 * Starts an engine with an empty root; the cleanup stops it, whatever state it is in. It rehearses no starts, seconds of processor time,
 * unless `rehearses`.
 */
export async function startEngine(
  cleanup: Cleanup,
  args: string[] = [],
  { rehearses = false } = {},
): Promise<Engine> {
  const directory = await cleanup.tempDir('e2e');
  const root = join(directory, 'root');
  const cofa = (words: string[], options?: RunOptions) =>
    runCommand(COFA, ['--root', root, ...words], { timeoutMs: 180_000, ...options });
  const engine: Engine = {
    root,
    cofa,
    status: async () => Status.parse(JSON.parse(await cofa(['status', '--json']))),
    logs: () => tails(join(root, 'log')),
    up: async (more = args) => {
      // Tests of other things prepare images without signing them.
      const trust = more.includes('--trust') ? [] : ['--trust', 'registry'];
      await cofa(['up', '--no-defer', ...(rehearses ? [] : ['--no-rehearsal']), ...trust, ...more]);
    },
    down: async () => {
      await cofa(['down', '--force']);
    },
  };
  cleanup.defer(async () => {
    if (!existsSync(join(root, 'run/endpoint.json'))) return;
    // An engine that ends leaves its mounts to the next one: those of a test that failed would stay.
    const left = await engine.status().catch(() => undefined);
    for (const { dir } of left?.mounts ?? []) await cofa(['unmount', dir]).catch(() => {});
    await engine.down().catch((error: unknown) => {
      // Ended by the test itself, perhaps.
      if (!String(error).includes('(9)')) throw error;
    });
  });
  await engine.up().catch((error: unknown) => {
    throw new Error(`${String(error)}\n${engine.logs()}`);
  });
  return engine;
}

/** Waits until a condition holds; throws with what `describe` says after `timeoutMs`. */
export async function until(
  condition: () => Promise<boolean> | boolean,
  describe: () => string,
  timeoutMs = 120_000,
): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(describe());
    await sleep(100);
  }
}

/** A fetch as the log tells of it. */
export interface TracedFetch {
  job: number;
  span: number;
  spans: number;
  runs?: Array<[first: number, count: number]>;
}

export const spansIn = ({ span, spans, runs = [[span, spans]] }: TracedFetch): number[] => [
  ...spansOf(runs.map(([first, count]) => spanRun(first, count))),
];

/** One request for a blob, as it passed the relay. */
export interface BlobRequest {
  digest: string;
  /** First and last byte asked for; the whole blob without a Range header. */
  range: { start: number; end: number } | undefined;
}

export interface WatchedRegistry {
  /** `127.0.0.1:PORT` of the relay in front of the registry. */
  host: string;
  server: RegistryServer;
  relay: Relay;
  /** GET requests for blobs since the last call. */
  takeBlobRequests(): BlobRequest[];
}

/** A registry behind a relay that reads along: its own access log does not show ranges. */
export async function startWatchedRegistry(
  cleanup: Cleanup,
  link: { rate?: number; rttMs?: number } = {},
): Promise<WatchedRegistry> {
  const server = await startRegistry();
  cleanup.defer(() => server.stop());
  const streams = new Map<number, string>();
  let requests: BlobRequest[] = [];
  const relay = await startRelay({
    to: { host: '127.0.0.1', port: server.port },
    ...link,
    onRequestBytes: (connection, bytes) => {
      // Request heads end with an empty line; bodies of uploads pass by without looking like one of ours.
      const text = (streams.get(connection) ?? '') + bytes.toString('latin1');
      const end = text.lastIndexOf('\r\n\r\n');
      streams.set(connection, end < 0 ? text.slice(-16_384) : text.slice(end + 4).slice(-16_384));
      if (end >= 0) requests.push(...parseBlobRequests(text.slice(0, end + 4)));
    },
  });
  cleanup.defer(() => relay.stop());
  return {
    host: relay.host,
    server,
    relay,
    takeBlobRequests: () => {
      const taken = requests;
      requests = [];
      return taken;
    },
  };
}

function parseBlobRequests(text: string): BlobRequest[] {
  const found: BlobRequest[] = [];
  for (const match of text.matchAll(
    /GET \/v2\/\S+\/blobs\/(sha256:[0-9a-f]{64}) HTTP\/1\.1\r\n((?:[^\r\n]+\r\n)*)\r\n/g,
  )) {
    const range = /^range: *bytes=(\d+)-(\d*)/im.exec(match[2] as string);
    found.push({
      digest: match[1] as string,
      range:
        range === null
          ? undefined
          : { start: Number(range[1]), end: range[2] === '' ? Number.MAX_SAFE_INTEGER : Number(range[2]) },
    });
  }
  return found;
}

function tails(directory: string): string {
  if (!existsSync(directory)) return '';
  return readdirSync(directory)
    .map((name) => `== ${name}\n${readFileSync(join(directory, name), 'utf8').slice(-3000)}`)
    .join('\n');
}
