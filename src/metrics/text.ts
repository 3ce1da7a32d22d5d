/** Samples as the text that Prometheus reads (text format 0.0.4), by its own client library. */
import {
  Gauge,
  type MetricObjectWithValues,
  type MetricValueWithName,
  Registry,
} from '@prometheus-io/client';
import { type Family, METRICS, PREFIX, type Sample } from '../../schemas/metrics.ts';

export class MetricsText {
  readonly #registry = new Registry();
  readonly #families = new Map<string, FilledMetric>();

  constructor() {
    for (const [name, family] of Object.entries(METRICS))
      this.#families.set(name, new FilledMetric(PREFIX + name, family, this.#registry));
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  /** One text of these samples; those of families that are not in the table are left out. Not to be called while it runs. */
  async render(samples: readonly Sample[]): Promise<string> {
    for (const family of this.#families.values()) family.clear();
    for (const [name, labels, values] of samples) this.#families.get(name)?.fill(labels, values);
    return await this.#registry.metrics();
  }
}

type Values = MetricObjectWithValues<MetricValueWithName<string>>;

/**
 * A metric of the library whose values were counted elsewhere: the library's own classes count by themselves, and say 0 of
 * what they have not heard of.
 */
class FilledMetric extends Gauge<string> {
  readonly #name: string;
  readonly #family: Family;
  #values: Values['values'] = [];

  constructor(name: string, family: Family, registry: Registry) {
    super({ name, help: family.help, labelNames: family.labels ?? [], registers: [registry] });
    this.#name = name;
    this.#family = family;
  }

  clear(): void {
    this.#values = [];
  }

  fill(labelValues: readonly string[], values: readonly number[]): void {
    const { type, labels: names = [], buckets = [] } = this.#family;
    const labels = Object.fromEntries(names.map((label, at) => [label, labelValues[at] ?? '']));
    if (type !== 'histogram') {
      this.#values.push({ labels, value: values[0] ?? 0 });
      return;
    }
    let seen = 0;
    for (const [at, le] of [...buckets, '+Inf'].entries()) {
      seen += values[at] ?? 0;
      this.#values.push({ metricName: `${this.#name}_bucket`, labels: { ...labels, le }, value: seen });
    }
    this.#values.push({ metricName: `${this.#name}_sum`, labels, value: values.at(-1) ?? 0 });
    this.#values.push({ metricName: `${this.#name}_count`, labels, value: seen });
  }

  override async get(): Promise<Values> {
    const { type, help } = this.#family;
    return {
      name: this.#name,
      help,
      type,
      aggregator: 'sum',
      values: this.#values,
      collect: () => {},
    };
  }
}
