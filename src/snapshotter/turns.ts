/** Work on things with names, of which some need a name alone and others only that it stays as it is. */
export interface Turn {
  /** No other work that begins later sees these before this has ended. */
  alone: readonly string[];
  /** Work that has these alone comes before or after; others with them may go on at once. */
  beside?: readonly string[];
}

interface Name {
  /** The last work that has it alone has ended. */
  alone: Promise<unknown>;
  /** All work that has come since then with it beside others has ended. */
  beside: Promise<unknown>;
  /** Work that has not ended. */
  users: number;
}

/** Each waits only for what came before it and has one of its names: none waits for another for ever. */
export class Turns {
  readonly #names = new Map<string, Name>();
  #all: Promise<unknown> = Promise.resolve();

  run<T>({ alone, beside = [] }: Turn, work: () => Promise<T>): Promise<T> {
    const mine = new Set(alone);
    const shared = new Set(beside.filter((name) => !mine.has(name)));
    const before: Array<Promise<unknown>> = [];
    for (const name of mine) before.push(this.#of(name).alone, this.#of(name).beside);
    for (const name of shared) before.push(this.#of(name).alone);
    const result = Promise.all(before).then(work);
    const ended = result.catch(() => {});
    for (const name of mine) Object.assign(this.#of(name), { alone: ended, beside: ended });
    for (const name of shared) this.#of(name).beside = both(this.#of(name).beside, ended);
    this.#all = both(this.#all, ended);
    const names = [...mine, ...shared];
    for (const name of names) this.#of(name).users += 1;
    void ended.then(() => {
      for (const name of names) this.#leave(name);
    });
    return result;
  }

  /** Resolves when all that came before has ended. */
  async settle(): Promise<void> {
    await this.#all;
  }

  #of(name: string): Name {
    let found = this.#names.get(name);
    if (found === undefined) {
      const none = Promise.resolve();
      found = { alone: none, beside: none, users: 0 };
      this.#names.set(name, found);
    }
    return found;
  }

  #leave(name: string): void {
    const found = this.#of(name);
    found.users -= 1;
    if (found.users === 0) this.#names.delete(name);
  }
}

/** Holds nothing of what they resolve with. */
const both = (one: Promise<unknown>, other: Promise<unknown>): Promise<void> =>
  Promise.all([one, other]).then(() => {});
