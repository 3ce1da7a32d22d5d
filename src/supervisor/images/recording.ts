/**
 * Tells the log of a flat image while it is already being attached. Its event leads neither its files, which have to be synced, nor
 * what a caller is told of a mount, which waits for `done`.
 */
export class Recording {
  readonly #tell: () => Promise<void>;
  #telling: Promise<void> | undefined;

  /** `tell`: resolves when the log has it. */
  constructor(tell: () => Promise<void>) {
    this.#tell = tell;
  }

  /** Begins. Who waits for `done` hears of a failure. */
  begin(): void {
    this.done().catch(() => {});
  }

  /** Resolves when the log has it; after a failure it is tried again. Errors: those of `tell`. */
  done(): Promise<void> {
    this.#telling ??= this.#tell().catch((error: unknown) => {
      this.#telling = undefined;
      throw error;
    });
    return this.#telling;
  }
}
