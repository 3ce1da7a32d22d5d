/**
 * Which mirrors are asked at the moment. A mirror is a convenience: one that does not answer, or has lied, is left out for a
 * while, and one that lacks a blob is not asked for each range of it.
 */

/** After its first failure, ms; twice as long after each further one. */
const PAUSE_MS = 5_000;
const LONGEST_PAUSE_MS = 300_000;
/** After bytes that were not what their digest says, ms. */
const LIE_MS = 3_600_000;
/** A pull-through cache may have fetched it meanwhile, ms. */
const LACK_MS = 30_000;
const MOST_LACKS = 4096;
/** Mirrors that are told of at once. */
const MOST_TOLD = 16;

export class MirrorHealth {
  readonly #now: () => number;
  readonly #paused = new Map<string, { until: number; pauseMs: number; hasLied?: boolean }>();
  /** By mirror and content, oldest first: until when. */
  readonly #lacks = new Map<string, number>();

  constructor(now: () => number) {
    this.#now = now;
  }

  /** Whether to ask this mirror for this. */
  isAsked(mirror: string, what: string): boolean {
    const now = this.#now();
    if ((this.#paused.get(mirror)?.until ?? 0) > now) return false;
    return (this.#lacks.get(`${mirror} ${what}`) ?? 0) <= now;
  }

  /** The mirror answered a request, which ends its pause. It ends no pause of a mirror that sent wrong bytes. */
  worked(mirror: string): void {
    const paused = this.#paused.get(mirror);
    if (paused?.hasLied === true && paused.until > this.#now()) return;
    this.#paused.delete(mirror);
  }

  /** It gave no answer, or one that is no answer. True when that is news. */
  failed(mirror: string): boolean {
    const before = this.#paused.get(mirror);
    const now = this.#now();
    // Requests that were under way together fail together.
    if (before !== undefined && before.until > now) return false;
    const pauseMs = Math.min((before?.pauseMs ?? PAUSE_MS / 2) * 2, LONGEST_PAUSE_MS);
    this.#paused.set(mirror, { until: now + pauseMs, pauseMs });
    return before === undefined;
  }

  /** It sent other bytes than it was asked for. */
  lied(mirror: string): void {
    this.#paused.set(mirror, { until: this.#now() + LIE_MS, pauseMs: LONGEST_PAUSE_MS, hasLied: true });
  }

  /** Those that are not asked for anything at the moment, a sentence each. */
  leftOut(): string[] {
    const now = this.#now();
    return [...this.#paused]
      .filter(([, { until }]) => until > now)
      .slice(0, MOST_TOLD)
      .map(([mirror, { hasLied }]) =>
        hasLied === true
          ? `the mirror ${mirror} sent wrong bytes: it is left out for an hour`
          : `the mirror ${mirror} does not answer as it should: it is left out for a while`,
      );
  }

  /** It has not got this, or does not give it to us. */
  lacks(mirror: string, what: string): void {
    const key = `${mirror} ${what}`;
    this.#lacks.delete(key);
    this.#lacks.set(key, this.#now() + LACK_MS);
    if (this.#lacks.size > MOST_LACKS) this.#lacks.delete(this.#lacks.keys().next().value as string);
  }
}
