/**
 * Snapshots of what a node's event log folds to (actors/node-state.ts), so that a start need not read the log from its
 * beginning, and the beginning can be removed.
 *
 * A snapshot is cut into parts that fit into a NATS message, each a msgpack map of the shape `SnapshotPart`; `bytes` of
 * all parts in order are the body, compressed where that makes it smaller. The body is a msgpack map of the shape
 * `SnapshotBody`. Its `state` is the fold's state in a canonical form (src/store/node-codec.ts).
 *
 * `v` is the version of this page: 1. A field may be added when absent has a meaning, as in events; anything else needs
 * a `v: 2`, and a decoder for `v: 1` that stays. test/fixtures/snapshots holds stored ones.
 */
import { z } from 'zod';

const count = z.int().min(0);

export const SNAPSHOT_VERSION = 1;

export const SnapshotPart = z.strictObject({
  v: z.literal(SNAPSHOT_VERSION),
  seq: count.describe('the last event that is in it'),
  part: count,
  parts: count,
  encoding: z.enum(['zstd', 'none']),
  size: count.describe('bytes of the body'),
  digest: z.string().describe("sha256 of the parts' bytes together"),
  bytes: z.custom<Uint8Array>((value) => value instanceof Uint8Array),
});
export type SnapshotPart = z.output<typeof SnapshotPart>;

const place = z.strictObject({ seq: count, bytes: count });

export const SnapshotBody = z.strictObject({
  v: z.literal(SNAPSHOT_VERSION),
  seq: count,
  /** Tells this log from another one with the same sequence numbers. */
  id: z.string().describe("id of the last event's append"),
  epoch: count.describe('sequence of the last engine.started'),
  events: count.describe('of the node, since its log began'),
  bytes: count.describe('what those take in the stream'),
  previous: place.describe('the snapshot before this one; zeros: none'),
  trimmed: place.describe('up to where the log had been removed when this was written'),
  /** Last sequence of each aggregate that goes on, by `<kind>.<id>`. */
  sequences: z.unknown(),
  state: z.unknown(),
});
export type SnapshotBody = z.output<typeof SnapshotBody>;
