/**
 * The door for the processes of this node, on a unix socket for root alone: they ask for parts of pieces and get them from
 * whichever member has them (src/registry/fleet-door.ts is the other end), and say what they found when they verified them.
 */
import { rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Logger } from 'pino';
import type { Counts } from '../../actors/counts.ts';
import { isFleetHold, isFleetWrong } from '../../schemas/check-fleet.ts';
import type { FleetHold, FleetWrong } from '../../schemas/fleet.ts';
import {
  type FleetChallenge,
  type Member,
  PIECE_BYTES,
  PIECE_HEADERS,
  PIECE_STATUS,
} from '../../schemas/fleet.ts';
import type { Asking } from './asking.ts';
import { readAsk, readOrder } from './piece-request.ts';
import { bodyOf, refuse } from './piece-server.ts';
import type { Proofs } from './proofs.ts';
import { Refusal } from './refusal.ts';

export interface DoorOptions {
  socket: string;
  self: string;
  asking: Pick<Asking, 'piece' | 'offered'>;
  proofs: Pick<Proofs, 'read'>;
  find: (member: string) => Member | undefined;
  /** A process of this node asks for something of this registry. */
  onUse: (registry: string) => void;
  /** A process has found that a member sent wrong bytes; that pieces were right. */
  onWrong: (wrong: FleetWrong) => void;
  onRight: (right: FleetHold) => void;
  counts: Counts;
  log: Logger;
}

/** Of what a process says. */
const MAX_BODY = 16 << 10;

/** Listens when this resolves. Replaces a socket that lies there. Errors: those of the file system. */
export async function openDoor(options: DoorOptions): Promise<Server> {
  const server = createServer({ keepAliveTimeout: 60_000 }, (request, response) => {
    answer(request, response, options).catch((error: unknown) => {
      if (error instanceof Refusal) {
        const comesAgain = error.state === 'bring' || error.state === 'prove';
        if (!comesAgain) options.counts.add('fleet_pieces_total', 1, 'missed');
        options.log.debug({ state: error.state, reason: error.message }, 'the fleet brings no piece');
        if (error.challenge === undefined) refuse(response, PIECE_STATUS[error.state], error.message);
        else challenge(response, error.challenge);
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

function challenge(response: ServerResponse, asked: FleetChallenge): void {
  response.writeHead(PIECE_STATUS.prove, { 'content-type': 'application/json' });
  response.end(JSON.stringify(asked));
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  options: DoorOptions,
): Promise<void> {
  const { asking, self, find, onUse, onWrong, onRight, counts } = options;
  response.on('error', () => {});
  if (request.method === 'POST') {
    const said = parsed(await bodyOf(request, MAX_BODY));
    if (request.url === '/v1/wrong' && isFleetWrong(said)) onWrong(said);
    else if (request.url === '/v1/right' && isFleetHold(said)) onRight(said);
    else return refuse(response, 400, 'which piece?');
    return refuse(response, 204, '');
  }
  if (request.method === 'PUT') return await take(request, response, options);
  const order = request.method === 'GET' ? readOrder(request) : undefined;
  if (order === undefined) return refuse(response, 400, 'this asks for no piece');
  onUse(order.source.registry);
  const gone = new AbortController();
  response.on('close', () => gone.abort(new Refusal('none', 'the process has left')));
  const { bytes, from } = await asking.piece(order, gone.signal);
  const outcome = from === self ? 'own' : (find(from)?.role ?? 'node');
  counts.add('fleet_pieces_total', 1, outcome);
  counts.add('fleet_received_bytes_total', bytes.length, outcome);
  if (gone.signal.aborted) return;
  response.writeHead(200, { 'content-length': bytes.length, [PIECE_HEADERS.from]: from });
  response.end(bytes);
}

/** Bytes that a process has read from the registry: a piece for others, or those that a challenge names. */
async function take(
  request: IncomingMessage,
  response: ServerResponse,
  { asking, proofs }: DoorOptions,
): Promise<void> {
  const asked = readAsk(request);
  const bytes = await bodyOf(request, PIECE_BYTES);
  if (asked === undefined || bytes === undefined) return refuse(response, 400, 'which piece?');
  const { source, index } = asked;
  const nonce = request.headers[PIECE_HEADERS.nonce];
  if (typeof nonce === 'string') proofs.read(source, nonce, bytes);
  else asking.offered(source, index, bytes.length === 0 ? undefined : bytes);
  return refuse(response, 204, '');
}

function parsed(body: Buffer | undefined): unknown {
  try {
    return JSON.parse(body?.toString() ?? '');
  } catch {
    return undefined;
  }
}
