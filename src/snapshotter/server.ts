/** gRPC on a unix socket: HTTP/2 without TLS, as containerd dials its proxy plugins. */
import { existsSync } from 'node:fs';
import { lstat, mkdir, rm, symlink } from 'node:fs/promises';
import {
  createServer,
  type Http2Server,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2';
import { connect } from 'node:net';
import { dirname } from 'node:path';
import { CofaError } from '../../schemas/errors.ts';

export interface GrpcServer {
  /** Takes no more calls, lets those under way end for at most `graceMs`, removes the socket or leaves it to its heir. */
  close(graceMs: number): Promise<void>;
}

/** Longest path of a unix socket, bytes (sun_path in sys/un.h). */
const MAX_PATH = 107;
/** What one connection may have in buffers, MB: two of the largest messages. Beyond it is closed. */
const MAX_SESSION_MB = 32;
/** Calls on one connection; further ones wait at the client. */
const MAX_STREAMS = 256;

/**
 * Listens on `path`, for root alone (0600); `take` gets each call as it comes on the wire. A socket on which no process
 * answers is replaced. `heir`: a socket that callers reach by this path from `close` on until the next server listens there.
 * Errors: `conflict` when a process answers, `invalid-argument` for a path that is too long.
 */
export async function serveStreams(
  path: string,
  take: (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => void,
  { heir }: { heir?: string } = {},
): Promise<GrpcServer> {
  const server = createServer(SETTINGS);
  server.on('stream', take);
  const served = await serve(server, path);
  return {
    close: async (graceMs) => {
      await served.close(graceMs);
      if (heir !== undefined) await symlink(heir, path);
    },
  };
}

const SETTINGS = { settings: { maxConcurrentStreams: MAX_STREAMS }, maxSessionMemory: MAX_SESSION_MB };

async function serve(server: Http2Server, path: string): Promise<GrpcServer> {
  if (Buffer.byteLength(path) > MAX_PATH) {
    throw new CofaError('invalid-argument', `the socket's path has more than ${MAX_PATH} bytes: ${path}`, {
      hint: 'give a shorter one: cofa up --snapshotter=/run/cofa.sock',
    });
  }
  await mkdir(dirname(path), { recursive: true, mode: 0o755 });
  // A link leads to the heir of an earlier server, see serveStreams.
  const isLink = (await lstat(path).catch(() => undefined))?.isSymbolicLink() ?? false;
  if (isLink || existsSync(path)) {
    if (!isLink && (await isAnswered(path)))
      throw new CofaError('conflict', `another process serves ${path}`);
    await rm(path, { force: true });
  }
  const sessions = new Set<ServerHttp2Session>();
  server.on('session', (session) => {
    sessions.add(session);
    session.once('close', () => sessions.delete(session));
    // A client that goes away in the middle is no concern of the others.
    session.on('error', () => {});
  });
  await listen(server, path);
  return {
    async close(graceMs) {
      const closed = new Promise<void>((resolve) => {
        server.close(() => resolve());
      });
      for (const session of sessions) session.close();
      const timer = setTimeout(() => {
        for (const session of sessions) session.destroy();
      }, graceMs);
      await closed;
      clearTimeout(timer);
      await rm(path, { force: true });
    },
  };
}

/** The socket is made with the mode that it keeps: no other user can connect in between. */
function listen(server: Http2Server, path: string): Promise<void> {
  const mask = process.umask(0o177);
  return new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, () => {
      server.off('error', reject);
      resolve();
    });
  }).finally(() => process.umask(mask));
}

function isAnswered(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.setTimeout(1_000, () => socket.destroy());
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
    socket.once('close', () => resolve(false));
  });
}
