/** Lets a flow of work rest for a while: it asks before each step whether it may go on. */
export class Gate {
  #opened: PromiseWithResolvers<void> | undefined;
  #timer: NodeJS.Timeout | undefined;

  /** Settles when the next step may be taken; undefined: now. */
  get opening(): Promise<void> | undefined {
    return this.#opened?.promise;
  }

  /** No further step for so long, ms, counted from now; 0: from now on all may be taken. */
  hold(ms: number): void {
    clearTimeout(this.#timer);
    if (ms > 0) {
      this.#opened ??= Promise.withResolvers();
      this.#timer = setTimeout(() => this.hold(0), ms);
      return;
    }
    this.#opened?.resolve();
    this.#opened = undefined;
  }
}
