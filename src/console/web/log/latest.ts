/**
 * Of questions that outdate each other one is under way, and the newest waits. Between two there is a pause, so that those who move
 * fast keep neither the server nor the browser busy with what is outdated when it is shown.
 */
import { sentenceOf } from '../api.ts';

type Work = (stop: AbortSignal) => Promise<void>;

/** ms */
const PAUSE = 80;

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
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
    this.#isBusy = false;
  }
}
