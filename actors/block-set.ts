/** A set of blocks of one device, one bit each; what is taken from it comes as runs. */
import { type BlockRun, blockRun } from './ranges.ts';

export class BlockSet {
  readonly #words: Uint32Array;
  readonly #length: number;
  #size = 0;
  /** Words outside of [low, high] are zero. */
  #low = Number.POSITIVE_INFINITY;
  #high = -1;

  /** `length`: blocks of the device. */
  constructor(length: number) {
    this.#length = length;
    this.#words = new Uint32Array(Math.ceil(length / 32));
  }

  get size(): number {
    return this.#size;
  }

  has(block: number): boolean {
    return (((this.#words[block >>> 5] ?? 0) >>> (block & 31)) & 1) === 1;
  }

  add(block: number): void {
    if (block >= this.#length || this.has(block)) return;
    const word = block >>> 5;
    this.#words[word] = (this.#words[word] ?? 0) | (1 << (block & 31));
    this.#low = Math.min(this.#low, word);
    this.#high = Math.max(this.#high, word);
    this.#size += 1;
  }

  delete(block: number): void {
    if (!this.has(block)) return;
    const word = block >>> 5;
    this.#words[word] = (this.#words[word] ?? 0) & ~(1 << (block & 31));
    this.#size -= 1;
  }

  clear(): void {
    this.#words.fill(0);
    this.#size = 0;
    this.#low = Number.POSITIVE_INFINITY;
    this.#high = -1;
  }

  /** Its blocks, ascending, no two runs adjacent. */
  runs(): BlockRun[] {
    const runs: BlockRun[] = [];
    const end = Math.min((this.#high + 1) * 32, this.#length);
    let block = this.#size === 0 ? end : this.#low * 32;
    while (block < end) {
      if ((block & 31) === 0 && this.#words[block >>> 5] === 0) {
        block += 32;
        continue;
      }
      const first = block;
      while (block < end && this.has(block)) block += 1;
      if (block > first) runs.push(blockRun(first, block - first));
      block += 1;
    }
    return runs;
  }

  /** Empties the set: what was in it, as `runs`. */
  takeRuns(): BlockRun[] {
    const runs = this.runs();
    this.clear();
    return runs;
  }
}
