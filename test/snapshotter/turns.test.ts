/** What waits for what when many snapshots change at once. No engine. */
import { readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type SnapshotEvent, SnapshotTable } from '../../actors/snapshots.ts';
import { EVENT_VERSION } from '../../schemas/events.ts';
import { FlatMounts } from '../../src/snapshotter/flat-mounts.ts';
import { hideMapped, MappedMounts, showMapped } from '../../src/snapshotter/mapped-mounts.ts';
import { SnapshotStore } from '../../src/snapshotter/store.ts';
import { Turns } from '../../src/snapshotter/turns.ts';
import { eventually } from '../support/engine.ts';
import { Cleanup } from '../support/temp.ts';

let cleanup: Cleanup;
beforeEach(() => {
  cleanup = new Cleanup();
});
afterEach(() => cleanup.run());

const NAMES = ['a', 'b', 'c', 'd'];
const some = fc.subarray(NAMES, { maxLength: 2 });

test('work that has a name alone overlaps with no other that has it, and comes in its turn', async () => {
  const order = fc.record({ alone: some, beside: some, ms: fc.nat(3), fails: fc.boolean() });
  await fc.assert(
    fc.asyncProperty(fc.array(order, { maxLength: 12 }), async (orders) => {
      const turns = new Turns();
      const running = new Set<number>();
      const meets = (one: number, other: number) => {
        const [a, b] = [orders[one], orders[other]];
        const has = (names: readonly string[] = [], more: readonly string[] = []) =>
          names.some((name) => more.includes(name));
        return has(a?.alone, [...(b?.alone ?? []), ...(b?.beside ?? [])]) || has(a?.beside, b?.alone);
      };
      const begun: number[] = [];
      const works = orders.map(({ alone, beside, ms, fails }, n) =>
        turns.run({ alone, beside }, async () => {
          for (const other of running) expect(meets(n, other)).toBe(false);
          for (const other of begun) if (meets(n, other)) expect(other).toBeLessThan(n);
          running.add(n);
          begun.push(n);
          await sleep(ms);
          running.delete(n);
          if (fails) throw new Error(`${n}`);
        }),
      );
      const outcomes = await Promise.allSettled(works);
      expect(outcomes.map(({ status }) => status === 'rejected')).toEqual(orders.map(({ fails }) => fails));
      await turns.settle();
      expect(begun.length).toBe(orders.length);
    }),
    { numRuns: 60 },
  );
});

test('containers that come at once wait for one sync of the log, not each for all before it', async () => {
  const dir = await cleanup.tempDir('store');
  const log = pino({ level: 'silent' });
  const waiting: Array<() => void> = [];
  let ids = 0;
  const store = new SnapshotStore({
    dir,
    table: new SnapshotTable(),
    flats: new FlatMounts({
      dirOf: (chain) => chain,
      mount: async () => {},
      unmount: async () => {},
      isThere: () => true,
      lingerMs: 1,
      log,
    }),
    mapped: new MappedMounts({ dir, show: showMapped, hide: hideMapped, log }),
    append: async (_id, event) => {
      await new Promise<void>((resolve) => waiting.push(resolve));
      return { v: EVENT_VERSION, at: 1, ...event } as SnapshotEvent;
    },
    cover: async () => undefined,
    deviceUsage: async () => ({ size: 0, inodes: 0 }),
    now: () => ({ sec: 1, nsec: 0 }),
    newId: () => `id${++ids}`,
    log,
  });
  const untilWaiting = (count: number) =>
    eventually(`${count} facts wait for the log`, () => waiting.length === count);
  const appended = async (count: number) => {
    await untilWaiting(count);
    for (const resolve of waiting.splice(0)) resolve();
  };
  const base = store.prepare({ key: 'base', parent: '', labels: {} });
  await appended(1);
  await base;
  const committed = store.commit('image', { key: 'base', parent: '', labels: {} });
  await appended(1);
  await committed;
  const keys = Array.from({ length: 20 }, (_, n) => `container ${n}`);
  const prepared = keys.map((key) => store.prepare({ key, parent: 'image', labels: {} }));
  await untilWaiting(20);
  // It is looked at when all of them stand on it.
  const removed = store.remove('image');
  await appended(20);
  await Promise.all(prepared);
  await expect(removed).rejects.toMatchObject({ code: 'failed-precondition' });
  const gone = [...keys.map((key) => store.remove(key)), store.remove('image')];
  await appended(20);
  await appended(1);
  await Promise.all(gone);
  expect(store.list([])).toEqual([]);
  expect(readdirSync(dir)).toEqual([]);
});
