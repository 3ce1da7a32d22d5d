/** Garbage of the engine's processes: none is collected in the middle of a start; what a start left is collected after it. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { type Heap, Tidying } from '../../src/process/heap.ts';

const run = promisify(execFile);
const MB = 1 << 20;

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

/** A heap with so many bytes that live; the rest is garbage. */
class FakeHeap implements Heap {
  bytes = 20 * MB;
  collections = 0;
  #alive = 20 * MB;
  used = () => this.bytes;
  collect = () => {
    this.collections += 1;
    this.bytes = this.#alive;
  };
}

it('what a burst of work has left is collected once, when it is over', () => {
  const heap = new FakeHeap();
  const tidying = new Tidying(heap, 1_000);
  for (let n = 0; n < 10; n++) {
    heap.bytes += MB;
    tidying.worked();
    vi.advanceTimersByTime(900);
  }
  expect(heap.collections).toBe(0);
  vi.advanceTimersByTime(100);
  expect(heap.collections).toBe(1);
  vi.advanceTimersByTime(60_000);
  expect(heap.collections).toBe(1);
});

it('work that has left next to nothing since the last time is not followed by a collection', () => {
  const heap = new FakeHeap();
  const tidying = new Tidying(heap, 1_000);
  tidying.now();
  expect(heap.collections).toBe(1);
  heap.bytes += MB;
  tidying.worked();
  vi.advanceTimersByTime(5_000);
  expect(heap.collections).toBe(1);
  heap.bytes += 2 * MB;
  tidying.worked();
  vi.advanceTimersByTime(5_000);
  expect(heap.collections).toBe(2);
});

it('a heap that would take long is left to V8', () => {
  const heap = new FakeHeap();
  heap.bytes = 500 * MB;
  new Tidying(heap, 1_000).now();
  expect(heap.collections).toBe(0);
});

const PROGRAM = `
import { giveHeapRoom, Tidying } from '${new URL('../../src/process/heap.ts', import.meta.url).href}';
giveHeapRoom();
let left = Array.from({ length: 300_000 }, (_, n) => ({ n: n + 0.5 }));
const before = process.memoryUsage().heapUsed;
left = undefined;
new Tidying().now();
console.log(before - process.memoryUsage().heapUsed);
`;

it('V8 knows the flags, and collects when it is told to', async () => {
  vi.useRealTimers();
  const { stdout, stderr } = await run(process.execPath, ['--input-type=module', '-e', PROGRAM]);
  // A flag that it does not know it only complains of.
  expect(stderr).toBe('');
  expect(Number(stdout)).toBeGreaterThan(5 * MB);
});
