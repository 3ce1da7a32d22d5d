/**
 * Who is in the fleet. Each member says so on NATS every few seconds, on a subject that ends with its own name and that NATS
 * lets no other member publish to; who is there follows from what was heard (actors/fleet-members.ts). There is no stored
 * list: a member that was away for a moment hears the others within one interval, and asks them when it starts.
 *
 * (JetStream's key-value store would keep a list. But a client that may ask JetStream's API names the subject of its answer, so a
 * member could have the server overwrite what another one has announced; src/bus/roles.ts.)
 */
import type { NatsConnection } from '@nats-io/nats-core';
import type { Logger } from 'pino';
import { announceEveryMs, type MemberState, Members as View } from '../../actors/fleet-members.ts';
import { isMember } from '../../schemas/check-fleet.ts';
import { fleetBroadcasts } from '../../schemas/fleet-broadcasts.ts';
import { type Member, type Piece, senderOf } from '../../schemas/fleet.ts';
import { decodeIfSound, encode } from '../bus/connection.ts';
import type { Clock, Timer } from '../process/ports.ts';

/** Between two looks at who is silent, ms; announcements are as often at most. */
const TURN_MS = 1_000;
/** Values in an announcement. */
const MAX_VALUES = 64;
/** Those that are asked who is there answer within this, ms, and for each member so much later: not all at once. */
const ANSWER_MS = 100;
const ANSWER_EACH_MS = 10;

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
  readonly #view: View;
  /** As they announced themselves last. */
  readonly #others = new Map<string, Member>();
  readonly #byFingerprint = new Map<string, Member>();
  readonly #beat: Timer;
  /** Messages that were heard: each is later than those before. */
  #heard = 0;
  #isThere = true;
  #bus: NatsConnection | undefined;
  #saidAt = Number.NEGATIVE_INFINITY;
  #answer: Timer | undefined;

  constructor(options: MembersOptions) {
    this.#options = options;
    this.#view = new View(options.self.fleet);
    this.#view.heard(this.#announcement(), ++this.#heard, options.clock.now());
    this.#beat = options.clock.every(TURN_MS, () => this.#turn()).unref();
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
    return [...this.#others.values()];
  }

  get size(): number {
    return this.#others.size + 1;
  }

  find(id: string): Member | undefined {
    return this.#others.get(id);
  }

  /** Which member has announced this certificate. */
  byFingerprint(fingerprint: string): Member | undefined {
    return this.#byFingerprint.get(fingerprint);
  }

  stateOf(id: string): MemberState {
    return this.#view.stateOf(id);
  }

  /** The cell of this member in its zone (actors/fleet-placement.ts); undefined: it has none. */
  cell(): number | undefined {
    return this.#view.placement.cellOf(this.#options.self.id);
  }

  /** The piece's homes in this member's zone, or in a cell of it, itself among them, the first to be asked first. */
  homes(piece: Piece, cell?: number): readonly string[] {
    return this.#view.placement.homes(piece, this.#options.self.zone, cell);
  }

  /** Who does what they do where none of them answers. */
  standIns(piece: Piece): readonly string[] {
    return this.#view.placement.standIns(piece, this.#options.self.zone);
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
      this.#view.left(sender);
      this.#settle();
      return;
    }
    // Its key is another one's: it could not even prove to be a member.
    const owner = this.#byFingerprint.get(said.fingerprint)?.id ?? sender;
    if (owner !== sender || said.fingerprint === self.fingerprint) {
      log.warn({ sender, owner }, 'a member announces the certificate of another one and is passed over');
      return;
    }
    this.#view.heard(said, ++this.#heard, clock.now());
    // There are as many as this member takes notice of.
    if (this.#view.get(sender) === undefined) return;
    this.#others.set(sender, said);
    if (known !== undefined) this.#byFingerprint.delete(known.fingerprint);
    this.#byFingerprint.set(said.fingerprint, said);
    if (known?.life !== said.life || known.address !== said.address) this.#options.onJoined(said);
  }

  /** Forgets those that are gone. */
  #settle(): void {
    for (const member of this.#others.values()) {
      if (this.#view.get(member.id) !== undefined) continue;
      this.#others.delete(member.id);
      this.#byFingerprint.delete(member.fingerprint);
      this.#options.onGone(member);
    }
  }

  #turn(): void {
    const now = this.#options.clock.now();
    // While NATS is away no one is heard: those that were there may be there still.
    if (this.#bus !== undefined && this.#isThere) {
      this.#view.tick(now);
      this.#settle();
    }
    if (now - this.#saidAt >= announceEveryMs(this.size) - TURN_MS / 2) this.#say();
  }

  /** NATS is away: members are forgotten no more until it is back, and then for an interval. */
  away(isAway: boolean): void {
    this.#isThere = !isAway;
    if (isAway) return;
    const now = this.#options.clock.now();
    for (const member of this.#others.values()) this.#view.heard(member, ++this.#heard, now);
  }

  #announcement(more: Pick<Member, 'leaving'> = {}): Member {
    return { ...this.#options.self, everyMs: announceEveryMs(this.size), ...more };
  }

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
    const said = this.#announcement(more);
    if (said.leaving !== true) this.#view.heard(said, ++this.#heard, this.#saidAt);
    this.#publish(fleetBroadcasts(self.fleet, self.id).here, said);
  }

  #publish(subject: string, message: object): void {
    try {
      this.#bus?.publish(subject, encode(message));
    } catch {
      // The connection is closed.
    }
  }
}
