/**
 * The blocks that were recorded last before a moment of the log. A disk that was not synced as it said can have lost
 * these alone.
 */
import type { NatsConnection } from '@nats-io/nats-core';
import { idOf } from '../../../actors/node-state.ts';
import type { Subjects } from '../../../schemas/subjects.ts';
import { readLog } from '../../store/log-reader.ts';

/** So many blocks at most (256 MiB), of so many events. */
const MOST_BLOCKS = 4_096;
const MOST_EVENTS = 5_000;

/** Ranges by layer, of events before sequence `before`. What has been taken away since is among them, too. */
export async function newestBlocks(
  bus: NatsConnection,
  names: Subjects,
  before: number,
): Promise<Array<{ diffId: string; ranges: Array<[number, number]> }>> {
  const told: Array<{ diffId: string; ranges: ReadonlyArray<readonly [number, number]> }> = [];
  const from = Math.max(1, before - MOST_EVENTS);
  for await (const { seq, subject, event } of readLog(bus, names.eventsOf('layer'), {
    from,
    follow: false,
  })) {
    if (seq >= before) break;
    if (event.type === 'layer.blocks') told.push({ diffId: `sha256:${idOf(subject)}`, ranges: event.ranges });
  }
  const newest = new Map<string, Array<[number, number]>>();
  let room = MOST_BLOCKS;
  for (const { diffId, ranges } of told.reverse()) {
    for (const [first, count] of ranges) {
      if (room === 0) break;
      const some = Math.min(count, room);
      room -= some;
      const mine = newest.get(diffId) ?? [];
      newest.set(diffId, mine);
      mine.push([first, some]);
    }
  }
  return Array.from(newest, ([diffId, ranges]) => ({ diffId, ranges }));
}
