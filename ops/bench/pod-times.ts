/** What `kubectl get pods --watch` has said of pods, and what it comes to: pure. */
import { median } from './measure.ts';

/** Ways in which a node has images' files, as the tables name them. */
export const SIDES = ['overlayfs', 'overlayfs, tuned', 'cofa'] as const;
export type Side = (typeof SIDES)[number];

/** A line of kubectl. */
export interface Row {
  pod: string;
  ready: string;
  status: string;
}

export interface Change extends Row {
  /** Since `kubectl apply` was called. */
  atMs: number;
}

/** Pods that are applied together, by their names, each with its image's. */
export interface Case {
  /** As the command line has it. */
  name: string;
  pods: ReadonlyArray<{ pod: string; image: string }>;
}

/** One such start, on a node that has nothing of the images. */
export interface PodStart {
  case: string;
  side: Side;
  round: number;
  changes: Change[];
  /** Towards the node over the link, until the last pod had ended. */
  bytes: number;
  /** Processors that other programs of the machine had busy meanwhile. */
  others: number;
  /** Of cofa, by image: what said before what its start would read. */
  ahead?: Record<string, string>;
}

export interface PodResults {
  machine: { kernel: string; cores: number };
  kubernetes: string;
  containerd: string;
  /** Of the link: as the command line has it, and ms. */
  rate: string;
  rttMs: number;
  images: Array<{ name: string; bytes: number; sidecarBytes: number; packBytes: number }>;
  /** `bytes`: layers that several images have are counted once. */
  cases: Array<Case & { bytes: number }>;
  starts: PodStart[];
}

/** `a; b*3; a+b`: cases of a pod of `a`, of three of `b`, of one of each. Throws at anything else. */
export function casesOf(text: string): Case[] {
  return text.split(';').map((part) => {
    const name = part.trim();
    const pods = name.split('+').flatMap((one) => {
      const [, image, copies = '1'] = /^([a-z0-9]+)(?:\*([1-9]\d?))?$/.exec(one.trim()) ?? [];
      if (image === undefined) throw new Error(`--cases: not IMAGE or IMAGE*COPIES: ${one}`);
      const count = Number(copies);
      return Array.from({ length: count }, (_, at) => ({
        pod: count === 1 ? image : `${image}-${at + 1}`,
        image,
      }));
    });
    if (new Set(pods.map(({ pod }) => pod)).size < pods.length)
      throw new Error(`--cases: ${name} has an image twice: IMAGE*COPIES`);
    return { name, pods };
  });
}

/** A line that kubectl prints without a head; undefined where it is none of a pod. */
export function rowOf(line: string): Row | undefined {
  const [pod, ready, status] = line.trim().split(/\s+/);
  if (pod === undefined || status === undefined || !/^\d+\/\d+$/.test(ready ?? '')) return undefined;
  return { pod, ready: ready as string, status };
}

/** What `kubectl get pods` lists at that moment; the head first, nothing below it where no pod was there. */
export function listingAt({ changes }: PodStart, atMs: number): string[][] {
  const rows = new Map<string, Change>();
  for (const change of changes) if (change.atMs <= atMs) rows.set(change.pod, change);
  return [
    ['NAME', 'READY', 'STATUS', 'RESTARTS', 'AGE'],
    ...[...rows.values()]
      .toSorted((a, b) => (a.pod < b.pod ? -1 : 1))
      .map(({ pod, ready, status }) => [pod, ready, status, '0', `${Math.floor(atMs / 1000)}s`]),
  ];
}

/** Of a pod, ms; a short run ends before kubectl has called it Running. Undefined where that has not come about. */
export function phasesOf(
  { changes }: Pick<PodStart, 'changes'>,
  pod: string,
): { running: number | undefined; completed: number | undefined } {
  const first = (...words: string[]) =>
    changes.find((change) => change.pod === pod && words.includes(change.status))?.atMs;
  return { running: first('Running', 'Completed'), completed: first('Completed') };
}

/** When all of a start's pods were Running, and Completed, ms. Throws where one never was. */
export function timesOf(start: PodStart, { pods }: Case): { running: number; completed: number } {
  const all = pods.map(({ pod }) => {
    const { running, completed } = phasesOf(start, pod);
    if (running === undefined || completed === undefined)
      throw new Error(`${pod} has not ended: ${JSON.stringify(start.changes)}`);
    return { running, completed };
  });
  return {
    running: Math.max(...all.map((one) => one.running)),
    completed: Math.max(...all.map((one) => one.completed)),
  };
}

/** The starts of a case on a side. */
export const startsOf = ({ starts }: PodResults, one: Case, side: Side): PodStart[] =>
  starts.filter((start) => start.case === one.name && start.side === side);

/** Sides that were measured, in the order of the tables. */
export const sidesOf = ({ starts }: PodResults): Side[] =>
  SIDES.filter((side) => starts.some((start) => start.side === side));

/** Of several rounds that whose last pod ended in the middle; undefined where there is none. */
export function middleOf(results: PodResults, one: Case, side: Side): PodStart | undefined {
  const sorted = startsOf(results, one, side).toSorted(
    (a, b) => timesOf(a, one).completed - timesOf(b, one).completed,
  );
  return sorted[(sorted.length - 1) >> 1];
}

/** `sklearn, 230 MB`; `3 pods of sklearn, 230 MB`; `sklearn, rust and java, 650 MB`. */
export function titleOf({ pods, bytes }: PodResults['cases'][number]): string {
  const images = [...new Set(pods.map(({ image }) => image))];
  const words = images.map((image) => {
    const copies = pods.filter((pod) => pod.image === image).length;
    return copies === 1 ? image : `${copies} pods of ${image}`;
  });
  const last = words.pop() as string;
  return `${words.length === 0 ? last : `${words.join(', ')} and ${last}`}, ${Math.round(bytes / 1e6)} MB`;
}

/** Medians, and the spread behind them; the first row is the head. */
export function timesTable(results: PodResults): string[][] {
  const rows = results.cases.flatMap((one) =>
    sidesOf(results).flatMap((side) => {
      const starts = startsOf(results, one, side);
      if (starts.length === 0) return [];
      const times = starts.map((start) => timesOf(start, one));
      return [
        [
          titleOf(one),
          side,
          spread(times.map(({ running }) => running)),
          spread(times.map(({ completed }) => completed)),
          (median(starts.map(({ bytes }) => bytes)) / 1e6).toFixed(0),
          median(starts.map(({ others }) => others)).toFixed(1),
          String(starts.length),
        ],
      ];
    }),
  );
  return [['pods', 'node', 'Running s', 'Completed s', 'MB', 'others', 'rounds'], ...rows];
}

const seconds = (ms: number) => (ms / 1000).toFixed(1);
const spread = (all: readonly number[]) =>
  `${seconds(median(all))} (${seconds(Math.min(...all))}–${seconds(Math.max(...all))})`;

const MOMENTS = [1, 2, 3, 5, 8, 12, 16, 20, 25, 30, 40, 50, 60, 90, 120, 180, 240, 300];

/** Seconds at which listings are shown: until every side's pods have ended. */
export function momentsOf(results: PodResults, one: Case): number[] {
  const last = Math.max(
    ...sidesOf(results).flatMap((side) =>
      startsOf(results, one, side).map((start) => timesOf(start, one).completed / 1000),
    ),
  );
  const end = MOMENTS.findIndex((moment) => moment >= last);
  return MOMENTS.slice(0, end < 0 ? MOMENTS.length : end + 1);
}
