/**
 * TLS between members. Each has a certificate of its own making, which no authority has signed; what proves it is that the member has
 * announced its fingerprint on NATS, where no other may speak in its name. Both ends look: the asker takes the one
 * certificate that the home has announced, the home answers those alone that a member has announced.
 *
 * Node's own checks are off, since they would ask an authority. What stands in for them has traps (seen with Node 24):
 *
 * - `checkServerIdentity` is not called where `rejectUnauthorized` is false: the pin is compared once the socket stands,
 *   before undici gets it.
 * - A resumed session shows no certificate to the client: no session is kept.
 * - With TLS 1.3 the client's handshake ends before the server has judged it, so the server judges each request.
 */
import { createServer, type Server } from 'node:https';
import { isIP } from 'node:net';
import { connect, type TLSSocket } from 'node:tls';
import type { RequestListener } from 'node:http';
import { CofaError } from '../../schemas/errors.ts';
import { Pool } from '../registry/undici-parts.ts';

/** PEM. */
export interface Identity {
  key: string;
  certificate: string;
}

/** Where a member is, and which certificate it shows. */
export interface Pinned {
  /** `HOST:PORT` */
  address: string;
  fingerprint: string;
}

/** Another home is asked long before: this ends what would never stand. */
const CONNECT_MS = 5_000;
const HEADERS_MS = 10_000;
const BODY_MS = 5_000;
/** Connections to one member: more than one share of the processors' time, and each costs both ends memory. */
const CONNECTIONS = 4;

type Callback = (error: Error | null, socket: TLSSocket | null) => void;

/** A connection pool to one member. Error of its requests: `unavailable` where another certificate is shown. */
export function poolTo({ address, fingerprint }: Pinned, identity: Identity): InstanceType<typeof Pool> {
  const { host, port } = hostAndPort(address);
  const open = (_: unknown, done: Callback) => {
    const socket = connect({
      host,
      port,
      key: identity.key,
      cert: identity.certificate,
      rejectUnauthorized: false,
      minVersion: 'TLSv1.3',
      ALPNProtocols: ['http/1.1'],
      ...(isIP(host) === 0 ? { servername: host } : {}),
    });
    socket.setNoDelay(true);
    let isOver = false;
    const end = (error: Error | null) => {
      if (isOver) return;
      isOver = true;
      clearTimeout(timer);
      if (error !== null) socket.destroy();
      done(error, error === null ? socket : null);
    };
    const timer = setTimeout(
      () => end(new CofaError('timeout', `no connection to ${address} within ${CONNECT_MS} ms`)),
      CONNECT_MS,
    );
    socket.once('error', end);
    socket.once('close', () => end(new Error('closed')));
    socket.once('secureConnect', () => {
      const shown = socket.getPeerX509Certificate()?.fingerprint256;
      end(
        shown === fingerprint
          ? null
          : new CofaError('unavailable', `${address} shows another certificate than the member announced`),
      );
    });
  };
  return new Pool(`https://${address}`, {
    connections: CONNECTIONS,
    pipelining: 1,
    headersTimeout: HEADERS_MS,
    bodyTimeout: BODY_MS,
    // undici's types want a URL's options; the address is the pool's.
    connect: open as never,
  });
}

/** Fingerprints of the certificates that clients have shown, by connection. */
const shown = new WeakMap<object, string | undefined>();

/** A server that asks for certificates and refuses none by itself: `shownBy` says what a request came with. */
export function makeServer(identity: Identity, listener: RequestListener): Server {
  const server = createServer(
    {
      key: identity.key,
      cert: identity.certificate,
      minVersion: 'TLSv1.3',
      requestCert: true,
      rejectUnauthorized: false,
      keepAliveTimeout: 60_000,
      headersTimeout: 10_000,
      requestTimeout: 30_000,
      maxHeaderSize: 16 << 10,
    },
    listener,
  );
  server.on('secureConnection', (socket: TLSSocket) => {
    // A certificate is handed out once.
    shown.set(socket, socket.getPeerX509Certificate()?.fingerprint256);
    socket.setNoDelay(true);
  });
  server.on('tlsClientError', () => {});
  return server;
}

/** The fingerprint that the other end has shown; undefined where it showed none. */
export const shownBy = (socket: object): string | undefined => shown.get(socket);

/** Takes `HOST:PORT` apart; brackets of IPv6 are left out. Error `invalid-argument`. */
export function hostAndPort(address: string): { host: string; port: number } {
  const at = address.lastIndexOf(':');
  const [host, port] = [address.slice(0, at).replace(/^\[(.*)\]$/, '$1'), Number(address.slice(at + 1))];
  if (at < 1 || host === '' || !Number.isInteger(port) || port < 0 || port > 65_535)
    throw new CofaError('invalid-argument', `${JSON.stringify(address)} is not HOST:PORT`);
  return { host, port };
}

/** The contrary of `hostAndPort`. */
export const joined = (host: string, port: number): string =>
  isIP(host) === 6 ? `[${host}]:${port}` : `${host}:${port}`;
