/** The results of the benchmarks as they are stored, and how a further run is merged into them. */
import type { FileTimes } from './files.ts';
import type { FuseReads } from './fuse.ts';
import type { IndexCost } from './index-cost.ts';
import type { Memory } from './memory.ts';
import type { Scale } from './scale.ts';
import type { Starts } from './starts.ts';
import type { StrangerStarts } from './strangers.ts';
import type { Waits } from './background.ts';
import type { Whole } from './whole.ts';

export interface Results {
  machine: { kernel: string; cores: number };
  /** `rate` as it was given, bits a second. */
  link: { rate: string; rttMs: number };
  starts: Starts[];
  /** Absent in results of earlier versions. */
  strangers?: StrangerStarts[];
  files: Array<{ image: string; times: FileTimes[] }>;
  index: Array<{ image: string; imageBytes: number } & IndexCost>;
  whole: Array<{ image: string } & Whole>;
  background: Array<{ image: string } & Waits>;
  scale: Scale[];
  fuse?: FuseReads[];
  memory?: Memory;
}

export function noResults(machine: Results['machine'], link: Results['link']): Results {
  return { machine, link, starts: [], files: [], index: [], whole: [], background: [], scale: [] };
}

/** A way that only the earlier run measured stays, and each has its place: starts are measured way by way, too. */
function withEarlierWays<T extends Starts>(earlier: readonly T[] = [], later: readonly T[] = []): T[] {
  const images = new Map(earlier.map((one) => [one.image, one]));
  for (const one of later) {
    const ways = new Map(images.get(one.image)?.ways.map((way) => [way.name, way]));
    for (const way of one.ways) ways.set(way.name, way);
    images.set(one.image, { ...one, ways: [...ways.values()] });
  }
  return [...images.values()];
}

/**
 * An earlier result in which the measurements of a later run replace the same ones. Throws where the two cannot stand
 * in one table: another machine, or another link.
 */
export function merged(earlier: Results, later: Results): Results {
  for (const part of ['machine', 'link'] as const) {
    if (JSON.stringify(earlier[part]) !== JSON.stringify(later[part]))
      throw new Error(
        `the stored result is of another ${part}: ${JSON.stringify(earlier[part])}, not ${JSON.stringify(later[part])}`,
      );
  }
  const lists = <T>(of: (results: Results) => T[], key: (item: T) => string): T[] => {
    const items = new Map(of(earlier).map((item) => [key(item), item]));
    for (const item of of(later)) items.set(key(item), item);
    return [...items.values()];
  };
  const byImage = ({ image }: { image: string }) => image;
  const fuse = later.fuse ?? earlier.fuse;
  const memory = later.memory ?? earlier.memory;
  return {
    machine: later.machine,
    link: later.link,
    starts: withEarlierWays(earlier.starts, later.starts),
    strangers: withEarlierWays(earlier.strangers, later.strangers),
    files: lists(({ files }) => files, byImage),
    index: lists(({ index }) => index, byImage),
    whole: lists(
      ({ whole }) => whole,
      ({ image, rate }) => `${image} ${rate}`,
    ),
    background: lists(({ background }) => background, byImage),
    scale: lists(
      ({ scale }) => scale,
      ({ name }) => name,
    ),
    ...(fuse !== undefined && { fuse }),
    ...(memory !== undefined && { memory }),
  };
}
