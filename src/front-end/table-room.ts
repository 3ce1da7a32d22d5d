/**
 * Memory for the span tables of open layers. The kernel ends this process last when memory runs out, so it must not be what
 * takes the memory: an image may name layers of any size, and bring tables that are as large as such layers have.
 */
import { totalmem } from 'node:os';
import { CofaError } from '../../schemas/errors.ts';

/** Tables of 100 GiB of layers, and an eighth of a larger machine's memory. */
const ALWAYS = 512 << 20;
const SHARE = 1 / 8;

export class TableRoom {
  readonly #most: number;
  /** Bytes, by layer. */
  readonly #taken = new Map<string, number>();

  constructor(most = Math.max(ALWAYS, totalmem() * SHARE)) {
    this.#most = most;
  }

  /** For the table of a layer that opens. Error `busy`. */
  take(layer: string, bytes: number): void {
    let sum = bytes;
    for (const [other, taken] of this.#taken) if (other !== layer) sum += taken;
    if (sum > this.#most)
      throw new CofaError('busy', `the span tables of open layers would take ${sum} bytes of memory`, {
        hint: `at most ${Math.floor(this.#most)} are taken: unmount images that are not in use`,
      });
    this.#taken.set(layer, bytes);
  }

  give(layer: string): void {
    this.#taken.delete(layer);
  }
}
