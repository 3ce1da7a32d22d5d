/**
 * Where this node gets pieces that it lacks: from their homes in its zone, from the members that these name, and from the
 * registry where that fails. `handle` takes one event and returns the effects to run, in order.
 *
 * A piece is wanted once, however many jobs want it. Its first home is asked first; the second one where the first is left
 * out, silent or in vain. Once longer than usual nothing has come, the next one is asked as well (fleet-peers.ts says when, and
 * how often that may be); the first to bring the bytes ends the other. One that says that the piece is coming is waited for:
 * it fetches it for all, and a second fetch would be one too many. Where no home is there, all askers turn to the same member,
 * which stands in for them: otherwise each of them would read the registry.
 *
 * In a large zone the homes of this node's cell come before those of the zone (fleet-placement.ts), and are told what this node
 * has got. The zone's homes are told where they had to do with it.
 *
 * What this node holds by itself, for others, it asks itself for first: its own readers are askers like any others.
 *
 * Patience ends: a piece that a reader waits for is read from the registry `demandMs` after it came to be wanted, any other after
 * `prefetchMs`, wherever it stands by then, in the queue too. Where the zone has no homes, it is read from there at once.
 *
 * Where all members are slow, as when many start on few processors, each asker that lost patience would cost the registry the piece
 * once more, and another home would be no faster. So patience is four times what was usual lately, where that is longer, up to a
 * bound (`demandMostMs`, of which the fleet can cost a reader no more). A single slow member changes little of what is usual.
 *
 * Of what is wanted at once `atOnce` pieces are under way; demand comes before prefetch, which leaves a part of them free.
 *
 *     queued → asked → coming → getting → came
 *        └───────┴────────┴────────┴────→ registry
 */
import type { BlobSource, JobClass } from '../schemas/fetch.ts';
import type { PieceAnswer } from '../schemas/fleet.ts';
import {
  ASKER_LIMITS,
  type AskerEffect,
  type AskerEvent,
  type AskerLimits,
  type AskerPorts,
  patience,
} from './fleet-asker-protocol.ts';
import { type Placed, Places } from './fleet-asker-places.ts';
import { pieceKey } from './fleet-home-protocol.ts';
import { TimerQueue } from './timers.ts';

type Phase = 'asked' | 'coming' | 'getting';

interface Try {
  phase: Phase;
  since: number;
  /** When to look at it again: it is silent then, or asked again. */
  at: number;
  /** How often the asker has been sent on, one after the other, with no wait between. */
  hops: number;
}

interface Want extends Placed {
  key: string;
  source: BlobSource;
  index: number;
  class: JobClass;
  token: boolean;
  since: number;
  tries: Map<string, Try>;
  tried: string[];
  /** Homes that left the piece to another one, which they named. Where that one is silent they are asked again. */
  leftTo: Map<string, string>;
  /** Named by a home. */
  hint: string | undefined;
  isRead: boolean;
  /** The member that has this node read it for all who wait there. */
  lease: string | undefined;
  isHedged: boolean;
  /** But for those that said that a member is busy. */
  answers: number;
  /** Not before this: all who could be asked are busy. */
  pausedUntil: number;
}

export class Asker {
  readonly #ports: AskerPorts;
  readonly #limits: AskerLimits;
  readonly #wants = new Map<string, Want>();
  readonly #places: Places<Want>;
  readonly #timers = new TimerQueue<string>();
  /** By member and piece, oldest first: questions that were given up, and when they were asked. Their answers may yet come. */
  readonly #late = new Map<string, number>();
  /** Pieces that homes of the zone were asked for, past the cell, oldest first. */
  readonly #past = new Set<string>();
  /** Pieces that were wanted, oldest first. */
  readonly #ended = new Map<string, BlobSource>();
  #effects: AskerEffect[] = [];
  #now = Number.NEGATIVE_INFINITY;

  constructor(ports: AskerPorts, limits: Partial<AskerLimits> = {}) {
    this.#ports = ports;
    this.#limits = { ...ASKER_LIMITS, ...limits };
    this.#places = new Places(this.#limits.atOnce, this.#limits.demandShare);
  }

  handle(event: AskerEvent): AskerEffect[] {
    this.#effects = [];
    this.#now = Math.max(this.#now, event.now);
    this.#apply(event);
    for (let key = this.#timers.take(this.#now); key !== undefined; key = this.#timers.take(this.#now)) {
      const want = this.#wants.get(key);
      if (want !== undefined) this.#look(want);
    }
    for (let want = this.#places.next(); want !== undefined; want = this.#places.next()) this.#look(want);
    return this.#effects;
  }

  /** ms; Infinity when nothing is due. */
  get nextWake(): number {
    return this.#timers.next;
  }

  status(): { wanted: number; running: number; queued: number } {
    const { running, queued } = this.#places;
    return { wanted: this.#wants.size, running, queued };
  }

  #apply(event: AskerEvent): void {
    switch (event.type) {
      case 'want':
        this.#want(event);
        return;
      case 'verified':
        this.#tellHomes(event.source, event.index, true);
        return;
      case 'wrong': {
        const { member, from, source, index } = event;
        this.#ports.peers.wrong(member, from, this.#now);
        const homes = this.#told(event).filter((home) => home !== member);
        this.#effects.push({ type: 'wrong', members: [member, ...homes], member, source, index });
        return;
      }
      case 'tick':
        return;
      default: {
        if (event.type === 'answer') this.#heard(event);
        const want = this.#wants.get(event.key);
        if (want !== undefined) this.#applyTo(want, event);
        else if (event.type === 'answer') this.#declines(event);
      }
    }
  }

  /** How long a member took to answer, also where it was waited for no more. */
  #heard({ member, key }: Extract<AskerEvent, { type: 'answer' }>): void {
    const attempt = this.#wants.get(key)?.tries.get(member);
    const id = `${member} ${key}`;
    const since =
      attempt === undefined ? this.#late.get(id) : attempt.phase === 'asked' ? attempt.since : undefined;
    this.#late.delete(id);
    if (since !== undefined) this.#ports.peers.answered(member, this.#now - since, this.#now);
  }

  /**
   * A member where this node waited keeps a place for it, here or at another one, and this node has the piece, or wants it no more:
   * the place would stay empty until that member loses patience.
   */
  #declines({ member, key, answer: { state, index } }: Extract<AskerEvent, { type: 'answer' }>): void {
    const source = this.#ended.get(key);
    if (state !== 'have' || source === undefined) return;
    const ok = this.#ports.holds(key);
    this.#effects.push({ type: 'hold', members: [member], source, index, ok });
  }

  #applyTo(
    want: Want,
    event: Extract<AskerEvent, { type: 'drop' | 'answer' | 'came' | 'moves' | 'silent' | 'read' }>,
  ): void {
    switch (event.type) {
      case 'drop':
        if (want.lease !== undefined) return;
        this.#over(want);
        return;
      case 'answer':
        this.#answered(want, event.member, event.answer);
        return;
      case 'came': {
        const attempt = want.tries.get(event.member);
        if (attempt !== undefined) this.#ports.peers.came(event.member, this.#now - attempt.since);
        if (want.class === 'demand') this.#ports.peers.ended(this.#now - want.since);
        want.tries.delete(event.member);
        // Others wait for what this node was to read: it still is being read.
        if (want.lease !== undefined) return;
        this.#effects.push({ type: 'give', key: want.key, from: event.member });
        this.#over(want);
        return;
      }
      case 'moves': {
        const attempt = want.tries.get(event.member);
        if (attempt?.phase === 'getting')
          attempt.at = Math.max(attempt.at, this.#now + this.#limits.silentMs);
        return;
      }
      case 'silent':
        this.#silent(want, event.member);
        this.#look(want);
        return;
      case 'read':
        if (want.lease !== undefined) this.#tellHomes(want.source, want.index, event.ok, want.lease);
        this.#effects.push(
          event.ok ? { type: 'give', key: want.key, from: 'registry' } : { type: 'failed', key: want.key },
        );
        this.#over(want);
    }
  }

  #want({ source, index, class: urgency, token }: Extract<AskerEvent, { type: 'want' }>): void {
    const key = pieceKey(source, index);
    const known = this.#wants.get(key);
    if (known !== undefined) return this.#promote(known, urgency);
    const want: Want = {
      key,
      source,
      index,
      class: urgency,
      token,
      since: this.#now,
      isRunning: false,
      tries: new Map(),
      tried: [],
      leftTo: new Map(),
      hint: undefined,
      isRead: false,
      lease: undefined,
      isHedged: false,
      answers: 0,
      pausedUntil: 0,
    };
    this.#wants.set(key, want);
    if (this.#wants.size > this.#limits.most) return this.#read(want);
    this.#places.add(want);
    this.#timers.set(key, this.#endOf(want));
  }

  /** A reader waits for it by now: those who were asked hear of it. */
  #promote(want: Want, urgency: JobClass): void {
    if (want.class === 'demand' || urgency === 'prefetch') return;
    want.since = this.#now;
    this.#places.promote(want);
    if (!want.isRunning) return this.#timers.set(want.key, this.#endOf(want));
    for (const [member, attempt] of want.tries) if (attempt.phase === 'coming') this.#ask(want, member);
    this.#look(want);
  }

  /** What is to be done next for the piece. */
  #look(want: Want): void {
    if (want.isRead) return;
    for (const [member, attempt] of want.tries) {
      if (attempt.at > this.#now) continue;
      if (attempt.phase === 'coming') this.#ask(want, member);
      else this.#silent(want, member);
    }
    if (this.#now >= this.#endOf(want)) {
      if (want.class === 'demand') this.#ports.peers.ended(this.#now - want.since);
      return this.#read(want);
    }
    if (!want.isRunning) return this.#setTimer(want);
    if (want.tries.size === 0) this.#next(want);
    else if (this.#isLate(want)) this.#hedge(want);
    if (!want.isRead) this.#setTimer(want);
  }

  #endOf(want: Want): number {
    const { demandMs, demandMostMs, prefetchMs } = this.#limits;
    const ms =
      want.class === 'demand'
        ? patience(demandMs, this.#ports.peers.usualMs('want'), demandMostMs)
        : prefetchMs;
    return want.since + ms;
  }

  #setTimer(want: Want): void {
    let at = this.#endOf(want);
    if (want.tries.size === 0 && want.pausedUntil > this.#now) at = Math.min(at, want.pausedUntil);
    for (const attempt of want.tries.values()) {
      at = Math.min(at, attempt.at);
      if (!want.isHedged && attempt.phase !== 'coming')
        at = Math.min(at, attempt.since + this.#ports.peers.hedgeMs);
    }
    this.#timers.set(want.key, Math.max(at, this.#now + 1));
  }

  /** Whether the only one who was asked takes longer than others do. */
  #isLate(want: Want): boolean {
    if (want.isHedged || want.tries.size !== 1) return false;
    const [attempt] = want.tries.values();
    return (
      attempt !== undefined &&
      attempt.phase !== 'coming' &&
      this.#now >= attempt.since + this.#ports.peers.hedgeMs
    );
  }

  #hedge(want: Want): void {
    want.isHedged = true;
    const [first] = want.tries.keys();
    const member = this.#candidate(want, first === undefined ? [] : [first]);
    if (member !== undefined && this.#ports.peers.takeHedge()) this.#ask(want, member, true);
  }

  /** Asks the next member; where there is none reads the registry, or waits for one that is merely busy. */
  #next(want: Want): void {
    if (want.pausedUntil > this.#now) return;
    const member = want.tried.length >= this.#limits.tries ? undefined : this.#candidate(want, []);
    if (member !== undefined) this.#ask(want, member);
    else if (this.#isOnlyBusy(want)) want.pausedUntil = this.#now + this.#limits.busyMs;
    else this.#read(want);
  }

  /** Whether one of the homes could be asked, were it not busy. */
  #isOnlyBusy(want: Want): boolean {
    return this.#homes(want).some(
      (home) => !want.tried.includes(home) && !this.#ports.peers.isLeftOut(home, this.#now),
    );
  }

  #candidate(want: Want, but: readonly string[]): string | undefined {
    const { self, holds, peers } = this.#ports;
    const { key, tried, hint } = want;
    const own = holds(key) ? [self] : [];
    return [...own, ...(hint === undefined ? [] : [hint]), ...this.#homes(want)].find(
      (member) => !tried.includes(member) && !but.includes(member) && peers.isAsked(member, this.#now),
    );
  }

  /** The piece's homes: those of the cell first. */
  #homes(piece: Pick<Want, 'source' | 'index'>): readonly string[] {
    const near = this.#near(piece);
    const zone = this.#zone(piece);
    return near.length === 0 ? zone : [...new Set([...near, ...zone])];
  }

  #near({ source, index }: Pick<Want, 'source' | 'index'>): readonly string[] {
    const cell = this.#ports.cell();
    return cell === undefined ? [] : this.#ports.homes(source, index, cell);
  }

  /** Those of the zone, and where each of them is left out those that stand in for them. */
  #zone({ source, index }: Pick<Want, 'source' | 'index'>): readonly string[] {
    const { homes, standIns, peers } = this.#ports;
    const list = homes(source, index);
    if (list.length === 0 || !list.every((home) => peers.isLeftOut(home, this.#now))) return list;
    return [...list, ...standIns(source, index)];
  }

  /** As home of which cell the member is asked; undefined: of the zone, or as one that has the piece. */
  #cellFor(want: Want, member: string): number | undefined {
    return this.#near(want).includes(member) ? this.#ports.cell() : undefined;
  }

  /** Homes that hear what becomes of the piece: the cell's, and the zone's where this node asked them, or none of the cell is there. */
  #told(piece: Pick<Want, 'source' | 'index'>): readonly string[] {
    const near = this.#near(piece);
    return this.#isPast(piece, near) ? [...new Set([...near, ...this.#zone(piece)])] : near;
  }

  #isPast({ source, index }: Pick<Want, 'source' | 'index'>, near: readonly string[]): boolean {
    const { peers } = this.#ports;
    return near.every((home) => peers.isLeftOut(home, this.#now)) || this.#past.has(pieceKey(source, index));
  }

  #ask(want: Want, member: string, isHedge = false): void {
    const { key, source, index, class: urgency, token } = want;
    const cell = this.#cellFor(want, member);
    if (cell === undefined && this.#ports.cell() !== undefined) this.#notePast(key);
    const tried = this.#triedOf(want, member, cell);
    const { askMs, askMostMs } = this.#limits;
    const at = this.#now + patience(askMs, this.#ports.peers.usualMs('answer'), askMostMs);
    want.tries.set(member, { phase: 'asked', since: this.#now, at, hops: 0 });
    const question = { member, key, source, index, class: urgency, tried, cell };
    this.#effects.push({ type: 'ask', ...question, token, isHedge });
  }

  #notePast(key: string): void {
    this.#past.delete(key);
    this.#past.add(key);
    if (this.#past.size > MOST_LATE) this.#past.delete(this.#past.keys().next().value as string);
  }

  /** With the homes that are left out at present: another one is to stand in for them. One that is merely late is not among them. */
  #triedOf(want: Want, member: string, cell: number | undefined): string[] {
    const left = this.#homes(want).filter(
      (home) => home !== member && this.#ports.peers.isLeftOut(home, this.#now),
    );
    const tried = [...new Set([...want.tried, ...left])];
    if (cell !== undefined) return tried.slice(-this.#limits.tries);
    // To a home of the zone those of the cell are members like others; and not all that were tried may be told.
    const zone = this.#zone(want);
    const near = this.#near(want).filter((home) => !zone.includes(home));
    return tried.filter((one) => !near.includes(one)).slice(-this.#limits.tries);
  }

  #answered(want: Want, member: string, answer: PieceAnswer): void {
    const attempt = want.tries.get(member);
    if (attempt === undefined || want.isRead) return;
    if (answer.state !== 'busy' && ++want.answers > this.#limits.answers) return this.#read(want);
    const { key, source, index, class: urgency, token } = want;
    switch (answer.state) {
      case 'have':
        if (answer.at === undefined || answer.at === member)
          return this.#get(want, member, false, attempt.hops);
        want.tries.delete(member);
        // Members whose places are all taken send it to each other.
        if (attempt.hops >= this.#limits.hops) return this.#pause(want, this.#limits.busyMs);
        if (!this.#ports.peers.isAsked(answer.at, this.#now)) {
          // A busy member has it all the same: called tried, it would have another home fetch the piece once more.
          if (!this.#ports.peers.isLeftOut(answer.at, this.#now))
            return this.#pause(want, this.#limits.busyMs);
          // The home does not know yet what this node knows of that member.
          if (!want.tried.includes(answer.at)) want.tried.push(answer.at);
          if (want.tried.length < this.#limits.tries) return this.#ask(want, member);
          return this.#look(want);
        }
        // It may have come to have it since it was asked.
        want.tried = want.tried.filter((one) => one !== answer.at);
        return this.#get(want, answer.at, false, attempt.hops + 1);
      case 'bring':
        if (token) return this.#get(want, member, true, attempt.hops);
        break;
      case 'coming':
        attempt.phase = 'coming';
        attempt.hops = 0;
        attempt.at = this.#now + this.#limits.comingMs;
        this.#setTimer(want);
        return;
      case 'prove':
        attempt.at = this.#now + this.#limits.silentMs;
        this.#effects.push({
          type: 'prove',
          member,
          key,
          source,
          index,
          class: urgency,
          tried: this.#triedOf(want, member, this.#cellFor(want, member)),
          cell: this.#cellFor(want, member),
        });
        return;
      case 'fetch':
        return this.#read(want, member);
      case 'busy': {
        const ms = Math.max(this.#limits.leastBusyMs, answer.ms ?? 0);
        this.#ports.peers.busy(member, ms, this.#now);
        want.tries.delete(member);
        if (want.tries.size === 0 && this.#candidate(want, []) === undefined) return this.#pause(want, ms);
        return this.#look(want);
      }
      default:
        if (answer.at === undefined) break;
        want.hint = answer.at;
        // While that one has not answered: afterwards this one is to stand in for it.
        if (!want.tried.includes(answer.at)) want.leftTo.set(member, answer.at);
    }
    want.tries.delete(member);
    if (!want.tried.includes(member)) want.tried.push(member);
    this.#look(want);
  }

  /** The asker asks no member for so long, unless an answer is on its way. */
  #pause(want: Want, ms: number): void {
    want.pausedUntil = this.#now + Math.max(1, ms);
    this.#setTimer(want);
  }

  #get(want: Want, member: string, token: boolean, hops: number): void {
    const { key, source, index, class: urgency } = want;
    // With the token the home may have to fetch the piece first.
    const { silentMs, silentMostMs, demandMs } = this.#limits;
    const ms = patience(silentMs, this.#ports.peers.usualMs('piece'), silentMostMs);
    const at = this.#now + (token ? Math.max(ms, demandMs) : ms);
    want.tries.set(member, { phase: 'getting', since: this.#now, at, hops });
    const cell = this.#cellFor(want, member);
    const tried = this.#triedOf(want, member, cell);
    this.#effects.push({ type: 'get', member, key, source, index, class: urgency, token, tried, cell });
    this.#setTimer(want);
  }

  #silent(want: Want, member: string): void {
    const attempt = want.tries.get(member);
    if (attempt === undefined) return;
    want.tries.delete(member);
    if (attempt.phase === 'asked') this.#remember(`${member} ${want.key}`, attempt.since);
    this.#ports.peers.silent(member, this.#now);
    this.#effects.push({ type: 'leave', member, key: want.key });
    const again = [...want.leftTo].flatMap(([home, to]) => (to === member ? [home] : []));
    for (const home of again) want.leftTo.delete(home);
    want.tried = [...want.tried.filter((one) => one !== member && !again.includes(one)), member];
  }

  #remember(id: string, since: number): void {
    this.#late.set(id, since);
    if (this.#late.size > MOST_LATE) this.#late.delete(this.#late.keys().next().value as string);
  }

  /** `lease`: who has told this node to, for all that wait there. */
  #read(want: Want, lease?: string): void {
    if (want.isRead) return;
    want.isRead = true;
    want.lease = lease;
    this.#places.unqueue(want);
    this.#leaveAll(want);
    this.#timers.delete(want.key);
    const { key, source, index, class: urgency } = want;
    this.#effects.push({ type: 'read', key, source, index, class: urgency, lease: lease !== undefined });
  }

  #leaveAll(want: Want): void {
    for (const member of want.tries.keys()) this.#effects.push({ type: 'leave', member, key: want.key });
    want.tries.clear();
  }

  #over(want: Want): void {
    this.#leaveAll(want);
    this.#timers.delete(want.key);
    this.#wants.delete(want.key);
    this.#ended.delete(want.key);
    this.#ended.set(want.key, want.source);
    if (this.#ended.size > MOST_LATE) this.#ended.delete(this.#ended.keys().next().value as string);
    this.#places.leave(want);
  }

  /** `waiting`: a member where others wait for the piece, by now maybe no home any more, nor a stand-in. */
  #tellHomes(source: BlobSource, index: number, ok: boolean, waiting?: string): void {
    if (ok && !this.#ports.serves) return;
    const near = this.#near({ source, index });
    const isPast = this.#isPast({ source, index }, near);
    const zone = isPast ? this.#zone({ source, index }) : [];
    if (ok) this.#past.delete(pieceKey(source, index));
    const told = [...near, ...zone];
    const members = waiting === undefined || told.includes(waiting) ? zone : [...zone, waiting];
    // One that is both hears it as both: what it does with the piece differs.
    if (near.length > 0)
      this.#effects.push({ type: 'hold', members: near, source, index, ok, cell: this.#ports.cell() });
    if (members.length > 0) this.#effects.push({ type: 'hold', members, source, index, ok });
  }
}

/** Late answers that are waited for, to learn from them. */
const MOST_LATE = 1_024;
