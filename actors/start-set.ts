/**
 * Which blocks an image reads while it starts, and in which order: learned from recordings of real starts. One start reads
 * what chance brings along (a cache that was cold, a timer that fired), so several are merged: a block belongs to the set
 * when at least half of the recordings have it, and its place is the mean of its places in them. How much a recording counts, and
 * which are kept, start-recordings.ts decides.
 */

import type { StartRun } from '../schemas/fetch.ts';

/** What one start read, or several merged. */
export interface StartSet {
  /** diffIDs of the layers that were read. */
  devices: readonly string[];
  /** In reading order; no block twice. */
  runs: readonly StartRun[];
}

/** A recording, and how much it counts. */
export interface Weighted {
  set: StartSet;
  weight: number;
}

/**
 * Merges recordings of starts of one image: a block belongs to the set when recordings of half the weight have it. Same input, same
 * output. Nothing recorded gives an empty set.
 */
export function mergeStarts(recordings: readonly Weighted[]): StartSet {
  const starts = recordings.filter(({ set, weight }) => set.runs.length > 0 && weight > 0);
  const sum = starts.reduce((all, { weight }) => all + weight, 0);
  const found = new Map<string, { diffId: string; block: number; weight: number; rank: number }>();
  for (const { set, weight } of starts) {
    const { devices, runs } = set;
    const total = runs.reduce((all, [, , count]) => all + count, 0);
    let at = 0;
    for (const [device, first, count] of runs) {
      const diffId = devices[device];
      for (let block = first; block < first + count; block++, at++) {
        if (diffId === undefined) continue;
        const key = `${diffId}/${block}`;
        const known = found.get(key);
        if (known === undefined) found.set(key, { diffId, block, weight, rank: (at / total) * weight });
        else {
          known.weight += weight;
          known.rank += (at / total) * weight;
        }
      }
    }
  }
  // Weights are sums of fractions: half of them may come out a little less.
  const half = (sum / 2) * (1 - 1e-9);
  const blocks = [...found.values()]
    .filter(({ weight }) => weight >= half)
    .map((entry) => ({ ...entry, rank: entry.rank / entry.weight }))
    .sort(
      (a, b) => a.rank - b.rank || (a.diffId < b.diffId ? -1 : a.diffId > b.diffId ? 1 : a.block - b.block),
    );
  const devices: string[] = [];
  const indexOf = new Map<string, number>();
  const runs: Array<[number, number, number]> = [];
  for (const { diffId, block } of blocks) {
    let device = indexOf.get(diffId);
    if (device === undefined) {
      device = devices.push(diffId) - 1;
      indexOf.set(diffId, device);
    }
    const last = runs.at(-1);
    if (last !== undefined && last[0] === device && last[1] + last[2] === block) last[2] += 1;
    else runs.push([device, block, 1]);
  }
  return { devices, runs };
}

/** The set up to `limit` blocks, the first ones read. */
export function firstBlocks(set: StartSet, limit: number): StartSet {
  const runs: StartRun[] = [];
  let left = limit;
  for (const [device, first, count] of set.runs) {
    if (left <= 0) break;
    runs.push([device, first, Math.min(count, left)]);
    left -= count;
  }
  return { devices: set.devices, runs };
}
