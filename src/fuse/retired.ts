/** Descriptors of files that are out of service. */

export interface RetiredOptions {
  /** The turn of each thread: odd while it works on a request, another one for each request. */
  turns: () => number[];
  close: (fd: number) => void;
}

/** Descriptors are looked at this often, ms. */
const RETIRE_MS = 20;

/** Closes a descriptor when no thread can still use it: after that its number may be another file's. */
export class Retired {
  readonly #options: RetiredOptions;
  /** Each with the turns of the threads when they could find it no more. */
  #fds: Array<{ fd: number; turns: number[] }> = [];
  #timer: NodeJS.Timeout | undefined;

  constructor(options: RetiredOptions) {
    this.#options = options;
  }

  /**
   * `change` takes the file out of the threads' table. Turns are noted behind it: a thread that begins a request before the
   * change may still find the file, and only a turn that is even, or another one, behind the change says that none does.
   */
  add(fd: number, change: () => void): void {
    change();
    this.#fds.push({ fd, turns: this.#options.turns() });
    this.#timer ??= setTimeout(() => this.#look(), RETIRE_MS);
  }

  /** The threads have ended. */
  closeAll(): void {
    clearTimeout(this.#timer);
    for (const { fd } of this.#fds) this.#options.close(fd);
    this.#fds = [];
  }

  #look(): void {
    this.#timer = undefined;
    const now = this.#options.turns();
    this.#fds = this.#fds.filter(({ fd, turns }) => {
      const isUnused = turns.every((turn, thread) => turn % 2 === 0 || turn !== now[thread]);
      if (isUnused) this.#options.close(fd);
      return !isUnused;
    });
    if (this.#fds.length > 0) this.#timer = setTimeout(() => this.#look(), RETIRE_MS);
  }
}
