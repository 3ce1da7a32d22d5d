/**
 * The three ends of a front end.
 *
 * - It **retires** when another one takes over: what has come gets into the log, and it dies. Readers that wait are not
 *   answered; the kernel passes them to the successor.
 * - It **stops** with the engine: each part ends, in order, and the layers are closed.
 * - It **dies** when its supervisor or its transport is gone.
 */
import type { Clock } from '../process/ports.ts';
import type { Self } from '../process/self.ts';
import type { LayerTable } from './layer-table.ts';

/** What has come has this long to get into the log before another front end takes over, ms. */
const RETIRE_MS = 1_000;

/** Ends a part of the front end. */
export type StopStep = () => unknown;

export class Shutdown {
  readonly #self: Self;
  readonly #clock: Clock;
  readonly #layers: LayerTable;
  #steps: readonly StopStep[] = [];
  #stopping: Promise<void> | undefined;

  constructor(self: Self, clock: Clock, layers: LayerTable) {
    this.#self = self;
    this.#clock = clock;
    this.#layers = layers;
  }

  /** The parts that `stop` ends, in this order. */
  set order(steps: readonly StopStep[]) {
    this.#steps = steps;
  }

  readonly retire = (): void => {
    void this.#flush().finally(this.die);
  };

  /** Ends every part, one after the other; later calls wait for the first one. Rejects when a part fails to end. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stopAll();
    return this.#stopping;
  }

  /** Without goodbye: threads may block in read(2), and exit() would wait for them. */
  readonly die = (): void => this.#self.kill();

  async #flush(): Promise<void> {
    const layers = await this.#layers.settled();
    const flushed = Promise.allSettled(layers.map((layer) => layer.flush()));
    await Promise.race([flushed, this.#clock.sleep(RETIRE_MS)]);
  }

  async #stopAll(): Promise<void> {
    for (const stop of this.#steps) await stop();
  }
}
