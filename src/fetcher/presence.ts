/** Tells the front ends that this fetcher is there: now and then, when they ask, and when it leaves. */
import type { NatsConnection } from '@nats-io/nats-core';
import type { FetcherHello } from '../../schemas/fetch.ts';
import type { Subjects } from '../../schemas/subjects.ts';
import { encode } from '../bus/connection.ts';
import { watchBus } from '../bus/health.ts';
import type { Clock, Timer } from '../process/ports.ts';

/** Sent this often, ms; a front end takes a fetcher for lost after several that did not come. */
const HELLO_MS = 1_000;

export interface PresenceOptions {
  bus: NatsConnection;
  names: Subjects;
  clock: Clock;
  /** Of the fetcher. */
  name: string;
  pid: number;
  /** Jobs side by side. */
  slots: number;
}

export class Presence {
  readonly #options: PresenceOptions;
  readonly #beat: Timer;

  /** Says hello at once. */
  constructor(options: PresenceOptions) {
    this.#options = options;
    const { bus, names, clock } = options;
    this.#hello();
    this.#beat = clock.every(HELLO_MS, () => this.#hello());
    watchBus(bus, { onAway: () => {}, onBack: () => this.#hello({ back: true }) });
    // Front ends that start, or have lost NATS for a while, ask who is there.
    bus.subscribe(names.whoIsThere, { callback: () => this.#hello() });
  }

  /** No further jobs, please. */
  leave(): void {
    this.#beat.cancel();
    this.#hello({ leaving: true });
  }

  #hello(more: Pick<FetcherHello, 'leaving' | 'back'> = {}): void {
    const { bus, names, name, pid, slots } = this.#options;
    const message: FetcherHello = { v: 1, worker: name, pid, slots, ...more };
    bus.publish(names.hello, encode(message));
  }
}
