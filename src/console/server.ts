/**
 * The console's HTTP server. Connections, heads and times are bounded, so that no client can take more than its share of a
 * machine that has other work.
 */
import { createServer, type RequestListener, type Server } from 'node:http';
import { type AddressInfo, isIP, type Socket } from 'node:net';
import { getRequestListener } from '@hono/node-server';
import { CofaError } from '../../schemas/errors.ts';
import { isLoopbackHost } from '../metrics/address.ts';
import { byLogin, byToken } from './access.ts';
import type { ListenSettings } from './address.ts';
import { consoleApp } from './app.ts';
import type { PageFile } from './page.ts';
import { ROUTES } from './routes.ts';
import type { Source } from './source.ts';

/** Connections at once; further ones are closed. Each page has one for its stream, and a few for what it asks. */
const MOST_CONNECTIONS = 128;
const LARGEST_HEAD = 16_384;
/** A client's request is here after so long, ms. */
const REQUEST_MS = 10_000;
/** A connection that asks nothing more is closed, ms. */
const IDLE_MS = 30_000;

export interface ConsoleServer {
  /** What a browser opens; with the token, where there is one. */
  url: string;
  close(): Promise<void>;
}

/** Errors: `conflict` where the address is taken, others of listen(2); `invalid-argument` for a certificate that is none. */
export async function openConsole(
  settings: ListenSettings,
  source: Source,
  page: ReadonlyMap<string, PageFile>,
): Promise<ConsoleServer> {
  let answer: RequestListener | undefined;
  const server = await serverFor(settings, (request, response) => answer?.(request, response));
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });
  server.on('clientError', (_error, socket) => socket.destroy());
  await listen(server, settings);
  const { port } = server.address() as AddressInfo;
  const access = settings.login === undefined ? byToken(port) : byLogin(settings.login);
  const app = consoleApp({
    source,
    routes: ROUTES,
    page,
    access,
    isOwnHost: isLoopbackHost(settings.host) && settings.login === undefined ? isOwnHost : undefined,
  });
  answer = getRequestListener(app.fetch, { overrideGlobalObjects: false }) as RequestListener;
  const host = settings.host.includes(':') ? `[${settings.host}]` : settings.host;
  const origin = `${settings.tls === undefined ? 'http' : 'https'}://${host}:${port}/`;
  source.start();
  return {
    url: access.kind === 'token' ? `${origin}?token=${access.token}` : origin,
    close: async () => {
      app.close();
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

async function serverFor({ tls }: ListenSettings, answer: RequestListener): Promise<Server> {
  const limits = {
    maxHeaderSize: LARGEST_HEAD,
    headersTimeout: REQUEST_MS,
    requestTimeout: REQUEST_MS,
    keepAliveTimeout: IDLE_MS,
    requireHostHeader: true,
    insecureHTTPParser: false,
  };
  const server = tls === undefined ? createServer(limits, answer) : await secureServer(limits, tls, answer);
  server.maxConnections = MOST_CONNECTIONS;
  server.maxHeadersCount = 60;
  return server;
}

async function secureServer(
  limits: Parameters<typeof createServer>[0] & object,
  tls: { cert: string; key: string },
  answer: RequestListener,
): Promise<Server> {
  const { createServer: createSecure } = await import('node:https');
  try {
    return createSecure({ ...limits, ...tls, minVersion: 'TLSv1.2', handshakeTimeout: REQUEST_MS }, answer);
  } catch (cause) {
    throw new CofaError('invalid-argument', `--cert and --key: ${(cause as Error).message}`, { cause });
  }
}

function listen(server: Server, { host, port }: ListenSettings): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (cause: NodeJS.ErrnoException) =>
      reject(
        cause.code === 'EADDRINUSE'
          ? new CofaError('conflict', `${host}:${port} is taken`, { cause, hint: 'choose another --listen' })
          : cause,
      );
    server.once('error', fail);
    server.listen(port, host, () => {
      server.removeListener('error', fail);
      // Such as a file table that is full: the next connection may fare better.
      server.on('error', () => {});
      resolve();
    });
  });
}

/** An address, or localhost. */
function isOwnHost(host: string): boolean {
  const name = host.replace(/:\d*$/, '').replace(/^\[(.*)\]$/, '$1');
  return isIP(name) !== 0 || name.toLowerCase() === 'localhost';
}
