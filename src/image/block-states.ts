import { Sha256, STATE_SIZE } from './sha256.ts';
import { BLOCK_SIZE } from './span-table.ts';

/** Hashes the raw bytes of a layer and keeps the hash's state after each whole block (span-table.ts says why). */
export class BlockStates {
  readonly #hash = new Sha256();
  #states = Buffer.alloc(1024 * STATE_SIZE);
  #size = 0;
  #length = 0;

  update(bytes: Buffer): void {
    for (let at = 0; at < bytes.length; ) {
      const end = Math.min(bytes.length, at + BLOCK_SIZE - (this.#length % BLOCK_SIZE));
      this.#hash.update(bytes.subarray(at, end));
      this.#length += end - at;
      at = end;
      if (this.#length % BLOCK_SIZE === 0) this.#keep();
    }
  }

  /** Call once, after the last byte. */
  finish(): { diffId: string; states: Buffer } {
    return {
      states: this.#states.subarray(0, this.#size),
      diffId: `sha256:${this.#hash.digest().toString('hex')}`,
    };
  }

  #keep(): void {
    if (this.#size === this.#states.length) {
      this.#states = Buffer.concat([this.#states, Buffer.alloc(this.#states.length)]);
    }
    this.#hash.writeState(this.#states, this.#size);
    this.#size += STATE_SIZE;
  }
}
