/**
 * Files that other processes may use at once, and that a fact of the log speaks of later: the disk takes them meanwhile. So what
 * needs a file does not wait for the disk, which on a busy node takes longer than all else in a start.
 */
import type { FileHandle } from 'node:fs/promises';
import { placeFile } from './layout.ts';

export class LaterSync {
  readonly #syncs: Array<Promise<void>> = [];
  readonly #told: (ms: number) => void;
  readonly #now: () => number;

  /** `told`: how long the disk took for a file. `now`: monotonic, ms. */
  constructor(told: (ms: number) => void = () => {}, now: () => number = () => performance.now()) {
    this.#told = told;
    this.#now = now;
  }

  /**
   * Resolves when the file is there whole under its name; a power cut before `synced` may leave it torn. Error `no-space` also
   * where it would take the log's room.
   */
  async write(path: string, bytes: Uint8Array): Promise<void> {
    const file = await placeFile(path, bytes, async () => {});
    const since = this.#now();
    const sync = syncAndClose(file).then(() => this.#told(this.#now() - since));
    // Who waits for `synced` hears of it.
    sync.catch(() => {});
    this.#syncs.push(sync);
  }

  /** Resolves when all that was written before the call is on the disk. Errors: the disk's. */
  async synced(): Promise<void> {
    await Promise.all(this.#syncs);
  }
}

/** A sync of a file makes the names before it durable as well, on the file systems that a node has (ext4, xfs, btrfs). */
async function syncAndClose(file: FileHandle): Promise<void> {
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}
