/** What the ends of fetches say about registries and the disk, as conditions (conditions.ts). */
import type { ErrorCode, ErrorRecord } from '../../schemas/errors.ts';
import type { Conditions } from '../process/conditions.ts';

/** A failure that is not repeated counts for this long, ms: without reads nothing shows that it is over. */
const LASTS_MS = 60_000;
/** One after which a fetch went well, ms: others may fail in between, and who asks in such a moment is to hear of it. */
const STAYS_MS = 1_000;
/** Codes that tell of the registry; others tell of the bytes or of this node. */
const OF_REGISTRY: ReadonlySet<ErrorCode> = new Set([
  'unavailable',
  'timeout',
  'unauthorized',
  'environment',
]);

export class FetchConditions {
  readonly #conditions: Conditions;
  readonly #root: string;
  /** By key: the last failure, and the last fetch that went well since it began. */
  readonly #failing = new Map<string, { code: ErrorCode; at: number; wellAt: number }>();

  /** `root`: the folder whose disk takes the blocks. */
  constructor(conditions: Conditions, root: string) {
    this.#conditions = conditions;
    this.#root = root;
  }

  /** A fetch from `registry` has ended; `error` undefined: well. */
  ended(registry: string, error: ErrorRecord | undefined, now: number): void {
    if (error === undefined) {
      for (const key of [`registry:${registry}`, 'disk']) {
        const known = this.#failing.get(key);
        if (known !== undefined) known.wellAt = now;
      }
      this.tick(now);
    } else if (error.code === 'no-space') {
      this.#fails(
        'disk',
        error,
        now,
        () => `the disk of ${this.#root} is full: absent blocks cannot be stored`,
      );
    } else if (error.code === 'integrity') {
      const sentence = () => `${registry} sends bytes that are not what they should be: ${error.message}`;
      this.#fails(`registry:${registry}`, error, now, sentence);
    } else if (OF_REGISTRY.has(error.code)) {
      const sentence = () => `absent blocks of ${registry} cannot be fetched: ${error.message}`;
      this.#fails(`registry:${registry}`, error, now, sentence);
    }
  }

  /** A read of a block that `registry` has was given up: says little where a fetch has told why. */
  readFailed(registry: string, error: ErrorRecord, now: number): void {
    if (this.#failing.size === 0 || this.#failing.has(`registry:${registry}`))
      this.ended(registry, error, now);
  }

  /** Lets go of what is over, or was not seen for a while. */
  tick(now: number): void {
    for (const [key, { at, wellAt }] of this.#failing) {
      if (now - at > (wellAt >= at ? STAYS_MS : LASTS_MS)) this.#over(key);
    }
  }

  #fails(key: string, { code }: ErrorRecord, at: number, sentence: () => string): void {
    const known = this.#failing.get(key);
    // The message names a blob, which changes from failure to failure: the first one stays, unless it said less.
    const isBetter = known === undefined || (known.code === 'timeout' && code !== 'timeout');
    if (isBetter) this.#conditions.set(key, sentence());
    this.#failing.set(key, { code: isBetter ? code : known.code, at, wellAt: Number.NEGATIVE_INFINITY });
  }

  #over(key: string): void {
    if (this.#failing.delete(key)) this.#conditions.clear(key);
  }
}
