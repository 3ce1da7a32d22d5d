/**
 * Recordings of one start from all nodes that share their packs, merged into one set. Of nodes, not of starts: a node that starts a
 * pod each minute would otherwise outvote a hundred that start it once a day, and one whose reads are odd, or made up, would decide
 * what all others fetch.
 *
 * - Each node counts the same, however often it has recorded; so does each recording of one node.
 * - A block belongs to the set when nodes of half the weight have it (start-set.ts), so a minority of liars adds nothing and
 *   takes nothing away. A node says its own name: one that writes under many names can have any blocks fetched, which costs bytes
 *   and time, never a wrong byte.
 * - The newest recordings of the newest `nodes` nodes are kept: up to `most` of one, fewer where many nodes have recorded. Which
 *   are new says their order in the store, no clock.
 *
 * Where many nodes have recorded the same, another recording changes nothing, and a thousand nodes that start at once need
 * not all write: `isWorth` lets through what differs, and of the rest as many as replace the old ones.
 */
import { mergeStarts, type StartSet } from './start-set.ts';

/** One start, as a node recorded it. */
export interface NodeRecording {
  /** Empty: of a cofa that did not say. */
  node: string;
  set: StartSet;
}

export interface StartLimits {
  nodes: number;
  /** Recordings of one node: at least, and at the most. An image's starts change when its configuration does. */
  least: number;
  most: number;
  /** Recordings in all, where that leaves each node its least. */
  recordings: number;
  /** Blocks in all: a merge goes through them one by one. */
  blocks: number;
  /** A recording differs when it lacks, or has more, of the merged set than this share. */
  share: number;
  /** Below so many nodes each recording is worth it. */
  few: number;
}

export const START_LIMITS: StartLimits = {
  nodes: 24,
  least: 2,
  most: 8,
  recordings: 48,
  blocks: 1 << 19,
  share: 0.1,
  few: 8,
};

/** Those that count, oldest first, as given: what has no room is old. */
export function newestRecordings(
  recordings: readonly NodeRecording[],
  limits: StartLimits = START_LIMITS,
): NodeRecording[] {
  const { nodes, least, most, recordings: all } = limits;
  const newest = recordings.filter(({ set }) => set.runs.length > 0).toReversed();
  const counts = new Map(
    [...new Set(newest.map(({ node }) => node))].slice(0, nodes).map((node) => [node, 0]),
  );
  const perNode = Math.min(most, Math.max(least, Math.floor(all / Math.max(1, counts.size))));
  const kept: NodeRecording[] = [];
  let blocks = 0;
  for (const recording of newest) {
    const count = counts.get(recording.node);
    if (count === undefined || count >= perNode) continue;
    blocks += blocksOf(recording.set);
    // The newest is kept, whatever it has.
    if (blocks > limits.blocks && kept.length > 0) break;
    counts.set(recording.node, count + 1);
    kept.push(recording);
  }
  return kept.toReversed();
}

/** The blocks that the starts of all nodes have in common, in their order. Same input, same output. */
export function mergeNodes(recordings: readonly NodeRecording[]): StartSet {
  const counts = new Map<string, number>();
  const starts = recordings.filter(({ set }) => set.runs.length > 0);
  for (const { node } of starts) counts.set(node, (counts.get(node) ?? 0) + 1);
  return mergeStarts(starts.map(({ node, set }) => ({ set, weight: 1 / (counts.get(node) ?? 1) })));
}

/** Whether a recording is worth being written and merged. `random`: in [0, 1). */
export function isWorth(
  recordings: readonly NodeRecording[],
  added: NodeRecording,
  random: () => number,
  limits: StartLimits = START_LIMITS,
): boolean {
  const nodes = new Set(recordings.map(({ node }) => node));
  if (nodes.size < limits.few) return true;
  const differing = difference(mergeNodes(recordings), added.set);
  return differing > limits.share || random() < 1 / limits.nodes;
}

/** Blocks that only one of the sets has, as a share of those that `before` has. */
export function difference(before: StartSet, after: StartSet): number {
  const known = keysOf(before);
  const now = keysOf(after);
  let both = 0;
  for (const key of now) if (known.has(key)) both += 1;
  return (now.size - both + (known.size - both)) / known.size;
}

const blocksOf = ({ runs }: StartSet): number => runs.reduce((sum, [, , count]) => sum + count, 0);

function keysOf({ devices, runs }: StartSet): Set<string> {
  const keys = new Set<string>();
  for (const [device, first, count] of runs)
    for (let block = first; block < first + count; block++) keys.add(`${devices[device]}/${block}`);
  return keys;
}
