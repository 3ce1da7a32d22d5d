/**
 * What a console shows: a log, which grows while its engine runs, and what the engine says of itself. The engine is only asked
 * while a client looks.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Status } from '../../schemas/api.ts';
import type { LoadedLog } from '../replay/load.ts';
import type { ReplayLog } from '../replay/replay-log.ts';
import type { IncidentLogs } from './incident-logs.ts';

/** Between two looks for an engine that was away, ms. */
const AWAY_MS = 2_000;

export interface SourceOptions {
  /** The log as it was read first. */
  loaded: LoadedLog;
  /** Reads the log of an engine that runs again. Absent: the log is a file, and stays as it is. */
  reload?: (signal: AbortSignal) => Promise<LoadedLog>;
  /** Asks the engine. Absent: there is none. */
  status?: () => Promise<Status>;
  /** Those of the engine's root. Absent: the log is a file. */
  incidents?: IncidentLogs;
  /** The first generation; absent: the time, so that a page tells the log of a console that was started again from the one before. */
  generation?: number;
}

export class Source {
  /** Rises when the log is another one: a client then forgets what it knows of it. */
  generation: number;
  readonly #options: SourceOptions;
  #loaded: LoadedLog;
  readonly #grown = new Set<() => void>();
  readonly #stop = new AbortController();
  #following: Promise<void> | undefined;
  #asking: Promise<Status | undefined> | undefined;

  constructor(options: SourceOptions) {
    this.#options = options;
    this.#loaded = options.loaded;
    this.generation = options.generation ?? Date.now();
  }

  get log(): ReplayLog {
    return this.#loaded.log;
  }

  get title(): string {
    return this.#loaded.title;
  }

  get incidents(): IncidentLogs | undefined {
    return this.#options.incidents;
  }

  /** Whether it is an engine's log, and not a file. */
  get isOfEngine(): boolean {
    return this.#options.reload !== undefined;
  }

  /** Whether the engine runs, so that events can come. */
  get isLive(): boolean {
    return this.#loaded.follow !== undefined;
  }

  /** Takes the events that come. */
  start(): void {
    if (this.isOfEngine) this.#following ??= this.#follow();
  }

  /** Calls back when the log has grown, or is another one. Returns what ends that. */
  onGrowth(callback: () => void): () => void {
    this.#grown.add(callback);
    return () => this.#grown.delete(callback);
  }

  /** What the engine says of itself; undefined while it does not answer. Those who ask at once share an answer. */
  async status(): Promise<Status | undefined> {
    const { status } = this.#options;
    if (status === undefined) return undefined;
    this.#asking ??= status()
      .catch(() => undefined)
      .finally(() => (this.#asking = undefined));
    return await this.#asking;
  }

  async close(): Promise<void> {
    await this.closeLog();
    await this.incidents?.close();
  }

  /** Without the incidents, which several sources share. */
  async closeLog(): Promise<void> {
    this.#stop.abort();
    this.#grown.clear();
    await this.#following;
    await this.#loaded.close();
  }

  /** Until `close`. An engine that ends leaves its log, and one that comes back is followed again. */
  async #follow(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      try {
        for await (const raw of this.#loaded.follow?.(signal) ?? []) {
          this.log.append(raw);
          this.#tell();
        }
      } catch {
        // NATS has gone with its engine: what was read stays to be looked at.
      }
      if (signal.aborted) return;
      this.#loaded = { ...this.#loaded, follow: undefined };
      this.#tell();
      await sleep(AWAY_MS, undefined, { signal }).catch(() => {});
      if (!signal.aborted) await this.#reload(signal);
    }
  }

  async #reload(signal: AbortSignal): Promise<void> {
    const next = await this.#options.reload?.(signal).catch(() => undefined);
    if (next === undefined) return;
    if (signal.aborted) {
      await next.close();
      return;
    }
    const before = this.#loaded;
    this.#loaded = next;
    this.generation += 1;
    this.#tell();
    await before.close().catch(() => {});
  }

  #tell(): void {
    for (const callback of this.#grown) callback();
  }
}
