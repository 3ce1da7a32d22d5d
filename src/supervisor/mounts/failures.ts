/**
 * Mounts that have failed, as the log does not know yet. Until it does, the next engine would take them for requests, or
 * bring them back: so the log is told as soon as it takes events again, and before anything else is mounted at the
 * directory.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { type ErrorRecord, toErrorRecord } from '../../../schemas/errors.ts';
import type { LiveFold } from '../../store/live-fold.ts';

/** How often and how long a request is withdrawn, ms. */
const WITHDRAW_ROUNDS = 600;
const WITHDRAW_MS = 1_000;

export class Failures {
  readonly #live: Pick<LiveFold, 'append'>;
  readonly #log: Logger;
  /** By id of the mount. */
  readonly #untold = new Map<string, { dir: string; error: ErrorRecord }>();

  constructor(options: { live: Pick<LiveFold, 'append'>; log: Logger }) {
    this.#live = options.live;
    this.#log = options.log;
  }

  /** Tells the log, now or later. */
  async tell({ id, dir }: { id: string; dir: string }, error: ErrorRecord): Promise<void> {
    this.#untold.set(id, { dir, error });
    await this.#say(id).catch((failure: unknown) => {
      this.#log.error({ mount: id, error: failure }, 'the log does not take a failed mount yet');
      void this.#sayLater(id);
    });
  }

  /** The log may have taken a request although NATS did not say so, or may take it yet: the request is withdrawn. */
  withdraw({ id, dir }: { id: string; dir: string }, error: ErrorRecord): void {
    this.#untold.set(id, { dir, error });
    void this.#sayLater(id);
  }

  /** Resolves when the log knows all failures at the directory. Errors: those of an append. */
  async tellAllAt(dir: string): Promise<void> {
    for (const [id, failed] of this.#untold) if (failed.dir === dir) await this.#say(id);
  }

  async #sayLater(id: string): Promise<void> {
    for (let round = 0; round < WITHDRAW_ROUNDS; round++) {
      try {
        await this.#say(id);
        return;
      } catch (error) {
        if (toErrorRecord(error).code !== 'unavailable') return;
      }
      await sleep(WITHDRAW_MS, undefined, { ref: false });
    }
  }

  async #say(id: string): Promise<void> {
    const failed = this.#untold.get(id);
    if (failed === undefined) return;
    const { code, message } = failed.error;
    await this.#live.append(id, { type: 'mount.failed', code, message });
    this.#untold.delete(id);
  }
}
