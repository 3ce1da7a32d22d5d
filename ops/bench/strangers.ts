/** What the starts of strangers (ops/images/strangers.ts) say, the two halves apart: pure. */
import { addedDelays, linkAlone, type Goal, type LinkRate } from './goals.ts';
import { median } from './measure.ts';
import type { Starts } from './starts.ts';

export interface StrangerStarts extends Starts {
  heldOut: boolean;
}

/** Names of the ways that the rule "never slower" is about, each no slower than the next. */
export interface Order {
  pack: string;
  noPack: string;
  unprepared: string;
  tuned: string;
  containerd: string;
}

export const ORDER: Order = {
  pack: 'cofa, pack',
  noPack: 'cofa, no pack',
  unprepared: 'cofa, unprepared',
  tuned: 'containerd 2.4, tuned',
  containerd: 'containerd',
};

/** Noise of a start: what is slower by less counts as no slower. */
const NOISE = 1.05;

/** For each half that was measured: the delays, and where the rule "never slower" is broken. */
export function strangerTables(
  all: readonly StrangerStarts[],
  link: LinkRate,
): Array<{ title: string; rows: string[][] }> {
  return halves(all).flatMap(({ title, starts }) => [
    { title: `Strangers, ${title}: added delay, s`, rows: delayRows(starts, link) },
    { title: `Strangers, ${title}: never slower`, rows: orderRows(starts) },
  ]);
}

/** Of the held-out half alone: of the other one they would say how well cofa was tuned. */
export function strangerGoals(all: readonly StrangerStarts[], link: LinkRate): Goal[] {
  const heldOut = all.filter((one) => one.heldOut);
  const ratios = (of: (starts: StrangerStarts) => number | undefined) =>
    heldOut.map(of).filter((value) => value !== undefined);
  const { pack, noPack, unprepared, tuned, containerd } = ORDER;
  const best = (kind: 'optimized' | 'unoptimized') => (starts: StrangerStarts) => {
    const delays = starts.ways.filter(({ peer }) => peer === kind).map(({ name }) => added(starts, name));
    const known = delays.filter((value) => value !== undefined);
    return known.length === 0 ? undefined : Math.min(...known);
  };
  const less = (rival: (starts: StrangerStarts) => number | undefined, mine: string) =>
    ratios((starts) => quotient(rival(starts), added(starts, mine)));
  const of = (name: string) => (starts: StrangerStarts) => added(starts, name);
  return [
    ...judged('P1', `added delay with pack: ${tuned} / cofa`, less(of(tuned), pack), 'least', 15, 8),
    ...judged(
      'P1',
      `added delay with pack: ${containerd} / cofa`,
      less(of(containerd), pack),
      'least',
      20,
      12,
    ),
    ...judged(
      'P2',
      'added delay with pack: best peer optimized / cofa',
      less(best('optimized'), pack),
      'least',
      3,
      2,
    ),
    ...judged(
      'P3',
      'added delay with pack / the link alone',
      ratios((starts) => quotient(added(starts, pack), packAlone(starts, link))),
      'most',
      2.5,
      4,
    ),
    ...judged(
      'P4',
      'added delay without pack: best peer / cofa',
      less(best('unoptimized'), noPack),
      'least',
      2,
      1.2,
    ),
    ...judged('P5', `added delay, unprepared: ${tuned} / cofa`, less(of(tuned), unprepared), 'least', 3),
    ...judged(
      'P5',
      'added delay, unprepared / the link alone',
      ratios((starts) => quotient(added(starts, unprepared), linkAlone(starts.imageBytes, link))),
      'most',
      1.4,
    ),
    ...judged(
      'P8',
      'bytes fetched without pack or background / blocks that the start reads, compressed',
      ratios(({ startBytes, readBytes = 0 }) => quotient(startBytes || undefined, readBytes || undefined)),
      'most',
      1.3,
    ),
    ...judged(
      'P9',
      'sidecar and pack / image',
      ratios(({ sidecarBytes, packBytes, imageBytes }) => (sidecarBytes + packBytes) / imageBytes),
      'most',
      0.12,
    ),
  ];
}

function halves(all: readonly StrangerStarts[]): Array<{ title: string; starts: StrangerStarts[] }> {
  const half = (heldOut: boolean) => all.filter((one) => one.heldOut === heldOut);
  return [
    { title: 'held out', starts: half(true) },
    { title: 'not held out', starts: half(false) },
  ].filter(({ starts }) => starts.length > 0);
}

function delayRows(starts: readonly StrangerStarts[], link: LinkRate): string[][] {
  const ways = [...new Set(starts.flatMap((one) => one.ways.map(({ name }) => name)))];
  const cell = (one: StrangerStarts, name: string) => {
    const ms = added(one, name);
    const less = quotient(added(one, ORDER.tuned), ms);
    return `${seconds(ms)}${less === undefined || name === ORDER.tuned ? '' : ` (${less.toFixed(1)}x)`}`;
  };
  const column = (of: (one: StrangerStarts) => number | undefined, worst: 'least' | 'most') =>
    spread(
      starts.map(of).filter((value) => value !== undefined),
      worst,
    );
  return [
    ['image (MB)', ...ways, 'the link alone', 'pack / link'],
    ...starts.map((one) => [
      `${one.image} (${(one.imageBytes / 1e6).toFixed(0)})`,
      ...ways.map((name) => cell(one, name)),
      seconds(packAlone(one, link)),
      times(quotient(added(one, ORDER.pack), packAlone(one, link))),
    ]),
    [
      'less than tuned: median (worst)',
      ...ways.map((name) =>
        name === ORDER.tuned
          ? ''
          : column((one) => quotient(added(one, ORDER.tuned), added(one, name)), 'least'),
      ),
      '',
      column((one) => quotient(added(one, ORDER.pack), packAlone(one, link)), 'most'),
    ],
  ];
}

const STEPS = [
  ['pack', 'noPack'],
  ['noPack', 'unprepared'],
  ['unprepared', 'tuned'],
] as const;

function orderRows(starts: readonly StrangerStarts[]): string[][] {
  const ratio = (one: StrangerStarts, [mine, other]: (typeof STEPS)[number]) =>
    quotient(added(one, ORDER[mine]), added(one, ORDER[other]));
  return [
    ['', ...STEPS.map(([mine, other]) => `${ORDER[mine]} / ${ORDER[other]}`), 'broken'],
    ...starts.map((one) => {
      const broken = STEPS.filter((step) => (ratio(one, step) ?? 0) > NOISE);
      return [
        one.image,
        ...STEPS.map((step) => times(ratio(one, step))),
        broken.map(([mine]) => ORDER[mine]).join('; '),
      ];
    }),
    [
      'median (worst)',
      ...STEPS.map((step) =>
        spread(
          starts.map((one) => ratio(one, step)).filter((value) => value !== undefined),
          'most',
        ),
      ),
      '',
    ],
  ];
}

/** The median of a way's added delays, ms; undefined where it, or the warm start on overlayfs, was not measured. */
function added({ ways }: StrangerStarts, name: string): number | undefined {
  const delays = addedDelays(ways)[name] ?? [];
  const hasBase = ways.some((way) => way.name === ORDER.containerd && way.warm.length > 0);
  return hasBase && delays.length > 0 ? median(delays) : undefined;
}

const packAlone = ({ sidecarBytes, packBytes }: StrangerStarts, link: LinkRate) =>
  linkAlone(sidecarBytes + packBytes, link);

function judged(
  id: string,
  measure: string,
  ratios: readonly number[],
  worst: 'least' | 'most',
  goal: number,
  /** Of the worst image; without it the goal is the median's alone. */
  worstGoal?: number,
): Goal[] {
  if (ratios.length === 0) return [];
  const [middle, last] = [median(ratios), extreme(ratios, worst)];
  const holds = (value: number, limit: number) => (worst === 'least' ? value >= limit : value <= limit);
  const sign = worst === 'least' ? '≥' : '≤';
  return [
    {
      id,
      measure,
      goal: `${sign} ${goal}x${worstGoal === undefined ? '' : ` (${sign} ${worstGoal}x)`}`,
      measured: spread(ratios, worst),
      met: holds(middle, goal) && (worstGoal === undefined || holds(last, worstGoal)),
    },
  ];
}

const extreme = (values: readonly number[], worst: 'least' | 'most') =>
  worst === 'least' ? Math.min(...values) : Math.max(...values);

const spread = (values: readonly number[], worst: 'least' | 'most') =>
  values.length === 0 ? '' : `${times(median(values))} (${times(extreme(values, worst))})`;

function quotient(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined || b === undefined || b <= 0 ? undefined : a / b;
}

const seconds = (ms: number | undefined) => (ms === undefined ? '' : (ms / 1000).toFixed(2));
const times = (ratio: number | undefined) =>
  ratio === undefined ? '' : `${ratio.toFixed(ratio < 10 ? 2 : 1)}x`;
