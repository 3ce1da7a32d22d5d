/**
 * What the front end says of itself for metrics. Reads are counted where they are served, in the tallies of the FUSE threads
 * (src/fuse/served-file.ts); here they are added up when the supervisor asks. So a read costs what it did without.
 */
import { type Counts, Recent } from '../../actors/counts.ts';
import type { MetricName, Sample } from '../../schemas/metrics.ts';
import type { BusHealth } from '../bus/health.ts';
import type { FuseTransport } from '../fuse/transport.ts';
import type { Clock } from '../process/ports.ts';
import type { CacheHost } from './cache-host.ts';
import type { FetchPool } from './fetch-pool.ts';
import type { LayerTable } from './layer-table.ts';
import type { LogWriter } from './log-writer.ts';

export interface FrontMetricsOptions {
  counts: Counts;
  transport: Pick<FuseTransport, 'counters'>;
  layers: Pick<LayerTable, 'opened'>;
  pool: Pick<FetchPool, 'load'>;
  cache: Pick<CacheHost, 'status'>;
  writer: Pick<LogWriter, 'waiting'>;
  health: Pick<BusHealth, 'isAway'>;
  clock: Pick<Clock, 'now'>;
}

export class FrontMetrics {
  readonly #options: FrontMetricsOptions;
  readonly #failed = new Recent();
  #failedSoFar = 0;

  constructor(options: FrontMetricsOptions) {
    this.#options = options;
  }

  /** To be called every few seconds: notes when reads failed. */
  look(): void {
    const { errors } = this.#options.transport.counters();
    this.#failed.add(errors - this.#failedSoFar, this.#options.clock.now());
    this.#failedSoFar = Math.max(errors, this.#failedSoFar);
  }

  async samples(): Promise<Sample[]> {
    this.look();
    const { counts, clock, health, writer } = this.#options;
    const counted = counts.samples();
    return [
      ...counted,
      ...this.#reads(counted),
      one('reads_failed_last_5m', this.#failed.sum(clock.now())),
      ...this.#work(),
      ...this.#layers(),
      ...(await this.#cache()),
      one('log_waiting_appends', writer.waiting),
      one('nats_connected', health.isAway ? 0 : 1, 'front-end'),
    ];
  }

  #reads(counted: readonly Sample[]): Sample[] {
    const { hits, errors, bytes } = this.#options.transport.counters();
    let waited = 0;
    for (const [name, [outcome], values] of counted)
      if (name === 'read_wait_seconds' && outcome === 'data')
        waited = values.slice(0, -1).reduce((sum, n) => sum + n, 0);
    return [
      one('reads_total', hits, 'hit'),
      one('reads_total', waited, 'waited'),
      one('reads_total', errors, 'failed'),
      one('read_bytes_total', bytes),
    ];
  }

  #work(): Sample[] {
    const { queued, running, slots } = this.#options.pool.load();
    return [
      one('queued_jobs', queued.demand, 'demand'),
      one('queued_jobs', queued.prefetch, 'prefetch'),
      one('running_jobs', running),
      one('fetcher_slots', slots),
    ];
  }

  #layers(): Sample[] {
    const blocks = { absent: 0, fetching: 0, present: 0 };
    const states = { lazy: 0, complete: 0, 'handed-over': 0, corrupt: 0 };
    let waiting = 0;
    let lagMs = 0;
    for (const layer of this.#options.layers.opened.values()) {
      const status = layer.status();
      blocks.absent += status.blocks.absent;
      blocks.fetching += status.blocks.fetching;
      blocks.present += status.blocks.present;
      states[status.state] += 1;
      waiting += layer.waiting;
      lagMs = Math.max(lagMs, layer.logLagMs);
    }
    return [
      ...Object.entries(blocks).map(([state, count]) => one('blocks', count, state)),
      ...Object.entries(states).map(([state, count]) => one('layers', count, state)),
      one('waiting_reads', waiting),
      one('log_lag_seconds', lagMs / 1000),
    ];
  }

  async #cache(): Promise<Sample[]> {
    const status = await this.#options.cache.status();
    const { usedBytes, metadataBytes, limitBytes, freeBytes, reserveBytes, evictedBytes, prefetch } = status;
    return [
      one('cache_used_bytes', usedBytes),
      one('cache_metadata_bytes', metadataBytes),
      ...(limitBytes === null ? [] : [one('cache_limit_bytes', limitBytes)]),
      one('cache_disk_free_bytes', freeBytes),
      one('cache_disk_reserve_bytes', reserveBytes),
      one('cache_prefetch_allowed', prefetch ? 1 : 0),
      one('evicted_bytes_total', evictedBytes),
    ];
  }
}

const one = (name: MetricName, value: number, ...labels: string[]): Sample => [name, labels, [value]];
