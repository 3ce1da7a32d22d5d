/** The small containers that the actors stand on, each against the plainest model of it. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { BlockSet } from '../../actors/block-set.ts';
import { ReadQueue } from '../../actors/read-queue.ts';
import { TimerQueue } from '../../actors/timers.ts';

test('a timer queue gives keys by time, equals in the order in which they were set', () => {
  const key = fc.integer({ min: 0, max: 12 });
  const command = fc.oneof(
    fc.record({ set: key, at: fc.integer({ min: 0, max: 8 }) }),
    fc.record({ delete: key }),
    fc.record({ take: fc.integer({ min: 0, max: 8 }) }),
  );
  fc.assert(
    fc.property(fc.array(command, { maxLength: 60 }), (commands) => {
      const queue = new TimerQueue<number>();
      let model: Array<{ key: number; at: number }> = [];
      for (const command of commands) {
        if ('set' in command) {
          queue.set(command.set, command.at);
          model = [
            ...model.filter((timer) => timer.key !== command.set),
            { key: command.set, at: command.at },
          ];
        } else if ('delete' in command) {
          expect(queue.delete(command.delete)).toBe(model.some((timer) => timer.key === command.delete));
          model = model.filter((timer) => timer.key !== command.delete);
        } else {
          const first = [...model].sort((a, b) => a.at - b.at)[0];
          const due = first !== undefined && first.at <= command.take ? first : undefined;
          expect(queue.take(command.take)).toBe(due?.key);
          model = model.filter((timer) => timer !== due);
        }
        expect(queue.size).toBe(model.length);
        expect(queue.next).toBe(Math.min(Number.POSITIVE_INFINITY, ...model.map((timer) => timer.at)));
        for (const timer of model) expect(queue.has(timer.key)).toBe(true);
      }
    }),
  );
});

test('a block set holds what was put in, and hands it out as ranges that cannot be joined', () => {
  const length = 150;
  const command = fc.record({
    what: fc.constantFrom('add', 'delete', 'take'),
    first: fc.integer({ min: 0, max: length + 10 }),
    count: fc.integer({ min: 0, max: 70 }),
  });
  fc.assert(
    fc.property(fc.array(command, { maxLength: 25 }), (commands) => {
      const set = new BlockSet(length);
      const model = new Set<number>();
      for (const { what, first, count } of commands) {
        if (what === 'take') {
          const ranges = set.takeRuns();
          const blocks = ranges.flatMap(([from, size]) => Array.from({ length: size }, (_, at) => from + at));
          expect(blocks).toEqual([...model].sort((a, b) => a - b));
          for (const [at, [from]] of ranges.entries()) {
            const before = ranges[at - 1];
            if (before !== undefined) expect(from).toBeGreaterThan(before[0] + before[1]);
          }
          model.clear();
        }
        for (let block = first; block < first + count; block++) {
          if (what === 'add') set.add(block);
          if (what === 'delete') set.delete(block);
          if (what === 'add' && block < length) model.add(block);
          if (what === 'delete') model.delete(block);
        }
        expect(set.size).toBe(model.size);
        for (let block = 0; block < length + 10; block++) expect(set.has(block)).toBe(model.has(block));
      }
    }),
    { numRuns: 60 },
  );
});

test('a read leaves the queue once, and leaves nothing behind', () => {
  const command = fc.oneof(
    fc.record({
      add: fc.uniqueArray(fc.integer({ min: 0, max: 11 }), { minLength: 1, maxLength: 4 }),
      deadline: fc.integer({ min: 0, max: 20 }),
    }),
    fc.record({ arrived: fc.integer({ min: 0, max: 11 }) }),
    fc.record({ taken: fc.integer({ min: 0, max: 11 }) }),
    fc.record({ now: fc.integer({ min: 0, max: 20 }) }),
  );
  fc.assert(
    fc.property(fc.array(command, { maxLength: 50 }), (commands) => {
      const queue = new ReadQueue();
      const model = new Map<number, { missing: Set<number>; spans: number[]; deadline: number }>();
      const expectOut = (ids: readonly number[], wanted: (id: number) => boolean) => {
        expect([...ids].sort()).toEqual([...model.keys()].filter(wanted).sort());
        for (const id of ids) model.delete(id);
      };
      let next = 1;
      for (const command of commands) {
        if ('add' in command) {
          const spans = [0, 1, 2].filter((span) => command.add.some((block) => block >> 2 === span));
          const first = Math.min(...spans);
          const last = Math.max(...spans);
          queue.add(next, command.add, first, last, command.deadline);
          const touched = [0, 1, 2].filter((span) => span >= first && span <= last);
          model.set(next, { missing: new Set(command.add), spans: touched, deadline: command.deadline });
          next += 1;
        } else if ('arrived' in command) {
          for (const { missing } of model.values()) missing.delete(command.arrived);
          expectOut(queue.arrived(command.arrived), (id) => model.get(id)?.missing.size === 0);
        } else if ('taken' in command) {
          expectOut(
            queue.takeWaiting(command.taken),
            (id) => model.get(id)?.missing.has(command.taken) === true,
          );
        } else {
          expectOut(queue.takeExpired(command.now), (id) => (model.get(id)?.deadline ?? 99) <= command.now);
        }
        const reads = [...model.values()];
        expect(queue.size).toBe(reads.length);
        for (let block = 0; block < 12; block++) {
          expect(queue.waitsFor(block)).toBe(reads.some(({ missing }) => missing.has(block)));
        }
        for (const span of [0, 1, 2])
          expect(queue.touches(span)).toBe(reads.some(({ spans }) => spans.includes(span)));
        expect(queue.nextDeadline).toBe(
          Math.min(Number.POSITIVE_INFINITY, ...reads.map(({ deadline }) => deadline)),
        );
      }
      expectOut(queue.takeAll(), () => true);
      expect([...queue.entries()]).toEqual([]);
    }),
  );
});
