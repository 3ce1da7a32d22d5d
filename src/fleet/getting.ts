/** Whole pieces from one member: a request on a connection to it. How it behaves is told to the peers (actors/fleet-peers.ts). */
import type { Peers } from '../../actors/fleet-peers.ts';
import { pieceKey } from '../../actors/fleet-home-protocol.ts';
import { isPieceAnswer } from '../../schemas/check-fleet.ts';
import { FLEET_TOKEN, PIECE_HEADERS, type PieceAnswer } from '../../schemas/fleet.ts';
import { asRequest, lengthOf, type PieceAsk } from './piece-request.ts';
import type { Pools } from './pools.ts';

export type Got = { bytes: Buffer } | { answer: PieceAnswer };

export interface GettingOptions {
  pools: Pick<Pools, 'to'>;
  peers: Pick<Peers, 'silent'>;
  /** ms. */
  now: () => number;
}

/** In all, ms: the actors give up long before, or see that bytes go on coming. */
const GET_MS = 60_000;
/** Bytes of what is said instead of a piece. */
const MAX_ANSWER = 4_096;
/** Pieces of which it is known where a member had them from. */
const MOST_VIA = 4_096;

export class Getting {
  readonly #options: GettingOptions;
  readonly #running = new Map<string, AbortController>();
  /** By member and piece, oldest first: where it said that it had it from. */
  readonly #via = new Map<string, string>();

  constructor(options: GettingOptions) {
    this.#options = options;
  }

  /** `moves` is called when bytes come. Errors: those of the connection, of one that breaks off or sends what is no answer. */
  async get(member: string, asked: PieceAsk, moves: () => void): Promise<Got> {
    const { pools, peers, now } = this.#options;
    const id = idOf(member, asked);
    const stop = new AbortController();
    if (!asked.forHome) this.#running.set(id, stop);
    try {
      const signal = AbortSignal.any([stop.signal, AbortSignal.timeout(GET_MS)]);
      const { statusCode, headers, body } = await pools.to(member).request({ ...asRequest(asked), signal });
      const wanted = statusCode === 200 ? lengthOf(asked) : MAX_ANSWER;
      const bytes = Buffer.allocUnsafe(wanted);
      let at = 0;
      for await (const chunk of body as AsyncIterable<Buffer>) {
        if (at + chunk.length > wanted) throw new Error(`${member} sends more than was asked for`);
        chunk.copy(bytes, at);
        at += chunk.length;
        moves();
      }
      if (statusCode !== 200) return { answer: answerIn(member, bytes.subarray(0, at), asked.index) };
      if (at !== wanted) throw new Error(`${member} sends less than was asked for`);
      this.#note(id, member, headers[PIECE_HEADERS.from]);
      return { bytes };
    } catch (error) {
      // Of a home's fetch no one else hears.
      if (asked.forHome) peers.silent(member, now());
      throw error;
    } finally {
      if (this.#running.get(id) === stop) this.#running.delete(id);
    }
  }

  /** It need not go on. */
  leave(member: string, key: string): void {
    this.#running.get(`${member} ${key}`)?.abort(new Error('it is not wanted any more'));
  }

  /** From which other member this one said that it had a piece; undefined: it said nothing of that, or long ago. */
  viaOf(member: string, key: string): string | undefined {
    return this.#via.get(`${member} ${key}`);
  }

  #note(id: string, member: string, from: string | string[] | undefined): void {
    this.#via.delete(id);
    if (typeof from !== 'string' || !FLEET_TOKEN.test(from) || from === 'registry' || from === member) return;
    this.#via.set(id, from);
    if (this.#via.size > MOST_VIA) this.#via.delete(this.#via.keys().next().value as string);
  }
}

const idOf = (member: string, { source, index }: PieceAsk): string => `${member} ${pieceKey(source, index)}`;

function answerIn(member: string, bytes: Buffer, index: number): PieceAnswer {
  let said: unknown;
  try {
    said = JSON.parse(bytes.toString());
  } catch {
    // It is none then.
  }
  if (isPieceAnswer(said) && said.index === index && said.state !== 'have') return said;
  throw new Error(`${member} gives no bytes and does not say why`);
}
