/**
 * What a process counts of itself for metrics (schemas/metrics.ts). The counts lie where things happen, are plain numbers, and
 * are taken when a client asks for them: counting sends no message. A label's values are bounded here,
 * whatever a registry answers: series beyond the bound are counted under `other`.
 */
import { type Family, knownLabels, METRICS, type MetricName, type Sample } from '../schemas/metrics.ts';

/** Series of one family. */
const MOST_SERIES = 60;
const OTHER = 'other';

interface Series {
  labels: readonly string[];
  values: number[];
}

export class Counts {
  readonly #families = new Map<MetricName, Map<string, Series>>();

  /** Adds to a counter. */
  add(name: MetricName, by = 1, ...labels: string[]): void {
    const { values } = this.#series(name, labels);
    values[0] = (values[0] ?? 0) + by;
  }

  /** Adds an observation to a histogram; seconds, below 0 counts as 0. */
  observe(name: MetricName, value: number, ...labels: string[]): void {
    const { values } = this.#series(name, labels);
    const buckets = METRICS[name].buckets ?? [];
    const seconds = Number.isFinite(value) ? Math.max(0, value) : 0;
    const found = buckets.findIndex((bound) => seconds <= bound);
    const bucket = found < 0 ? buckets.length : found;
    values[bucket] = (values[bucket] ?? 0) + 1;
    values[buckets.length + 1] = (values[buckets.length + 1] ?? 0) + seconds;
  }

  /** Everything so far. */
  samples(): Sample[] {
    const all: Sample[] = [];
    for (const [name, series] of this.#families)
      for (const { labels, values } of series.values()) all.push([name, labels, [...values]]);
    return all;
  }

  #series(name: MetricName, labels: readonly string[]): Series {
    let family = this.#families.get(name);
    if (family === undefined) this.#families.set(name, (family = new Map()));
    const key = labels.join('\n');
    const known = family.get(key);
    if (known !== undefined) return known;
    if (family.size >= MOST_SERIES && labels.some((label) => label !== OTHER))
      return this.#series(
        name,
        labels.map(() => OTHER),
      );
    const series = { labels, values: emptyOf(METRICS[name]) };
    family.set(key, series);
    return series;
  }
}

/** A series of this family that has counted nothing. */
const emptyOf = ({ type, buckets = [] }: Family): number[] =>
  type === 'histogram' ? Array.from({ length: buckets.length + 2 }, () => 0) : [0];

/**
 * Adds up what processes say of themselves. A process that ends begins at 0 when it is back, and its clients want numbers that
 * only grow: what the one before had said last stays added. What it counted after that is lost.
 */
export class Carried {
  /** By process: who said it, and what. */
  readonly #last = new Map<string, { pid: number; samples: readonly Sample[] }>();
  /** Of processes that have ended: counters and histograms only. */
  #past = new Map<string, Sample>();

  /** What a process says now. */
  heard(process: string, pid: number, samples: readonly Sample[]): void {
    const known = this.#last.get(process);
    if (known !== undefined && known.pid !== pid) this.#keep(known.samples);
    this.#last.set(process, { pid, samples });
  }

  /** The sum over all processes, those that have ended included. A gauge is the sum of what the present ones said last. */
  samples(): Sample[] {
    const sum = new Map(this.#past);
    for (const { samples } of this.#last.values()) for (const sample of samples) addTo(sum, sample);
    return [...sum.values()];
  }

  #keep(samples: readonly Sample[]): void {
    for (const sample of samples) {
      if (familyOf(sample[0])?.type !== 'gauge') addTo(this.#past, sample);
    }
  }
}

/** Undefined: a family of another version. */
export const familyOf = (name: string): Family | undefined =>
  Object.hasOwn(METRICS, name) ? METRICS[name as MetricName] : undefined;

/** Series of all processes together. */
const MOST_SUMMED = 10_000;

function addTo(sum: Map<string, Sample>, [name, labels, values]: Sample): void {
  const family = familyOf(name);
  if (family === undefined || labels.length !== (family.labels?.length ?? 0)) return;
  if (values.length !== emptyOf(family).length) return;
  const key = [name, ...labels].join('\n');
  const known = sum.get(key);
  if (known === undefined && sum.size >= MOST_SUMMED) return;
  sum.set(key, [
    name,
    labels,
    known === undefined ? values : values.map((value, at) => value + (known[2][at] ?? 0)),
  ]);
}

/** 0 of each series that a client hears of from the beginning. */
export const zeroSamples = (): Sample[] =>
  Object.entries(METRICS).flatMap(([name, family]) =>
    knownLabels(family).map((labels): Sample => [name, labels, emptyOf(family)]),
  );

/** Time is divided into slots of so many ms. */
const SLOT_MS = 10_000;
const WINDOW_MS = 300_000;

/** How often something happened in the last five minutes, to ten seconds. */
export class Recent {
  readonly #slots = new Map<number, number>();

  add(by: number, now: number): void {
    if (by <= 0) return;
    const slot = Math.floor(now / SLOT_MS);
    this.#slots.set(slot, (this.#slots.get(slot) ?? 0) + by);
    this.#forget(now);
  }

  /** `now`: by the same clock as `add`, ms. */
  sum(now: number): number {
    this.#forget(now);
    let sum = 0;
    for (const count of this.#slots.values()) sum += count;
    return sum;
  }

  #forget(now: number): void {
    for (const slot of this.#slots.keys())
      if ((slot + 1) * SLOT_MS <= now - WINDOW_MS) this.#slots.delete(slot);
  }
}
