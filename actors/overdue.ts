/**
 * Whether a process that owes a sign of life hangs. A process that stood in the queue for a processor most of the time could not
 * answer: to start it anew would cost the busy machine more than to wait, and where many engines share one machine such starts
 * keep it busy for good. So that time counts only in the end.
 */

/** One that had no processor for so much of the time between two questions could not answer in it. */
const STARVED = 0.5;
/** However busy the machine is: after so many times as long it has to go, since one that loops looks as busy. */
const MOST_TIMES = 6;

export class Overdue {
  readonly #most: number;
  #unanswered = 0;
  /** Those of them in whose time it had a processor. */
  #counted = 0;

  /** `most`: questions that may stay without an answer. */
  constructor(most: number) {
    this.#most = most;
  }

  /** One more question has no answer; in `share` (0 to 1) of the time since it was asked the process had no processor. */
  missed(share: number): void {
    this.#unanswered += 1;
    if (share < STARVED) this.#counted += 1;
  }

  answered(): void {
    this.#unanswered = 0;
    this.#counted = 0;
  }

  /** Questions in a row without an answer. */
  get unanswered(): number {
    return this.#unanswered;
  }

  /** It has had its time. */
  get isOver(): boolean {
    return this.#counted >= this.#most || this.#unanswered >= this.#most * MOST_TIMES;
  }
}
