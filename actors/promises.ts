/**
 * Blocks that a startup pack is about to bring. A pack holds blocks of many spans, each only in part, so it owns no span;
 * a reader of such a block waits for the pack instead of fetching the span. A promise ends when the pack is over; when
 * it has been silent for too long, no reader waits for it any more: what it has not kept by then is fetched like anything else.
 */
import { BlockSet } from './block-set.ts';
import { addBlock, type BlockRun, blocksOf } from './ranges.ts';
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

  make(number: number, runs: readonly BlockRun[], now: number): void {
    const blocks = new BlockSet(this.#blockCount);
    for (const block of blocksOf(runs)) blocks.add(block);
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

  /** Those of the blocks that this promise has not kept yet. */
  owedIn(number: number, [first, count]: BlockRun): BlockRun[] {
    const owed = this.#owed.get(number);
    const runs: BlockRun[] = [];
    if (owed === undefined) return runs;
    for (let block = first; block < first + count; block++) if (owed.has(block)) addBlock(runs, block);
    return runs;
  }

  /** Something of this promise has come. */
  heard(number: number, now: number): void {
    if (this.#silence.has(number)) this.#silence.set(number, now + this.#silenceMs);
  }

  /** The block is present, by a pack or a job. */
  kept(block: number): void {
    for (const blocks of this.#owed.values()) blocks.delete(block);
  }

  /** Ends a promise: the blocks that reads may wait for. */
  end(number: number): readonly BlockRun[] {
    const isWaitedFor = this.#silence.has(number);
    const blocks = this.#owed.get(number);
    this.#owed.delete(number);
    this.#silence.delete(number);
    return (isWaitedFor && blocks?.runs()) || [];
  }

  /** Takes a promise that has been silent for too long: reads no longer wait for it. Returns what it owes; undefined: none is. */
  takeSilent(now: number): readonly BlockRun[] | undefined {
    const number = this.#silence.take(now);
    return number === undefined ? undefined : (this.#owed.get(number)?.runs() ?? []);
  }

  clear(): void {
    this.#owed.clear();
    this.#silence.clear();
  }
}
