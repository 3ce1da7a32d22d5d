/**
 * Blocks near the end of a log that ended uncleanly: a disk that was not synced as it said may lack them. The front end
 * compares them before it relies on them.
 */
import type { NatsConnection } from '@nats-io/nats-core';
import type { BlockPair } from '../../../schemas/fetch.ts';
import type { Doubt } from '../../../schemas/front.ts';
import type { Subjects } from '../../../schemas/subjects.ts';
import { askFront } from './front-calls.ts';
import { newestBlocks } from './newest-blocks.ts';

export class Doubts {
  readonly #bus: NatsConnection;
  readonly #names: Subjects;
  /** By layer, until they have been compared. */
  readonly #blocks = new Map<string, readonly BlockPair[]>();

  constructor({ bus, names }: { bus: NatsConnection; names: Subjects }) {
    this.#bus = bus;
    this.#names = names;
  }

  /** Reads the log's end: the blocks that it had last before sequence `epoch`. */
  async find(epoch: number): Promise<void> {
    for (const { diffId, ranges } of await newestBlocks(this.#bus, this.#names, epoch))
      this.#blocks.set(diffId, ranges);
  }

  /** Tells a front end, also one that takes another's place, which blocks it has to compare. Errors: those of `askFront`. */
  async say(): Promise<void> {
    if (this.#blocks.size === 0) return;
    const layers = Array.from(this.#blocks, ([diffId, ranges]) => ({ diffId, ranges }));
    const doubt: Doubt = { layers };
    // The answer of one that dies over it is not waited for: the next one is told.
    await askFront(this.#bus, this.#names.front('doubt'), doubt);
  }

  compared(diffId: string): void {
    this.#blocks.delete(diffId);
  }
}
