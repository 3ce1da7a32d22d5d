/**
 * Answers other members over TLS. A client without a certificate that a member has announced gets 403, whatever it asks. So
 * many answers are under way at a time, demand before prefetch, and no more bytes a second than the operator allows.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Server } from 'node:https';
import type { Logger } from 'pino';
import type { Counts } from '../../actors/counts.ts';
import { isDigest } from '../../schemas/digest.ts';
import { type Member, PIECE_HEADERS, PIECE_STATUS, type Piece } from '../../schemas/fleet.ts';
import type { Home } from './home.ts';
import { lengthOf, readOrder, VIA } from './piece-request.ts';
import { Refusal } from './refusal.ts';
import { type Identity, makeServer, shownBy } from './tls.ts';
import { type Rate, Turns } from './turns.ts';

export interface PieceServerOptions {
  identity: Identity;
  home: Pick<Home, 'piece' | 'doubt'>;
  /** Which member has announced this certificate. */
  memberOf: (fingerprint: string) => Member | undefined;
  rate: Rate | undefined;
  counts: Counts;
  log: Logger;
}

/** Answers at a time, each of a piece in memory, and questions that wait for their turn. */
const AT_ONCE = 32;
const MOST_WAITING = 256;
const CONNECTIONS = 4_096;
const MAX_BODY = 1_024;

/** It listens on nothing yet. */
export function pieceServer(options: PieceServerOptions): Server {
  const turns = new Turns(AT_ONCE, MOST_WAITING);
  const server = makeServer(options.identity, (request, response) => {
    answer(request, response, options, turns).catch((error: unknown) => {
      if (error instanceof Refusal) refuse(response, PIECE_STATUS[error.state], error.message);
      else {
        options.log.warn({ error }, 'a member got no answer');
        refuse(response, 500, 'it failed');
      }
    });
  });
  server.maxConnections = CONNECTIONS;
  return server;
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  { home, memberOf, rate, counts }: PieceServerOptions,
  turns: Turns,
): Promise<void> {
  response.on('error', () => {});
  const fingerprint = shownBy(request.socket);
  const member = fingerprint === undefined ? undefined : memberOf(fingerprint);
  if (member === undefined) {
    counts.add('fleet_refused_strangers_total');
    return refuse(response, 403, 'only members of the fleet are answered');
  }
  if (request.url === '/v1/here') return refuse(response, 204, '');
  if (request.url === '/v1/wrong' && request.method === 'POST') {
    const piece = pieceIn(await bodyOf(request));
    if (piece === undefined) return refuse(response, 400, 'which piece?');
    await home.doubt(piece);
    return refuse(response, 204, '');
  }
  const order = request.method === 'GET' ? readOrder(request) : undefined;
  if (order === undefined) return refuse(response, 400, 'this asks for no piece');
  const gone = new AbortController();
  response.on('close', () => gone.abort(new Error('the member has left')));
  const release = await turns.take(order.class, gone.signal).catch((error: unknown) => {
    throw new Refusal('busy', (error as Error).message);
  });
  try {
    const { bytes, via } = await home.piece(order, member.id, request.headers[VIA] !== undefined);
    const part = bytes.subarray(order.from, order.to);
    await rate?.spend(part.length);
    if (gone.signal.aborted) return;
    const isWhole = part.length === lengthOf(order);
    response.writeHead(isWhole ? 200 : 206, {
      'content-length': part.length,
      'content-type': 'application/octet-stream',
      [PIECE_HEADERS.from]: via ?? 'registry',
    });
    counts.add('fleet_sent_bytes_total', part.length);
    // The turn lasts until the bytes are on their way: this bounds what waits in memory.
    await new Promise<void>((done) => {
      response.on('close', done);
      response.end(part, done);
    });
  } finally {
    release();
  }
}

export function refuse(response: ServerResponse, status: number, message: string): void {
  if (response.headersSent || response.destroyed) {
    response.destroy();
    return;
  }
  response.writeHead(status, status === 204 ? {} : { 'content-type': 'text/plain; charset=utf-8' });
  response.end(message);
}

/** At most `MAX_BODY` bytes; of a longer one nothing. */
export async function bodyOf(request: IncomingMessage): Promise<string> {
  let text = '';
  for await (const chunk of request.setEncoding('utf8') as AsyncIterable<string>) {
    text += chunk;
    if (text.length > MAX_BODY) return '';
  }
  return text;
}

/** `{"digest":…,"index":…}` */
export function pieceIn(text: string): Piece | undefined {
  try {
    const { digest, index } = JSON.parse(text) as Record<string, unknown>;
    return isDigest(digest) && Number.isSafeInteger(index) && (index as number) >= 0
      ? { digest, index: index as number }
      : undefined;
  } catch {
    return undefined;
  }
}
