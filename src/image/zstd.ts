import type { Checkpoint, LayerDecoder } from './layer-decoder.ts';
import { Unzstd } from './libzstd.ts';
import type { NativeBuffer } from './native.ts';

/**
 * Decodes zstd frames (RFC 8878), one after another, skippable ones between them. Decoding can begin only at the start
 * of a frame, so checkpoints are the starts of frames: many in the output of pzstd or in a zstd:chunked layer, a single
 * one in what `zstd` writes.
 *
 * zstd is fed exactly what it asks for: the rest of a block and the header of the next one. So it never reads ahead,
 * and `needed` is the end of the block that holds the last byte.
 */
export class ZstdDecoder implements LayerDecoder {
  readonly checkpointsAnywhere = false;
  readonly #zstd = new Unzstd();
  #source: NativeBuffer | undefined;
  #at = 0;
  #end = 0;
  #consumed = 0;
  #needed = 0;
  /** Bytes that zstd asks for next. */
  #wanted = FIRST_READ;
  #betweenFrames = true;
  /** The last run filled its target, so there may be more without more input. */
  #pending = false;

  get available(): number {
    return this.#end - this.#at;
  }

  get consumed(): number {
    return this.#consumed;
  }

  get needed(): number {
    return this.#needed;
  }

  get complete(): boolean {
    return this.#betweenFrames;
  }

  input(source: NativeBuffer, start: number, end: number): void {
    this.#source = source;
    this.#at = start;
    this.#end = end;
  }

  run(target: NativeBuffer, start: number, end: number): number {
    const room = end - start;
    // First the output left from before: zstd might decode new input ahead of it.
    if (this.#pending) {
      this.#step(target, start, room, 0);
      this.#pending = this.#zstd.written === room && !this.#betweenFrames;
      if (this.#zstd.written > 0) return this.#zstd.written;
    }
    const fed = Math.min(this.#end - this.#at, this.#wanted);
    if (fed === 0) return 0;
    this.#step(target, start, room, fed);
    this.#pending = this.#zstd.written === room && !this.#betweenFrames;
    return this.#zstd.written;
  }

  checkpoint(): Checkpoint | undefined {
    return this.#betweenFrames ? { start: this.#consumed, bits: 0, back: 0, reach: 0 } : undefined;
  }

  close(): void {
    this.#zstd.close();
    this.#source = undefined;
  }

  #step(target: NativeBuffer, start: number, room: number, fed: number): void {
    const address = (this.#source?.address ?? target.address) + BigInt(this.#at);
    const next = this.#zstd.run(address, fed, target.address + BigInt(start), room);
    // While a frame's last bytes wait for room, zstd gives back one byte that it has used: count the bytes it was fed.
    if (this.#zstd.written > 0) this.#needed = Math.max(this.#needed, this.#consumed + fed);
    this.#at += this.#zstd.consumed;
    this.#consumed += this.#zstd.consumed;
    this.#betweenFrames = next === 0;
    this.#wanted = next === 0 ? FIRST_READ : next;
  }
}

/** Bytes from which zstd knows how long a frame's header is: its magic and descriptor. */
const FIRST_READ = 5;
