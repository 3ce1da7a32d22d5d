/**
 * A proxy in front of a real registry that misbehaves on the level of HTTP; relay.ts does so on the level of TCP.
 * Faults concern reads of blobs by range, which bring the blocks. The proxy passes everything else unchanged.
 */
import {
  createServer,
  type IncomingMessage,
  request as send,
  type Server,
  type ServerResponse,
} from 'node:http';
import type { AddressInfo } from 'node:net';

export type HttpFault =
  /** This status instead of the answer. */
  | { kind: 'status'; status: number; retryAfterS?: number }
  /** Each answer has one wrong byte in its middle. */
  | { kind: 'flip' }
  /** Answers end after half of what they promise. */
  | { kind: 'short' }
  /** Answers come with so many bytes a second each. */
  | { kind: 'slow'; bytesPerS: number }
  /** The proxy asks for bearer tokens, and refuses them after `lifeMs` although it promised an hour. */
  | { kind: 'expire'; lifeMs: number }
  /** Redirects to another host, with addresses that are valid for `lifeMs`. */
  | { kind: 'redirect'; lifeMs: number };

export interface FaultProxy {
  /** `127.0.0.1:PORT` */
  host: string;
  port: number;
  /** Answers spoilt since the fault began. */
  faults(): number;
  fail(fault: HttpFault): void;
  heal(): void;
  stop(): Promise<void>;
}

/** Starts a proxy on a free loopback port before the registry on `port`. */
export async function startFaultProxy(port: number): Promise<FaultProxy> {
  let fault: HttpFault | undefined;
  let faults = 0;
  const tokens = new Map<string, number>();
  const storage = createServer((request, response) => {
    const url = new URL(request.url ?? '/', 'http://x');
    if (Number(url.searchParams.get('until')) < Date.now()) {
      faults += 1;
      response.writeHead(403).end('Request has expired');
    } else forward(port, request, response, url.pathname);
  });
  await listen(storage);
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? '/', 'http://x');
    if (url.pathname === '/token') {
      const token = `t${tokens.size}`;
      tokens.set(token, Date.now() + (fault?.kind === 'expire' ? fault.lifeMs : 60_000));
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ token, expires_in: 3600 }));
      return;
    }
    const isRange = url.pathname.includes('/blobs/sha256:') && request.headers.range !== undefined;
    if (fault === undefined || !isRange) return forward(port, request, response, url.pathname + url.search);
    if (fault.kind === 'expire') {
      const until = tokens.get((request.headers.authorization ?? '').replace('Bearer ', '')) ?? 0;
      if (until >= Date.now()) return forward(port, request, response, url.pathname);
      faults += 1;
      const realm = `http://${request.headers.host}/token`;
      response.writeHead(401, { 'www-authenticate': `Bearer realm="${realm}",service="proxy"` }).end();
      return;
    }
    faults += 1;
    if (fault.kind === 'status') {
      const { status, retryAfterS } = fault;
      response
        .writeHead(status, retryAfterS === undefined ? {} : { 'retry-after': String(retryAfterS) })
        .end();
    } else if (fault.kind === 'redirect') {
      const until = Date.now() + fault.lifeMs;
      const location = `http://127.0.0.1:${portOf(storage)}${url.pathname}?until=${until}`;
      response.writeHead(307, { location }).end();
    } else forward(port, request, response, url.pathname, fault);
  });
  await listen(server);
  return {
    host: `127.0.0.1:${portOf(server)}`,
    port: portOf(server),
    faults: () => faults,
    fail: (next) => {
      fault = next;
      faults = 0;
    },
    heal: () => (fault = undefined),
    stop: async () => {
      for (const one of [server, storage]) {
        one.closeAllConnections();
        await new Promise((resolve) => one.close(resolve));
      }
    },
  };
}

function forward(
  port: number,
  request: IncomingMessage,
  response: ServerResponse,
  path: string,
  spoil?: HttpFault & { kind: 'flip' | 'short' | 'slow' },
): void {
  // Neither side's end is an error of the proxy.
  const quit = () => response.destroy();
  response.on('error', () => {});
  const { authorization: _, ...headers } = request.headers;
  const upstream = send({ port, host: '127.0.0.1', method: request.method, path, headers }, (answer) => {
    response.writeHead(answer.statusCode ?? 502, answer.headers);
    const length = Number(answer.headers['content-length'] ?? 0);
    let at = 0;
    answer.on('data', (chunk: Buffer) => {
      const middle = Math.floor(length / 2) - at;
      at += chunk.length;
      const isHere = middle >= 0 && middle < chunk.length;
      if (spoil?.kind === 'flip' && isHere) chunk[middle] = (chunk[middle] as number) ^ 0xff;
      if (spoil?.kind === 'short' && isHere) {
        response.write(chunk.subarray(0, middle), quit);
        answer.destroy();
      } else if (spoil?.kind === 'slow') {
        response.write(chunk);
        answer.pause();
        setTimeout(() => answer.resume(), (chunk.length / spoil.bytesPerS) * 1000);
      } else if (!response.write(chunk)) {
        answer.pause();
        response.once('drain', () => answer.resume());
      }
    });
    answer.on('end', () => response.end());
    answer.on('error', quit);
  });
  upstream.on('error', quit);
  response.on('close', () => upstream.destroy());
  request.pipe(upstream);
}

const portOf = (server: Server): number => (server.address() as AddressInfo).port;

function listen(server: Server): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
}
