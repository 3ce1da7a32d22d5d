/** Gathers what the processes of the engine say of themselves, and what the supervisor knows, into the samples of one scrape. */
import { Carried, type Counts, zeroSamples } from '../../../actors/counts.ts';
import type { ProcessStatus } from '../../../schemas/api.ts';
import type { MetricName, Sample } from '../../../schemas/metrics.ts';
import { version } from '../../client/version.ts';
import { readProc, statFields } from '../../kernel/proc.ts';
import { machineUsage } from '../../kernel/usage.ts';
import type { Child } from '../../process/child.ts';
import type { Conditions } from '../../process/conditions.ts';
import type { Clock } from '../../process/ports.ts';
import type { NodeLog } from '../log/node-log.ts';
import type { Mounts } from '../mounts/mounts.ts';
import type { Images } from '../images/images.ts';
import type { RegistryClient } from '../../registry/client.ts';
import type { FrontEnds } from '../processes/front-ends.ts';
import type { Fetchers } from '../processes/fetchers.ts';
import type { FrontFigures } from '../status/front-figures.ts';
import { imageStatus, stateOf } from '../status/image-status.ts';
import { processStatus } from '../status/process-status.ts';
import { FailedReads } from './failed-reads.ts';
import type { FoldCounts } from './fold-counts.ts';

export interface CollectorSources {
  options: { node: string; transport: string };
  counts: Counts;
  folded: Pick<FoldCounts, 'settle'>;
  startedAt: Date;
  /** Images that have series of their own. */
  images: Pick<Images, 'all'>;
  topImages: number;
  mounts: Pick<Mounts, 'list'>;
  keeper: Pick<NodeLog['keeper'], 'report'>;
  events: { readonly waiting: number };
  conditions: Pick<Conditions, 'list' | 'has'>;
  fronts: Pick<FrontEnds, 'isReady' | 'failedReads' | 'counted' | 'degraded'>;
  fetchers: Pick<Fetchers, 'counted' | 'degraded'>;
  registry: Pick<RegistryClient, 'leftOut'>;
  /** Processes that not every engine has. */
  others: ReadonlyArray<Pick<Child, 'counted' | 'degraded'> | undefined>;
  figures: Pick<FrontFigures, 'lately'>;
  children: () => ProcessStatus[];
  ports: { clock: Pick<Clock, 'now' | 'wallMs'>; self: { pid: number } };
}

/** A process has so long to say what it has counted, ms; then what it said last has to do. */
const ANSWER_MS = 1_500;
/** Of proc(5): ticks a second; on Linux always 100 for programs. */
const TICKS = 100;

export class Collector {
  readonly #sources: CollectorSources;
  readonly #carried = new Carried();
  readonly #failed = new FailedReads();

  constructor(sources: CollectorSources) {
    this.#sources = sources;
  }

  /** One call at a time. */
  async samples(): Promise<Sample[]> {
    const { counts, folded, fronts, ports, conditions } = this.#sources;
    const missing = await this.#ask();
    folded.settle(ports.clock.wallMs());
    this.#carried.heard('supervisor', ports.self.pid, counts.samples());
    const now = ports.clock.now();
    this.#failed.answered(fronts.failedReads, now);
    const heard = this.#carried.samples().filter(([name]) => name !== 'reads_failed_last_5m');
    return summed([
      ...zeroSamples(),
      ...heard,
      one('reads_total', fronts.failedReads, 'failed'),
      one('reads_failed_last_5m', this.#failed.sum(now)),
      one('scrape_missing_processes', missing),
      one('nats_connected', conditions.has('nats') ? 0 : 1, 'supervisor'),
      ...this.#engine(),
      ...machine(),
      ...this.#processes(),
      ...this.#log(),
      ...this.#states(),
      ...(await this.#largest()),
    ]);
  }

  /** Returns how many did not answer in time. */
  async #ask(): Promise<number> {
    const { fronts, fetchers, others, ports } = this.#sources;
    const asked = await Promise.all([
      fronts.counted(ANSWER_MS),
      ...fetchers.counted(ANSWER_MS),
      ...others.map((one) => one?.counted(ANSWER_MS)),
    ]);
    let missing = 0;
    for (const counted of asked) {
      if (counted === undefined) continue;
      const { role, name, pid, samples } = counted;
      if (samples === undefined) {
        missing += 1;
        continue;
      }
      this.#carried.heard(name, pid, samples);
      if (role !== 'front-end') continue;
      const [, , [failed = 0] = []] = samples.find(([family]) => family === 'reads_failed_last_5m') ?? [];
      this.#failed.heard(pid, failed, ports.clock.now());
    }
    return missing;
  }

  #engine(): Sample[] {
    const { options, startedAt, fronts } = this.#sources;
    return [
      one('build_info', 1, version(), options.node, options.transport),
      one('engine_start_time_seconds', startedAt.getTime() / 1000),
      one('engine_ready', fronts.isReady ? 1 : 0),
      one('engine_degraded_conditions', this.#wrong().size),
    ];
  }

  /** As in `status`; what other processes say is as old as their last sign of life. */
  #wrong(): Set<string> {
    const { conditions, fronts, fetchers, registry, others } = this.#sources;
    return new Set([
      ...conditions.list(),
      ...fronts.degraded,
      ...fetchers.degraded(),
      ...registry.leftOut(),
      ...others.flatMap((child) => child?.degraded ?? []),
    ]);
  }

  #processes(): Sample[] {
    const { startedAt, ports, children } = this.#sources;
    const all = processStatus({ pid: ports.self.pid, since: startedAt }, children());
    return all.flatMap(({ role, name, pid, state, restarts, rssBytes }) => [
      one('processes', 1, role, state),
      one('process_restarts_total', restarts, name),
      ...(rssBytes === undefined ? [] : [one('process_resident_memory_bytes', rssBytes, name)]),
      ...cpuOf(pid).map((seconds) => one('process_cpu_seconds_total', seconds, name)),
    ]);
  }

  #log(): Sample[] {
    const { keeper, events } = this.#sources;
    const { events: count, bytes, limit } = keeper.report();
    return [
      one('log_events_total', count),
      one('log_bytes', bytes),
      one('log_limit_bytes', limit),
      one('log_waiting_appends', events.waiting),
    ];
  }

  #states(): Sample[] {
    const { mounts, images } = this.#sources;
    return [
      ...mounts.list().map(({ state }) => one('mounts', 1, state)),
      ...Array.from(images.all(), (image) => one('images', 1, stateOf(image))),
    ];
  }

  /** The images with the most bytes, where they are to have names. */
  async #largest(): Promise<Sample[]> {
    const { topImages, images, figures } = this.#sources;
    if (topImages === 0) return [];
    const { layers } = await figures.lately();
    return imageStatus(images.all(), layers)
      .toSorted((a, b) => b.bytes.total - a.bytes.total)
      .slice(0, topImages)
      .flatMap(({ ref, bytes }) => [
        one('image_size_bytes', bytes.total, ref),
        one('image_present_bytes', bytes.present, ref),
        one('image_fetched_bytes', bytes.fetched, ref),
      ]);
  }
}

const one = (name: MetricName, value: number, ...labels: string[]): Sample => [name, labels, [value]];

/** Of the whole machine, so that it can be told what other programs take. */
function machine(): Sample[] {
  const { cpus, busyUs, stalledUs } = machineUsage();
  return [
    one('machine_cpus', cpus),
    one('machine_cpu_seconds_total', busyUs / 1e6),
    ...Object.entries(stalledUs ?? {}).map(([resource, us]) =>
      one('machine_pressure_seconds_total', us / 1e6, resource),
    ),
  ];
}

/** Samples of one series together: a text has each once. */
function summed(samples: readonly Sample[]): Sample[] {
  const series = new Map<string, Sample>();
  for (const [name, labels, values] of samples) {
    const key = [name, ...labels].join('\n');
    const known = series.get(key)?.[2];
    series.set(key, [
      name,
      labels,
      known === undefined ? values : values.map((value, at) => value + (known[at] ?? 0)),
    ]);
  }
  return [...series.values()];
}

/** User and system time of a process, seconds; none where it has ended. */
function cpuOf(pid: number): number[] {
  const stat = readProc(`/proc/${pid}/stat`);
  if (stat === '') return [];
  const fields = statFields(stat);
  return [(Number(fields[14 - 3]) + Number(fields[15 - 3])) / TICKS];
}
