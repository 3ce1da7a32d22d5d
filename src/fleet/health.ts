/** Which members are worth asking: those that failed are left out for a while, and those that sent wrong bytes for long. */

/** After one failure, ms; each further one in a row takes twice as long. */
const PAUSE_MS = 2_000;
const MOST_PAUSE_MS = 60_000;
export const LIED_MS = 3_600_000;
/** One that had the wrong bytes from another member, as it says, may have been cheated: this often it is left out briefly, ms. */
const CHEATED = 2;
const CHEATED_MS = 10_000;
/** Of an answer, for the pause before another home is asked as well, ms. */
const LEAST_HEDGE_MS = 150;
const MOST_HEDGE_MS = 2_000;
const SLOWER = 3;
/** Weight of the newest answer in the mean. */
const NEWEST = 0.2;

interface Known {
  failures: number;
  /** Not asked before; by the clock that the caller has. */
  until: number;
  /** Left out until then since it sent wrong bytes. */
  liedUntil: number;
  cheated: number;
  /** Mean time of its answers, ms. */
  answerMs: number | undefined;
}

export class Health {
  readonly #known = new Map<string, Known>();

  isAsked(member: string, now: number): boolean {
    const known = this.#known.get(member);
    return known === undefined || (now >= known.until && now >= known.liedUntil);
  }

  /** Left out since it sent wrong bytes. */
  hasLied(member: string, now: number): boolean {
    return now < (this.#known.get(member)?.liedUntil ?? 0);
  }

  worked(member: string, ms: number): void {
    const known = this.#of(member);
    known.failures = 0;
    known.until = 0;
    known.answerMs = known.answerMs === undefined ? ms : known.answerMs * (1 - NEWEST) + ms * NEWEST;
  }

  /** It did not answer, or broke off. */
  failed(member: string, now: number): void {
    const known = this.#of(member);
    known.until = now + Math.min(PAUSE_MS * 2 ** known.failures, MOST_PAUSE_MS);
    known.failures = Math.min(known.failures + 1, 10);
  }

  /** It sent wrong bytes. `via`: the member that it had them from, as it says. True: it is left out for long. */
  lied(member: string, via: string | undefined, now: number): boolean {
    const known = this.#of(member);
    if (via !== undefined && known.cheated < CHEATED) {
      known.cheated += 1;
      known.until = Math.max(known.until, now + CHEATED_MS * known.cheated);
      return false;
    }
    known.liedUntil = now + LIED_MS;
    return true;
  }

  /** It has started anew, or announced another certificate: what it did before counts no more, but for a lie. */
  renewed(member: string): void {
    const known = this.#known.get(member);
    if (known === undefined) return;
    known.failures = 0;
    known.until = 0;
  }

  gone(member: string, now: number): void {
    if (!this.hasLied(member, now)) this.#known.delete(member);
  }

  /** How long to wait for a member before another one is asked as well, ms. */
  hedgeMs(member: string): number {
    const mean = this.#known.get(member)?.answerMs;
    return mean === undefined
      ? MOST_HEDGE_MS / 2
      : Math.min(Math.max(mean * SLOWER, LEAST_HEDGE_MS), MOST_HEDGE_MS);
  }

  #of(member: string): Known {
    let known = this.#known.get(member);
    if (known === undefined) {
      known = { failures: 0, until: 0, liedUntil: 0, cheated: 0, answerMs: undefined };
      this.#known.set(member, known);
    }
    return known;
  }
}
