/** What the machine and the engine's processes worked in a stretch of time, from the samples that the supervisor takes. */
import { checkedEvent } from './checked.ts';
import type { ReplayLog } from './replay-log.ts';

export type Sample = NonNullable<ReturnType<typeof samplesOf>>[number];

export interface Usage {
  cpus: number;
  /** Of all processors, for any program, µs. */
  busyUs: number;
  /** Time in which at least one task waited for it, µs; undefined: the kernel did not say. */
  stalledUs: { cpu: number; io: number; memory: number } | undefined;
  /** µs of each process of the engine; `waitUs`: its main thread could have run and had no processor. */
  processes: Array<{ name: string; cpuUs: number; waitUs: number }>;
}

/** A sample may lie so far from the stretch, ms; what is further away says nothing of it. */
const NEAR_MS = 5_000;
/** Samples of a minute come in the log this long after it, ms. */
const LATE_MS = 130_000;

/** `samples`: those near it. Undefined where there are none of that time. Between two samples the work is taken as even. */
export function usageBetween(samples: readonly Sample[], from: number, to: number): Usage | undefined {
  const [first, last] = [samples[0], samples.at(-1)];
  if (first === undefined || last === undefined || samples.length < 2) return undefined;
  if (first.at > from + NEAR_MS || last.at < to - NEAR_MS) return undefined;
  const rise = (of: (sample: Sample) => number | undefined) => riseOf(samples, of, from, to);
  const names = new Set(samples.flatMap(({ processes }) => processes.map(({ name }) => name)));
  const one = (name: string) => (sample: Sample) => sample.processes.find((process) => process.name === name);
  return {
    cpus: first.cpus,
    busyUs: rise(({ busyUs }) => busyUs),
    stalledUs:
      first.stalledUs &&
      ({
        cpu: rise(({ stalledUs }) => stalledUs?.cpu),
        io: rise(({ stalledUs }) => stalledUs?.io),
        memory: rise(({ stalledUs }) => stalledUs?.memory),
      } as const),
    processes: [...names].map((name) => ({
      name,
      cpuUs: rise((sample) => one(name)(sample)?.cpuUs),
      waitUs: rise((sample) => one(name)(sample)?.waitUs),
    })),
  };
}

/** The samples that say something of that time, ascending. */
export function samplesNear(log: ReplayLog, from: number, to: number): Sample[] {
  const { timeline, count } = log;
  const samples: Sample[] = [];
  for (let index = timeline.firstAt(from - NEAR_MS); index < count; index++) {
    const at = timeline.timeAt(index);
    if (at < from - NEAR_MS || at > to + LATE_MS || timeline.typeAt(index) !== 'engine.measured') continue;
    samples.push(...samplesOf(log, index));
  }
  return samples
    .filter(({ at }) => at >= from - NEAR_MS && at <= to + NEAR_MS + LATE_MS)
    .sort((a, b) => a.at - b.at);
}

/** Those of one event. */
export function samplesOf(log: ReplayLog, index: number) {
  return checkedEvent(log.timeline.eventAt(index), 'engine.measured')?.samples ?? [];
}

/** How much a counter rose between two moments. One that fell began anew, with its process. */
function riseOf(
  samples: readonly Sample[],
  of: (sample: Sample) => number | undefined,
  from: number,
  to: number,
): number {
  let sum = 0;
  let before: { at: number; value: number } | undefined;
  for (const sample of samples) {
    const value = of(sample);
    if (value === undefined) continue;
    if (before !== undefined && sample.at > before.at) {
      const rise = value >= before.value ? value - before.value : value;
      const inside = Math.min(to, sample.at) - Math.max(from, before.at);
      if (inside > 0) sum += rise * (inside / (sample.at - before.at));
    }
    before = { at: sample.at, value };
  }
  return Math.round(sum);
}
