/** So many answers wait for their takers; nobody is asked ahead for more. */
const MOST = 64;

/** Answers that are asked for before they are wanted, by whoever knows that they will be: each is one taker's, and soon stale. */
export class Expected<Answer> {
  readonly #answers = new Map<string, Promise<Answer>>();
  readonly #sleep: (ms: number) => Promise<unknown>;

  constructor(sleep: (ms: number) => Promise<unknown>) {
    this.#sleep = sleep;
  }

  /** Asks, unless an answer is there or on its way, or 64 others are. It may be taken for `goodMs`. Its error is the taker's. */
  ask(key: string, goodMs: number, ask: () => Promise<Answer>): void {
    if (this.#answers.has(key) || this.#answers.size >= MOST) return;
    const answer = ask();
    answer.catch(() => {});
    this.#answers.set(key, answer);
    void this.#sleep(goodMs).then(() => {
      if (this.#answers.get(key) === answer) this.#answers.delete(key);
    });
  }

  /** The answer, which may be still to come; undefined where nobody has asked, or another one has taken it. */
  take(key: string): Promise<Answer> | undefined {
    const answer = this.#answers.get(key);
    this.#answers.delete(key);
    return answer;
  }
}
