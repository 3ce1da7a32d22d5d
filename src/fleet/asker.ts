/**
 * Asks the homes of a piece for it, for this node's own processes and for this member as a home: the first home, and when
 * it does not answer in the time that it mostly takes, the next one as well. The first bytes that come count.
 */
import type { Counts } from '../../actors/counts.ts';
import type { Peers } from '../../actors/fleet-peers.ts';
import { type Member, PIECE_HEADERS } from '../../schemas/fleet.ts';
import type { Clock } from '../process/ports.ts';
import type { Pool } from '../registry/undici-parts.ts';
import type { Members } from './members.ts';
import { asRequest, type PieceOrder, pieceOf } from './piece-request.ts';
import { Refusal, stateOf } from './refusal.ts';
import { type Identity, poolTo } from './tls.ts';

export interface AskerOptions {
  self: string;
  identity: Identity;
  members: Pick<Members, 'homes' | 'find'>;
  peers: Peers;
  clock: Clock;
  counts: Counts;
  /** This member's own answer, where it is a home itself. */
  ownPiece: (order: PieceOrder) => Promise<Buffer>;
}

export interface Brought {
  bytes: Buffer;
  /** The member that gave it. */
  from: string;
}

/** In all, ms: a reader has the registry left when its homes do not answer. */
const ANSWER_MS = 10_000;
/** One that has enough to do is let alone for so long, ms. */
const BUSY_MS = 500;
/** Members that are asked for a piece at once, at most. */
const AT_ONCE = 2;
/** Pieces of which it is known that a member had them from another one. */
const MOST_VIA = 1_024;

export class Asker {
  readonly #options: AskerOptions;
  /** By member and piece, oldest first. */
  readonly #via = new Map<string, string>();
  /** By member. */
  readonly #pools = new Map<string, { member: Member; pool: InstanceType<typeof Pool> }>();

  constructor(options: AskerOptions) {
    this.#options = options;
  }

  /** The bytes `[from, to)` of a piece. Errors: Refusal (`bring`: come with a token), the signal's reason. */
  async piece(order: PieceOrder, signal: AbortSignal): Promise<Brought> {
    const { members, self, peers, clock } = this.#options;
    const now = clock.now();
    const candidates = members.homes(pieceOf(order)).filter((id) => id === self || peers.isAsked(id, now));
    const within = AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS)]);
    return await this.#firstOf(order, candidates, within);
  }

  /** The piece's first home; undefined where that is this member, or is left out. */
  firstHome(order: PieceOrder): string | undefined {
    const { members, self, peers, clock } = this.#options;
    const [first] = members.homes(pieceOf(order));
    return first === undefined || first === self || !peers.isAsked(first, clock.now()) ? undefined : first;
  }

  /** Bytes of a piece from this member, as a home that asks another one. Errors: Refusal, those of the connection. */
  async ofHome(id: string, order: PieceOrder): Promise<Buffer> {
    return await this.#of(id, order, this.#options.self, AbortSignal.timeout(ANSWER_MS));
  }

  /** From which other home a member said that it had a piece; undefined: it said nothing of that, or long ago. */
  viaOf(id: string, digest: string, index: number): string | undefined {
    return this.#via.get(`${id} ${digest}/${index}`);
  }

  /** Members are asked no more at the address that they had. */
  forget(id: string): void {
    const known = this.#pools.get(id);
    this.#pools.delete(id);
    void known?.pool.destroy().catch(() => {});
  }

  /** Opens a connection to a member and asks nothing. Errors: what keeps it from being reached. */
  async reach(id: string): Promise<void> {
    const { pool } = this.#poolOf(id);
    const { body } = await pool.request({ path: '/v1/here', method: 'GET', headersTimeout: 3_000 });
    await body.dump();
  }

  /** Tells a member that a piece which came from it was wrong. */
  async tellWrong(id: string, digest: string, index: number): Promise<void> {
    const { pool } = this.#poolOf(id);
    const { body } = await pool.request({
      path: '/v1/wrong',
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ digest, index }),
      headersTimeout: 3_000,
    });
    await body.dump();
  }

  close(): void {
    for (const id of this.#pools.keys()) this.forget(id);
  }

  async #firstOf(order: PieceOrder, candidates: readonly string[], signal: AbortSignal): Promise<Brought> {
    const { peers, clock, counts } = this.#options;
    if (candidates.length === 0) throw new Refusal('none', 'no member of the fleet is a home of this');
    const others = candidates.values();
    const stop = new AbortController();
    const within = AbortSignal.any([signal, stop.signal]);
    const { promise, resolve, reject } = Promise.withResolvers<Brought>();
    let running = 0;
    let refused: Refusal | undefined;
    let hedge: { cancel(): void } | undefined;
    const begin = () => {
      hedge?.cancel();
      const next = others.next();
      if (next.done === true) {
        if (running === 0) reject(refused ?? new Refusal('none', 'no home of this answers'));
        return;
      }
      const id = next.value;
      running += 1;
      if (running < AT_ONCE)
        hedge = clock.after(peers.hedgeMs, () => {
          if (!peers.takeHedge()) return;
          counts.add('fleet_hedges_total');
          begin();
        });
      this.#ofOne(id, order, within).then(
        (bytes) => resolve({ bytes, from: id }),
        (error: unknown) => {
          running -= 1;
          if (within.aborted) return reject(signal.aborted ? signal.reason : error);
          if (error instanceof Refusal) {
            // Another home would say the same: who may have it is the registry's to say.
            if (error.state === 'bring') return reject(error);
            refused = error;
          }
          begin();
        },
      );
    };
    begin();
    const leave = () => reject(signal.reason);
    signal.addEventListener('abort', leave, { once: true });
    try {
      return await promise;
    } finally {
      hedge?.cancel();
      signal.removeEventListener('abort', leave);
      stop.abort();
    }
  }

  async #ofOne(id: string, order: PieceOrder, signal: AbortSignal): Promise<Buffer> {
    if (id !== this.#options.self) return await this.#of(id, order, undefined, signal);
    return (await this.#options.ownPiece(order)).subarray(order.from, order.to);
  }

  /** Bytes of a piece from one member. Errors: Refusal, those of the connection. */
  async #of(id: string, order: PieceOrder, via: string | undefined, signal: AbortSignal): Promise<Buffer> {
    const { peers, clock } = this.#options;
    const begun = clock.now();
    try {
      const { pool } = this.#poolOf(id);
      const { statusCode, headers, body } = await pool.request({ ...asRequest(order, via), signal });
      if (statusCode !== 200 && statusCode !== 206) {
        const text = (await body.text()).slice(0, 300);
        throw new Refusal(stateOf(statusCode), `${id}: ${text}`);
      }
      const wanted = order.to - order.from;
      const bytes = Buffer.allocUnsafe(wanted);
      let at = 0;
      for await (const chunk of body as AsyncIterable<Buffer>) {
        if (at + chunk.length > wanted) throw new Error(`${id} sends more than was asked for`);
        chunk.copy(bytes, at);
        at += chunk.length;
      }
      if (at !== wanted) throw new Error(`${id} sends less than was asked for`);
      peers.came(id, clock.now() - begun);
      this.#noteVia(id, order, headers[PIECE_HEADERS.from]);
      return bytes;
    } catch (error) {
      if (error instanceof Refusal) {
        // It answered, though it gave nothing; one that has enough to do is let alone for a moment.
        if (error.state === 'busy') peers.busy(id, BUSY_MS, clock.now());
      } else if (!signal.aborted) peers.silent(id, clock.now());
      throw error;
    }
  }

  #noteVia(id: string, { source, index }: PieceOrder, from: string | string[] | undefined): void {
    const key = `${id} ${source.digest}/${index}`;
    this.#via.delete(key);
    if (typeof from !== 'string' || from === 'registry' || from === id) return;
    this.#via.set(key, from);
    if (this.#via.size > MOST_VIA) this.#via.delete(this.#via.keys().next().value as string);
  }

  /** Error: Refusal where no member of this name is known. */
  #poolOf(id: string) {
    const member = this.#options.members.find(id);
    if (member === undefined) throw new Refusal('none', `${id} is no member of the fleet`);
    let known = this.#pools.get(id);
    if (
      known !== undefined &&
      (known.member.fingerprint !== member.fingerprint || known.member.address !== member.address)
    ) {
      this.forget(id);
      known = undefined;
    }
    if (known === undefined) {
      known = { member, pool: poolTo(member, this.#options.identity) };
      this.#pools.set(id, known);
    }
    return known;
  }
}
