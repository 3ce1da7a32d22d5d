/**
 * Messages between members (schemas/fleet.ts): over NATS, and where this member does not reach it, or another has said something
 * past it a moment ago, on a connection to that one. What comes is looked at here, and passed on with the name of its sender, which
 * NATS or the certificate of the connection vouches for.
 */
import type { NatsConnection } from '@nats-io/nats-core';
import type { Logger } from 'pino';
import {
  isFleetAnswer,
  isFleetAsk,
  isFleetHold,
  isFleetWrong,
  isLedgerAnswer,
  isLedgerQuestion,
} from '../../schemas/check-fleet.ts';
import {
  FLEET_MESSAGES,
  type FleetAnswer,
  type FleetAsk,
  type FleetHold,
  type FleetMessage,
  type FleetWrong,
  fleetSubjects,
  type LedgerAnswer,
  type LedgerQuestion,
  senderOf,
} from '../../schemas/fleet.ts';
import { decodeIfSound, encode } from '../bus/connection.ts';
import type { Pools } from './pools.ts';

export type Said =
  | ({ kind: 'ask' } & FleetAsk)
  | ({ kind: 'answer' } & FleetAnswer)
  | ({ kind: 'hold' } & FleetHold)
  | ({ kind: 'wrong' } & FleetWrong)
  | ({ kind: 'ledger' } & LedgerQuestion)
  | ({ kind: 'proven' } & LedgerAnswer);

export interface MessagesOptions {
  fleet: string;
  self: string;
  pools: Pick<Pools, 'to'>;
  /** Whether it is a member that this one knows: no one else is listened to. */
  isMember: (id: string) => boolean;
  heard: (from: string, said: Said) => void;
  /** ms. */
  now: () => number;
  log: Logger;
}

const CHECKS: Readonly<Record<FleetMessage, (value: unknown) => boolean>> = {
  ask: isFleetAsk,
  answer: isFleetAnswer,
  hold: isFleetHold,
  wrong: isFleetWrong,
  ledger: isLedgerQuestion,
  proven: isLedgerAnswer,
};

/** Values in a message; bytes of one that comes past NATS. */
const MAX_VALUES = 1_024;
export const MAX_MESSAGE: number = 16 << 10;
/** One that spoke past NATS is answered so for so long, ms: it does not hear NATS. */
const DIRECT_MS = 10_000;
const SAY_MS = 2_000;
/** Messages on their way past NATS; what is beyond is lost, as a message may be. */
const MOST_SAYING = 256;

export class Messages {
  readonly #options: MessagesOptions;
  readonly #subjects: ReturnType<typeof fleetSubjects>;
  /** Members that spoke past NATS: until when they are answered so. */
  readonly #direct = new Map<string, number>();
  #bus: NatsConnection | undefined;
  #isThere = false;
  #saying = 0;

  constructor(options: MessagesOptions) {
    this.#options = options;
    this.#subjects = fleetSubjects(options.fleet, options.self);
  }

  join(bus: NatsConnection): void {
    this.#bus = bus;
    for (const kind of FLEET_MESSAGES)
      bus.subscribe(this.#subjects.mine(kind), {
        callback: (error, message) => {
          if (error === null) this.#take(kind, senderOf(message.subject), message.data);
        },
      });
  }

  /** NATS is reached, or is not. */
  set isThere(isThere: boolean) {
    this.#isThere = isThere;
  }

  /** To another member. It may get lost, as on NATS. */
  send(to: string, said: Said): void {
    const { kind, ...message } = said;
    const isDirect = !this.#isThere || (this.#direct.get(to) ?? 0) > this.#options.now();
    try {
      if (isDirect) void this.#say(to, kind, encode(message)).catch(() => {});
      else this.#bus?.publish(this.#subjects.to(kind, to), encode(message));
    } catch {
      // The connection is closed.
    }
  }

  /** A message that came past NATS. False: it is none. */
  takeDirect(kind: string, from: string, data: Uint8Array): boolean {
    const known = FLEET_MESSAGES.find((one) => one === kind);
    if (known === undefined) return false;
    this.#direct.set(from, this.#options.now() + DIRECT_MS);
    return this.#take(known, from, data);
  }

  forget(member: string): void {
    this.#direct.delete(member);
  }

  #take(kind: FleetMessage, from: string, data: Uint8Array): boolean {
    const { isMember, heard, log } = this.#options;
    const message = decodeIfSound(data, MAX_VALUES);
    if (!isMember(from) || !CHECKS[kind](message)) {
      log.debug({ from, kind }, 'a message that is none, or of a stranger, was passed over');
      return false;
    }
    heard(from, { ...(message as object), kind } as Said);
    return true;
  }

  async #say(to: string, kind: FleetMessage, body: Buffer): Promise<void> {
    if (this.#saying >= MOST_SAYING) return;
    this.#saying += 1;
    try {
      const { body: answer } = await this.#options.pools.to(to, 'messages').request({
        path: `/v1/say/${kind}`,
        method: 'POST',
        body,
        signal: AbortSignal.timeout(SAY_MS),
      });
      await answer.dump();
    } finally {
      this.#saying -= 1;
    }
  }
}
