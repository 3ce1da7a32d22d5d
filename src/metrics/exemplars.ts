/** Examples of what histograms count: for each bucket the last one, as OpenMetrics has them. */
import { METRICS, type MetricName } from '../../schemas/metrics.ts';

export interface Exemplar {
  labels: Readonly<Record<string, string>>;
  /** What was observed. */
  value: number;
  /** Seconds since the epoch. */
  at: number;
}

export class Exemplars {
  /** By series, then by bucket; the last bucket is infinity's. As many as the table has buckets: labels come from the program. */
  readonly #series = new Map<string, Array<Exemplar | undefined>>();

  set(name: MetricName, labels: readonly string[], exemplar: Exemplar): void {
    const { buckets = [] } = METRICS[name];
    const found = buckets.findIndex((bound) => exemplar.value <= bound);
    const key = [name, ...labels].join('\n');
    const series = this.#series.get(key) ?? [];
    series[found < 0 ? buckets.length : found] = exemplar;
    this.#series.set(key, series);
  }

  of(name: string, labels: readonly string[]): ReadonlyArray<Exemplar | undefined> {
    return this.#series.get([name, ...labels].join('\n')) ?? [];
  }
}
