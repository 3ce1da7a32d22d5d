import type { Checkpoint, LayerDecoder } from './layer-decoder.ts';
import type { NativeBuffer } from './native.ts';

/** The decoder of a layer that is not compressed: every byte is a checkpoint. */
export class PlainDecoder implements LayerDecoder {
  readonly checkpointsAnywhere = true;
  readonly complete = true;
  #source: Uint8Array | undefined;
  #at = 0;
  #end = 0;
  #consumed = 0;

  get available(): number {
    return this.#end - this.#at;
  }

  get consumed(): number {
    return this.#consumed;
  }

  get needed(): number {
    return this.#consumed;
  }

  input(source: NativeBuffer, start: number, end: number): void {
    this.inputBytes(source.bytes.subarray(start, end));
  }

  /** As `input`, for bytes that no native code reads. */
  inputBytes(bytes: Uint8Array): void {
    this.#source = bytes;
    this.#at = 0;
    this.#end = bytes.length;
  }

  run(target: NativeBuffer, start: number, end: number): number {
    const count = Math.min(this.#end - this.#at, end - start);
    if (this.#source !== undefined)
      target.bytes.set(this.#source.subarray(this.#at, this.#at + count), start);
    this.#at += count;
    this.#consumed += count;
    return count;
  }

  checkpoint(): Checkpoint {
    return { start: this.#consumed, bits: 0, back: 0, reach: 0 };
  }

  close(): void {
    this.#source = undefined;
  }
}
