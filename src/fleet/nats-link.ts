/** The member's connection to NATS, which need not be there when the member starts. */
import type { NatsConnection } from '@nats-io/nats-core';
import type { Logger } from 'pino';
import { type BusAddress, connectBus } from '../bus/connection.ts';
import { watchBus } from '../bus/health.ts';
import { toErrorRecord } from '../../schemas/errors.ts';
import type { Clock, Timer } from '../process/ports.ts';

export interface NatsLinkOptions {
  address: BusAddress;
  clock: Clock;
  log: Logger;
  /** The first connection stands. */
  onThere: (bus: NatsConnection) => void;
  /** It stands again: what was said meanwhile is lost. */
  onBack: () => void;
  onChange: (isThere: boolean) => void;
}

/** Between two tries, ms. */
const AGAIN_MS = 2_000;
const CLOSE_MS = 1_000;

export class NatsLink {
  readonly #options: NatsLinkOptions;
  #bus: NatsConnection | undefined;
  #again: Timer | undefined;
  #isClosed = false;

  constructor(options: NatsLinkOptions) {
    this.#options = options;
  }

  /** Connects, and tries again for ever. */
  open(): void {
    void this.#open();
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#again?.cancel();
    // What was said last is brought, where NATS is there.
    const drained = this.#bus?.drain().catch(() => {});
    await Promise.race([drained, this.#options.clock.sleep(CLOSE_MS)]);
  }

  async #open(): Promise<void> {
    const { address, clock, log, onThere, onBack, onChange } = this.#options;
    try {
      const bus = await connectBus(address, { name: 'cofa-fleet' });
      if (this.#isClosed) return void bus.close();
      this.#bus = bus;
      watchBus(bus, {
        onAway: () => onChange(false),
        onBack: () => {
          onChange(true);
          onBack();
        },
      });
      onChange(true);
      onThere(bus);
    } catch (error) {
      onChange(false);
      log.debug({ error: toErrorRecord(error) }, 'NATS is not there yet');
      if (!this.#isClosed) this.#again = clock.after(AGAIN_MS, () => void this.#open());
    }
  }
}
