/**
 * Pieces for the processes of this node, as the asker actor decides: whom it asks, where it comes for the bytes, and what becomes of
 * them. Processes that want the same piece of the same repository share it. This node's processes get the bytes at once, other members
 * only when a process has said that they are right.
 */
import type { AskerEffect } from '../../actors/fleet-asker-protocol.ts';
import { pieceKey } from '../../actors/fleet-home-protocol.ts';
import type { BlobSource } from '../../schemas/fetch.ts';
import type { PieceAnswer } from '../../schemas/fleet.ts';
import type { AskerNews, HomeNews } from './core.ts';
import type { Getting, Got } from './getting.ts';
import type { Giving } from './giving.ts';
import type { Said } from './messages.ts';
import { lengthOf, type PieceAsk, type PieceOrder } from './piece-request.ts';
import type { Clock, Timer } from '../process/ports.ts';
import type { Fresh, Pieces } from './pieces.ts';
import type { Proofs } from './proofs.ts';
import { Refusal } from './refusal.ts';

export interface AskingOptions {
  self: string;
  toAsker: (news: AskerNews) => void;
  toHome: (news: HomeNews) => void;
  /** To a member, this one too. */
  send: (to: string, said: Said) => void;
  getting: Getting;
  /** This member's own answer to a request for bytes. */
  give: Giving['give'];
  pieces: Pieces;
  /** Whether this member gives to others what came for its own processes. */
  serves: boolean;
  /** The home keeps it from now on. */
  keep: (key: string, from: string) => void;
  onHedge: () => void;
  proofs: Pick<Proofs, 'challenged' | 'challengeOf' | 'take'>;
  /** ms. */
  now: () => number;
  after: Clock['after'];
}

export interface Brought {
  bytes: Buffer;
  /** The member that gave it, maybe this one. */
  from: string;
}

/** A piece that came for a process is given to another one without a question for so long, ms: the node had the right just now. */
const LATELY_MS = 30_000;
const MOST_LATELY = 1_024;

/** A process reads a piece for all who wait for it within this, ms: less than a home waits (`leaseMs`). */
const LEASE_MS = 10_000;

interface Waiter {
  source: BlobSource;
  token: string | undefined;
  noToken: boolean;
  resolve: (brought: Brought) => void;
  reject: (reason: unknown) => void;
}

export class Asking {
  readonly #options: AskingOptions;
  readonly #waiters = new Map<string, Set<Waiter>>();
  /** Pieces that came and have not been given out yet, by key. */
  readonly #came = new Map<string, Brought>();
  /** By repository and piece, oldest first: which came for a process lately, and from whom. Their bytes are not held for that. */
  readonly #lately = new Map<string, { at: number; from: string; bytes: WeakRef<Buffer> }>();
  /** Requests to this member's own home. */
  readonly #own = new Map<string, AbortController>();
  /** Pieces that a process of this node reads from the registry, for others too. */
  readonly #leases = new Map<string, { repository: string; end: Timer }>();

  constructor(options: AskingOptions) {
    this.#options = options;
  }

  /** A process of this node waits for a piece. */
  get isWaitedFor(): boolean {
    return this.#waiters.size > 0;
  }

  /** The bytes `[from, to)` of a piece. Errors: Refusal (`bring`: come with a token), the signal's reason. */
  async piece(order: PieceOrder, signal: AbortSignal): Promise<Brought> {
    const { source, index, from, to, class: urgency } = order;
    const key = pieceKey(source, index);
    const lately = this.#ofLately(key, source);
    if (lately !== undefined) return { ...lately, bytes: lately.bytes.subarray(from, to) };
    signal.throwIfAborted();
    // Members look at the right to the repository that was asked for first: it says nothing of another one.
    if (this.#isOfAnother(key, source))
      throw new Refusal('none', 'a process reads it of another repository at the moment');
    const { promise, resolve, reject } = Promise.withResolvers<Brought>();
    const { token, noToken } = order;
    const waiter: Waiter = { source, token, noToken, resolve, reject };
    const waiters = this.#waiters.get(key) ?? new Set();
    this.#waiters.set(key, waiters.add(waiter));
    const leave = () => {
      reject(signal.reason);
      waiters.delete(waiter);
      if (waiters.size > 0 || this.#waiters.get(key) !== waiters) return;
      this.#waiters.delete(key);
      this.#options.toAsker({ type: 'drop', key });
    };
    signal.addEventListener('abort', leave, { once: true });
    this.#options.toAsker({ type: 'want', source, index, class: urgency, token: !noToken });
    try {
      const brought = await promise;
      return { ...brought, bytes: brought.bytes.subarray(from, to) };
    } finally {
      signal.removeEventListener('abort', leave);
    }
  }

  /** Another member, or this one, has answered. */
  answered(
    member: string,
    { registry, digest }: Pick<BlobSource, 'registry' | 'digest'>,
    answer: PieceAnswer,
  ) {
    const key = pieceKey({ registry, digest }, answer.index);
    this.#answered(member, key, answer);
  }

  #answered(member: string, key: string, answer: PieceAnswer): void {
    const [waiter] = this.#waiters.get(key) ?? [];
    const isProof = answer.state === 'prove';
    const isSound =
      !isProof ||
      (waiter !== undefined && this.#options.proofs.challenged(member, waiter.source, answer.challenge));
    const taken: PieceAnswer = isSound ? answer : { index: answer.index, state: 'none' };
    this.#options.toAsker({ type: 'answer', member, key, answer: taken });
  }

  /** A process has read a piece from the registry, as it was told to; undefined: it could not. */
  offered(source: BlobSource, index: number, bytes: Buffer | undefined): void {
    const { self, pieces, keep, toAsker } = this.#options;
    const key = pieceKey(source, index);
    const lease = this.#leases.get(key);
    if (lease === undefined) return;
    lease.end.cancel();
    this.#leases.delete(key);
    const isWhole = bytes?.length === lengthOf({ source, index });
    if (isWhole) {
      pieces.keep(key, { bytes, from: 'registry' });
      keep(key, 'registry');
      this.#came.set(key, { bytes, from: self });
    }
    toAsker({ type: 'read', key, ok: isWhole });
    this.#came.delete(key);
  }

  /** A process has verified what it used of these pieces: others may have them from here. */
  verified(source: BlobSource, indexes: readonly number[]): void {
    const { pieces, keep, toAsker, serves } = this.#options;
    if (!serves) return;
    for (const index of indexes) {
      const key = pieceKey(source, index);
      const piece = pieces.fresh(key);
      if (piece === undefined || !this.#isVerified(key, source, piece) || !pieces.keep(key)) continue;
      keep(key, piece.from);
      toAsker({ type: 'verified', key, source, index });
    }
  }

  /**
   * Whether a process that read this repository has verified this very copy. Another member may have sent another one since, for
   * another repository: a member that keeps such a copy gives it to others, who take this one for the liar.
   */
  #isVerified(key: string, { repository }: BlobSource, { bytes, isKept }: Fresh): boolean {
    return isKept || this.#lately.get(`${repository} ${key}`)?.bytes.deref() === bytes;
  }

  /** A process has compared a piece with the registry's: it was wrong. */
  wrong(member: string, source: BlobSource, index: number): void {
    const { self, toAsker, toHome, getting, pieces } = this.#options;
    const key = pieceKey(source, index);
    this.#lately.delete(`${source.repository} ${key}`);
    if (member === self) return toHome({ type: 'wrong', from: self, member, source, index });
    pieces.drop(key);
    toHome({ type: 'lost', key });
    const from = getting.viaOf(member, key);
    toAsker({ type: 'wrong', member, key, source, index, ...(from === undefined ? {} : { from }) });
  }

  run(effect: AskerEffect): void {
    const { send, onHedge, getting, toAsker } = this.#options;
    switch (effect.type) {
      case 'ask': {
        const { member, source, index, class: urgency, tried, cell, isHedge } = effect;
        if (isHedge) onHedge();
        const proof = effect.token ? undefined : this.#options.proofs.take(member, source);
        return send(member, {
          kind: 'ask',
          v: 1,
          class: urgency,
          token: effect.token,
          source,
          pieces: [index],
          ...(tried.length === 0 ? {} : { tried }),
          ...(cell === undefined ? {} : { cell }),
          ...(proof === undefined ? {} : { proof }),
        });
      }
      case 'get':
        return void this.#get(effect);
      case 'prove': {
        const { member, key, source } = effect;
        // A process of the node reads what is named, and comes again.
        const challenge = this.#options.proofs.challengeOf(member, source);
        this.#refuse(key, new Refusal('prove', 'the registry has to give it to this node', challenge));
        return toAsker({ type: 'drop', key });
      }
      case 'leave':
        getting.leave(effect.member, effect.key);
        this.#own.get(effect.key)?.abort(new Error('it is not wanted any more'));
        return;
      case 'read':
        if (effect.lease) return this.#lease(effect.key);
        // The process reads it by itself, and for itself.
        this.#refuse(effect.key, new Refusal('none', 'the fleet does not bring it'));
        return toAsker({ type: 'read', key: effect.key, ok: false });
      case 'hold':
        for (const member of effect.members) {
          const { source, index, ok, cell } = effect;
          const said = ok ? { pieces: [index] } : { pieces: [], failed: [index] };
          const asHome = cell === undefined ? {} : { cell };
          send(member, { kind: 'hold', v: 1, source, ...said, ...asHome });
        }
        return;
      case 'wrong': {
        const { members, member, source, index } = effect;
        for (const to of new Set(members)) send(to, { kind: 'wrong', v: 1, source, index, member });
        return;
      }
      case 'give':
        return this.#give(effect.key);
      case 'failed':
        this.#refuse(effect.key, new Refusal('none', 'the fleet does not bring it'));
    }
  }

  /** Others wait for this node to read it: the first process that wants it does so, and offers it. */
  #lease(key: string): void {
    const { serves, after, toAsker } = this.#options;
    const [reader] = this.#waiters.get(key) ?? [];
    if (!serves || reader === undefined) {
      this.#refuse(key, new Refusal('none', 'the fleet does not bring it'));
      return toAsker({ type: 'read', key, ok: false });
    }
    this.#waiters.get(key)?.delete(reader);
    const { repository } = reader.source;
    const end = after(LEASE_MS, () => {
      if (this.#leases.delete(key)) toAsker({ type: 'read', key, ok: false });
    }).unref();
    this.#leases.set(key, { repository, end });
    reader.reject(new Refusal('fetch', 'read it from the registry, for others too'));
  }

  async #get(effect: Extract<AskerEffect, { type: 'get' }>): Promise<void> {
    const { toAsker } = this.#options;
    const { member, key, source, index, class: urgency, tried, cell } = effect;
    let token: string | undefined;
    if (effect.token) {
      token = this.#tokenFor(key);
      if (token === undefined) {
        // The processes that want it are asked for a token, and come again.
        this.#refuse(key, new Refusal('bring', 'the registry does not give this to everyone'));
        return toAsker({ type: 'drop', key });
      }
    }
    try {
      const noToken = token === undefined && [...(this.#waiters.get(key) ?? [])].every((one) => one.noToken);
      const proof = noToken ? this.#options.proofs.take(member, source) : undefined;
      const asked = { source, index, class: urgency, token, noToken, proof, tried, forHome: false, cell };
      const got = await this.#from(member, asked);
      if ('answer' in got) return this.#answered(member, key, got.answer);
      const { bytes } = got;
      if (this.#waiters.has(key)) this.#came.set(key, { bytes, from: member });
      toAsker({ type: 'came', member, key });
      this.#note(key, source, bytes, member);
    } catch {
      toAsker({ type: 'silent', member, key });
    } finally {
      this.#came.delete(key);
    }
  }

  async #from(member: string, asked: PieceAsk): Promise<Got> {
    const { self, getting, give, toAsker, now } = this.#options;
    const key = pieceKey(asked.source, asked.index);
    if (member !== self) {
      let toldAt = now();
      return await getting.get(member, asked, () => {
        if (now() - toldAt < MOVES_MS) return;
        toldAt = now();
        toAsker({ type: 'moves', member, key });
      });
    }
    const stop = new AbortController();
    this.#own.set(key, stop);
    try {
      const given = await give(self, asked, stop.signal);
      if (given.answer !== undefined) return { answer: given.answer };
      given.done();
      return { bytes: given.piece.bytes };
    } finally {
      this.#own.delete(key);
    }
  }

  #give(key: string): void {
    const came = this.#came.get(key);
    if (came === undefined) return this.#refuse(key, new Refusal('none', 'the fleet does not bring it'));
    for (const { resolve } of this.#take(key)) resolve(came);
  }

  /** Other parts of the piece will be wanted soon. */
  #note(key: string, { repository }: BlobSource, bytes: Buffer, from: string): void {
    const { self, pieces, now } = this.#options;
    if (from !== self) pieces.came(key, { bytes, from });
    const id = `${repository} ${key}`;
    this.#lately.delete(id);
    this.#lately.set(id, { at: now(), from, bytes: new WeakRef(bytes) });
    if (this.#lately.size > MOST_LATELY) this.#lately.delete(this.#lately.keys().next().value as string);
  }

  #ofLately(key: string, { repository }: BlobSource): Brought | undefined {
    const { self, pieces, now } = this.#options;
    const lately = this.#lately.get(`${repository} ${key}`);
    if (lately === undefined || now() - lately.at > LATELY_MS) return undefined;
    const { from } = lately;
    const piece = pieces.fresh(key);
    // Another copy may have come since, for another repository: where it is wrong this member is not to be named.
    const isOfIt =
      piece?.isKept === true ? from === self || piece.from === from : piece?.bytes === lately.bytes.deref();
    return piece === undefined || !isOfIt ? undefined : { bytes: piece.bytes, from };
  }

  #refuse(key: string, reason: Refusal): void {
    for (const { reject } of this.#take(key)) reject(reason);
  }

  #take(key: string): Iterable<Waiter> {
    const waiters = this.#waiters.get(key) ?? [];
    this.#waiters.delete(key);
    return waiters;
  }

  /** Whether the piece is wanted by processes that read another repository. */
  #isOfAnother(key: string, { repository }: BlobSource): boolean {
    const [waiter] = this.#waiters.get(key) ?? [];
    const wanted = waiter?.source.repository ?? this.#leases.get(key)?.repository;
    return wanted !== undefined && wanted !== repository;
  }

  #tokenFor(key: string): string | undefined {
    for (const { token } of this.#waiters.get(key) ?? []) if (token !== undefined) return token;
    return undefined;
  }
}

/** While bytes come the actor hears so this often, ms. */
const MOVES_MS = 500;
