/**
 * Measures what the machine and the engine's processes work during starts, for `cofa replay why`: at each call that mounts,
 * when it is answered, and ever more rarely for a minute. Samples are in the log a moment later, so that no start waits for
 * them. An engine in which nothing starts measures nothing.
 *
 * The samples behind a mount, of which no call waits for, also have the programs in containers of `cofa run` that start.
 */
import type { Logger } from 'pino';
import { type ProgramReadings, type SeenPrograms, StartPrograms } from '../../../actors/start-programs.ts';
import type { ProcessStatus } from '../../../schemas/api.ts';
import type { EventOf } from '../../../schemas/events.ts';
import { cgroupOf } from '../../container/cgroup.ts';
import type { MachineUsage, ProcessUsage } from '../../kernel/usage.ts';
import type { Clock, Timer } from '../../process/ports.ts';
import type { LiveFold } from '../../store/live-fold.ts';

export type UsageSample = EventOf<'engine.measured'>['samples'][number];

/** What is measured. */
export interface UsagePort {
  machine(): MachineUsage;
  /** Undefined where it has ended. */
  process(pid: number): ProcessUsage | undefined;
  /** Processor time of this process's children that have ended, µs. */
  endedUs(): number;
  /** The processes of a cgroup, so many at most; undefined where there is none. */
  programs(cgroup: string, most: number): ProgramReadings | undefined;
}

export interface UsageMeterOptions {
  options: { root: string };
  live: Pick<LiveFold, 'append'>;
  children: () => readonly Pick<ProcessStatus, 'name' | 'pid'>[];
  /** Those that come and end with one image. */
  indexers: { readonly pids: readonly number[] };
  log: Logger;
  ports: { clock: Clock; self: { pid: number }; usage?: UsagePort | undefined };
}

/** Two samples are at least so far apart, ms. */
const APART_MS = 50;
/** The first sample behind a mount comes after this, ms; each further one after twice the time. */
const FIRST_MS = 500;
/** So long after the last mount, ms, nothing counts as its start. */
const START_MS = 60_000;
/** What ended a start is in the log after this, ms. */
const SOON_MS = 100;
/** Samples that wait for the log. */
const MOST_WAITING = 64;

const NOTHING: ProcessUsage = { cpuUs: 0, waitUs: 0 };

export class UsageMeter {
  readonly #options: UsageMeterOptions;
  readonly #programs = new StartPrograms();
  #waiting: UsageSample[] = [];
  #sampledAt = Number.NEGATIVE_INFINITY;
  #mountedAt = Number.NEGATIVE_INFINITY;
  #timer: Timer | undefined;
  #closed = false;

  constructor(options: UsageMeterOptions) {
    this.#options = options;
  }

  /** A client asks for a mount. */
  asked(): void {
    this.#sample();
  }

  /** The mount is there, or has failed. */
  mounted(): void {
    this.#sample();
    this.#mountedAt = this.#options.ports.clock.now();
    this.#wakeIn(FIRST_MS);
  }

  /** The mount of a container of `cofa run` is there: its programs are about to begin. `container`: a name that was checked. */
  contained(mount: string, container: string): void {
    const { options, ports } = this.#options;
    if (ports.usage === undefined) return;
    this.#programs.began({ mount, cgroup: cgroupOf(options.root, container) }, ports.clock.now());
  }

  /** A mount is about to be unmounted: where it is young, that ends its start. */
  ended(): void {
    if (this.#options.ports.clock.now() - this.#mountedAt > START_MS) return;
    this.#sample();
    this.#wakeIn(SOON_MS);
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
  }

  #wakeIn(ms: number): void {
    const { usage, clock } = this.#options.ports;
    if (usage === undefined || this.#closed) return;
    this.#timer?.cancel();
    this.#timer = clock.after(ms, () => this.#look());
  }

  #look(): void {
    this.#sample(true);
    void this.#flush();
    const age = this.#options.ports.clock.now() - this.#mountedAt;
    if (age < START_MS) this.#wakeIn(Math.max(FIRST_MS, age));
  }

  /** `withPrograms`: also what runs in containers; no call waits meanwhile. */
  #sample(withPrograms = false): void {
    const { children, ports } = this.#options;
    const { usage, clock, self } = ports;
    const now = clock.now();
    if (usage === undefined || this.#closed || now - this.#sampledAt < APART_MS) return;
    this.#sampledAt = now;
    const { stalledUs, ...machine } = usage.machine();
    const processes = [{ name: 'supervisor', pid: self.pid }, ...children()].flatMap(({ name, pid }) => {
      const used = usage.process(pid);
      return used === undefined ? [] : [{ name, ...used }];
    });
    const indexers = this.#indexers(usage);
    if (indexers.cpuUs > 0) processes.push({ name: 'indexer', ...indexers });
    const at = clock.wallMs();
    const programs = withPrograms ? this.#programsAt(at, usage) : [];
    const sample: UsageSample = {
      at,
      ...machine,
      ...(stalledUs !== undefined && { stalledUs }),
      processes,
      ...(programs.length > 0 && { programs }),
    };
    this.#waiting.push(sample);
    if (this.#waiting.length > MOST_WAITING) this.#waiting.shift();
  }

  #programsAt(wallMs: number, usage: UsagePort): SeenPrograms[] {
    const due = this.#programs.due(this.#options.ports.clock.now());
    return due.flatMap(
      ({ mount, cgroup, most }) => this.#programs.take(mount, usage.programs(cgroup, most), wallMs) ?? [],
    );
  }

  /**
   * All that there have been: one that has indexed an image has ended by the time that it is mounted. With them counts what
   * else this process has started and seen end, such as a fetcher that was killed.
   */
  #indexers(usage: UsagePort): ProcessUsage {
    const living = this.#options.indexers.pids.map((pid) => usage.process(pid) ?? NOTHING);
    return {
      cpuUs: living.reduce((sum, { cpuUs }) => sum + cpuUs, usage.endedUs()),
      waitUs: living.reduce((sum, { waitUs }) => sum + waitUs, 0),
    };
  }

  /** A log that is away gets them with the next ones. */
  async #flush(): Promise<void> {
    const samples = this.#waiting;
    if (samples.length === 0) return;
    this.#waiting = [];
    try {
      await this.#options.live.append('main', { type: 'engine.measured', samples }, { early: true });
    } catch (error) {
      this.#options.log.debug({ error }, 'what was measured waits for the log');
      this.#waiting = [...samples, ...this.#waiting].slice(-MOST_WAITING);
    }
  }
}
