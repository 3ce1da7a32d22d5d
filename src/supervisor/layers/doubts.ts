/**
 * Blocks near the end of a log that ended uncleanly: a disk that was not synced as it said may lack them. The front end
 * compares them before it relies on them.
 */
import type { NatsConnection } from '@nats-io/nats-core';
import type { BlockPair } from '../../../schemas/fetch.ts';
import type { Doubt } from '../../../schemas/front.ts';
import type { Subjects } from '../../../schemas/subjects.ts';
import type { FrontCaller } from './front-caller.ts';
import { newestBlocks } from './newest-blocks.ts';

export class Doubts {
  readonly #bus: NatsConnection;
  readonly #names: Subjects;
  readonly #front: FrontCaller;
  /** By layer, until they have been compared. */
  readonly #blocks = new Map<string, readonly BlockPair[]>();

  constructor(options: { bus: NatsConnection; names: Subjects; front: FrontCaller }) {
    this.#bus = options.bus;
    this.#names = options.names;
    this.#front = options.front;
  }

  /** Reads the log's end: the blocks that it had last before sequence `epoch`. */
  async find(epoch: number): Promise<void> {
    for (const { diffId, ranges } of await newestBlocks(this.#bus, this.#names, epoch))
      this.#blocks.set(diffId, ranges);
  }

  /** Tells a front end, also one that takes another's place, which blocks it has to compare. Errors: those of `FrontCaller.ask`. */
  async say(): Promise<void> {
    if (this.#blocks.size === 0) return;
    const layers = Array.from(this.#blocks, ([diffId, ranges]) => ({ diffId, ranges }));
    const doubt: Doubt = { layers };
    // The answer of one that dies over it is not waited for: the next one is told.
    await this.#front.ask('doubt', doubt);
  }

  compared(diffId: string): void {
    this.#blocks.delete(diffId);
  }
}
