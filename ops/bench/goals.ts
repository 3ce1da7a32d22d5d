/** The measurements against the goals: pure, so that a stored result can be judged again. */
import { median, percentile } from './measure.ts';
import type { Starts } from './starts.ts';
import type { Whole } from './whole.ts';

export interface Goal {
  /** P1 to P12; empty for a measurement without a number. */
  id: string;
  measure: string;
  goal: string;
  measured: string;
  met: boolean;
}

export interface LinkRate {
  bitsPerSecond: number | undefined;
  rttMs: number;
}

/** Bytes at the link's rate, and three round trips, ms. */
export function linkAlone(bytes: number, { bitsPerSecond, rttMs }: LinkRate): number {
  return (bitsPerSecond === undefined ? 0 : (bytes * 8_000) / bitsPerSecond) + 3 * rttMs;
}

/** By way, for each of its cold starts: how much longer it took than a warm one on overlayfs (its median), ms. */
export function addedDelays(ways: Starts['ways']): Record<string, number[]> {
  const base = warmOn(ways, 'containerd');
  return Object.fromEntries(
    ways.map(({ name, cold }) => [name, cold.map(({ totalMs }) => totalMs - base)] as const),
  );
}

/** Median of the warm starts of a way, ms. */
export function warmOn(ways: Starts['ways'], name: string): number {
  return median((ways.find((way) => way.name === name)?.warm ?? []).map(({ totalMs }) => totalMs));
}

/** Ways that were not measured have no goals here. */
export function startGoals(
  { ways, imageBytes, sidecarBytes, packBytes, readBytes, startBytes }: Starts,
  link: LinkRate,
): Goal[] {
  const goals: Goal[] = [];
  const share = (id: string, measure: string, part: number, most: number) => {
    const percent = (100 * part) / imageBytes;
    goals.push({
      id,
      measure,
      goal: `≤ ${most} %`,
      measured: `${percent.toFixed(1)} %`,
      met: percent <= most,
    });
  };
  const delays = addedDelays(ways);
  const added = (name: string) => {
    const all = delays[name] ?? [];
    return all.length === 0 ? undefined : median(all);
  };
  const containerd = added('containerd');
  const pack = added('cofa, pack');
  const demand = added('cofa, no pack');
  const unprepared = added('cofa, unprepared');
  /** The fastest of the peers of this kind. */
  const best = (kind: 'optimized' | 'unoptimized') =>
    ways
      .filter(({ peer }) => peer === kind)
      .map(({ name }) => ({ name, ms: added(name) ?? Number.POSITIVE_INFINITY }))
      .toSorted((a, b) => a.ms - b.ms)[0];
  const optimized = best('optimized');
  const unoptimized = best('unoptimized');
  const limit = (bytes: number) => linkAlone(bytes, link);
  if (containerd !== undefined && pack !== undefined)
    goals.push(atLeast('P1', 'added delay with pack: containerd / cofa', containerd / pack, 20));
  if (optimized !== undefined && pack !== undefined)
    goals.push(atLeast('P2', `added delay with pack: ${optimized.name} / cofa`, optimized.ms / pack, 3));
  if (pack !== undefined)
    goals.push(
      atMost('P3', 'added delay with pack / the link alone', pack / limit(sidecarBytes + packBytes), 2),
    );
  if (unoptimized !== undefined && demand !== undefined)
    goals.push(
      atLeast('P4', `added delay without pack: ${unoptimized.name} / cofa`, unoptimized.ms / demand, 2),
    );
  if (containerd !== undefined && unprepared !== undefined) {
    goals.push(atLeast('P5', 'added delay, unprepared: containerd / cofa', containerd / unprepared, 3));
    goals.push(atMost('P5', 'added delay, unprepared / the link alone', unprepared / limit(imageBytes), 1.4));
  }
  const [overlayfs, warm] = [warmOn(ways, 'containerd'), warmOn(ways, 'cofa, pack')];
  if (overlayfs > 0 && warm > 0)
    goals.push(atMost('P5b', 'warm start: cofa / overlayfs', warm / overlayfs, 1));
  if (startBytes > 0 && packBytes > 0) {
    const measure = 'bytes fetched without pack or background / blocks that the start reads, compressed';
    goals.push(atMost('P8', measure, startBytes / (readBytes ?? packBytes), 1.2));
  }
  share('P9', 'sidecar / image', sidecarBytes, 2);
  if (packBytes > 0) share('P9', 'sidecar and pack / image', sidecarBytes + packBytes, 10);
  return goals;
}

/** Each of cofa's ways beside containerd, at each rate. */
export function wholeGoals(wholes: readonly Whole[]): Goal[] {
  return wholes.flatMap(({ rate, ways }) => {
    const of = (name: string) => median(ways.find((way) => way.name === name)?.totalMs ?? []);
    return ways
      .filter(({ name }) => name.startsWith('cofa'))
      .map(({ name }) =>
        atMost(
          'P6',
          `cold start and every byte read, ${rate}bit/s: ${name} / containerd`,
          of(name) / of('containerd'),
          1,
        ),
      );
  });
}

/** Fewer waits than that prove nothing. */
const ENOUGH_WAITS = 20;

export function waitGoals(waits: { alone: readonly number[]; prefetch: readonly number[] }): Goal[] {
  if (Math.min(waits.alone.length, waits.prefetch.length) < ENOUGH_WAITS) return [];
  return (
    [
      ['median', 0.5],
      ['nine of ten', 0.9],
    ] as const
  ).map(([name, share]) =>
    atMost(
      '',
      `a read that waits, under prefetch / without, ${name}`,
      percentile(waits.prefetch, share) / percentile(waits.alone, share),
      1.5,
    ),
  );
}

function atLeast(id: string, measure: string, ratio: number, least: number): Goal {
  return { id, measure, goal: `≥ ${least}x`, measured: `${ratio.toFixed(1)}x`, met: ratio >= least };
}

function atMost(id: string, measure: string, ratio: number, most: number): Goal {
  return { id, measure, goal: `≤ ${most}x`, measured: `${ratio.toFixed(2)}x`, met: ratio <= most };
}

/** `time`: what cofa took of it, and what the other did. */
export function fileGoals(
  times: ReadonlyArray<{ task: string; cofa: Record<string, number>; overlayfs: Record<string, number> }>,
): Goal[] {
  return times.flatMap(({ task, cofa, overlayfs }) =>
    Object.keys(cofa).map((cache): Goal => {
      const ratio = (overlayfs[cache] ?? 0) / (cofa[cache] ?? 1);
      const measure = `complete image, ${task}, ${cache}: overlayfs / cofa`;
      return { id: 'P7', measure, goal: '≥ 1.0x', measured: `${ratio.toFixed(2)}x`, met: ratio >= 1 };
    }),
  );
}

export function fuseGoals(
  reads: ReadonlyArray<{ job: string; cofa: FuseFigures; bindfs: FuseFigures }>,
): Goal[] {
  return reads.flatMap(({ job, cofa, bindfs }): Goal[] => {
    const rate = cofa.rate / bindfs.rate;
    const late = cofa.p99Us / bindfs.p99Us;
    const throughput: Goal = {
      id: 'P12',
      measure: `FUSE, ${job}: throughput, cofa / bindfs`,
      goal: '≥ 0.7x',
      measured: `${rate.toFixed(2)}x`,
      met: rate >= 0.7,
    };
    if (!job.startsWith('4 KiB')) return [throughput];
    return [
      throughput,
      {
        id: 'P12',
        measure: `FUSE, ${job}: p99, cofa / bindfs`,
        goal: '≤ 2x',
        measured: `${late.toFixed(2)}x`,
        met: late <= 2,
      },
    ];
  });
}

interface FuseFigures {
  rate: number;
  p99Us: number;
}

export function indexGoals(cost: {
  gunzip: { cpuS: number };
  index: { cpuS: number; peakBytes: number };
}): Goal[] {
  const ratio = cost.index.cpuS / cost.gunzip.cpuS;
  const megabytes = cost.index.peakBytes / 1e6;
  return [
    {
      id: 'P10',
      measure: 'index / one gunzip, processor time',
      goal: '≤ 2x',
      measured: `${ratio.toFixed(2)}x`,
      met: ratio <= 2,
    },
    {
      id: 'P10',
      measure: 'index, peak memory of its largest process',
      goal: '≤ 300 MB',
      measured: `${megabytes.toFixed(0)} MB`,
      met: megabytes <= 300,
    },
  ];
}

export function memoryGoal(count: number, pss: number): Goal {
  const megabytes = pss / 1e6;
  return {
    id: 'P11',
    measure: `${count} images mounted, memory of all processes (PSS)`,
    goal: '≤ 400 MB',
    measured: `${megabytes.toFixed(0)} MB`,
    met: megabytes <= 400,
  };
}

/** In the order of their numbers; what has none comes last. */
export function sorted<T extends { id: string }>(goals: readonly T[]): T[] {
  const number = ({ id }: T) => (id === '' ? Number.POSITIVE_INFINITY : Number.parseFloat(id.slice(1)));
  const later = (a: T, b: T) => (number(a) === number(b) ? 0 : number(a) - number(b));
  return goals.toSorted(later);
}
