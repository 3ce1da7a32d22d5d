/** Of questions that outdate each other one is under way, and the newest waits: an answer is shown as soon as it is here. */
import { sentenceOf } from '../api.ts';

type Work = (stop: AbortSignal) => Promise<void>;

export class Latest {
  #isBusy = false;
  #next: Work | undefined;

  ask(work: Work): void {
    this.#next = work;
    if (!this.#isBusy) void this.#run();
  }

  async #run(): Promise<void> {
    this.#isBusy = true;
    while (this.#next !== undefined) {
      const work = this.#next;
      this.#next = undefined;
      // The server is away for a moment: the next question says whether it is back.
      await work(AbortSignal.timeout(30_000)).catch((error: unknown) => console.warn(sentenceOf(error)));
    }
    this.#isBusy = false;
  }
}
