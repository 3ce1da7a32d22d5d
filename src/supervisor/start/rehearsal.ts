/**
 * What the engine does before a client wants an image: it rehearses a start, since the first one would spend half of its processor time
 * on code that runs for the first time; then it has an indexer at hand.
 */
import type { Logger } from 'pino';
import { Tidying } from '../../process/heap.ts';
import type { Clock } from '../../process/ports.ts';
import { type End, within } from '../end.ts';
import type { Indexers } from '../images/indexers.ts';

/** A rehearsal that is broken off has this long, ms. */
const STOP_MS = 2_000;

export class IdleWork {
  readonly #root: string;
  readonly #log: Logger;
  readonly #tidying = new Tidying();
  readonly #indexers: Indexers;
  readonly #stop = new AbortController();
  #running: Promise<void> | undefined;

  constructor(given: {
    options: { root: string };
    log: Logger;
    indexers: Indexers;
    end: End;
    ports: { clock: Clock };
  }) {
    this.#root = given.options.root;
    this.#log = given.log;
    this.#indexers = given.indexers;
    given.end.at('background', {
      clean: () => {
        this.stop();
        return within(given.ports.clock, STOP_MS, this.#running ?? Promise.resolve());
      },
      replaced: () => this.stop(),
      failed: () => this.stop(),
    });
  }

  begin(): void {
    this.#running ??= this.#rehearse().then(() => {
      if (!this.#stop.signal.aborted) this.#indexers.prepare();
    });
  }

  /** There is, or was until now, something to do for a mount: what it leaves on the heap is collected when it is over. */
  worked(): void {
    this.#tidying.worked();
  }

  /** A client wants an image, or the engine ends. */
  stop(): void {
    this.#stop.abort();
  }

  async #rehearse(): Promise<void> {
    const { signal } = this.#stop;
    try {
      const { rehearseStart } = await import('../rehearse.ts');
      await rehearseStart({ root: this.#root, name: 'supervisor', signal });
      if (!signal.aborted) this.#tidying.now();
    } catch (error) {
      this.#log.warn({ error }, 'the first start will be slower: its rehearsal failed');
    }
  }
}
