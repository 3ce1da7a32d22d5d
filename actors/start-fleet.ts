/**
 * Recordings of one start from all nodes of a fleet, merged into one set. Of nodes, not of starts: a node that starts a pod
 * each minute would otherwise outvote a hundred that start it once a day, and one whose reads are odd, or made up, would
 * decide what all others fetch.
 *
 * - Each node counts the same, however often it has recorded. Of its recordings the newest counts half, the one before a quarter, and so on.
 * - A block belongs to the set when nodes of half the weight have it (start-set.ts), so a minority of liars adds nothing and
 *   takes nothing away.
 * - The newest recording of each of `nodes` nodes is kept, and up to `perNode` of one. Which recordings are new says their
 *   order in the store, no clock.
 *
 * Where many nodes have recorded the same, another recording changes nothing, and a thousand nodes that start at once need
 * not all write: `isWorth` lets through what differs, and of the rest as many as replace the old ones.
 */
import { mergeWeighted, type StartSet } from './start-set.ts';

/** One start, as a node recorded it. */
export interface NodeRecording {
  /** Empty: of a cofa that did not say, or of unknown nodes. */
  node: string;
  set: StartSet;
}

export interface FleetStartLimits {
  nodes: number;
  perNode: number;
  /** A recording differs when it lacks, or has more, of the merged set than this share. */
  share: number;
  /** Below so many nodes each recording is worth it. */
  few: number;
}

export const FLEET_STARTS: FleetStartLimits = { nodes: 24, perNode: 2, share: 0.1, few: 8 };

/** Adds a recording, the newest. Oldest first; what has no room is left out. */
export function addRecording(
  recordings: readonly NodeRecording[],
  added: NodeRecording,
  limits: FleetStartLimits = FLEET_STARTS,
): NodeRecording[] {
  const kept: NodeRecording[] = [];
  const perNode = new Map<string, number>();
  // The newest first: what is too much is old.
  for (const recording of [...recordings, added].toReversed()) {
    const count = perNode.get(recording.node) ?? 0;
    if (count >= limits.perNode || (count === 0 && perNode.size >= limits.nodes)) continue;
    perNode.set(recording.node, count + 1);
    kept.push(recording);
  }
  return kept.toReversed();
}

/** The blocks that the fleet's starts have in common, in their order. Same input, same output. */
export function mergeNodes(recordings: readonly NodeRecording[]): StartSet {
  const perNode = new Map<string, StartSet[]>();
  for (const { node, set } of recordings.toReversed()) {
    if (set.runs.length === 0) continue;
    const sets = perNode.get(node);
    if (sets === undefined) perNode.set(node, [set]);
    else sets.push(set);
  }
  return mergeWeighted(
    [...perNode.values()].flatMap((sets) => {
      // 1/2, 1/4, …, and the rest of 1 to the oldest: together one node.
      return sets.map((set, at) => ({ set, weight: 2 ** -Math.min(at + 1, sets.length - 1) }));
    }),
  );
}

/** Whether a recording is worth being written and merged. `random`: in [0, 1). */
export function isWorth(
  recordings: readonly NodeRecording[],
  added: NodeRecording,
  random: () => number,
  limits: FleetStartLimits = FLEET_STARTS,
): boolean {
  const nodes = new Set(recordings.map(({ node }) => node));
  if (nodes.size < limits.few) return true;
  const merged = keysOf(mergeNodes(recordings));
  const mine = keysOf(added.set);
  let both = 0;
  for (const key of mine) if (merged.has(key)) both += 1;
  if (mine.size - both + (merged.size - both) > merged.size * limits.share) return true;
  return random() < 1 / limits.nodes;
}

function keysOf({ devices, runs }: StartSet): Set<string> {
  const keys = new Set<string>();
  for (const [device, first, count] of runs)
    for (let block = first; block < first + count; block++) keys.add(`${devices[device]}/${block}`);
  return keys;
}
