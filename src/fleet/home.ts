/**
 * A member as the home of pieces: it gives what it holds, and fetches what it lacks, once, for all who ask meanwhile.
 *
 *     rights ─▶ on the disk? ─▶ under way? ─▶ the first home ─▶ the registry ─▶ kept
 *
 * The second home of a piece asks the first one, so that a zone asks the registry once. A home that is asked by a home asks
 * none further.
 */
import type { Logger } from 'pino';
import type { Counts } from '../../actors/counts.ts';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import { bytesOfPiece, type Piece } from '../../schemas/fleet.ts';
import type { RegistryClient, Right } from '../registry/client.ts';
import type { PieceStore } from './piece-store.ts';
import { lengthOf, type PieceOrder, pieceOf } from './piece-request.ts';
import { Refusal } from './refusal.ts';
import type { Rights } from './rights.ts';
import { Turns } from './turns.ts';

export interface HomePiece {
  bytes: Buffer;
  /** The home that gave it to this one; undefined: the registry did. */
  via: string | undefined;
}

export interface HomeOptions {
  registry: Pick<RegistryClient, 'part'>;
  rights: Rights;
  store: PieceStore;
  /** The piece's first home; undefined where that is this member, or one that is not asked at present. */
  firstHome: (order: PieceOrder) => string | undefined;
  /** Asks a home for all of a piece. */
  ask: (home: string, order: PieceOrder) => Promise<Buffer>;
  /** ms. */
  now: () => number;
  counts: Counts;
  log: Logger;
}

/** Requests to registries at a time, and those that wait. Each holds a piece in memory. */
const FETCHES = 16;
const MOST_WAITING = 256;
const FETCH_MS = 60_000;
/** A home from which a piece came that an asker calls wrong is not asked by this one for so long, ms. */
const SUSPECT_MS = 600_000;
/** Pieces of which it is known that another home gave them. */
const MOST_VIA = 10_000;

export class Home {
  readonly #options: HomeOptions;
  readonly #turns = new Turns(FETCHES, MOST_WAITING);
  readonly #flights = new Map<string, Promise<HomePiece>>();
  /** By piece, oldest first: the home that gave it. */
  readonly #via = new Map<string, string>();
  /** Homes that may have given wrong bytes: until when. */
  readonly #suspects = new Map<string, number>();

  constructor(options: HomeOptions) {
    this.#options = options;
  }

  /**
   * The whole piece, for this member. `isLast`: another home asks. Errors: Refusal.
   */
  async piece(order: PieceOrder, member: string, isLast: boolean): Promise<HomePiece> {
    const { rights, store } = this.#options;
    const right = await rights.of(order.source, member, order.token);
    const key = `${order.source.digest}/${order.index}`;
    const others = this.#flights.get(key);
    // What comes with another member's token may fail by that token.
    const shared = await others?.catch(() => undefined);
    if (shared !== undefined) return shared;
    const kept = await store.read(pieceOf(order), lengthOf(order));
    if (kept !== undefined) return { bytes: kept, via: this.#via.get(key) };
    let flight = this.#flights.get(key);
    if (flight === undefined) {
      flight = this.#bring(order, right, isLast);
      this.#flights.set(key, flight);
      // Until it is on the disk the flight has it: an asker in between would have it fetched again.
      void flight
        .then((piece) => this.#keep(order, piece))
        .catch(() => {})
        .finally(() => this.#flights.delete(key));
    }
    return await flight;
  }

  /**
   * An asker says that the bytes of a piece from here were wrong. The registry is asked for it the next time: what the asker says
   * proves nothing of the home that gave it to this one, and costs that one no more than this.
   */
  async doubt(piece: Piece): Promise<void> {
    const key = `${piece.digest}/${piece.index}`;
    const via = this.#via.get(key);
    this.#via.delete(key);
    if (via !== undefined) this.#suspects.set(via, this.#options.now() + SUSPECT_MS);
    await this.#options.store.forget(piece);
  }

  /** The home that gave this one a piece. */
  viaOf({ digest, index }: Piece): string | undefined {
    return this.#via.get(`${digest}/${index}`);
  }

  async #bring(order: PieceOrder, right: Right, isLast: boolean): Promise<HomePiece> {
    return (isLast ? undefined : await this.#ofFirstHome(order)) ?? (await this.#fetch(order, right));
  }

  async #keep(order: PieceOrder, { bytes, via }: HomePiece): Promise<void> {
    const { store, log } = this.#options;
    const key = `${order.source.digest}/${order.index}`;
    this.#via.delete(key);
    if (via !== undefined) this.#via.set(key, via);
    if (this.#via.size > MOST_VIA) this.#via.delete(this.#via.keys().next().value as string);
    await store.write(pieceOf(order), bytes).catch((error: unknown) => {
      log.debug({ error: toErrorRecord(error) }, 'a piece is not kept');
    });
  }

  async #ofFirstHome(order: PieceOrder): Promise<HomePiece | undefined> {
    const { firstHome, ask, now } = this.#options;
    const home = firstHome(order);
    if (home === undefined || (this.#suspects.get(home) ?? 0) > now()) return undefined;
    try {
      return { bytes: await ask(home, { ...order, from: 0, to: lengthOf(order) }), via: home };
    } catch {
      // It is away, or has no right to give: the registry decides.
      return undefined;
    }
  }

  async #fetch(order: PieceOrder, right: Right): Promise<HomePiece> {
    const { registry, counts } = this.#options;
    const { source, index } = order;
    const range = bytesOfPiece(index, source.size);
    const release = await this.#turns.take(order.class).catch((error: unknown) => {
      throw new Refusal('busy', (error as Error).message);
    });
    try {
      const bytes = await registry.part(source, source, range, right, AbortSignal.timeout(FETCH_MS));
      counts.add('fleet_origin_bytes_total', bytes.length);
      return { bytes, via: undefined };
    } catch (error) {
      if (error instanceof CofaError) throw new Refusal('none', error.message);
      throw error;
    } finally {
      release();
    }
  }
}
