/**
 * How a piece is asked for, by a member on TLS and by a process of the same node on a unix socket:
 *
 *     GET /v1/piece/<digest>/<index>      headers: PIECE_HEADERS, and Range for a part of the piece
 *     ← 200 or 206, with bytes            else a status of PIECE_STATUS, with a sentence
 */
import type { IncomingMessage } from 'node:http';
import { blobSource } from '../../schemas/check-fetch.ts';
import type { BlobSource, JobClass } from '../../schemas/fetch.ts';
import { bytesOfPiece, PIECE_BYTES, PIECE_HEADERS, type Piece, piecesIn } from '../../schemas/fleet.ts';

export interface PieceOrder {
  source: BlobSource;
  index: number;
  /** Of the piece, `[from, to)`. */
  from: number;
  to: number;
  class: JobClass;
  /** As it stands behind `Bearer`. For this order alone. */
  token: string | undefined;
}

export const pieceOf = ({ source, index }: Pick<PieceOrder, 'source' | 'index'>): Piece => ({
  digest: source.digest,
  index,
});

/** Bytes of the piece. */
export function lengthOf({ source, index }: Pick<PieceOrder, 'source' | 'index'>): number {
  const [from, to] = bytesOfPiece(index, source.size);
  return to - from;
}

const PATH = /^\/v1\/piece\/(sha256:[0-9a-f]{64})\/(0|[1-9]\d{0,6})$/;
const RANGE = /^bytes=(\d{1,7})-(\d{1,7})$/;
/** RFC 6750, 2.1; a token of a registry has some 1 to 3 KB. */
const TOKEN = /^[\x21-\x7e]{1,8192}$/;
/** Compressed bytes of a blob: 1 TiB. */
const MAX_BLOB = 2 ** 40;
/** Bytes of a path component of an address at the registry: no `..`, no query. */
const REPOSITORY = /^[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:\/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*$/;
const REGISTRY = /^(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?$/;

/** Undefined where the request is none. */
export function readOrder({ url = '', headers }: IncomingMessage): PieceOrder | undefined {
  const [, digest, text] = PATH.exec(url) ?? [];
  if (digest === undefined || text === undefined) return undefined;
  const header = (name: string) => {
    const value = headers[name];
    return typeof value === 'string' ? value : '';
  };
  const size = Number(header(PIECE_HEADERS.size));
  const source = {
    registry: header(PIECE_HEADERS.registry),
    repository: header(PIECE_HEADERS.repository),
    digest,
    size,
  };
  const index = Number(text);
  if (!blobSource(source) || size < 1 || size > MAX_BLOB || index >= piecesIn(size)) return undefined;
  if (!REGISTRY.test(source.registry) || !REPOSITORY.test(source.repository)) return undefined;
  const range = part(headers.range, lengthOf({ source, index }));
  const urgency = header(PIECE_HEADERS.class);
  if (range === undefined || (urgency !== 'demand' && urgency !== 'prefetch')) return undefined;
  const token = headers[PIECE_HEADERS.token];
  if (token !== undefined && (typeof token !== 'string' || !TOKEN.test(token))) return undefined;
  return { source, index, ...range, class: urgency, token };
}

function part(range: string | undefined, length: number): { from: number; to: number } | undefined {
  if (range === undefined) return { from: 0, to: length };
  const [, first, last] = RANGE.exec(range) ?? [];
  const [from, to] = [Number(first), Number(last) + 1];
  return from < to && to <= length && to <= PIECE_BYTES ? { from, to } : undefined;
}

/** The order as a request to a member. */
export function asRequest(order: PieceOrder, via: string | undefined) {
  const { source, index, from, to, class: urgency, token } = order;
  return {
    path: `/v1/piece/${source.digest}/${index}`,
    method: 'GET' as const,
    headers: {
      [PIECE_HEADERS.registry]: source.registry,
      [PIECE_HEADERS.repository]: source.repository,
      [PIECE_HEADERS.size]: String(source.size),
      [PIECE_HEADERS.class]: urgency,
      range: `bytes=${from}-${to - 1}`,
      ...(token === undefined ? {} : { [PIECE_HEADERS.token]: token }),
      ...(via === undefined ? {} : { [VIA]: via }),
    },
  };
}

/** A home asks another home: which asks none further. */
export const VIA = 'x-cofa-via';
