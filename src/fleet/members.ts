/**
 * Who is in the fleet. Each member says so on NATS every few seconds, on a subject that ends with its own name and that NATS
 * lets no other member publish to; of one that falls silent nothing is known after some of these intervals. There is no
 * stored list: a member that was away for a moment hears the others within one interval, and asks them when it starts.
 *
 * (JetStream's key-value store would keep a list. But a client that may ask JetStream's API names the subject of its answer, so a
 * member could have the server overwrite what another one has announced; src/bus/roles.ts.)
 */
import type { NatsConnection } from '@nats-io/nats-core';
import type { Logger } from 'pino';
import { Placement } from '../../actors/fleet-placement.ts';
import { isMember } from '../../schemas/check-fleet.ts';
import { fleetBroadcasts } from '../../schemas/fleet-broadcasts.ts';
import { MAX_MEMBERS, type Member, type Piece, senderOf } from '../../schemas/fleet.ts';
import { decodeIfSound, encode } from '../bus/connection.ts';
import type { Clock, Timer } from '../process/ports.ts';

/** Between two announcements, ms, in a fleet of some; a fleet of thousands takes its time, so that NATS carries no more than this. */
const EVERY_MS = 3_000;
const MOST_PER_SECOND = 100;
/** Silent for so many of its intervals: it is gone. */
const MISSED = 3.5;
/** Values in an announcement. */
const MAX_VALUES = 64;
/** Those that are asked who is there answer within this, ms, and for each member so much later: not all at once. */
const ANSWER_MS = 100;
const ANSWER_EACH_MS = 10;

interface Heard {
  member: Member;
  at: number;
}

export interface MembersOptions {
  /** What this member announces; `leaving` and `everyMs` are added. */
  self: Omit<Member, 'everyMs' | 'leaving'>;
  clock: Clock;
  log: Logger;
  /** Uniform in [0, 1). */
  random: () => number;
  onJoined: (member: Member) => void;
  onGone: (member: Member) => void;
}

export class Members {
  readonly #options: MembersOptions;
  readonly #others = new Map<string, Heard>();
  readonly #beat: Timer;
  #bus: NatsConnection | undefined;
  #saidAt = Number.NEGATIVE_INFINITY;
  #answer: Timer | undefined;
  #placement: Placement | undefined;

  constructor(options: MembersOptions) {
    this.#options = options;
    this.#beat = options.clock.every(EVERY_MS / 2, () => this.#turn()).unref();
  }

  /** Announces itself there from now on, and listens. */
  join(bus: NatsConnection): void {
    const { fleet, id } = this.#options.self;
    const names = fleetBroadcasts(fleet, id);
    this.#bus = bus;
    bus.subscribe(names.everyHere, {
      callback: (error, message) => {
        if (error === null) this.#hear(senderOf(message.subject), message.data);
      },
    });
    bus.subscribe(names.everyAsk, {
      callback: (error, message) => {
        if (error === null && senderOf(message.subject) !== id) this.#asked();
      },
    });
    this.returned();
  }

  /** The connection to NATS is there again: what was said meanwhile is lost. */
  returned(): void {
    const { fleet, id } = this.#options.self;
    this.#say();
    this.#publish(fleetBroadcasts(fleet, id).ask, {});
  }

  /** Says that it leaves, where NATS is there. */
  leave(): void {
    this.#say({ leaving: true });
    this.#beat.cancel();
    this.#answer?.cancel();
    this.#bus = undefined;
  }

  /** The others, in no order. */
  get list(): Member[] {
    return [...this.#others.values()].map(({ member }) => member);
  }

  get size(): number {
    return this.#others.size + 1;
  }

  find(id: string): Member | undefined {
    return this.#others.get(id)?.member;
  }

  /** Which member has announced this certificate. */
  byFingerprint(fingerprint: string): Member | undefined {
    return this.#byFingerprint.get(fingerprint);
  }
  readonly #byFingerprint = new Map<string, Member>();

  /** The piece's homes in this member's zone, itself among them, the first to be asked first. */
  homes(piece: Piece): readonly string[] {
    const { self } = this.#options;
    this.#placement ??= new Placement([{ ...self }, ...this.list], RANKS);
    return this.#placement.homes(piece, self.zone);
  }

  #hear(sender: string, data: Uint8Array): void {
    const said = decodeIfSound(data, MAX_VALUES);
    const { self, clock, log } = this.#options;
    if (sender === self.id) {
      if (isMember(said) && said.life !== self.life)
        log.warn({ address: said.address }, 'another member of the fleet has the name of this one');
      return;
    }
    if (!isMember(said) || said.id !== sender || said.fleet !== self.fleet) {
      log.debug({ sender }, 'an announcement that is none was passed over');
      return;
    }
    const known = this.#others.get(sender);
    if (said.leaving === true) {
      if (known !== undefined) this.#forget(known.member);
      return;
    }
    if (known === undefined && this.#others.size >= MAX_MEMBERS) return;
    // Its key is another one's: it could not even prove to be a member.
    const owner = this.#byFingerprint.get(said.fingerprint)?.id ?? sender;
    if (owner !== sender || said.fingerprint === self.fingerprint) {
      log.warn({ sender, owner }, 'a member announces the certificate of another one and is passed over');
      return;
    }
    this.#others.set(sender, { member: said, at: clock.now() });
    if (known !== undefined && isSame(known.member, said)) return;
    if (known !== undefined) this.#byFingerprint.delete(known.member.fingerprint);
    this.#byFingerprint.set(said.fingerprint, said);
    this.#placement = undefined;
    this.#options.onJoined(said);
  }

  #forget(member: Member): void {
    this.#others.delete(member.id);
    this.#byFingerprint.delete(member.fingerprint);
    this.#placement = undefined;
    this.#options.onGone(member);
  }

  #turn(): void {
    const now = this.#options.clock.now();
    // While NATS is away no one is heard: those that were there may be there still.
    if (this.#bus !== undefined && this.#isThere)
      for (const { member, at } of this.#others.values())
        if (now - at > member.everyMs * MISSED) this.#forget(member);
    if (now - this.#saidAt >= this.#everyMs() - EVERY_MS / 4) this.#say();
  }

  /** NATS is away: members are forgotten no more until it is back, and then for an interval. */
  away(isAway: boolean): void {
    this.#isThere = !isAway;
    if (isAway) return;
    const now = this.#options.clock.now();
    for (const heard of this.#others.values()) heard.at = now;
  }
  #isThere = true;

  #everyMs = (): number => Math.max(EVERY_MS, Math.ceil((this.size * 1_000) / MOST_PER_SECOND));

  #asked(): void {
    const { clock, random } = this.#options;
    this.#answer ??= clock.after(random() * (ANSWER_MS + this.size * ANSWER_EACH_MS), () => {
      this.#answer = undefined;
      this.#say();
    });
  }

  #say(more: Pick<Member, 'leaving'> = {}): void {
    const { self, clock } = this.#options;
    this.#saidAt = clock.now();
    this.#publish(fleetBroadcasts(self.fleet, self.id).here, {
      ...self,
      everyMs: this.#everyMs(),
      ...more,
    } satisfies Member);
  }

  #publish(subject: string, message: object): void {
    try {
      this.#bus?.publish(subject, encode(message));
    } catch {
      // The connection is closed.
    }
  }
}

/** Members that are asked for a piece, at most: its homes, and those that would be its homes without them. */
const RANKS = 4;

const isSame = (a: Member, b: Member): boolean =>
  a.life === b.life &&
  a.fingerprint === b.fingerprint &&
  a.address === b.address &&
  a.zone === b.zone &&
  a.weight === b.weight &&
  a.role === b.role;
