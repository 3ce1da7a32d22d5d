/**
 * Of questions that outdate each other one is under way, and the newest waits. Between two there is a pause, so that those who move
 * fast keep neither the server nor the browser busy with what is outdated when it is shown. It is as long as the answer took and
 * longer: a machine that has much to do is asked less.
 */
import { sentenceOf } from '../api.ts';

type Work = (stop: AbortSignal) => Promise<void>;

/** The shortest pause, and the longest, ms. */
const PAUSE = 80;
const LONGEST_PAUSE = 1_000;

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
      const began = performance.now();
      await work(AbortSignal.timeout(30_000)).catch((error: unknown) => console.warn(sentenceOf(error)));
      const pause = Math.min(LONGEST_PAUSE, Math.max(PAUSE, performance.now() - began));
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
    this.#isBusy = false;
  }
}
