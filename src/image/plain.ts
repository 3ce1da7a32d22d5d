import type { Checkpoint, LayerDecoder } from './layer-decoder.ts';
import type { NativeBuffer } from './native.ts';

/** The decoder of a layer that is not compressed: every byte is a checkpoint. */
export class PlainDecoder implements LayerDecoder {
  readonly checkpointsAnywhere = true;
  readonly complete = true;
  #source: NativeBuffer | undefined;
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
    this.#source = source;
    this.#at = start;
    this.#end = end;
  }

  run(target: NativeBuffer, start: number, end: number): number {
    const count = Math.min(this.#end - this.#at, end - start);
    this.#source?.bytes.copy(target.bytes, start, this.#at, this.#at + count);
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
