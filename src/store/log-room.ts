/** What keeps appends in bounds: room in the stream, places for those under way, work that many share. */
import { jetstreamManager } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/nats-core';
import { STREAM } from '../../schemas/subjects.ts';

/**
 * Room in the stream, looked at before it is written to. JetStream refuses what does not fit (`discard: new`), but
 * compares without the overhead of a record, and makes up for it by removing the oldest ones (server/filestore.go,
 * seen with 2.9.10): at the brim facts would vanish. So a part of the stream stays empty. A writer asks again when it
 * has used up its share of what was free, so that several do not fill the rest together.
 */
export class Room {
  readonly #bus: NatsConnection;
  #share = 0;
  #looking: Promise<void> | undefined;

  constructor(bus: NatsConnection) {
    this.#bus = bus;
  }

  /** Whether a record of so many bytes fits. */
  async take(bytes: number, timeoutMs: number): Promise<boolean> {
    const size = bytes + RECORD_OVERHEAD;
    if (this.#share < size) {
      this.#looking ??= this.#look(timeoutMs).finally(() => {
        this.#looking = undefined;
      });
      await this.#looking;
    }
    if (this.#share < size) return false;
    this.#share -= size;
    return true;
  }

  async #look(timeoutMs: number): Promise<void> {
    const manager = await jetstreamManager(this.#bus, { timeout: timeoutMs, checkAPI: false });
    const { config, state } = await manager.streams.info(STREAM);
    const free = config.max_bytes - state.bytes - Math.min(1 << 20, config.max_bytes / 16);
    this.#share = config.max_bytes <= 0 ? Number.POSITIVE_INFINITY : free < 4096 ? free : free / 4;
  }
}

/** Subject, headers and what JetStream adds to a record, bytes at most. */
const RECORD_OVERHEAD = 400;

/** At most so many at once; the others wait in line. */
export class Gate {
  #free: number;
  readonly #line: Array<() => void> = [];

  constructor(places: number) {
    this.#free = places;
  }

  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free -= 1;
    else await new Promise<void>((resolve) => this.#line.push(resolve));
    try {
      return await work();
    } finally {
      const next = this.#line.shift();
      if (next === undefined) this.#free += 1;
      else next();
    }
  }
}

/** Work that callers share, as long as it begins after they called. */
export class Joined {
  readonly #work: () => Promise<void>;
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;

  constructor(work: () => Promise<void>) {
    this.#work = work;
  }

  run(): Promise<void> {
    if (this.#running === undefined) return this.#start();
    this.#next ??= this.#running
      .catch(() => {})
      .then(() => {
        this.#next = undefined;
        return this.#start();
      });
    return this.#next;
  }

  #start(): Promise<void> {
    const work = this.#work();
    const ended = () => {
      if (this.#running === work) this.#running = undefined;
    };
    this.#running = work;
    work.then(ended, ended);
    return work;
  }
}
