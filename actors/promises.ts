/**
 * Blocks that a startup pack is about to bring. A pack holds blocks of many spans, each only in part, so it owns no span;
 * a reader of such a block waits for the pack instead of fetching the span. A promise ends when the pack is over; when
 * it has been silent for too long, nobody waits for it any more: what it has not kept by then is fetched like anything else.
 */
import { BlockSet } from './block-set.ts';
import { TimerQueue } from './timers.ts';

/** Packs of one layer that may be under way at once: that many images start at the same time with a layer in common. */
const MAX_PROMISES = 8;

export class Promises {
  readonly #blockCount: number;
  readonly #silenceMs: number;
  /** What each promise that has not ended still owes. */
  readonly #owed = new Map<number, BlockSet>();
  /** Of those that are waited for; the others may bring what they owe all the same. */
  readonly #silence = new TimerQueue<number>();

  constructor(blockCount: number, silenceMs: number) {
    this.#blockCount = blockCount;
    this.#silenceMs = silenceMs;
  }

  /** When the next one has been silent for too long; Infinity when none is waited for. */
  get nextEnd(): number {
    return this.#silence.next;
  }

  get isAny(): boolean {
    return this.#silence.size > 0;
  }

  get isFull(): boolean {
    return this.#owed.size >= MAX_PROMISES;
  }

  /** `[from, to)` of each range. */
  make(number: number, ranges: Iterable<readonly [from: number, to: number]>, now: number): void {
    const blocks = new BlockSet(this.#blockCount);
    for (const [from, to] of ranges) for (let block = from; block < to; block++) blocks.add(block);
    this.#owed.set(number, blocks);
    this.#silence.set(number, now + this.#silenceMs);
  }

  has(block: number): boolean {
    if (!this.isAny) return false;
    for (const [number, blocks] of this.#owed)
      if (blocks.has(block) && this.#silence.has(number)) return true;
    return false;
  }

  /** Whether the promise has not ended, silent or not. */
  isKnown(number: number): boolean {
    return this.#owed.has(number);
  }

  /** The runs of blocks in `[from, to)` that this promise has not kept yet. */
  owedIn(number: number, from: number, to: number): Array<[from: number, to: number]> {
    const owed = this.#owed.get(number);
    const runs: Array<[number, number]> = [];
    for (let block = from; block < to; block++) {
      if (owed?.has(block) !== true) continue;
      const last = runs.at(-1);
      if (last?.[1] === block) last[1] = block + 1;
      else runs.push([block, block + 1]);
    }
    return runs;
  }

  /** Something of this promise has come. */
  heard(number: number, now: number): void {
    if (this.#silence.has(number)) this.#silence.set(number, now + this.#silenceMs);
  }

  /** The block is present, whoever brought it. */
  kept(block: number): void {
    for (const blocks of this.#owed.values()) blocks.delete(block);
  }

  /** Ends a promise: what somebody may wait for, as `[first, count]`. */
  end(number: number): ReadonlyArray<readonly [number, number]> {
    const isWaitedFor = this.#silence.has(number);
    const blocks = this.#owed.get(number);
    this.#owed.delete(number);
    this.#silence.delete(number);
    return (isWaitedFor && blocks?.ranges()) || [];
  }

  /** Nobody waits any longer for one that has been silent for too long: what it owes, as `[first, count]`; undefined: none is. */
  takeSilent(now: number): ReadonlyArray<readonly [number, number]> | undefined {
    const number = this.#silence.take(now);
    return number === undefined ? undefined : (this.#owed.get(number)?.ranges() ?? []);
  }

  clear(): void {
    this.#owed.clear();
    this.#silence.clear();
  }
}
