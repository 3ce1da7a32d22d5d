/**
 * The door for the processes of this node, on a unix socket for root alone: they ask for pieces as a member does, and get
 * them from whichever home has them (src/registry/fleet-door.ts is the other end).
 */
import { rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Logger } from 'pino';
import type { Counts } from '../../actors/counts.ts';
import { type Member, PIECE_HEADERS, PIECE_STATUS } from '../../schemas/fleet.ts';
import type { Asker } from './asker.ts';
import { readOrder } from './piece-request.ts';
import { bodyOf, pieceIn, refuse } from './piece-server.ts';
import { Refusal } from './refusal.ts';
import { Turns } from './turns.ts';

export interface DoorOptions {
  socket: string;
  self: string;
  asker: Pick<Asker, 'piece'>;
  find: (member: string) => Member | undefined;
  /** A process has found that this member sent wrong bytes. */
  onWrong: (member: string, digest: string, index: number) => void;
  counts: Counts;
  log: Logger;
}

/** Pieces on their way to this node, each in memory. */
const AT_ONCE = 32;
const MOST_WAITING = 1_024;

/** Listens when this resolves. Replaces a socket that lies there. Errors: those of the file system. */
export async function openDoor(options: DoorOptions): Promise<Server> {
  const turns = new Turns(AT_ONCE, MOST_WAITING);
  const server = createServer({ keepAliveTimeout: 60_000 }, (request, response) => {
    answer(request, response, options, turns).catch((error: unknown) => {
      if (error instanceof Refusal) {
        if (error.state !== 'bring') options.counts.add('fleet_pieces_total', 1, 'missed');
        options.log.debug({ state: error.state, reason: error.message }, 'the fleet brings no piece');
        refuse(response, PIECE_STATUS[error.state], error.message);
      } else refuse(response, PIECE_STATUS.none, String(error));
    });
  });
  rmSync(options.socket, { force: true });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    const mask = process.umask(0o177);
    server.listen(options.socket, resolve);
    process.umask(mask);
  });
  return server;
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  { asker, self, find, onWrong, counts }: DoorOptions,
  turns: Turns,
): Promise<void> {
  response.on('error', () => {});
  if (request.url === '/v1/wrong' && request.method === 'POST') {
    const text = await bodyOf(request);
    const piece = pieceIn(text);
    const { member } = piece === undefined ? {} : (JSON.parse(text) as { member?: unknown });
    if (piece === undefined || typeof member !== 'string')
      return refuse(response, 400, 'which piece, of whom?');
    onWrong(member, piece.digest, piece.index);
    return refuse(response, 204, '');
  }
  const order = request.method === 'GET' ? readOrder(request) : undefined;
  if (order === undefined) return refuse(response, 400, 'this asks for no piece');
  const gone = new AbortController();
  response.on('close', () => gone.abort(new Refusal('none', 'the process has left')));
  const release = await turns.take(order.class, gone.signal).catch((error: unknown) => {
    throw new Refusal('busy', (error as Error).message);
  });
  try {
    const { bytes, from } = await asker.piece(order, gone.signal);
    const outcome = from === self ? 'own' : (find(from)?.role ?? 'node');
    counts.add('fleet_pieces_total', 1, outcome);
    counts.add('fleet_received_bytes_total', bytes.length, outcome);
    if (gone.signal.aborted) return;
    response.writeHead(200, { 'content-length': bytes.length, [PIECE_HEADERS.from]: from });
    await new Promise<void>((done) => {
      response.on('close', done);
      response.end(bytes, done);
    });
  } finally {
    release();
  }
}
