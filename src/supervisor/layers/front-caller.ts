/**
 * Questions to the front end. Most may be put twice: one whose front end has died, or that was lost with NATS, is put again until
 * a front end answers. So a client that mounts an image meanwhile waits a moment and notices nothing.
 */
import type { NatsConnection } from '@nats-io/nats-core';
import { isFrontReply } from '../../../schemas/check-front.ts';
import { toErrorRecord } from '../../../schemas/errors.ts';
import type { FrontCall, FrontReply, FrontRequest } from '../../../schemas/front.ts';
import type { Subjects } from '../../../schemas/subjects.ts';
import { ask } from '../../bus/connection.ts';
import type { Clock } from '../../process/ports.ts';

/** All tries together, ms. */
const LIMIT_MS = 30_000;
/** Question or answer may have been lost: then it is asked again, ms. */
const AGAIN_MS = 5_000;
/** Before the next try where none listens, ms. */
const PAUSE_MS = 200;

/** It, or what stands in its place. */
export type FrontCalls = Pick<FrontCaller, 'once' | 'ask' | 'askWhile' | 'isReady'>;

export class FrontCaller {
  readonly #bus: NatsConnection;
  readonly #names: Subjects;
  readonly #clock: Clock;
  /** Resolves when another front end has taken the place of the present one. */
  #successor = Promise.withResolvers<void>();

  constructor(options: { bus: NatsConnection; names: Subjects; ports: { clock: Clock } }) {
    this.#bus = options.bus;
    this.#names = options.names;
    this.#clock = options.ports.clock;
  }

  /** Asks the front end that is there, once. Errors: its own, `unavailable` when it does not answer in time. */
  once<Call extends FrontCall>(
    call: Call,
    request: FrontRequest<Call>,
    timeoutMs?: number,
  ): Promise<FrontReply<Call>> {
    return ask(this.#bus, this.#names.front(call), request, isFrontReply(call), timeoutMs);
  }

  /** Asks the front end that is there, or the next one. Errors: its own, `unavailable` when none answers for long. */
  async ask<Call extends FrontCall>(call: Call, request: FrontRequest<Call>): Promise<FrontReply<Call>> {
    const reply = await this.askWhile(
      call,
      () => request,
      () => true,
    );
    return reply as FrontReply<Call>;
  }

  /**
   * The same for what may have been overtaken by the time that it is asked again: undefined when `isWanted` says no before
   * a try; `request` is made for each.
   */
  async askWhile<Call extends FrontCall>(
    call: Call,
    request: () => FrontRequest<Call>,
    isWanted: () => boolean,
  ): Promise<FrontReply<Call> | undefined> {
    for (const end = this.#clock.now() + LIMIT_MS; isWanted(); ) {
      const next = this.#successor.promise.then(() => undefined);
      const asked = this.once(call, request(), AGAIN_MS).then(
        (reply) => ({ reply }),
        async (error: unknown) => {
          if (toErrorRecord(error).code !== 'unavailable' || this.#clock.now() > end) throw error;
          await Promise.race([next, this.#clock.sleep(PAUSE_MS)]);
          return undefined;
        },
      );
      // A question to a front end that was replaced may fail later; the next one has it by then.
      asked.catch(() => {});
      const answered = await Promise.race([asked, next]);
      if (answered !== undefined) return answered.reply;
    }
    return undefined;
  }

  /** A front end is ready: what the one before it was asked is asked again of this one. */
  isReady(): void {
    const before = this.#successor;
    this.#successor = Promise.withResolvers();
    before.resolve();
  }
}
