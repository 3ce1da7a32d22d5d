/** Pieces that a home keeps, and who gave each of them: so that one who gave wrong bytes can be found, and all that it gave. */
export class Held {
  readonly #most: number;
  /** By piece: `registry`, the member that gave it, or `disk`, where that is not known any more. */
  readonly #origins = new Map<string, string>();
  /** Pieces that were said to be wrong, and who gave them: no one but a registry is believed about them again. */
  readonly #doubted = new Map<string, string>();

  constructor(most: number) {
    this.#most = most;
  }

  get size(): number {
    return this.#origins.size;
  }

  has(key: string): boolean {
    return this.#origins.has(key);
  }

  keep(key: string, from: string): void {
    this.#origins.delete(key);
    this.#origins.set(key, from);
    this.#bound(this.#origins);
  }

  delete(key: string): void {
    this.#origins.delete(key);
  }

  isDoubted(key: string): boolean {
    return this.#doubted.has(key);
  }

  /** It is said to be wrong. False: it is not here, or has been doubted before. */
  doubt(key: string): boolean {
    const origin = this.#origins.get(key);
    if (origin === undefined || this.#doubted.has(key)) return false;
    this.#doubted.set(key, origin);
    this.#bound(this.#doubted);
    return true;
  }

  /** A doubted piece was wrong. Returns who gave it, where that is a member, which from now on has given none. */
  convict(key: string, self: string): string | undefined {
    const liar = this.#doubted.get(key);
    if (liar === undefined || liar === 'registry' || liar === 'disk' || liar === self) return undefined;
    this.#doubted.set(key, 'registry');
    return liar;
  }

  /** Pieces that it gave. */
  *of(origin: string): IterableIterator<string> {
    for (const [key, one] of this.#origins) if (one === origin) yield key;
  }

  #bound(map: Map<string, string>): void {
    if (map.size > this.#most) map.delete(map.keys().next().value as string);
  }
}
