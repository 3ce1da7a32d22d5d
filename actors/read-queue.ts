/**
 * The reads of one layer that wait, each for the blocks that it misses. A read leaves the queue once: when its last block
 * arrived, when one of its blocks cannot be had, or at its deadline. Every step costs what it touches, whatever the
 * number of reads that wait for something else.
 */
import { TimerQueue } from './timers.ts';

interface Read {
  readonly id: number;
  /** Blocks that were missing when the read came; those that have arrived since are no longer in `#byBlock`. */
  readonly blocks: readonly number[];
  readonly firstSpan: number;
  readonly lastSpan: number;
  missing: number;
}

export class ReadQueue {
  readonly #reads = new Map<number, Read>();
  readonly #byBlock = new Map<number, Set<Read>>();
  /** How many reads touch the span, with missing blocks or present ones. */
  readonly #bySpan = new Map<number, number>();
  readonly #deadlines = new TimerQueue<number>();

  get size(): number {
    return this.#reads.size;
  }

  /** The earliest deadline, Infinity when no read waits. */
  get nextDeadline(): number {
    return this.#deadlines.next;
  }

  has(id: number): boolean {
    return this.#reads.has(id);
  }

  /** `blocks`: those that are not present, each once, at least one. Spans: all that the read touches. */
  add(id: number, blocks: readonly number[], firstSpan: number, lastSpan: number, deadline: number): void {
    const read = { id, blocks, firstSpan, lastSpan, missing: blocks.length };
    this.#reads.set(id, read);
    for (let span = firstSpan; span <= lastSpan; span++)
      this.#bySpan.set(span, (this.#bySpan.get(span) ?? 0) + 1);
    this.#deadlines.set(id, deadline);
    for (const block of blocks) {
      const others = this.#byBlock.get(block);
      if (others === undefined) this.#byBlock.set(block, new Set([read]));
      else others.add(read);
    }
  }

  waitsFor(block: number): boolean {
    return this.#byBlock.has(block);
  }

  /** Whether a read that waits has blocks of the span, be they present or not. */
  touches(span: number): boolean {
    return this.#bySpan.has(span);
  }

  /** The block is present: returns the reads that miss nothing any more, first come first. */
  arrived(block: number): readonly number[] {
    const reads = this.#byBlock.get(block);
    if (reads === undefined) return NONE;
    this.#byBlock.delete(block);
    const done: number[] = [];
    for (const read of reads) {
      read.missing -= 1;
      if (read.missing > 0) continue;
      this.#forget(read);
      done.push(read.id);
    }
    return done;
  }

  /** Takes the reads that wait for the block out of the queue. */
  takeWaiting(block: number): readonly number[] {
    const reads = this.#byBlock.get(block);
    if (reads === undefined) return NONE;
    const ids = Array.from(reads, ({ id }) => id);
    for (const id of ids) this.#remove(id);
    return ids;
  }

  /** Takes the reads whose deadline has come out of the queue. */
  takeExpired(now: number): readonly number[] {
    if (this.#deadlines.next > now) return NONE;
    const ids: number[] = [];
    for (let id = this.#deadlines.take(now); id !== undefined; id = this.#deadlines.take(now)) {
      this.#remove(id);
      ids.push(id);
    }
    return ids;
  }

  /** Empties the queue. */
  takeAll(): readonly number[] {
    const ids = [...this.#reads.keys()];
    this.#reads.clear();
    this.#byBlock.clear();
    this.#bySpan.clear();
    this.#deadlines.clear();
    return ids;
  }

  /** For checks: each read with the blocks that it misses, as the queue has them. */
  *entries(): IterableIterator<{ id: number; missing: number; blocks: number[] }> {
    for (const read of this.#reads.values()) {
      const blocks = read.blocks.filter((block) => this.#byBlock.get(block)?.has(read) === true);
      yield { id: read.id, missing: read.missing, blocks };
    }
  }

  #remove(id: number): void {
    const read = this.#reads.get(id);
    if (read === undefined) return;
    this.#forget(read);
    for (const block of read.blocks) {
      const reads = this.#byBlock.get(block);
      if (reads?.delete(read) === true && reads.size === 0) this.#byBlock.delete(block);
    }
  }

  #forget(read: Read): void {
    this.#reads.delete(read.id);
    this.#deadlines.delete(read.id);
    for (let span = read.firstSpan; span <= read.lastSpan; span++) {
      const others = (this.#bySpan.get(span) ?? 1) - 1;
      if (others > 0) this.#bySpan.set(span, others);
      else this.#bySpan.delete(span);
    }
  }
}

const NONE: readonly number[] = [];
