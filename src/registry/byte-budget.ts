/**
 * Bytes that the work of a process may hold at a time. What does not fit waits, in the order in which it came; a piece
 * of work that needs more than there is at all gets everything, alone.
 */
export class ByteBudget {
  readonly #total: number;
  #free: number;
  readonly #waiting: Array<{ bytes: number; begin: () => void }> = [];

  constructor(total: number) {
    this.#total = total;
    this.#free = total;
  }

  /** Bytes that no work holds. */
  get free(): number {
    return this.#free;
  }

  /** Resolves when there is room for so many bytes, with a function that gives them back. Throws the signal's reason. */
  async lease(bytes: number, signal?: AbortSignal): Promise<() => void> {
    const wanted = Math.min(bytes, this.#total);
    await this.#take(wanted, signal);
    const release = () => {
      this.#free += wanted;
      this.#next();
    };
    if (signal?.aborted === true) release();
    signal?.throwIfAborted();
    return release;
  }

  async #take(bytes: number, signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted();
    if (this.#waiting.length === 0 && bytes <= this.#free) {
      this.#free -= bytes;
      return;
    }
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const entry = { bytes, begin: resolve };
    const leave = () => {
      const at = this.#waiting.indexOf(entry);
      // Its turn has come in the same moment: `lease` gives the bytes back.
      if (at < 0) return;
      this.#waiting.splice(at, 1);
      reject(signal?.reason);
      this.#next();
    };
    this.#waiting.push(entry);
    signal?.addEventListener('abort', leave, { once: true });
    try {
      await promise;
    } finally {
      signal?.removeEventListener('abort', leave);
    }
  }

  #next(): void {
    for (
      let first = this.#waiting[0];
      first !== undefined && first.bytes <= this.#free;
      first = this.#waiting[0]
    ) {
      this.#waiting.shift();
      this.#free -= first.bytes;
      first.begin();
    }
  }
}
