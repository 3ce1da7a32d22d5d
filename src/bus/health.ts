/**
 * Is NATS there? The client comes back by itself, for ever; meanwhile what is published is lost, not kept, so the
 * sender that relies on a message has to say it again when `onBack` is called.
 */
import type { NatsConnection } from '@nats-io/nats-core';

export interface BusHealthOptions {
  /** NATS has been away for `AWAY_MS`. */
  onAway(): void;
  /** The connection stands again. `announced`: `onAway` was called before. */
  onBack(announced: boolean): void;
}

/** A nats-server that is started again is back before this, ms. */
export const AWAY_MS = 500;

export const watchBus = (bus: NatsConnection, options: BusHealthOptions): BusHealth =>
  new BusHealth(bus, options);

export class BusHealth {
  readonly #options: BusHealthOptions;
  #timer: NodeJS.Timeout | undefined;
  #away = false;

  constructor(bus: NatsConnection, options: BusHealthOptions) {
    this.#options = options;
    void this.#follow(bus);
  }

  /** NATS has been away for `AWAY_MS` at least. */
  get isAway(): boolean {
    return this.#away;
  }

  async #follow(bus: NatsConnection): Promise<void> {
    // A server that accepts connections and says nothing looks like none: only `reconnect` says that it answers.
    for await (const status of bus.status()) {
      if (status.type === 'disconnect') {
        this.#timer ??= setTimeout(() => {
          this.#away = true;
          this.#options.onAway();
        }, AWAY_MS).unref();
      } else if (status.type === 'reconnect') {
        clearTimeout(this.#timer);
        this.#timer = undefined;
        const announced = this.#away;
        this.#away = false;
        this.#options.onBack(announced);
      }
    }
    clearTimeout(this.#timer);
  }
}

/** What `status` says while NATS is away. */
export const awaySentence = (url: string): string =>
  `NATS at ${url} is away: reads go on, events wait; mount and unmount wait for it`;
