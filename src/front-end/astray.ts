/**
 * What a layer does when its blocks do not come by any table that its images name: spans lead nowhere, or the registry gives
 * other bytes. The supervisor is told, and has the node make a table of its own (src/supervisor/images/new-tables.ts). Until it
 * has answered, reads wait as for a registry that is away, each no longer than its deadline.
 */

/** The question may have been lost: it is put again after so long, ms. */
const AGAIN_MS = 120_000;
/** Where no table could be made, reads fail at once for so long, ms. */
const GIVEN_UP_MS = 30_000;

export class Astray {
  readonly #tell: () => void;
  #askedAt: number | undefined;
  #givenUpAt: number | undefined;

  /** `tell`: says it to the supervisor. */
  constructor(tell: () => void) {
    this.#tell = tell;
  }

  /** A fetch has failed for good by every table. Returns whether another one may come, for which reads wait. */
  failed(now: number): boolean {
    if (this.#givenUpAt !== undefined && now - this.#givenUpAt < GIVEN_UP_MS) return false;
    if (this.#askedAt === undefined || now - this.#askedAt >= AGAIN_MS) {
      this.#askedAt = now;
      this.#tell();
    }
    return true;
  }

  /** A table has come that was not there before. */
  supplied(): void {
    this.#askedAt = undefined;
    this.#givenUpAt = undefined;
  }

  /** None can be made. */
  givenUp(now: number): void {
    this.#askedAt = undefined;
    this.#givenUpAt = now;
  }
}
