/**
 * The door at which Prometheus asks. It listens in the supervisor, so that it costs no memory of its own, and nothing where it is
 * off; so no client may hurt it:
 *
 *     /metrics   the text, plain or OpenMetrics by `Accept`; one at a time is made, those who come meanwhile get the same one
 *     /healthz   200 while the engine answers reads, else 503
 *     else       404; no method but GET and HEAD, no body
 *
 * Connections, heads, time and answers are bounded. A text is at most a second old: a flood of scrapes costs one of each format a second.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { lstatSync, rmSync } from 'node:fs';
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerResponse,
} from 'node:http';
import { isIP, type Socket } from 'node:net';
import { CofaError } from '../../schemas/errors.ts';
import type { TextFormat } from './text.ts';
import { isLoopbackHost, type MetricsSettings, readLogin, readTls } from './address.ts';

/** Connections at once; further ones are closed. */
const MOST_CONNECTIONS = 16;
/** Bytes of a request's head. */
const LARGEST_HEAD = 8_192;
/** What a client may take of time, ms. */
export interface DoorTimes {
  /** Until its request is here. */
  request: number;
  /** Until it has taken its answer. */
  answer: number;
}

const TIMES: DoorTimes = { request: 5_000, answer: 10_000 };
/** A connection lives no longer, ms: Prometheus opens another. */
const LIFE_MS = 120_000;
/** A connection that asks nothing more is closed, ms. */
const IDLE_MS = 10_000;
/** A text is not made anew within this time, ms. */
const FRESH_MS = 1_000;
/** A wrong login is answered after this, ms. */
const REFUSAL_MS = 300;

export interface MetricsSource {
  /** The text, and its type. It is called once at a time. `format`: `open`: the client takes OpenMetrics. */
  metrics: (format: TextFormat) => Promise<{ type: string; text: string }>;
  isHealthy: () => boolean;
}

export interface MetricsDoor {
  close(): Promise<void>;
}

/** Errors: those of listen(2) (`EADDRINUSE` and the like), `invalid-argument` for files that are not what they should be. */
export async function openMetricsDoor(
  { address, tls, auth }: MetricsSettings,
  source: MetricsSource,
  times: DoorTimes = TIMES,
): Promise<MetricsDoor> {
  const isNamed = 'socket' in address || !isLoopbackHost(address.host);
  const answer = answerWith({
    source: shared(source),
    answerMs: times.answer,
    login:
      auth === undefined ? undefined : digestOf(`Basic ${Buffer.from(readLogin(auth)).toString('base64')}`),
    // A page in a browser of this machine could have its own name lead here, and read the answer.
    takesNames: isNamed || auth !== undefined,
  });
  const limits = {
    maxHeaderSize: LARGEST_HEAD,
    headersTimeout: times.request,
    requestTimeout: times.request,
    connectionsCheckingInterval: times.request / 5,
    keepAliveTimeout: IDLE_MS,
    requireHostHeader: true,
    insecureHTTPParser: false,
  };
  const server =
    tls === undefined ? createServer(limits, answer) : await secureServer(limits, readTls(tls), answer);
  server.maxConnections = MOST_CONNECTIONS;
  server.maxHeadersCount = 50;
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    const life = setTimeout(() => socket.destroy(), LIFE_MS).unref();
    socket.once('close', () => {
      clearTimeout(life);
      sockets.delete(socket);
    });
  });
  server.on('clientError', (_error, socket) => socket.destroy());
  await listen(server, address);
  server.unref();
  return {
    close: async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

async function secureServer(
  limits: Parameters<typeof createServer>[0] & object,
  files: { cert: string; key: string },
  answer: RequestListener,
): Promise<Server> {
  const { createServer: createSecure } = await import('node:https');
  return createSecure(
    { ...limits, ...files, minVersion: 'TLSv1.2', handshakeTimeout: TIMES.request },
    answer,
  );
}

function listen(server: Server, address: MetricsSettings['address']): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    const listening = () => {
      server.removeListener('error', reject);
      // Such as a file table that is full: the next connection may fare better.
      server.on('error', () => {});
      resolve();
    };
    if ('host' in address) {
      server.listen(address.port, address.host, listening);
      return;
    }
    removeSocket(address.socket);
    // The socket is made in this call, for its owner alone.
    const mask = process.umask(0o177);
    server.listen(address.socket, listening);
    process.umask(mask);
  });
}

/** Error `conflict` where something else lies there. */
function removeSocket(path: string): void {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return;
  if (!found.isSocket()) throw new CofaError('conflict', `${path} is no socket, and is left alone`);
  rmSync(path, { force: true });
}

/** One text at a time, for all who wait; and for a moment the same one of each format. */
function shared({ metrics, isHealthy }: MetricsSource): MetricsSource {
  const last = new Map<TextFormat, { at: number; isRunning: boolean; answer: Promise<Text> }>();
  let running: Promise<unknown> = Promise.resolve();
  return {
    isHealthy,
    metrics: (format) => {
      const now = performance.now();
      const known = last.get(format);
      if (known !== undefined && (known.isRunning || now - known.at < FRESH_MS)) return known.answer;
      const answer = running
        .then(() => metrics(format))
        .finally(() => {
          made.isRunning = false;
        });
      const made = { at: now, isRunning: true, answer };
      running = answer.catch(() => {});
      last.set(format, made);
      return answer;
    },
  };
}

type Text = Awaited<ReturnType<MetricsSource['metrics']>>;

/** What a client takes, by its `Accept` (RFC 9110, 12.5.1): OpenMetrics where it names that and does not rank it below the plain text. */
function formatFor(accept: string | undefined): TextFormat {
  const ranks = { open: 0, plain: 0 };
  for (const one of (accept ?? '').slice(0, LARGEST_HEAD).split(',')) {
    const [type = '', ...words] = one.split(';').map((word) => word.trim().toLowerCase());
    const said = words.find((word) => word.startsWith('q='))?.slice(2);
    const rank = said === undefined ? 1 : Number(said);
    if (type === 'application/openmetrics-text' && !words.includes('version=0.0.1'))
      ranks.open = Math.max(ranks.open, rank);
    else if (type === 'text/plain') ranks.plain = Math.max(ranks.plain, rank);
  }
  return ranks.open > 0 && ranks.open >= ranks.plain ? 'open' : 'plain';
}

interface Answering {
  source: MetricsSource;
  /** An answer that is not taken in this time ends with its connection. */
  answerMs: number;
  /** Of the header that a client must send. */
  login: Buffer | undefined;
  takesNames: boolean;
}

function answerWith({ source, answerMs, login, takesNames }: Answering): RequestListener {
  return (request, response) => {
    const late = setTimeout(() => request.socket.destroy(), answerMs).unref();
    response.once('close', () => clearTimeout(late));
    const say = (status: number, text: string, more: Record<string, string> = {}) =>
      reply(request, response, status, text, more);
    const flaw = flawOf(request, takesNames);
    if (flaw !== undefined) return say(...flaw);
    const { url = '' } = request;
    const path = url.split('?', 1)[0];
    if (path === '/healthz') {
      const isHealthy = source.isHealthy();
      return say(isHealthy ? 200 : 503, isHealthy ? 'ok\n' : 'no front end serves\n');
    }
    if (path !== '/metrics') return say(404, 'not found: /metrics and /healthz are here\n');
    if (login !== undefined && !timingSafeEqual(login, digestOf(request.headers.authorization ?? ''))) {
      setTimeout(
        () => say(401, 'log in\n', { 'www-authenticate': 'Basic realm="cofa metrics"' }),
        REFUSAL_MS,
      ).unref();
      return;
    }
    void source.metrics(formatFor(request.headers.accept)).then(
      ({ type, text }) => say(200, text, { 'content-type': type, vary: 'accept' }),
      () => say(503, 'no figures at the moment\n'),
    );
  };
}

/** Why a request is refused, whatever it asks for. */
function flawOf(request: IncomingMessage, takesNames: boolean): [number, string] | undefined {
  const { method, headers } = request;
  if (method !== 'GET' && method !== 'HEAD') return [405, 'GET or HEAD\n'];
  const length = headers['content-length'];
  if (headers['transfer-encoding'] !== undefined || (length !== undefined && length !== '0'))
    return [413, 'a request has no body here\n'];
  if (takesNames || isOwnName(headers.host ?? '')) return undefined;
  return [421, 'ask by an address, or localhost\n'];
}

function isOwnName(host: string): boolean {
  const name = host.replace(/:\d*$/, '').replace(/^\[(.*)\]$/, '$1');
  return isIP(name) !== 0 || name.toLowerCase() === 'localhost';
}

const digestOf = (text: string): Buffer => createHash('sha256').update(text).digest();

function reply(
  request: IncomingMessage,
  response: ServerResponse,
  status: number,
  text: string,
  more: Record<string, string>,
): void {
  if (response.destroyed || response.headersSent) return;
  const body = Buffer.from(text);
  response.writeHead(status, {
    'content-type': 'text/plain; charset=utf-8',
    'content-length': body.length,
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
    // What follows a refused request on its connection is not read.
    ...(status === 200 ? {} : { connection: 'close' }),
    ...more,
  });
  response.end(request.method === 'HEAD' ? undefined : body);
}
