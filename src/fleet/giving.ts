/**
 * What a member does for others, as its home actor decides: answers, bytes, fetches from the registry and from other members,
 * questions to the registry about rights. A token is used for the request that it came with, and is forgotten with it.
 */
import type { Logger } from 'pino';
import type { Counts } from '../../actors/counts.ts';
import { type HomeEffect, pieceKey } from '../../actors/fleet-home-protocol.ts';
import { toErrorRecord } from '../../schemas/errors.ts';
import type { BlobSource, JobClass } from '../../schemas/fetch.ts';
import { bytesOfPiece, type PieceAnswer } from '../../schemas/fleet.ts';
import type { RegistryClient, Right } from '../registry/client.ts';
import type { HomeNews } from './core.ts';
import type { Getting } from './getting.ts';
import { lengthOf, type PieceAsk } from './piece-request.ts';
import type { HeldPiece, Pieces } from './pieces.ts';
import type { Proofs } from './proofs.ts';
import { Turns } from './turns.ts';

/** Bytes, and a function that says that they are on their way; or why there are none. */
export type Given = ({ piece: HeldPiece; done: () => void } & { answer?: never }) | { answer: PieceAnswer };

export interface GivingOptions {
  self: string;
  toHome: (news: HomeNews) => void;
  /** Says it to the asker: a member, or this one. */
  answer: (to: string, source: BlobSource, answer: PieceAnswer) => void;
  onLiar: (member: string, key: string, isSure: boolean) => void;
  registry: Pick<RegistryClient, 'part' | 'isBlobGiven'>;
  getting: Pick<Getting, 'get' | 'leave'>;
  pieces: Pieces;
  proofs: Pick<Proofs, 'ask' | 'shown'>;
  /** ms. */
  now: () => number;
  counts: Counts;
  log: Logger;
}

/** Pieces from other members, to keep them for others, at a time. */
const VISITS = 16;
/** Requests to registries at a time; each holds a piece in memory. Those that wait are flights of the home, which are bounded. */
const FETCHES = 16;
const MOST_WAITING = 1_024;
const FETCH_MS = 60_000;
const CHECK_MS = 5_000;
/** A registry that did not answer about rights is not asked again for so long, ms: behind mirrors alone it never does. */
const SILENT_MS = 30_000;

interface Request {
  from: string;
  asked: PieceAsk;
  resolve: (given: Given) => void;
}

export class Giving {
  readonly #options: GivingOptions;
  readonly #requests = new Map<number, Request>();
  readonly #turns = new Turns(FETCHES, MOST_WAITING);
  readonly #visits = new Turns(VISITS, MOST_WAITING);
  /** Registries that did not answer, and until when they are not asked. */
  readonly #silent = new Map<string, number>();
  /** Fetches that wait for their turn, by flight: what has a reader's come first. No more than may wait. */
  readonly #promotions = new Map<number, () => void>();
  #number = 0;

  constructor(options: GivingOptions) {
    this.#options = options;
  }

  /** A member, or this one, comes for a piece. It resolves when the home has decided. */
  async give(from: string, asked: PieceAsk, signal: AbortSignal): Promise<Given> {
    const { toHome } = this.#options;
    const request = ++this.#number;
    const given = Promise.withResolvers<Given>();
    this.#requests.set(request, { from, asked, resolve: given.resolve });
    const leave = () => {
      if (this.#requests.delete(request)) toHome({ type: 'aborted', request });
      given.reject(signal.reason);
    };
    signal.addEventListener('abort', leave, { once: true });
    const { token, ...question } = asked;
    const { noToken, proof, ...what } = question;
    if (proof !== undefined) this.#options.proofs.shown(from, asked.source, proof);
    // An asker without a token is told to bring one, or to prove that the registry gives it the blob.
    toHome({ type: 'get', request, from, ...what, token: !noToken, hasToken: token !== undefined });
    try {
      return await given.promise;
    } finally {
      signal.removeEventListener('abort', leave);
    }
  }

  run(effect: HomeEffect): void {
    const { answer, onLiar, pieces } = this.#options;
    switch (effect.type) {
      case 'answer':
      case 'tell':
        if (effect.answer.state === 'prove') return void this.#challenge(effect);
        return answer(effect.to, effect.source, effect.answer);
      case 'reply':
        if (effect.answer.state === 'prove') return void this.#challengeReply(effect);
        return this.#end(effect.request)?.resolve({ answer: effect.answer });
      case 'send':
        return void this.#send(effect.request);
      case 'fetch':
        return void (effect.by === 'member' ? this.#ofMember(effect) : this.#ofRegistry(effect));
      case 'promote':
        return this.#promotions.get(effect.flight)?.();
      case 'check':
        return void this.#check(effect);
      case 'drop':
        return effect.isCompared ? pieces.drop(effect.key) : pieces.forget(effect.key);
      case 'blame':
        onLiar(effect.member, effect.key, effect.isSure);
    }
  }

  async #challenge({
    to,
    source,
    answer: { index },
  }: Extract<HomeEffect, { type: 'answer' | 'tell' }>): Promise<void> {
    const { proofs, answer } = this.#options;
    answer(to, source, await proofs.ask(to, source, index));
  }

  async #challengeReply({ request, answer }: Extract<HomeEffect, { type: 'reply' }>): Promise<void> {
    const known = this.#requests.get(request);
    if (known === undefined) return;
    const said = await this.#options.proofs.ask(known.from, known.asked.source, answer.index);
    this.#end(request)?.resolve({ answer: said });
  }

  #end(request: number): Request | undefined {
    const known = this.#requests.get(request);
    this.#requests.delete(request);
    return known;
  }

  async #send(request: number): Promise<void> {
    const { toHome, pieces } = this.#options;
    const done = () => toHome({ type: 'sent', request });
    const known = this.#requests.get(request);
    if (known === undefined) return done();
    const { source, index } = known.asked;
    const key = pieceKey(source, index);
    const piece = await pieces.read(key, lengthOf(known.asked)).catch(() => undefined);
    // The asker may have left meanwhile.
    const waiting = this.#end(request);
    if (piece !== undefined && waiting !== undefined) return waiting.resolve({ piece, done });
    done();
    if (piece !== undefined) return;
    toHome({ type: 'lost', key });
    waiting?.resolve({ answer: { index, state: 'none' } });
  }

  async #ofMember(effect: Extract<HomeEffect, { type: 'fetch' }> & { by: 'member' }): Promise<void> {
    const { toHome, getting, pieces, self } = this.#options;
    const { flight, key, source, index, class: urgency, member, cell } = effect;
    const bring = async () => {
      if (member === self) return undefined;
      const turn = await this.#turn(this.#visits, flight, urgency);
      // A question that is under way is not asked again when a reader comes to wait for the piece: to take it back would end its
      // connection and throw away what has come, and to ask a second time may bring the bytes twice. It waits there for one of six
      // others at the most, and the home waits for a fetch that a reader depends on no longer than `joinedMs`.
      const question = { source, index, class: turn.class, token: undefined, noToken: false, tried: [] };
      const asked = { ...question, forHome: true, cell };
      return await getting.get(member, asked, () => {}).finally(turn.release);
    };
    const got = await bring().catch(() => undefined);
    if (got !== undefined && 'bytes' in got) pieces.keep(key, { bytes: got.bytes, from: member });
    const said = got === undefined || 'bytes' in got ? undefined : got.answer;
    toHome({
      type: 'fetched',
      flight,
      key,
      ok: got !== undefined && 'bytes' in got,
      ...(said?.at === undefined ? {} : { at: said.at }),
      ...(said?.state === 'busy' ? { busyMs: said.ms ?? 0 } : {}),
    });
  }

  async #ofRegistry(
    effect: Extract<HomeEffect, { type: 'fetch' }> & { by: 'everyone' | 'request' },
  ): Promise<void> {
    const { toHome, registry, pieces, counts, log } = this.#options;
    const { flight, key, source, index, class: urgency } = effect;
    const right = effect.by === 'everyone' ? 'everyone' : this.#rightOf(effect.request);
    if (right === undefined) return toHome({ type: 'fetched', flight, key, ok: false });
    try {
      const { release } = await this.#turn(this.#turns, flight, urgency);
      try {
        const range = bytesOfPiece(index, source.size);
        const bytes = await registry.part(source, source, range, right, AbortSignal.timeout(FETCH_MS));
        counts.add('fleet_origin_bytes_total', bytes.length);
        const differs = await pieces.differs(key, bytes);
        pieces.keep(key, { bytes, from: 'registry' });
        toHome({ type: 'fetched', flight, key, ok: true, differs });
      } finally {
        release();
      }
    } catch (error) {
      const { code, ...record } = toErrorRecord(error);
      log.debug({ digest: source.digest, index, error: { code, ...record } }, 'a piece was not fetched');
      toHome({ type: 'fetched', flight, key, ok: false, refused: REFUSALS.has(code) });
    }
  }

  /** Resolves when the fetch may begin: for a reader by then, where it was promoted while it waited. */
  async #turn(
    turns: Turns,
    flight: number,
    urgency: JobClass,
  ): Promise<{ class: JobClass; release: () => void }> {
    const turn = turns.ask(urgency);
    let by = urgency;
    const promote = () => {
      by = 'demand';
      turn.promote();
    };
    this.#promotions.set(flight, promote);
    try {
      const release = await turn.begun;
      return { class: by, release };
    } finally {
      if (this.#promotions.get(flight) === promote) this.#promotions.delete(flight);
    }
  }

  #rightOf(request: number): Right | undefined {
    const token = this.#requests.get(request)?.asked.token;
    return token === undefined ? undefined : { token };
  }

  async #check({ source, request, from }: Extract<HomeEffect, { type: 'check' }>): Promise<void> {
    const { toHome, registry, now, log } = this.#options;
    const right = request === undefined ? 'everyone' : this.#rightOf(request);
    let may: boolean | undefined;
    if (right !== undefined && (this.#silent.get(source.registry) ?? 0) <= now())
      try {
        may = await registry.isBlobGiven(source, source.digest, right, AbortSignal.timeout(CHECK_MS));
      } catch (error) {
        log.debug({ registry: source.registry, error: toErrorRecord(error) }, 'a right was not checked');
        this.#silent.set(source.registry, now() + SILENT_MS);
        if (this.#silent.size > 1_024) this.#silent.delete(this.#silent.keys().next().value as string);
      }
    toHome({ type: 'checked', source, may, ...(from === undefined ? {} : { from }) });
  }
}

/** The registry answers, and does not give it. */
const REFUSALS: ReadonlySet<string> = new Set(['unauthorized', 'not-found']);
