/**
 * What a member does for others: it is asked for pieces, sees to it that a piece that its zone lacks is fetched once, and
 * sends askers to where it lies. `handle` takes one event and returns the effects to run, in order.
 *
 * **A piece that is not here** is being fetched already: the asker waits. Or a holder is known: the asker is sent there
 * (fleet-sources.ts). Or the other home may have it, after a change of members: it is asked for it once. Else the registry,
 *
 *     with no credentials, where it gives the blob to everyone (which is thereby known);
 *     with the token that came with the asker's request, for that request;
 *     not at all, where there is no token: then the asker fetches, the others wait for it, and this home gets it from there.
 *
 * Only the first home of a piece does so, the second where askers say that the first did not answer, and a stand-in where they
 * say so of all before it: two that fetch at once would cost the registry twice.
 *
 * **In a large zone** the same member may also be a home of a cell (fleet-placement.ts). What its cell lacks it does not fetch: it sends
 * one asker on to the zone's homes, has the others wait, and gets the piece from the one when it has it.
 *
 * **Rights** come before all that says whether a piece is here (fleet-rights.ts). A piece's homes alone may have its bytes
 * without a right of their own: to keep them for others. Their own node's containers are askers like any others.
 *
 * **Uploads** have `uploads` slots; what a reader waits for comes before prefetch, which leaves a quarter of them free, and askers
 * that do not fit wait until they are told. One that does not even fit there is told `busy`.
 *
 * **A reader that joins** a fetch which began as prefetch makes it one that a reader waits for.
 */
import type { BlobSource, JobClass } from '../schemas/fetch.ts';
import type { PieceAnswer } from '../schemas/fleet.ts';
import { type Flight, Flights } from './fleet-flights.ts';
import { Held } from './fleet-held.ts';
import {
  HOME_LIMITS,
  type HomeEffect,
  type HomeEvent,
  type HomeLimits,
  type HomePorts,
  type PieceRequest,
  pieceKey,
} from './fleet-home-protocol.ts';
import { FleetRights } from './fleet-rights.ts';
import { Sources } from './fleet-sources.ts';
import { Uploads } from './fleet-uploads.ts';
import { type Question, Waiting } from './fleet-waiting.ts';

export class Home {
  readonly rights = new FleetRights();
  readonly sources: Sources;
  readonly #ports: HomePorts;
  readonly #limits: HomeLimits;
  readonly #held: Held;
  readonly #flights = new Flights();
  /** Blobs of which the registry is asked whether everyone may have them, and pieces of which askers wait for the answer. */
  readonly #checks = new Map<string, Set<string>>();
  readonly #requests = new Map<number, PieceRequest>();
  /** Requests that wait for what the registry says about their asker and blob; the first one's token is used. */
  readonly #parked = new Map<string, number[]>();
  readonly #uploads: Uploads;
  readonly #waiting: Waiting;
  #effects: HomeEffect[] = [];
  /** A piece that one was sent up for, who has come back without it. */
  #cameBackWithout: string | undefined;
  #now = Number.NEGATIVE_INFINITY;

  constructor(ports: HomePorts, limits: Partial<HomeLimits> = {}) {
    this.#ports = ports;
    this.#limits = { ...HOME_LIMITS, ...limits };
    this.sources = new Sources({ perHolder: this.#limits.perHolder });
    this.#waiting = new Waiting(this.#limits.waiting);
    this.#held = new Held(this.#limits.held);
    this.#uploads = new Uploads(this.#limits);
  }

  handle(event: HomeEvent): HomeEffect[] {
    this.#effects = [];
    this.#now = Math.max(this.#now, event.now);
    this.#apply(event);
    this.#goOn();
    this.#expire();
    this.#serve();
    return this.#effects;
  }

  /** ms; Infinity when nothing is due. */
  get nextWake(): number {
    return Math.min(this.#flights.nextWake, this.sources.nextWake);
  }

  /** For `status`, and for tests: nothing of it grows without bound. */
  status(): { held: number; flights: number; waiting: number; sending: number; queued: number } {
    return {
      held: this.#held.size,
      flights: this.#flights.size,
      waiting: this.#waiting.size,
      sending: this.#uploads.sending,
      queued: this.#uploads.queued,
    };
  }

  has(key: string): boolean {
    return this.#held.has(key);
  }

  /** The store has it, from an earlier life or from a fetch for this node itself. */
  keep(key: string, from: string): void {
    this.#held.keep(key, from);
  }

  #apply(event: HomeEvent): void {
    switch (event.type) {
      case 'ask': {
        const answer = this.#answer(event, true);
        this.#effects.push({ type: 'answer', to: event.from, source: event.source, answer });
        return;
      }
      case 'get':
        if (this.#requests.size >= this.#limits.requests)
          this.#effects.push({ type: 'reply', request: event.request, answer: this.#busy(event.index) });
        else {
          this.#requests.set(event.request, event);
          this.#get(event);
        }
        return;
      case 'aborted':
      case 'sent':
        this.#forget(event.request);
        return;
      case 'fetched':
        this.#fetched(event);
        return;
      case 'checked':
        this.#checked(event);
        return;
      case 'kept': {
        this.keep(event.key, event.from);
        // A home of a cell gets pieces past it, as one of another cell: no one else need bring it.
        const flight = this.#flights.get(event.key);
        if (flight?.by.by === 'up') this.#end(event.key, flight, 'again');
        else this.#tellAll(event.key);
        return;
      }
      case 'lost':
        this.#held.delete(event.key);
        // Those who wait for a slot would wait for good: they are told no more of a piece that is not here.
        this.#tellAll(event.key);
        return;
      case 'hold':
        this.#hold(event);
        return;
      case 'wrong':
        this.#wrong(event);
        return;
      case 'proved':
        this.rights.learned(event.from, event.source, true, this.#now);
        return;
      case 'tick':
    }
  }

  // ---- asks

  /** What an asker is told. `isNew`: it may be made to wait; one whose turn has come keeps its place where it has to wait on. */
  #answer(question: Question, isNew: boolean): PieceAnswer {
    const { from, source, index, token } = question;
    const key = pieceKey(source, index);
    if (isNew) this.#cameBack(key, question);
    const right = this.rights.of(from, source, this.#now);
    if (right === 'no') return { index, state: 'none' };
    if (right === 'unknown') {
      const everyone = this.rights.everyone(source, this.#now);
      if (everyone === 'unknown' && this.#held.has(key)) return this.#askAboutEveryone(question);
      if (everyone === 'no' && token) return { index, state: 'bring' };
      if (everyone === 'no' && this.#held.has(key)) return { index, state: 'prove' };
    } else {
      const at = this.#place(key, question);
      if (at !== undefined) {
        const isHere = at === this.#ports.self;
        this.sources.assign(key, from, at, this.#now, isHere ? this.#limits.comeMs : undefined);
        return { index, state: 'have', ...(isHere ? {} : { at }) };
      }
    }
    return this.#absent(key, question, right === 'yes');
  }

  /** Where the asker may get the piece at once. */
  #place(key: string, { from, class: urgency, tried }: Question): string | undefined {
    const { self } = this.#ports;
    // This node's own readers wait for no one's turn.
    const hasRoom = from === self || this.#room(urgency) > 0;
    if (this.#held.has(key) && !tried.includes(self) && hasRoom) return self;
    const but = [from, self, ...tried];
    return this.sources.free(key, but, this.#isAsked);
  }

  readonly #isAsked = (member: string): boolean => this.#ports.isAsked(member, this.#now);

  /** The piece is not here, or cannot be had at once. */
  #absent(key: string, question: Question, hasRight: boolean): PieceAnswer {
    const { from, source, index, token, tried } = question;
    const but = [from, this.#ports.self, ...tried];
    const isSomewhere =
      (this.#held.has(key) && !tried.includes(this.#ports.self)) ||
      this.sources.holder(key, but, this.#isAsked) !== undefined;
    const isOnItsWay = this.#flights.has(key) && !this.#overtakes(key, question);
    if (isOnItsWay || (hasRight && isSomewhere)) {
      const answer = this.#wait(key, question);
      if (isOnItsWay && answer.state === 'coming') this.#join(key, question, hasRight && isSomewhere);
      return answer;
    }
    const above = this.#above(question);
    const homes = this.#ports.homes(source, index);
    // One that merely had it does not hear who gets it.
    if (!this.#isMine(question, above)) return this.#elsewhere(index, homes, tried);
    if (hasRight && this.sources.outstanding(key) > 0) return this.#wait(key, question);
    if (this.#flights.size >= this.#limits.flights) return this.#busy(index);
    // The cell's other home lacks it as well: who got it has told both.
    const member = this.#otherHome(key, above === undefined ? homes : [], but);
    if (above !== undefined && member === undefined) return this.#sendUp(key, question, above);
    const everyone = this.rights.everyone(source, this.#now);
    if (member === undefined && everyone === 'no') {
      if (token) return { index, state: 'bring' };
      this.#begin(key, question, { by: 'lease', member: from }, this.#limits.leaseMs);
      return { index, state: 'fetch', ms: this.#limits.leaseMs };
    }
    const answer = this.#wait(key, question);
    if (answer.state === 'coming')
      this.#begin(
        key,
        above === undefined ? { ...question, cell: undefined } : question,
        member === undefined ? { by: 'everyone' } : { by: 'member', member },
        member === undefined ? this.#limits.flightMs : this.#limits.probeMs,
      );
    return answer;
  }

  /**
   * A reader waits for what is on its way as prefetch. `isElsewhere`: it is sent to a holder as soon as one has a place, and the fetch
   * may take its time; else its patience would end first, and it would read the registry for itself alone.
   */
  #join(key: string, { class: urgency }: Question, isElsewhere: boolean): void {
    const flight = this.#flights.get(key);
    if (flight === undefined || flight.class === 'demand' || urgency === 'prefetch') return;
    flight.class = 'demand';
    const { by, number } = flight;
    if (by.by !== 'lease' && by.by !== 'up') this.#effects.push({ type: 'promote', flight: number, key });
    const isOfMember = by.by === 'member' || by.by === 'lease';
    if (isOfMember && !isElsewhere) this.#flights.endBy(key, this.#now + this.#limits.joinedMs);
  }

  /** Whether this member sees to it that the piece comes: into the zone, or from `above` into the cell. */
  #isMine(question: Question, above = this.#above(question)): boolean {
    const { source, index, tried, cell } = question;
    const { self, homes, standIns } = this.#ports;
    // Each of a cell's homes may send one up: the registry hears nothing of it.
    if (above !== undefined) return homes(source, index, cell).includes(self);
    const list = homes(source, index);
    const ranked = list.includes(self) ? list : [...list, ...standIns(source, index)];
    const at = ranked.indexOf(self);
    return at === 0 || (at > 0 && ranked.slice(0, at).every((home) => tried.includes(home)));
  }

  /** Where this member is asked as home of a cell: the zone's home that the cell gets it from. Undefined: it is this one, or none is left. */
  #above({ source, index, tried, cell }: Question): string | undefined {
    if (cell === undefined) return undefined;
    const { self, homes, standIns } = this.#ports;
    const first = [...homes(source, index), ...standIns(source, index)].find((one) => !tried.includes(one));
    return first === self ? undefined : first;
  }

  /** A reader waits for what another one of the cell was sent for as prefetch: it is sent as well, and waits behind no one's prefetch. */
  #overtakes(key: string, question: Question): boolean {
    const flight = this.#flights.get(key);
    return flight?.by.by === 'up' && flight.class === 'prefetch' && question.class === 'demand';
  }

  /** The asker gets it for its cell. */
  #sendUp(key: string, question: Question, above: string): PieceAnswer {
    const { from, source, index } = question;
    this.#begin(key, question, { by: 'up', member: from }, this.#limits.upMs);
    // Those who wait show their right meanwhile, where the registry wants to see one.
    if (this.rights.everyone(source, this.#now) === 'unknown') this.#checkEveryone(source, key);
    return { index, state: 'none', at: above };
  }

  /** One that was sent up has come back without the piece: those who wait for it are answered anew, where no other one went. */
  #goOn(): void {
    const key = this.#cameBackWithout;
    this.#cameBackWithout = undefined;
    if (key !== undefined && !this.#flights.has(key)) this.#tellAll(key);
  }

  #elsewhere(index: number, homes: readonly string[], tried: readonly string[]): PieceAnswer {
    const at = homes.find((home) => home !== this.#ports.self && !tried.includes(home));
    return { index, state: 'none', ...(at === undefined ? {} : { at }) };
  }

  /** A member that may have the piece, where this one lacks it: a holder, or the other home. */
  #otherHome(key: string, homes: readonly string[], but: readonly string[]): string | undefined {
    // What members gave of it was wrong.
    if (this.#held.isDoubted(key)) return undefined;
    return (
      this.sources.free(key, but, this.#isAsked) ??
      // One that is busy says when to come again: it is not the registry's turn.
      this.sources.holder(key, but, (member) => this.#ports.isThere(member, this.#now)) ??
      homes.find((home) => !but.includes(home) && this.#isAsked(home))
    );
  }

  #wait(key: string, question: Question): PieceAnswer {
    const { index } = question;
    return this.#waiting.add(key, question) ? { index, state: 'coming' } : this.#busy(index);
  }

  #busy(index: number): PieceAnswer {
    return { index, state: 'busy', ms: this.#limits.busyMs };
  }

  /** One that asks again has not got it where it was sent. */
  #cameBack(key: string, { from, tried }: Question): void {
    const flight = this.#flights.get(key);
    if (flight?.by.by === 'up' && flight.by.member === from) {
      this.#flights.delete(key);
      this.#cameBackWithout = key;
    }
    this.#waiting.delete(key, from);
    const sent = this.sources.release(key, from);
    if (sent !== undefined && tried.includes(sent)) this.sources.remove(key, sent);
  }

  #askAboutEveryone(question: Question): PieceAnswer {
    const { source, index } = question;
    const key = pieceKey(source, index);
    const isAsking = this.#checks.has(blobKey(source));
    // An asker may name any repository.
    if (!isAsking && this.#checks.size >= this.#limits.checks) return this.#busy(index);
    const answer = this.#wait(key, question);
    if (answer.state === 'coming') this.#checkEveryone(source, key);
    return answer;
  }

  /** `key`: a piece of which askers wait for the answer. */
  #checkEveryone(source: BlobSource, key: string): void {
    const known = this.#checks.get(blobKey(source));
    if (known === undefined && this.#checks.size >= this.#limits.checks) return;
    known?.add(key);
    if (known !== undefined) return;
    this.#checks.set(blobKey(source), new Set([key]));
    this.#effects.push({ type: 'check', source });
  }

  // ---- requests for bytes

  #get(get: PieceRequest): void {
    const { from, source, index, request, hasToken } = get;
    const key = pieceKey(source, index);
    const isHome = this.#isForHome(get);
    const right = isHome ? 'yes' : this.rights.of(from, source, this.#now);
    const { self } = this.#ports;
    const hasTurn =
      isHome || from === self || this.sources.isSent(key, from, self) || this.#room(get.class) > 0;
    if (this.#held.has(key) && right === 'yes' && hasTurn) {
      // Of the member that wants it as a home a reader may wait here as well.
      if (!isHome) this.#waiting.delete(key, from);
      return this.#upload(get);
    }
    if (isHome) {
      const at = this.sources.free(key, [from, this.#ports.self], this.#isAsked);
      return this.#reply(request, { index, state: 'none', ...(at === undefined ? {} : { at }) });
    }
    if (hasToken && right !== 'no' && this.rights.everyone(source, this.#now) === 'no') {
      // The fetch is the check where the piece is not here.
      const isFetched = this.#above(get) === undefined && this.#isMine(get);
      if (isFetched && !this.#held.has(key) && !this.#flights.has(key)) return this.#fetchFor(key, get);
      if (right === 'unknown') return this.#checkFor(get);
    }
    const answer = this.#answer(get, true);
    if (answer.state !== 'have') return this.#reply(request, answer);
    // A request is not sent on: where the asker is to come it hears as one does who has waited.
    this.#reply(request, { index, state: 'coming' });
    this.#effects.push({ type: 'tell', to: from, source, answer });
  }

  /** A home of the piece keeps it for others, without a right of its own. */
  #isForHome({ forHome, from, source, index, cell }: PieceRequest): boolean {
    return forHome && from !== this.#ports.self && this.#ports.homes(source, index, cell).includes(from);
  }

  #may(get: PieceRequest): boolean {
    return this.#isForHome(get) || this.rights.of(get.from, get.source, this.#now) === 'yes';
  }

  /** One question to the registry for all that this asker wants of the blob. */
  #checkFor({ from, source, request }: PieceRequest): void {
    const id = `${from} ${blobKey(source)}`;
    const parked = this.#parked.get(id);
    if (parked !== undefined) {
      parked.push(request);
      return;
    }
    this.#parked.set(id, [request]);
    this.#effects.push({ type: 'check', source, request, from });
  }

  #fetchFor(key: string, get: PieceRequest): void {
    if (this.#flights.size >= this.#limits.flights) return this.#reply(get.request, this.#busy(get.index));
    this.#begin(key, get, { by: 'request', request: get.request });
  }

  #upload({ request, class: urgency, index }: PieceRequest): void {
    const isOwn = this.#requests.get(request)?.from === this.#ports.self;
    if (isOwn || this.#uploads.hasSlot(urgency)) {
      if (!isOwn) this.#uploads.take(request, urgency);
      this.#effects.push({ type: 'send', request });
    } else if (!this.#uploads.wait(request, urgency)) this.#reply(request, this.#busy(index));
  }

  #reply(request: number, answer: PieceAnswer): void {
    this.#effects.push({ type: 'reply', request, answer });
    this.#forget(request);
  }

  #forget(request: number): void {
    const get = this.#requests.get(request);
    this.#requests.delete(request);
    const hadSlot = this.#uploads.delete(request);
    if (get !== undefined && !get.forHome && (hadSlot || get.from === this.#ports.self))
      this.sources.release(pieceKey(get.source, get.index), get.from);
  }

  /** Slots for uploads of the class that are neither taken nor promised. */
  #room(urgency: JobClass): number {
    return this.#uploads.room(urgency, this.sources.sentTo(this.#ports.self));
  }

  // ---- fetches

  #begin(
    key: string,
    question: Pick<Question, 'source' | 'index' | 'class' | 'cell'>,
    by: Flight['by'],
    ms = this.#limits.flightMs,
  ): void {
    const { source, index, cell } = question;
    const isAnothers = by.by === 'lease' || by.by === 'up';
    // Who fetches for others does so for itself; a fetch of this home's own is for all that wait here.
    const isForReader = !isAnothers && this.#waiting.first(key)?.class === 'demand';
    const urgency = isForReader ? 'demand' : question.class;
    const requests = by.by === 'request' ? [by.request] : [];
    const begun = { source, index, class: urgency, cell, by, requests };
    const { number } = this.#flights.begin(key, begun, this.#now + ms);
    if (isAnothers) return;
    const fetch = { flight: number, key, source, index, class: urgency, cell } as const;
    this.#effects.push({ type: 'fetch', ...fetch, ...by });
  }

  #fetched(event: Extract<HomeEvent, { type: 'fetched' }>): void {
    const { flight: number, key, ok, refused, at, busyMs } = event;
    const flight = this.#flights.get(key);
    if (event.differs === true) this.#convict(key);
    if (flight === undefined || (flight.number !== number && !ok)) return;
    const { by, source, index, class: urgency, cell } = flight;
    // Of one that was given up: what came is here all the same, from another than is asked now.
    const origin = flight.number !== number ? 'disk' : by.by === 'member' ? by.member : 'registry';
    if (ok) this.keep(key, origin);
    if (flight.number === number) this.#learn(flight, ok, refused === true);
    if (ok || refused === true) return this.#end(key, flight, 'again');
    if (by.by !== 'member') return this.#end(key, flight, 'none');
    if (busyMs !== undefined) {
      this.#flights.retryAt(key, this.#now + busyMs);
      return;
    }
    this.sources.remove(key, by.member);
    const next = at !== undefined && at !== this.#ports.self && at !== by.member && this.#isAsked(at);
    this.#flights.delete(key);
    if (next) this.#begin(key, { source, index, class: urgency, cell }, { by: 'member', member: at });
    else this.#originNext(key, flight, [by.member]);
  }

  /** What the end of a fetch says about rights. */
  #learn({ by, source }: Flight, ok: boolean, refused: boolean): void {
    if (!ok && !refused) return;
    if (by.by === 'everyone') this.rights.learnedOfEveryone(source, ok, this.#now);
    if (by.by !== 'request') return;
    const from = this.#requests.get(by.request)?.from;
    if (from !== undefined) this.rights.learned(from, source, ok, this.#now);
  }

  /** `again`: those who wait are answered as if they asked now. `none`: the registry is in trouble; they may try elsewhere. */
  #end(key: string, { requests, index }: Flight, then: 'again' | 'none'): void {
    this.#flights.delete(key);
    for (const request of requests) {
      const get = this.#requests.get(request);
      // What it may have by now is asked again: another fetch may have brought the piece.
      if (get !== undefined && then === 'again') this.#get(get);
      else if (get !== undefined) this.#reply(request, { index, state: 'none' });
    }
    if (then === 'again') this.#tellAll(key);
    else
      for (
        let question = this.#waiting.first(key);
        question !== undefined;
        question = this.#waiting.first(key)
      ) {
        this.#waiting.delete(key, question.from);
        this.#effects.push({
          type: 'tell',
          to: question.from,
          source: question.source,
          answer: { index, state: 'none' },
        });
      }
  }

  /** No member had it: the registry is next, and of a cell the zone's homes. */
  #originNext(key: string, flight: Flight, inVain: readonly string[]): void {
    this.#flights.delete(key);
    const first = this.#waiting.first(key);
    if (first === undefined) return;
    if (flight.cell !== undefined || this.#above(first) !== undefined) {
      for (const member of inVain) this.sources.remove(key, member);
      this.#tellAll(key);
    } else if (this.rights.everyone(flight.source, this.#now) === 'no') this.#tellAll(key, inVain);
    else this.#begin(key, first, { by: 'everyone' });
  }

  /** Each that waits for the piece is answered anew, until one has to wait on. */
  #tellAll(key: string, inVain: readonly string[] = []): void {
    for (
      let question = this.#waiting.first(key);
      question !== undefined;
      question = this.#waiting.first(key)
    ) {
      const answer = this.#answer({ ...question, tried: [...question.tried, ...inVain] }, false);
      if (answer.state === 'coming') return;
      this.#waiting.delete(key, question.from);
      this.#effects.push({ type: 'tell', to: question.from, source: question.source, answer });
    }
  }

  #checked({ from, source, may }: Extract<HomeEvent, { type: 'checked' }>): void {
    if (from !== undefined) {
      const id = `${from} ${blobKey(source)}`;
      const parked = this.#parked.get(id) ?? [];
      this.#parked.delete(id);
      if (may !== undefined) this.rights.learned(from, source, may, this.#now);
      for (const request of parked) {
        const get = this.#requests.get(request);
        if (get !== undefined && may === true) this.#get(get);
        else if (get !== undefined) this.#reply(request, { index: get.index, state: 'none' });
      }
      return;
    }
    const asking = this.#checks.get(blobKey(source)) ?? [];
    this.#checks.delete(blobKey(source));
    if (may === undefined) this.rights.unsaidOfEveryone(source, this.#now);
    else this.rights.learnedOfEveryone(source, may, this.#now);
    for (const key of asking) this.#tellAll(key);
  }

  // ---- what others tell

  #hold({ from, source, index, ok, cell }: Extract<HomeEvent, { type: 'hold' }>): void {
    const key = pieceKey(source, index);
    this.sources.release(key, from);
    if (ok) this.#waiting.delete(key, from);
    const flight = this.#flights.get(key);
    const isLease = (flight?.by.by === 'lease' || flight?.by.by === 'up') && flight.by.member === from;
    if (ok) this.sources.add(key, from);
    // Those who asked it before it had the piece may be sent to it now.
    if (ok) this.#waiting.retry(key, from);
    if (isLease) this.#end(key, flight as Flight, 'again');
    else if (ok) this.#tellAll(key);
    if (!ok || this.#held.has(key) || this.#flights.has(key) || this.#held.isDoubted(key)) return;
    const homes = this.#ports.homes(source, index, cell);
    if (homes[0] === this.#ports.self && this.#flights.size < this.#limits.flights)
      this.#begin(key, { source, index, class: 'prefetch', cell }, { by: 'member', member: from });
  }

  /**
   * What an asker says proves nothing of the member that gave the piece to this home. So the registry is asked for it, once,
   * and its bytes tell. What this node's own readers say is proven: they have compared.
   */
  #wrong({ from, member, source, index }: Extract<HomeEvent, { type: 'wrong' }>): void {
    const { self } = this.#ports;
    const key = pieceKey(source, index);
    if (member !== self) {
      // It may have passed on what a liar gave it.
      if (this.sources.accuse(from, member))
        this.#effects.push({ type: 'blame', member, key, isSure: false });
      return;
    }
    const isNew = this.#held.doubt(key);
    if (!isNew && (from !== self || !this.#held.has(key))) return;
    this.#drop(key, true);
    // One that was doubted before came from a registry since.
    if (from === self) {
      if (isNew) this.#convict(key);
    } else if (
      this.rights.everyone(source, this.#now) === 'yes' &&
      !this.#flights.has(key) &&
      this.#flights.size < this.#limits.flights
    )
      this.#begin(key, { source, index, class: 'prefetch' }, { by: 'everyone' });
  }

  #drop(key: string, isCompared: boolean): void {
    this.#held.delete(key);
    this.#effects.push({ type: 'drop', key, isCompared });
    // Those who wait for a slot would wait in vain.
    this.#tellAll(key);
  }

  /**
   * Who gave a doubted piece did not give what the registry sends: nothing of it is kept. A registry that no one here uses may be
   * the accuser's own: all the rest stays.
   */
  #convict(key: string): void {
    const liar = this.#held.convict(key, this.#ports.self);
    if (liar === undefined) return;
    const isSure = this.#ports.uses(key.slice(0, key.indexOf(' ')));
    this.#effects.push({ type: 'blame', member: liar, key, isSure });
    if (isSure) for (const one of this.#held.of(liar)) this.#drop(one, false);
  }

  // ---- time, and what became free

  #expire(): void {
    for (
      let key = this.#flights.takeLate(this.#now);
      key !== undefined;
      key = this.#flights.takeLate(this.#now)
    ) {
      const flight = this.#flights.get(key);
      if (flight?.by.by === 'member') this.#originNext(key, flight, [flight.by.member]);
      else if (flight !== undefined) this.#end(key, flight, ANOTHERS.has(flight.by.by) ? 'again' : 'none');
    }
    for (
      let key = this.#flights.takeRetry(this.#now);
      key !== undefined;
      key = this.#flights.takeRetry(this.#now)
    ) {
      const flight = this.#flights.get(key);
      if (flight?.by.by !== 'member') continue;
      const { number, source, index, class: urgency, cell, by } = flight;
      const fetch = { flight: number, key, source, index, class: urgency, cell } as const;
      this.#effects.push({ type: 'fetch', ...fetch, ...by });
    }
    for (
      let late = this.sources.takeLate(this.#now);
      late !== undefined;
      late = this.sources.takeLate(this.#now)
    )
      this.#tellAll(late.key);
  }

  /**
   * Slots that became free: first to requests that wait for one, as far as they still may, then to askers; readers come first among
   * both. A home that wants a copy as prefetch comes before askers: readers are sent to it next.
   */
  #serve(): void {
    for (let request = this.#uploads.next(); request !== undefined; request = this.#uploads.next()) {
      const get = this.#requests.get(request);
      if (get !== undefined && this.#may(get) && this.#held.has(pieceKey(get.source, get.index))) {
        this.#uploads.take(request, get.class);
        this.#effects.push({ type: 'send', request });
      } else if (get !== undefined) this.#reply(request, { index: get.index, state: 'none' });
    }
    for (const urgency of ['demand', 'prefetch'] as const)
      for (let turn = 0; turn < TURNS && this.#room(urgency) > 0; turn++) {
        const key = this.#waiting.turn(urgency);
        if (key === undefined) break;
        if (this.#held.has(key)) this.#tellAll(key);
      }
  }
}

/** Flights of askers. */
const ANOTHERS: ReadonlySet<Flight['by']['by']> = new Set(['lease', 'up']);
/** Pieces that are looked at for each event: their turn comes with the next ones. */
const TURNS = 4;

const blobKey = ({ registry, repository, digest }: BlobSource): string =>
  `${registry} ${repository} ${digest}`;
