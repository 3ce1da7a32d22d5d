import { presentRanges } from '../../actors/node-state.ts';
import type { BlockRun } from '../../actors/ranges.ts';
import type { Random } from './random.ts';

/** A device file: of each block whether its bytes are there, and whether a power cut leaves them there. */
export class SimDisk {
  /** 0 a hole, 1 written, 2 synced */
  readonly #blocks: Uint8Array;

  constructor(blockCount: number) {
    this.#blocks = new Uint8Array(blockCount);
  }

  has(block: number): boolean {
    return (this.#blocks[block] ?? 0) > 0;
  }

  isSynced(block: number): boolean {
    return this.#blocks[block] === 2;
  }

  /** A block that is written again has the same bytes: synced ones stay synced. */
  write(block: number): void {
    this.#blocks[block] = Math.max(1, this.#blocks[block] ?? 0);
  }

  /** A sync covers what was written before it began. */
  beginSync(): Uint8Array {
    return this.#blocks.slice();
  }

  endSync(begun: Uint8Array): void {
    for (const [block, state] of begun.entries()) if (state > 0 && this.has(block)) this.#blocks[block] = 2;
  }

  punch(ranges: ReadonlyArray<readonly [number, number]>): void {
    for (const [first, count] of ranges) this.#blocks.fill(0, first, first + count);
  }

  crash(random: Random): void {
    for (const [block, state] of this.#blocks.entries())
      if (state === 1) this.#blocks[block] = random.pick([0, 2]);
  }
}

/** What the events of a layer say, folded. */
export class SimLog {
  readonly #present: Uint8Array;
  complete = false;
  handedOver = false;

  constructor(blockCount: number) {
    this.#present = new Uint8Array(blockCount);
  }

  get isFull(): boolean {
    return this.#present.every((present) => present === 1);
  }

  isPresent(block: number): boolean {
    return this.#present[block] === 1;
  }

  *presentBlocks(): IterableIterator<number> {
    for (const [block, present] of this.#present.entries()) if (present === 1) yield block;
  }

  ranges(): BlockRun[] {
    return presentRanges(this.#present);
  }

  append(ranges: ReadonlyArray<readonly [number, number]>): void {
    for (const [first, count] of ranges) this.#present.fill(1, first, first + count);
  }

  evict(ranges: ReadonlyArray<readonly [number, number]>): void {
    for (const [first, count] of ranges) this.#present.fill(0, first, first + count);
    this.complete = false;
    this.handedOver = false;
  }

  drop(): void {
    this.#present.fill(0);
    this.complete = false;
    this.handedOver = false;
  }
}
