/**
 * The bytes of a stream in pieces that can be moved to another thread. It reads ahead as far as there are empty pieces;
 * the user of a piece returns it by `giveBack`. So the memory is bounded, and the stream is read while the user is busy
 * or has not even begun.
 */
export class Pieces {
  readonly #control = new AbortController();
  readonly #ready: Piece[] = [];
  readonly #empty: SharedArrayBuffer[] = [];
  #made = 0;
  #ended = false;
  #failure: { error: unknown } | undefined;
  /** Wakes the caller of `next` that waits for a piece, and the reader that waits for an empty one. */
  #wakeReader: (() => void) | undefined;
  #wakePump: (() => void) | undefined;

  /** Begins to read at once. Calls `open` once; its signal is aborted by `close`, or with `signal`. */
  constructor(open: (signal: AbortSignal) => AsyncIterable<Uint8Array>, signal?: AbortSignal) {
    const own = this.#control.signal;
    this.#pump(open(signal === undefined ? own : AbortSignal.any([signal, own]))).then(
      () => this.#end(undefined),
      (error: unknown) => this.#end({ error }),
    );
  }

  /** The next piece, or undefined behind the last one; throws what the stream threw, after all pieces before it. */
  async next(): Promise<Piece | undefined> {
    for (;;) {
      const piece = this.#ready.shift();
      if (piece !== undefined) return piece;
      if (this.#failure !== undefined) throw this.#failure.error;
      if (this.#ended) return undefined;
      await new Promise<void>((resolve) => {
        this.#wakeReader = resolve;
      });
    }
  }

  giveBack(piece: Piece): void {
    this.#empty.push(piece.buffer);
    this.#wakePump?.();
  }

  /** Stops reading. */
  close(): void {
    this.#control.abort();
    this.#wakePump?.();
  }

  async #pump(chunks: AsyncIterable<Uint8Array>): Promise<void> {
    let piece: Piece | undefined;
    let filled = 0;
    for await (const chunk of chunks) {
      for (let at = 0; at < chunk.length; ) {
        piece ??= new Uint8Array(await this.#emptyOne());
        const part = chunk.subarray(at, at + PIECE - filled);
        piece.set(part, filled);
        filled += part.length;
        at += part.length;
        if (filled < PIECE) continue;
        this.#put(piece);
        piece = undefined;
        filled = 0;
      }
    }
    if (piece !== undefined) this.#put(piece.subarray(0, filled));
  }

  async #emptyOne(): Promise<SharedArrayBuffer> {
    for (;;) {
      this.#control.signal.throwIfAborted();
      const empty = this.#empty.pop();
      if (empty !== undefined) return empty;
      if (this.#made < MOST_PIECES) {
        this.#made += 1;
        return new SharedArrayBuffer(PIECE);
      }
      await new Promise<void>((resolve) => {
        this.#wakePump = resolve;
      });
    }
  }

  #put(piece: Piece): void {
    this.#ready.push(piece);
    this.#wakeReader?.();
  }

  #end(failure: { error: unknown } | undefined): void {
    this.#failure = failure;
    this.#ended = true;
    this.#wakeReader?.();
  }
}

/** Begins at the beginning of its buffer. */
export type Piece = Uint8Array<SharedArrayBuffer>;

/** Bytes of a piece: a message between threads costs some 20 µs. */
const PIECE = 262_144;
/** Pieces read ahead of a layer, at most: 2 MiB, 16 ms of a link of 1 Gbit/s. */
const MOST_PIECES = 8;
