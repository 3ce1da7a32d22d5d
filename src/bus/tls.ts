/**
 * How a client makes sure that the other end is its NATS, before it says who it is. The client sends user and password after
 * the handshake only; where that fails it sends nothing.
 *
 * - The private nats-server shows the certificate of its root (src/process/nats-identity.ts), and its clients take that one
 *   alone: a process that has taken the port while nats-server is away cannot show it.
 * - The operator's shows one that an authority has signed, for a host that `--nats` names.
 */
import { X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';
import { checkServerIdentity, type ConnectionOptions } from 'node:tls';
import type { NodeConnectionOptions } from '@nats-io/transport-node';
import { NodeTransport } from '@nats-io/transport-node/lib/node_transport.js';
import { defined } from '../../schemas/defined.ts';
import type { BusAddress } from './connection.ts';

type TlsOptions = NonNullable<NodeConnectionOptions['tls']> &
  Pick<ConnectionOptions, 'checkServerIdentity' | 'minVersion'>;

/**
 * TLS for an address, which the client then insists on; undefined where the address asks for none: the client then does
 * what the server asks for. Error: a certificate that is none.
 */
export function tlsOf({ url, others = [], certificate, ca }: BusAddress): TlsOptions | undefined {
  if (certificate !== undefined) return pinnedTo(certificate);
  const urls = [url, ...others];
  if (ca === undefined && !urls.some((one) => /^tls:/i.test(one))) return undefined;
  const hosts = urls.map(hostOf);
  return {
    ...defined({ ca }),
    // A server of the cluster may be reached at an address that another one has told, in clear: its certificate has to be for a host
    // that the operator has named. For an IP address the library names no host, and Node would take `localhost`.
    checkServerIdentity: (_, shown) => {
      const errors = hosts.map((host) => checkServerIdentity(host, shown));
      return errors.includes(undefined) ? undefined : errors[0];
    },
  };
}

/** As its own authority the certificate passes Node's check of the chain; only then does Node ask whether it is the right one. */
function pinnedTo(certificate: string): TlsOptions {
  const { fingerprint256: expected } = new X509Certificate(certificate);
  return {
    ca: certificate,
    minVersion: 'TLSv1.3',
    checkServerIdentity: (_, shown) =>
      shown.fingerprint256 === expected ? undefined : new Error("the server's certificate is another one"),
  };
}

/**
 * The library takes all that came before the handshake for the server's words, also what follows the greeting, where the server
 * has nothing more to say. A process that may send raw packets could put messages there. Nothing but the greeting is let through.
 */
const { startTLS } = NodeTransport.prototype;
NodeTransport.prototype.startTLS = async function () {
  const heard = Buffer.concat(this.yields);
  if (heard.indexOf('\n') !== heard.length - 1) throw new Error('the server said more before its handshake');
  return await startTLS.call(this);
};

/** Whether what is sent to this address in clear stays on this machine. */
export function staysOnMachine(url: string): boolean {
  const host = hostOf(url);
  if (isIP(host) === 4) return host.startsWith('127.');
  return host === '::1' || host.toLowerCase() === 'localhost';
}

const hostOf = (url: string): string => new URL(url).hostname.replace(/^\[(.*)\]$/, '$1');
