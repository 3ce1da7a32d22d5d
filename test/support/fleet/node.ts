/** A member of the simulated fleet: the actors of the real one, and what a program does with their effects. */
import { Asker } from '../../../actors/fleet-asker.ts';
import {
  ASKER_LIMITS,
  type AskerEffect,
  type AskerEvent,
  type AskerLimits,
  patience,
} from '../../../actors/fleet-asker-protocol.ts';
import { Home } from '../../../actors/fleet-home.ts';
import {
  type HomeEffect,
  type HomeEvent,
  type HomeLimits,
  pieceKey,
} from '../../../actors/fleet-home-protocol.ts';
import type { Members } from '../../../actors/fleet-members.ts';
import { Outbox, type Outgoing } from '../../../actors/fleet-outbox.ts';
import { Peers } from '../../../actors/fleet-peers.ts';
import type { BlobSource, JobClass } from '../../../schemas/fetch.ts';
import { bytesOfPiece, type Piece, type PieceAnswer } from '../../../schemas/fleet.ts';
import type { Net } from './net.ts';
import { Link, type Processors } from './world.ts';

/** A piece as it lies somewhere: the genuine bytes, or others. */
interface Kept {
  isGenuine: boolean;
  /** `registry`, or the member that gave it. */
  from: string;
}

export interface NodeOptions {
  id: string;
  zone: string;
  /** Bytes per ms, each way. */
  rate: number;
  /** Pieces that its store takes. */
  room: number;
  isLiar: boolean;
  /** What its clock says is as far from the time, ms. */
  skewMs: number;
  members: Members;
  /** Of an earlier version: it knows of no cells. */
  isOld?: boolean;
  /** Its own, or those that it shares; without: fast ones of its own. */
  processors?: Processors | undefined;
  asker?: Partial<AskerLimits>;
  home?: Partial<HomeLimits>;
}

/** A piece that the node's containers want. */
export interface Wanted {
  source: BlobSource;
  index: number;
  class: JobClass;
}

/** Of a zone of a seed with faults. */
const MOST_CELLS = 20;
/** One that the registry refuses gives up some time. */
const MOST_REFUSED = 60;

export class SimNode {
  readonly id: string;
  readonly zone: string;
  readonly options: NodeOptions;
  readonly members: Members;
  readonly peers: Peers;
  readonly home: Home;
  readonly asker: Asker;
  readonly up: Link;
  readonly down: Link;
  readonly #net: Net;
  readonly #store = new Map<string, Kept>();
  /** By member and piece: where it said that it had it from. */
  readonly #via = new Map<string, string>();
  /** Pieces that were dropped, of which the bytes were not those of the registry. */
  readonly #dropped = new Set<string>();
  /** Pieces that came and are looked at before they are used. */
  readonly #came = new Map<string, Kept>();
  readonly #wanted = new Map<string, Wanted & { done: (from: string) => void; wrongs: number }>();
  readonly #requests = new Map<
    number,
    { by: SimNode; key: string; source: BlobSource; index: number; flight?: number; cancel?: () => void }
  >();
  readonly #outbox = new Outbox();
  readonly #out = new Map<string, { to: SimNode; request: number }>();
  /** Pieces that readers want of the fleet, and since when, ms. */
  readonly #patience = new Map<string, number>();
  /** So long a reader may have waited, by what was usual; ms. */
  #mostPatience = 0;
  #failures = 0;
  #wake: (() => void) | undefined;
  #wakeAt = Number.POSITIVE_INFINITY;
  isDead = false;
  /** Messages that have come. */
  messages = 0;
  /** When it is done with the messages that have come, ms. */
  busyUntil = 0;

  constructor(net: Net, options: NodeOptions) {
    this.#net = net;
    this.id = options.id;
    this.zone = options.zone;
    this.options = options;
    this.members = options.members;
    this.up = new Link(net.world, options.rate);
    this.down = new Link(net.world, options.rate);
    this.peers = new Peers(() => net.world.random.next());
    const { placement } = this.members;
    const homes = ({ digest }: BlobSource, index: number, cell?: number) =>
      placement.homes({ digest, index }, this.zone, cell);
    const cell = () => (options.isOld === true ? undefined : placement.cellOf(this.id));
    const standIns = (source: BlobSource, index: number) =>
      this.members.placement.standIns({ digest: source.digest, index }, this.zone);
    const holds = (key: string) => this.home.has(key);
    this.asker = new Asker(
      { self: this.id, holds, cell, homes, standIns, peers: this.peers, serves: true },
      options.asker,
    );
    this.home = new Home(
      {
        self: this.id,
        homes,
        standIns,
        isAsked: (member, now) => this.peers.isAsked(member, now) && this.members.stateOf(member) === 'live',
        isThere: (member, now) =>
          !this.peers.isLeftOut(member, now) && this.members.stateOf(member) === 'live',
        uses: () => true,
      },
      options.home,
    );
  }

  /** Resolves by `done`, once, with where the bytes came from. */
  want(wanted: Wanted, done: (from: string) => void): void {
    const key = pieceKey(wanted.source, wanted.index);
    const known = this.#wanted.get(key);
    if (known !== undefined) {
      if (wanted.class === 'demand') known.class = 'demand';
      const before = known.done;
      known.done = (from) => {
        before(from);
        done(from);
      };
    } else if (this.#store.get(key)?.isGenuine === true && this.#net.registry.gives(this.id))
      return done('own');
    else this.#wanted.set(key, { ...wanted, done, wrongs: 0 });
    this.#ask({
      type: 'want',
      ...wanted,
      token: this.#net.registry.kind === 'tokens',
      now: this.#net.world.now,
    });
  }

  /** All that it waits for. */
  get waits(): number {
    return this.#wanted.size;
  }

  /** Its processes are killed: what it held is lost, and no one hears of it. */
  kill(): void {
    this.isDead = true;
    this.#wake?.();
  }

  // ---- what comes from others

  asked(by: SimNode, question: Asked): void {
    const { source, index, token, tried } = question;
    this.#tell({
      type: 'ask',
      from: by.id,
      source,
      index,
      class: question.class,
      token,
      tried,
      cell: this.#understood(question.cell),
      now: this.#net.world.now,
    });
  }

  /** A message of another member. */
  heard(by: SimNode, said: Outgoing): void {
    if (said.kind === 'answer')
      for (const answer of said.pieces) this.answered(by.id, pieceKey(said, answer.index), answer);
    else if (said.kind === 'hold') {
      for (const index of said.pieces) this.held(by.id, said.source, index, true, said.cell);
      for (const index of said.failed ?? []) this.held(by.id, said.source, index, false, said.cell);
    } else for (const index of said.pieces) this.asked(by, { ...said, tried: said.tried ?? [], index });
  }

  /** To another member, at the end of this turn; to itself at once. */
  #say(to: string, said: Outgoing): void {
    const { world } = this.#net;
    if (to === this.id) this.#net.message(this, to, piecesOf(said), (self) => self.heard(this, said));
    else if (this.#outbox.add(to, said)) world.after(0, () => this.#post());
  }

  #post(): void {
    if (this.isDead) return;
    for (const [to, said] of this.#outbox.take())
      this.#net.message(
        this,
        to,
        piecesOf(said),
        (other) => other.heard(this, said),
        () => {
          if (said.kind !== 'ask') return;
          for (const index of said.pieces) this.silent(to, pieceKey(said.source, index));
        },
      );
  }

  answered(member: string, key: string, answer: PieceAnswer): void {
    this.#ask({ type: 'answer', member, key, answer, now: this.#net.world.now });
  }

  moves(member: string, key: string): void {
    this.#ask({ type: 'moves', member, key, now: this.#net.world.now });
  }

  silent(member: string, key: string): void {
    this.#ask({ type: 'silent', member, key, now: this.#net.world.now });
  }

  /** A GET. `flight`: of the other node's home. */
  requested(
    by: SimNode,
    request: number,
    source: BlobSource,
    index: number,
    urgency: JobClass,
    token: boolean,
    tried: readonly string[],
    cell: number | undefined,
    flight?: number,
  ): void {
    const key = pieceKey(source, index);
    this.#requests.set(request, { by, key, source, index, ...(flight === undefined ? {} : { flight }) });
    this.#tell({
      type: 'get',
      request,
      from: by.id,
      source,
      index,
      class: urgency,
      token: this.#net.registry.kind === 'tokens',
      hasToken: token,
      tried,
      cell: this.#understood(cell),
      forHome: flight !== undefined,
      now: this.#net.world.now,
    });
  }

  aborted(request: number): void {
    const asked = this.#requests.get(request);
    if (asked === undefined) return;
    this.#requests.delete(request);
    asked.cancel?.();
    this.#tell({ type: 'aborted', request, now: this.#net.world.now });
  }

  held(by: string, source: BlobSource, index: number, ok: boolean, cell: number | undefined): void {
    this.peers.heard(by, this.#net.world.now);
    const { now } = this.#net.world;
    this.#tell({ type: 'hold', from: by, source, index, ok, cell: this.#understood(cell), now });
  }

  accused(by: string, member: string, source: BlobSource, index: number): void {
    this.#tell({ type: 'wrong', from: by, member, source, index, now: this.#net.world.now });
  }

  #understood(cell: number | undefined): number | undefined {
    return this.options.isOld === true ? undefined : cell;
  }

  /** Bytes for a GET of the asker. */
  got(member: string, key: string, kept: Kept): void {
    if (!this.#net.registry.gives(this.id))
      this.#net.world.break(`${this.id} got ${key} from ${member}, and may not`);
    this.#out.delete(`${member} ${key}`);
    if (!this.#came.has(key)) this.#came.set(key, kept);
    this.#ask({ type: 'came', member, key, now: this.#net.world.now });
  }

  /** Bytes, or none, for a fetch of the home. */
  gotForHome(member: string, flight: number, key: string, kept: Kept | undefined, said?: PieceAnswer): void {
    if (kept !== undefined) {
      this.#via.set(`${member} ${key}`, kept.from);
      this.#keep(key, { ...kept, from: member });
    } else if (said === undefined) this.peers.silent(member, this.#net.world.now);
    this.#tell({
      type: 'fetched',
      flight,
      key,
      ok: kept !== undefined,
      ...(said?.at === undefined ? {} : { at: said.at }),
      ...(said?.state === 'busy' ? { busyMs: said.ms ?? 0 } : {}),
      now: this.#net.world.now,
    });
  }

  tick(): void {
    this.members.tick(this.#net.world.now);
    this.#ask({ type: 'tick', now: this.#net.world.now });
    this.#tell({ type: 'tick', now: this.#net.world.now });
  }

  // ---- effects

  #ask(event: AskerEvent): void {
    if (this.isDead) return;
    if (event.type === 'want' && event.class === 'demand') {
      const key = pieceKey(event.source, event.index);
      if (!this.#patience.has(key)) this.#patience.set(key, event.now);
    }
    for (const effect of this.asker.handle(event)) this.#runAsker(effect);
    this.#setWake();
  }

  #tell(event: HomeEvent): void {
    if (this.isDead) return;
    for (const effect of this.home.handle(event)) this.#runHome(effect);
    this.#setWake();
  }

  /** One that is set for an earlier time stays: it finds nothing due, and sets the next one. */
  #setWake(): void {
    const { world } = this.#net;
    const at = Math.max(world.now, Math.min(this.asker.nextWake, this.home.nextWake));
    if (at >= this.#wakeAt || !Number.isFinite(at)) return;
    this.#wake?.();
    this.#wakeAt = at;
    this.#wake = world.after(at - world.now, () => {
      this.#wakeAt = Number.POSITIVE_INFINITY;
      this.#wake = undefined;
      if (this.isDead) return;
      if (Math.min(this.asker.nextWake, this.home.nextWake) <= world.now) this.tick();
      else this.#setWake();
    });
  }

  /** What a reader wants comes from the fleet, or is read from the registry, before patience ends. */
  #checkPatience(key: string): void {
    const { world } = this.#net;
    const since = this.#patience.get(key) ?? world.now;
    this.#patience.delete(key);
    const { demandMs, demandMostMs } = ASKER_LIMITS;
    const allowed = patience(demandMs, this.peers.usualMs('want'), demandMostMs);
    this.#mostPatience = Math.max(this.#mostPatience, allowed);
    // A timer may be late by the least that it can be.
    if (world.now - since > this.#mostPatience + 2)
      world.break(
        `a reader at ${this.id} waited ${(world.now - since).toFixed(0)} ms for the fleet, for ${key}`,
      );
  }

  #runAsker(effect: AskerEffect): void {
    const net = this.#net;
    if (effect.type === 'read' || effect.type === 'give' || effect.type === 'failed')
      this.#checkPatience(effect.key);
    switch (effect.type) {
      case 'ask': {
        const { member, source, index, class: urgency, token, tried, cell } = effect;
        const asHome = cell === undefined ? {} : { cell };
        const ask = { kind: 'ask', v: 1, class: urgency, token, source, pieces: [index], tried } as const;
        this.#say(member, { ...ask, ...asHome });
        return;
      }
      case 'get': {
        const request = net.get(
          this,
          effect.member,
          effect.source,
          effect.index,
          effect.class,
          effect.token,
          effect.tried,
          effect.cell,
        );
        const to = net.nodes.get(effect.member);
        if (to !== undefined) this.#out.set(`${effect.member} ${effect.key}`, { to, request });
        return;
      }
      case 'prove':
        net.prove(this, effect);
        return;
      case 'leave': {
        const out = this.#out.get(`${effect.member} ${effect.key}`);
        this.#out.delete(`${effect.member} ${effect.key}`);
        if (out !== undefined) net.direct(this, out.to, (to) => to.aborted(out.request));
        return;
      }
      case 'read':
        net.read(this, effect.source, effect.index, this.id, (ok) => {
          if (ok) this.#came.set(effect.key, { isGenuine: true, from: 'registry' });
          this.#ask({ type: 'read', key: effect.key, ok, now: net.world.now });
        });
        return;
      case 'hold':
        for (const member of effect.members) {
          const { source, index, ok, cell } = effect;
          const said = ok ? { pieces: [index] } : { pieces: [], failed: [index] };
          this.#say(member, { kind: 'hold', v: 1, source, ...said, ...(cell === undefined ? {} : { cell }) });
        }
        return;
      case 'wrong':
        for (const member of effect.members)
          net.message(this, member, 1, (to) =>
            to.accused(this.id, effect.member, effect.source, effect.index),
          );
        return;
      case 'give':
        this.#given(effect.key, effect.from);
        return;
      case 'failed':
        // A reader's job is tried again, as the layer actor does.
        this.#failures += 1;
        if (!net.registry.gives(this.id) && this.#failures > MOST_REFUSED) return;
        net.world.after(1_000, () => {
          const wanted = this.#wanted.get(effect.key);
          if (wanted !== undefined && !this.isDead) this.#again(wanted);
        });
    }
  }

  #again(wanted: Wanted): void {
    this.#ask({
      type: 'want',
      source: wanted.source,
      index: wanted.index,
      class: wanted.class,
      token: this.#net.registry.kind === 'tokens',
      now: this.#net.world.now,
    });
  }

  /** Decodes and verifies what came. */
  #given(key: string, from: string): void {
    const kept = this.#came.get(key);
    this.#came.delete(key);
    const wanted = this.#wanted.get(key);
    if (kept === undefined || wanted === undefined) return;
    const { source, index } = wanted;
    const now = this.#net.world.now;
    if (!kept.isGenuine) {
      wanted.wrongs += 1;
      this.#net.wrongs += 1;
      this.#net.world.after(0, () => {
        this.#ask({ type: 'wrong', member: from, from: kept.from, key, source, index, now });
        if (!this.isDead) this.#again(wanted);
      });
      return;
    }
    this.#wanted.delete(key);
    this.#keep(key, { ...kept, from });
    this.#tell({ type: 'kept', key, from, now: this.#net.world.now });
    wanted.done(from);
    this.#net.world.after(0, () => this.#ask({ type: 'verified', key, source, index, now }));
  }

  #keep(key: string, kept: Kept): void {
    this.#store.delete(key);
    this.#store.set(key, kept);
    if (this.#store.size <= this.options.room) return;
    const oldest = this.#store.keys().next().value as string;
    this.#store.delete(oldest);
    this.#net.world.after(0, () => this.#tell({ type: 'lost', key: oldest, now: this.#net.world.now }));
  }

  #runHome(effect: HomeEffect): void {
    const net = this.#net;
    switch (effect.type) {
      case 'answer':
      case 'tell': {
        const { registry, digest } = effect.source;
        if (effect.answer.state === 'prove') net.challenge(this, effect.to, effect.source);
        this.#say(effect.to, { kind: 'answer', v: 1, registry, digest, pieces: [effect.answer] });
        return;
      }
      case 'reply':
      case 'send':
        this.#runReply(effect);
        return;
      case 'fetch':
        this.#runFetch(effect);
        return;
      case 'promote':
        // No fetch waits for a turn here.
        return;
      case 'check': {
        const { from } = effect;
        net.check(this, from, (may) =>
          this.#tell({
            type: 'checked',
            source: effect.source,
            may,
            ...(from === undefined ? {} : { from }),
            now: net.world.now,
          }),
        );
        return;
      }
      case 'drop':
        if (this.#store.get(effect.key)?.isGenuine === false) this.#dropped.add(effect.key);
        this.#store.delete(effect.key);
        return;
      case 'blame': {
        if (!effect.isSure) return this.peers.doubted(effect.member, net.world.now);
        const from = this.#via.get(`${effect.member} ${effect.key}`);
        const isHonest = net.nodes.get(effect.member)?.options.isLiar === false;
        // What a liar says of others is its own affair.
        if (from === 'registry' && isHonest && !this.options.isLiar)
          net.world.break(`${this.id} names ${effect.member} a liar for ${effect.key}, who is none`);
        this.peers.wrong(effect.member, from, net.world.now);
      }
    }
  }

  #runReply(effect: Extract<HomeEffect, { type: 'reply' | 'send' }>): void {
    const net = this.#net;
    const request = this.#requests.get(effect.request);
    if (request === undefined) return;
    const { by, key, source, index, flight } = request;
    if (effect.type === 'reply') {
      this.#requests.delete(effect.request);
      if (effect.answer.state === 'prove') net.challenge(this, by.id, source);
      if (flight === undefined) net.direct(this, by, () => by.answered(this.id, key, effect.answer));
      else net.direct(this, by, () => by.gotForHome(this.id, flight, key, undefined, effect.answer));
      return;
    }
    this.#checkSend(by, source, index, key);
    const kept = this.#store.get(key) ?? { isGenuine: true, from: 'registry' };
    const sent = { isGenuine: kept.isGenuine && !this.options.isLiar, from: kept.from };
    const moves = () => {
      if (flight === undefined) by.moves(this.id, key);
    };
    request.cancel = net.transfer(this, by, sizeOf(source, index), moves, (ok) => {
      this.#requests.delete(effect.request);
      if (ok && flight === undefined) by.got(this.id, key, sent);
      else if (ok && flight !== undefined) by.gotForHome(this.id, flight, key, sent);
      else if (flight === undefined) by.silent(this.id, key);
      else by.gotForHome(this.id, flight, key, undefined);
      this.#tell({ type: 'sent', request: effect.request, now: net.world.now });
    });
  }

  /** Rules about each piece that is sent. */
  #checkSend(by: SimNode, source: BlobSource, index: number, key: string): void {
    const { world, registry } = this.#net;
    if (!registry.gives(by.id) && !this.#isHome(by.id, { digest: source.digest, index }))
      world.break(`${this.id} sends ${key} to ${by.id}, who may not have it`);
    if (this.members.get(by.id) === undefined) this.#net.strangers += 1;
  }

  /** Of the zone, or of one of its cells. */
  #isHome(member: string, piece: Piece): boolean {
    const { placement } = this.members;
    const cells = Array.from({ length: MOST_CELLS }, (_, cell) => cell);
    return [undefined, ...cells].some((cell) => placement.homes(piece, this.zone, cell).includes(member));
  }

  #runFetch(effect: Extract<HomeEffect, { type: 'fetch' }>): void {
    const net = this.#net;
    const { key, flight, source, index } = effect;
    if (effect.by === 'member') {
      if (effect.member === this.id) {
        const kept = this.#store.get(key);
        net.world.after(0, () => this.gotForHome(this.id, flight, key, kept));
      } else net.get(this, effect.member, source, index, effect.class, false, [], effect.cell, flight);
      return;
    }
    const member = effect.by === 'request' ? this.#requests.get(effect.request)?.by.id : undefined;
    net.read(this, source, index, member, (ok, refused) => {
      if (ok) this.#keep(key, { isGenuine: true, from: 'registry' });
      const differs = ok && this.#dropped.delete(key);
      this.#tell({ type: 'fetched', flight, key, ok, refused, differs, now: net.world.now });
    });
  }
}

/** What is asked of a piece. */
type Asked = Pick<
  Extract<AskerEffect, { type: 'ask' }>,
  'source' | 'index' | 'class' | 'token' | 'tried' | 'cell'
>;

const piecesOf = (said: Outgoing): number =>
  said.pieces.length + (said.kind === 'hold' ? (said.failed ?? []).length : 0);

export const sizeOf = ({ size }: BlobSource, index: number): number => {
  const [from, to] = bytesOfPiece(index, size);
  return to - from;
};
