/**
 * Answers other members over TLS. A client without a certificate that a member has announced gets 403, whatever it asks. Who gets
 * what, and when, the home decides (giving.ts); here it is sent, at no more bytes a second than the operator allows.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Server } from 'node:https';
import type { Logger } from 'pino';
import type { Counts } from '../../actors/counts.ts';
import { type Member, PIECE_HEADERS, PIECE_STATUS, type PieceAnswer } from '../../schemas/fleet.ts';
import type { Giving } from './giving.ts';
import { MAX_MESSAGE, type Messages } from './messages.ts';
import { readAsk } from './piece-request.ts';
import { type Identity, makeServer, shownBy } from './tls.ts';
import type { Rate } from './turns.ts';

export interface PieceServerOptions {
  identity: Identity;
  give: Giving['give'];
  messages: Pick<Messages, 'takeDirect'>;
  /** Which member has announced this certificate. */
  memberOf: (fingerprint: string) => Member | undefined;
  rate: Rate | undefined;
  /** A member that takes nothing of a piece for so long gets no more of it, ms. */
  stallMs?: number;
  counts: Counts;
  log: Logger;
}

const CONNECTIONS = 4_096;
/** A member gives up one that sends nothing long before. */
const STALL_MS = 10_000;
/** With a limit bytes go out in so many at a time: the asker sees that they come. Without, in four times as many: Node sees that they are taken. */
const SHARE_BYTES = 64 << 10;

/** It listens on nothing yet. */
export function pieceServer(options: PieceServerOptions): Server {
  const server = makeServer(options.identity, (request, response) => {
    answer(request, response, options).catch((error: unknown) => {
      options.log.warn({ error }, 'a member got no answer');
      refuse(response, 500, 'it failed');
    });
  });
  server.maxConnections = CONNECTIONS;
  return server;
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  options: PieceServerOptions,
): Promise<void> {
  const { memberOf, messages, counts } = options;
  response.on('error', () => {});
  const fingerprint = shownBy(request.socket);
  const member = fingerprint === undefined ? undefined : memberOf(fingerprint);
  if (member === undefined) {
    counts.add('fleet_refused_strangers_total');
    return refuse(response, 403, 'only members of the fleet are answered');
  }
  const { url = '', method } = request;
  if (url === '/v1/here') return refuse(response, 204, '');
  if (url.startsWith('/v1/say/') && method === 'POST') {
    const body = await bodyOf(request, MAX_MESSAGE);
    const isOne = body !== undefined && messages.takeDirect(url.slice('/v1/say/'.length), member.id, body);
    return refuse(response, isOne ? 204 : 400, '');
  }
  const asked = method === 'GET' ? readAsk(request) : undefined;
  if (asked === undefined) return refuse(response, 400, 'this asks for no piece');
  const gone = new AbortController();
  response.on('close', () => gone.abort(new Error('the member has left')));
  const given = await options.give(member.id, asked, gone.signal).catch((error: unknown) => {
    if (gone.signal.aborted) return undefined;
    throw error;
  });
  if (given === undefined) return;
  if (given.answer !== undefined) return say(response, given.answer);
  try {
    await send(response, given.piece.bytes, given.piece.from, options);
  } finally {
    given.done();
  }
}

/** Resolves when the bytes are on their way: until then the piece is in memory, and counts as an upload. */
async function send(
  response: ServerResponse,
  bytes: Buffer,
  from: string,
  { rate, stallMs = STALL_MS, counts }: PieceServerOptions,
): Promise<void> {
  if (response.destroyed) return;
  // Its machine may be gone without a word: TCP alone would hold the slot for a quarter of an hour. Node ends the connection.
  response.setTimeout(stallMs);
  response.writeHead(200, {
    'content-length': bytes.length,
    'content-type': 'application/octet-stream',
    [PIECE_HEADERS.from]: from,
  });
  const { promise: closed, resolve } = Promise.withResolvers<void>();
  response.on('close', resolve);
  counts.add('fleet_sent_bytes_total', bytes.length);
  await inShares(response, bytes, rate, resolve, closed);
  await closed;
}

async function inShares(
  response: ServerResponse,
  bytes: Buffer,
  rate: Rate | undefined,
  resolve: () => void,
  closed: Promise<void>,
): Promise<void> {
  const most = rate === undefined ? 4 * SHARE_BYTES : SHARE_BYTES;
  for (let at = 0; at < bytes.length; at += most) {
    const share = bytes.subarray(at, at + most);
    await rate?.spend(share.length);
    if (response.destroyed) return;
    if (!response.write(share))
      await Promise.race([closed, new Promise<void>((done) => response.once('drain', done))]);
  }
  response.end(resolve);
}

/** A member is told why it gets no bytes. */
function say(response: ServerResponse, { state, ...answer }: PieceAnswer): void {
  if (state === 'have') return refuse(response, 500, 'it is elsewhere');
  response.writeHead(PIECE_STATUS[state], { 'content-type': 'application/json' });
  response.end(JSON.stringify({ ...answer, state }));
}

export function refuse(response: ServerResponse, status: number, message: string): void {
  if (response.headersSent || response.destroyed) {
    response.destroy();
    return;
  }
  response.writeHead(status, status === 204 ? {} : { 'content-type': 'text/plain; charset=utf-8' });
  response.end(message);
}

/** Undefined where it has more than `most` bytes. */
export async function bodyOf(request: IncomingMessage, most: number): Promise<Buffer | undefined> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    chunks.push(chunk);
    length += chunk.length;
    if (length > most) return undefined;
  }
  return Buffer.concat(chunks);
}
