/**
 * How a piece is asked for, by a member on TLS and by a process of the same node on a unix socket:
 *
 *     GET /v1/piece/<digest>/<index>      headers: PIECE_HEADERS, and from a process Range for a part of the piece
 *     ← 200 or 206, with bytes            else a status of PIECE_STATUS, with a PieceAnswer
 */
import type { IncomingMessage } from 'node:http';
import { isFleetBlob, isFleetCell, isFleetProof } from '../../schemas/check-fleet.ts';
import type { BlobSource, JobClass } from '../../schemas/fetch.ts';
import {
  bytesOfPiece,
  FLEET_TOKEN,
  type FleetProof,
  MAX_TRIED,
  PIECE_BYTES,
  PIECE_HEADERS,
  piecesIn,
} from '../../schemas/fleet.ts';

/** Of a member: the whole piece. */
export interface PieceAsk {
  source: BlobSource;
  index: number;
  class: JobClass;
  /** As it stands behind `Bearer`. For this order alone. */
  token: string | undefined;
  /** It has none, nor could have one. */
  noToken: boolean;
  /** To the challenge that it was sent. */
  proof?: FleetProof | undefined;
  /** Members that did not bring it. */
  tried: readonly string[];
  /** A home of the piece wants it, to keep it for others. */
  forHome: boolean;
  /** Of a large zone: the cell whose home is asked, or wants it. */
  cell?: number | undefined;
}

/** Of a process of this node: a part of the piece, `[from, to)`. */
export interface PieceOrder extends Pick<PieceAsk, 'source' | 'index' | 'class' | 'token' | 'noToken'> {
  from: number;
  to: number;
}

/** Bytes of the piece. */
export function lengthOf({ source, index }: Pick<PieceOrder, 'source' | 'index'>): number {
  const [from, to] = bytesOfPiece(index, source.size);
  return to - from;
}

const PATH = /^\/v1\/piece\/(sha256:[0-9a-f]{64})\/(0|[1-9]\d{0,6})$/;
const CELL = /^(?:0|[1-9]\d{0,3})$/;
const RANGE = /^bytes=(\d{1,7})-(\d{1,7})$/;
/** RFC 6750, 2.1; a token of a registry has some 1 to 3 KB. */
const TOKEN = /^[\x21-\x7e]{1,8192}$/;

/** Undefined where the request is none. */
export function readOrder(request: Pick<IncomingMessage, 'url' | 'headers'>): PieceOrder | undefined {
  const asked = readAsk(request);
  const range = asked === undefined ? undefined : part(request.headers.range, lengthOf(asked));
  if (asked === undefined || range === undefined) return undefined;
  const { source, index, class: urgency, token, noToken } = asked;
  return { source, index, class: urgency, token, noToken, ...range };
}

/** Undefined where the request is none. */
export function readAsk({
  url = '',
  headers,
}: Pick<IncomingMessage, 'url' | 'headers'>): PieceAsk | undefined {
  const [, digest, text] = PATH.exec(url) ?? [];
  if (digest === undefined || text === undefined) return undefined;
  const header = (name: string) => {
    const value = headers[name];
    return typeof value === 'string' ? value : '';
  };
  const source = {
    registry: header(PIECE_HEADERS.registry),
    repository: header(PIECE_HEADERS.repository),
    digest,
    size: Number(header(PIECE_HEADERS.size)),
  };
  const index = Number(text);
  if (!isFleetBlob(source) || index >= piecesIn(source.size)) return undefined;
  const urgency = header(PIECE_HEADERS.class);
  if (urgency !== 'demand' && urgency !== 'prefetch') return undefined;
  const token = headers[PIECE_HEADERS.token];
  if (token !== undefined && (typeof token !== 'string' || !TOKEN.test(token))) return undefined;
  const list = header(PIECE_HEADERS.tried);
  const tried = list === '' ? [] : list.split(',');
  if (tried.length > MAX_TRIED || !tried.every((one) => FLEET_TOKEN.test(one))) return undefined;
  const forHome = header(PIECE_HEADERS.forHome) === '1';
  const ofCell = header(PIECE_HEADERS.cell);
  const cell = CELL.test(ofCell) ? Number(ofCell) : undefined;
  if (ofCell !== '' && !isFleetCell(cell)) return undefined;
  const noToken = token === undefined && header(PIECE_HEADERS.noToken) === '1';
  const shown = header(PIECE_HEADERS.proof);
  const [nonce, hash] = shown.split(' ');
  const proof = { nonce, hash };
  if (shown !== '' && !isFleetProof(proof)) return undefined;
  return {
    source,
    index,
    class: urgency,
    token,
    noToken,
    ...(isFleetProof(proof) ? { proof } : {}),
    tried,
    forHome,
    ...(cell === undefined ? {} : { cell }),
  };
}

function part(range: string | undefined, length: number): { from: number; to: number } | undefined {
  if (range === undefined) return { from: 0, to: length };
  const [, first, last] = RANGE.exec(range) ?? [];
  const [from, to] = [Number(first), Number(last) + 1];
  return from < to && to <= length && to <= PIECE_BYTES ? { from, to } : undefined;
}

/** What is asked as a request to a member. */
export function asRequest({
  source,
  index,
  class: urgency,
  token,
  noToken,
  proof,
  tried,
  forHome,
  cell,
}: PieceAsk) {
  return {
    path: `/v1/piece/${source.digest}/${index}`,
    method: 'GET' as const,
    headers: {
      [PIECE_HEADERS.registry]: source.registry,
      [PIECE_HEADERS.repository]: source.repository,
      [PIECE_HEADERS.size]: String(source.size),
      [PIECE_HEADERS.class]: urgency,
      ...(token === undefined ? {} : { [PIECE_HEADERS.token]: token }),
      ...(noToken ? { [PIECE_HEADERS.noToken]: '1' } : {}),
      ...(proof === undefined ? {} : { [PIECE_HEADERS.proof]: `${proof.nonce} ${proof.hash}` }),
      ...(tried.length === 0 ? {} : { [PIECE_HEADERS.tried]: tried.join() }),
      ...(forHome ? { [PIECE_HEADERS.forHome]: '1' } : {}),
      ...(cell === undefined ? {} : { [PIECE_HEADERS.cell]: String(cell) }),
    },
  };
}
