/**
 * Samples as the text that Prometheus reads, by its own client library: text format 0.0.4, or OpenMetrics 1.0.0, which has exemplars
 * (https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md).
 */
import {
  Gauge,
  type MetricObjectWithValues,
  type MetricValueWithName,
  Registry,
} from '@prometheus-io/client';
import type { Exemplar, Exemplars } from './exemplars.ts';
import { type Family, METRICS, PREFIX, type Sample } from '../../schemas/metrics.ts';

export type TextFormat = 'plain' | 'open';

export class MetricsText {
  readonly #registry: Registry;
  readonly #families = new Map<string, FilledMetric>();
  readonly #exemplars: Exemplars | undefined;

  constructor(format: TextFormat = 'plain', exemplars?: Exemplars) {
    this.#exemplars = exemplars;
    this.#registry =
      format === 'open'
        ? (new Registry(Registry.OPENMETRICS_CONTENT_TYPE) as unknown as Registry)
        : new Registry();
    for (const [name, family] of Object.entries(METRICS))
      this.#families.set(name, new FilledMetric(PREFIX + name, family, this.#registry));
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  /** One text of these samples; those of families that are not in the table are left out. Not to be called while it runs. */
  async render(samples: readonly Sample[]): Promise<string> {
    for (const family of this.#families.values()) family.clear();
    for (const [name, labels, values] of samples)
      this.#families.get(name)?.fill(labels, values, this.#exemplars?.of(name, labels) ?? []);
    return await this.#registry.metrics();
  }
}

type Value = MetricValueWithName<string>;
type Values = MetricObjectWithValues<Value>;

/** The library writes exemplars where the format has them; its types do not say so. */
const withExemplar = (value: Value, exemplar: Exemplar | undefined): Value =>
  exemplar === undefined
    ? value
    : Object.assign(value, {
        exemplar: { labelSet: exemplar.labels, value: exemplar.value, timestamp: exemplar.at },
      });

/**
 * A metric of the library whose values were counted elsewhere: the library's own classes count by themselves, and say 0 of
 * what they have not heard of.
 */
class FilledMetric extends Gauge<string> {
  readonly #name: string;
  readonly #family: Family;
  readonly #registry: Registry;
  #values: Values['values'] = [];

  constructor(name: string, family: Family, registry: Registry) {
    super({ name, help: family.help, labelNames: family.labels ?? [], registers: [registry] });
    this.#name = name;
    this.#family = family;
    this.#registry = registry;
  }

  clear(): void {
    this.#values = [];
  }

  /** `exemplars`: by bucket. */
  fill(
    labelValues: readonly string[],
    values: readonly number[],
    exemplars: ReadonlyArray<Exemplar | undefined>,
  ): void {
    const { type, labels: names = [], buckets = [] } = this.#family;
    const labels = Object.fromEntries(names.map((label, at) => [label, labelValues[at] ?? '']));
    if (type !== 'histogram') {
      this.#values.push({ labels, value: values[0] ?? 0 });
      return;
    }
    let seen = 0;
    for (const [at, le] of [...buckets, '+Inf'].entries()) {
      seen += values[at] ?? 0;
      const bucket = { metricName: `${this.#name}_bucket`, labels: { ...labels, le }, value: seen };
      this.#values.push(withExemplar(bucket, exemplars[at]));
    }
    this.#values.push({ metricName: `${this.#name}_sum`, labels, value: values.at(-1) ?? 0 });
    this.#values.push({ metricName: `${this.#name}_count`, labels, value: seen });
  }

  override async get(): Promise<Values> {
    const { type, help } = this.#family;
    // In OpenMetrics a counter's family has no suffix, and the library adds it to each series.
    const isOpen = this.#registry.contentType === Registry.OPENMETRICS_CONTENT_TYPE;
    return {
      name: isOpen && type === 'counter' ? this.#name.replace(/_total$/, '') : this.#name,
      help,
      type,
      aggregator: 'sum',
      values: this.#values,
      collect: () => {},
    };
  }
}
