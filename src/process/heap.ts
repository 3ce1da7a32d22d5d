/**
 * When V8 collects garbage in the engine's processes. Left to itself it begins when some 4 MB have come since the last time,
 * buffers among them: with the sidecar of a start and with its pack. Marking and compacting then takes as much processor time
 * as the process's own part of the start, while both wait for the same cores. So the heap may grow to twice of what lives
 * before V8 begins by itself, and what a burst of work has left goes when it is over.
 */
import { getHeapStatistics, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/**
 * How much may come, in percent of what lives. Compiled code that is kept is still used, but what is loaded behind such a flag is kept
 * apart: two processes that load one file, one with it and one without, take turns to compile it anew.
 */
const ROOM_PERCENT = 100;
/**
 * While an image streams through a process: the most that V8 takes by itself. Network buffers count, and would have the old
 * generation marked again and again, 60 times a GB, although they die young.
 */
const STREAM_ROOM_PERCENT = 300;
/** Work is over when there was none for so long, ms. */
const CALM_MS = 2_000;
/** Less is not worth a collection of 10 to 20 ms, bytes. */
const WORTH_BYTES = 2 << 20;
/** In larger heaps V8 goes on in small steps by itself: all at once would take too long, bytes. */
const LARGE_BYTES = 128 << 20;

/** From now on, and whatever is loaded later, in all threads. */
export function giveHeapRoom(percent = ROOM_PERCENT): void {
  setFlagsFromString(`--heap-growing-percent=${percent}`);
}

/** For a process through which much of an image streams, once it has loaded what it is likely to need. */
export function giveStreamRoom(): void {
  giveHeapRoom(STREAM_ROOM_PERCENT);
}

/**
 * For a process through which an image streams once, and that ends with it, when its threads are at work. The young generation stays as it is: V8 doubles
 * it up to 16 MiB a half while the flat image of 60,000 files is built, which is 100 MB more of memory and no faster.
 */
export function giveIndexingRoom(): void {
  giveStreamRoom();
  setFlagsFromString('--semi-space-growth-factor=1');
}

export interface Heap {
  /** Bytes that are in use, garbage among them. */
  used(): number;
  collect(): void;
}

/** Collects garbage in the pauses of a process. */
export class Tidying {
  readonly #heap: Heap;
  readonly #calmMs: number;
  #left = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(heap: Heap = ownHeap(), calmMs = CALM_MS) {
    this.#heap = heap;
    this.#calmMs = calmMs;
  }

  /** There has been work: what it left is collected when no more comes. The process does not stay for it. */
  worked(): void {
    if (this.#timer !== undefined) this.#timer.refresh();
    else this.#timer = setTimeout(() => this.now(), this.#calmMs).unref();
  }

  /** Collects what is worth it. */
  now(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const used = this.#heap.used();
    if (used - this.#left < WORTH_BYTES || used > LARGE_BYTES) return;
    this.#heap.collect();
    this.#left = this.#heap.used();
  }
}

/** V8 offers its collection to who asks for it in time; contexts that exist already do not get it. */
function ownHeap(): Heap {
  let collect: (() => void) | undefined;
  return {
    used: () => {
      const { used_heap_size: objects, external_memory: buffers } = getHeapStatistics();
      return objects + buffers;
    },
    collect: () => {
      if (collect === undefined) {
        setFlagsFromString('--expose-gc');
        collect = runInNewContext('gc') as () => void;
        setFlagsFromString('--no-expose-gc');
      }
      collect();
    },
  };
}
