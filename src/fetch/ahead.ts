/** A body that is read before anybody wants it, as far as there is room for it. */

/** Bytes that wait at most; then its sender waits. */
const MOST_BYTES = 32 << 20;

/**
 * Reads `source` from now on, and gives what has come and what comes. Its error is thrown behind the last piece before it.
 * Its maker closes it.
 */
export class Ahead implements AsyncIterable<Uint8Array> {
  readonly #source: AsyncIterator<Uint8Array>;
  readonly #limit: number;
  readonly #pieces: Uint8Array[] = [];
  #bytes = 0;
  #ended = false;
  #error: { reason: unknown } | undefined;
  #isClosed = false;
  /** Something has come or ended; something was taken. */
  #came = Promise.withResolvers<void>();
  #taken = Promise.withResolvers<void>();

  constructor(source: AsyncIterable<Uint8Array>, limit = MOST_BYTES) {
    this.#source = source[Symbol.asyncIterator]();
    this.#limit = limit;
    void this.#readAll();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void, undefined> {
    for (;;) {
      const piece = this.#pieces.shift();
      if (piece !== undefined) {
        this.#bytes -= piece.length;
        this.#taken.resolve();
        yield piece;
      } else if (this.#error !== undefined) throw this.#error.reason;
      else if (this.#ended) return;
      else {
        await this.#came.promise;
        this.#came = Promise.withResolvers<void>();
      }
    }
  }

  /** Reads no further. The source hears of it when it has given what it was asked for, and is not waited for. */
  close(): void {
    this.#isClosed = true;
    this.#pieces.length = 0;
    this.#taken.resolve();
    this.#source.return?.().catch(() => {});
  }

  async #readAll(): Promise<void> {
    try {
      while (!this.#isClosed) {
        const { done, value } = await this.#source.next();
        if (done === true) break;
        this.#pieces.push(value);
        this.#bytes += value.length;
        this.#came.resolve();
        while (this.#bytes >= this.#limit && !this.#isClosed) {
          this.#taken = Promise.withResolvers<void>();
          await this.#taken.promise;
        }
      }
    } catch (reason) {
      this.#error = { reason };
    }
    this.#ended = true;
    this.#came.resolve();
  }
}
